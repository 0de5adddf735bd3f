"""Whether this machine can run the model in a folder, told from its files: no weight is read, nothing is paid for.

    shards all there and whole -> a configuration that transformers knows -> a head that writes text -> what its
    quantisation needs

What fails here would fail when the model is first loaded, in a run after its first paid calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.saving.shapes import names_in

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_CONFIG = "config.json"
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of architectures end that write text, those of code that a model brings along included."""

_SENSES = ("vision_config", "audio_config")
_SHOWN = 4


def check_runnable(folder: Path, *, trust_remote_code: bool) -> None:
    """Raise `GeneratorNotFoundError` unless transformers can load this folder as a model that continues text.

    `trust_remote_code` as for `LocalEngine`.
    """
    check_shards(folder)
    config = _configuration(folder, trust_remote_code)
    _check_architecture(folder, config, trust_remote_code)
    _check_quantisation(folder, config)


def check_shards(folder: Path) -> None:
    """Raise `GeneratorNotFoundError` unless every file of the weights is there, and as long as its header says.

    >>> import tempfile
    >>> try:
    ...     check_shards(Path(tempfile.mkdtemp()))
    ... except GeneratorNotFoundError as error:
    ...     print(error)  # doctest: +ELLIPSIS
    Expected model.safetensors, or shards with model.safetensors.index.json, in ..., got []. ...
    """
    if (folder / _WHOLE).is_file():
        names_in(folder / _WHOLE)
        return
    if not (folder / _INDEX).is_file():
        if _named_otherwise(folder):
            return
        raise GeneratorNotFoundError(
            f"Expected {_WHOLE}, or shards with {_INDEX}, in {str(folder)!r}, got "
            f"{sorted(each.name for each in folder.glob('*.safetensors'))[:_SHOWN]}. Fetch all of the model's files, "
            "or save it with save_pretrained()."
        )
    shards = _shards(folder / _INDEX)
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise GeneratorNotFoundError(
            f"Expected the {len(shards)} shards that {_INDEX} names in {str(folder)!r}, {len(missing)} of them are "
            f"missing: {', '.join(missing[:_SHOWN])}{', ...' if len(missing) > _SHOWN else ''}. {_again(folder)}"
        )
    for name, tensors in shards.items():
        if absent := sorted(tensors - names_in(folder / name)):
            raise GeneratorNotFoundError(
                f"Expected {len(tensors)} tensors in {name} of {str(folder)!r}, as {_INDEX} says, {len(absent)} "
                f"of them are not there, such as {absent[0]}. {_again(folder)}"
            )


def quantised_by(folder: Path) -> str | None:
    """The quantisation of the weights in a folder, by the name that its config.json gives; None where it names none."""
    said = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    asked = said.get("quantization_config") or said.get("text_config", {}).get("quantization_config")
    return str(asked.get("quant_method") or "bitsandbytes") if asked else None


def _shards(index: Path) -> dict[str, set[str]]:
    """The tensors that each shard holds, as the index says."""
    shards: dict[str, set[str]] = {}
    try:
        placed = cast("dict[str, str]", json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        for tensor, name in placed.items():
            shards.setdefault(name, set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GeneratorNotFoundError(
            f"Expected {_INDEX} with a weight_map in {str(index.parent)!r}, got a file that is cut or no JSON. "
            f"{_again(index.parent)}"
        ) from error
    return shards


def _named_otherwise(folder: Path) -> bool:
    """Whether config.json itself names the file of the weights."""
    file = folder / _CONFIG
    named = json.loads(file.read_text(encoding="utf-8")).get("transformers_weights") if file.is_file() else None
    return isinstance(named, str) and (folder / named).is_file()


def _again(folder: Path) -> str:
    return f"Fetch the model again (`hf download HUB_ID --local-dir {folder}` goes on where it stopped)."


def _configuration(folder: Path, trust: bool) -> PreTrainedConfig:
    from transformers import AutoConfig, __version__

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    except Exception as error:  # a configuration's own checks raise what they like
        _refuse_untrusted(folder, error)
        raise GeneratorNotFoundError(
            f"Expected a {_CONFIG} that transformers {__version__} can read, got that of {str(folder)!r} "
            f"({type(error).__name__}: {_said(error)}). Use another model, or, if this one is newer than "
            "transformers, `pip install --upgrade transformers`."
        ) from error


def _check_architecture(folder: Path, config: PreTrainedConfig, trust: bool) -> None:
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    own = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if own and trust:
        return
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if known is None and own:
        _refuse_untrusted(folder)
    named = config.architectures or []
    if known is None:
        senses = any(getattr(config, each, None) is not None for each in _SENSES)
        raise GeneratorNotFoundError(
            f"Expected a causal language model, got {str(folder)!r}, which is {_listed(named) or config.model_type} "
            f"(model_type {config.model_type!r}): transformers {__version__} has no AutoModelForCausalLM for it. "
            + (
                "It reads more than text: use the text model of its family, "
                if senses
                else "Use a model made for chat, "
            )
            + "or serve it and pass dspy.LM(...)."
        )
    heads = (known,) if isinstance(known, str) else tuple(known)
    if named and not any(each in heads or each.endswith(_WRITES) for each in named):
        raise GeneratorNotFoundError(
            f"Expected a model with a head that writes text, as {_listed(heads)} has, got {str(folder)!r}, which is "
            f"saved as {_listed(named)}. Use the model made for chat that it comes from."
        )


def _check_quantisation(folder: Path, config: PreTrainedConfig) -> None:
    """Have transformers say what is missing: a package, one of its versions, or a GPU."""
    method = quantised_by(folder)
    if method is None:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    asked = getattr(config, "quantization_config", None)
    if asked is None:
        asked = cast("Any", config.get_text_config()).quantization_config
    try:
        quantiser = AutoHfQuantizer.from_config(asked, pre_quantized=True)
        quantiser.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # an ImportError for a package, a RuntimeError for a GPU, a ValueError for a setting
        raise GeneratorNotFoundError(
            f"Expected weights that this machine can load, got {str(folder)!r}, which is quantised by {method} and "
            f"cannot be: {_said(error)}. Install what it needs, or use the same model without quantisation."
        ) from error


def _refuse_untrusted(folder: Path, error: Exception | None = None) -> None:
    """Refuse a model that only runs with its own code; `error` is what transformers said of it, if it did."""
    if error is None or "trust_remote_code" in str(error):
        from sgt_modules.local.loading import untrusted

        raise GeneratorNotFoundError(untrusted(folder)) from error


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names)


def _said(error: Exception) -> str:
    """The first sentences of an error, in one line."""
    said = " ".join(str(error).split())
    return (said if len(said) <= 300 else f"{said[:297]}...").rstrip(".")
