"""Checks that this machine can load the model in a folder, from its files alone: no weights are read.

    all shards are complete -> transformers knows the configuration -> the model writes text -> the machine has what
    the quantisation needs

Without these checks, a run would fail at its first use of the model, after its first paid calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.saving.shapes import read_tensor_names

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_CONFIG = "config.json"
_SINGLE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TEXT_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of the names of architectures that write text, also of those that a model's own code defines."""

_OTHER_INPUTS = ("vision_config", "audio_config")
_MAX_NAMES = 4


def check_loadable(folder: Path, *, trust_remote_code: bool) -> None:
    """Raise `GeneratorNotFoundError` unless transformers can load this folder as a causal language model.

    `trust_remote_code` is as in `LocalEngine`.
    """
    check_shards(folder)
    config = _load_configuration(folder, trust_remote_code)
    _check_architecture(folder, config, trust_remote_code)
    _check_quantisation(folder, config)


def check_shards(folder: Path) -> None:
    """Raise `GeneratorNotFoundError` unless every file of the weights exists and is as long as its header says.

    >>> import tempfile
    >>> try:
    ...     check_shards(Path(tempfile.mkdtemp()))
    ... except GeneratorNotFoundError as error:
    ...     print(error)  # doctest: +ELLIPSIS
    Expected model.safetensors, or shards with model.safetensors.index.json, in ..., got []. ...
    """
    if (folder / _SINGLE_FILE).is_file():
        read_tensor_names(folder / _SINGLE_FILE)
        return
    if not (folder / _INDEX).is_file():
        if _has_named_weights(folder):
            return
        raise GeneratorNotFoundError(
            f"Expected {_SINGLE_FILE}, or shards with {_INDEX}, in {str(folder)!r}, got "
            f"{sorted(each.name for each in folder.glob('*.safetensors'))[:_MAX_NAMES]}. Fetch all of the model's "
            "files, or save it with save_pretrained()."
        )
    shards = _read_shards(folder / _INDEX)
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise GeneratorNotFoundError(
            f"Expected the {len(shards)} shards that {_INDEX} names in {str(folder)!r}, {len(missing)} of them are "
            f"missing: {', '.join(missing[:_MAX_NAMES])}{', ...' if len(missing) > _MAX_NAMES else ''}. "
            f"{_advise_download(folder)}"
        )
    for name, tensors in shards.items():
        if absent := sorted(tensors - read_tensor_names(folder / name)):
            raise GeneratorNotFoundError(
                f"Expected {len(tensors)} tensors in {name} of {str(folder)!r}, as {_INDEX} says, {len(absent)} "
                f"of them are not there, such as {absent[0]}. {_advise_download(folder)}"
            )


def read_quantisation_method(folder: Path) -> str | None:
    """The quantisation method of the weights in a folder, as named in config.json; None for exact weights."""
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    settings = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    return str(settings.get("quant_method") or "bitsandbytes") if settings else None


def _read_shards(index: Path) -> dict[str, set[str]]:
    """The names of each shard's tensors, by the index."""
    shards: dict[str, set[str]] = {}
    try:
        files = cast("dict[str, str]", json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        for tensor, name in files.items():
            shards.setdefault(name, set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GeneratorNotFoundError(
            f"Expected {_INDEX} with a weight_map in {str(index.parent)!r}, got a file that is cut or no JSON. "
            f"{_advise_download(index.parent)}"
        ) from error
    return shards


def _has_named_weights(folder: Path) -> bool:
    """Whether config.json names another file with the weights, and the file exists."""
    file = folder / _CONFIG
    named = json.loads(file.read_text(encoding="utf-8")).get("transformers_weights") if file.is_file() else None
    return isinstance(named, str) and (folder / named).is_file()


def _advise_download(folder: Path) -> str:
    return f"Fetch the model again (`hf download HUB_ID --local-dir {folder}` goes on where it stopped)."


def _load_configuration(folder: Path, trust: bool) -> PreTrainedConfig:
    from transformers import AutoConfig, __version__

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    except Exception as error:  # a configuration's own checks raise any error
        _refuse_untrusted(folder, error)
        raise GeneratorNotFoundError(
            f"Expected a {_CONFIG} that transformers {__version__} can read, got that of {str(folder)!r} "
            f"({type(error).__name__}: {_shorten(error)}). Use another model, or, if this one is newer than "
            "transformers, `pip install --upgrade transformers`."
        ) from error


def _check_architecture(folder: Path, config: PreTrainedConfig, trust: bool) -> None:
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    has_own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if has_own_code and trust:
        return
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if architecture is None and has_own_code:
        _refuse_untrusted(folder)
    saved_as = config.architectures or []
    if architecture is None:
        reads_more = any(getattr(config, each, None) is not None for each in _OTHER_INPUTS)
        raise GeneratorNotFoundError(
            f"Expected a causal language model, got {str(folder)!r}, which is "
            f"{', '.join(saved_as) or config.model_type} (model_type {config.model_type!r}): "
            f"transformers {__version__} has no AutoModelForCausalLM for it. "
            + (
                "It reads more than text: use the text model of its family, "
                if reads_more
                else "Use a model made for chat, "
            )
            + "or serve it and pass dspy.LM(...)."
        )
    heads = (architecture,) if isinstance(architecture, str) else tuple(architecture)
    if saved_as and not any(each in heads or each.endswith(_TEXT_ENDINGS) for each in saved_as):
        raise GeneratorNotFoundError(
            f"Expected a model with a head that writes text, as {', '.join(heads)} has, got {str(folder)!r}, which is "
            f"saved as {', '.join(saved_as)}. Use the model made for chat that it comes from."
        )


def _check_quantisation(folder: Path, config: PreTrainedConfig) -> None:
    """Raise `GeneratorNotFoundError` if a package, a version of one, or a GPU is missing, as transformers reports."""
    method = read_quantisation_method(folder)
    if method is None:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    settings = getattr(config, "quantization_config", None)
    if settings is None:
        settings = cast("Any", config.get_text_config()).quantization_config
    try:
        quantiser = AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantiser.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # an ImportError for a package, a RuntimeError for a GPU, a ValueError for a setting
        raise GeneratorNotFoundError(
            f"Expected weights that this machine can load, got {str(folder)!r}, which is quantised by {method} and "
            f"cannot be: {_shorten(error)}. Install what it needs, or use the same model without quantisation."
        ) from error


def _refuse_untrusted(folder: Path, error: Exception | None = None) -> None:
    """Raise `GeneratorNotFoundError` for a model that needs its own code: without `error`, or if its text says so."""
    if error is None or "trust_remote_code" in str(error):
        from sgt_modules.local.loading import explain_untrusted

        raise GeneratorNotFoundError(explain_untrusted(folder)) from error


def _shorten(error: Exception) -> str:
    """The beginning of an error's text, in one line."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else f"{text[:297]}...").rstrip(".")
