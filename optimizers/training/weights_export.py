"""Writes trained weights as a folder that others load: a merged model for any engine, or the adapter by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch

from optimizers.training.provenance import hash_files
from optimizers.training.side_effects import replace_folder
from sgt_modules.errors import RunFolderError, SetupError
from sgt_modules.local.loading import load_model, silence_libraries
from sgt_modules.saving.state_file import copy_folder
from sgt_modules.saving.weights import (
    ADAPTER,
    TRAINED_FROM,
    WANTED,
    WHOLE_MODEL,
    Weights,
    check_adapter,
    fingerprint_of,
    list_files,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WeightsFormat = Literal["merged", "adapter"]
"""`merged`: a whole model in safetensors with its tokenizer and chat template; `adapter`: a PEFT folder."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHTS = "*.safetensors*"


def write_weights(
    checkpoint: Path, to: WeightsFormat, output: Path, *, base: str | Path | None = None, dtype: str = "auto"
) -> Path:
    """Write a checkpoint's weights into a new folder, and return the folder.

    A merged model holds the sum of base and adapter, computed in a wider number format and rounded to `dtype`:
    `float32`, `bfloat16`, `float16`, or by default the base's. In half precision the rounding may change a reply. A
    checkpoint that is a whole model is copied as it is. An adapter names its base as training recorded it, by its hub
    id and commit, and no path of this machine. `base` is the folder or hub id of the base model, by default
    the one that the checkpoint names.

    Raises:
        RunFolderError: `output` holds something.
        SetupError: the checkpoint is a whole model, of which there is no adapter; or the base is not the one that the
            adapter was trained from; or `dtype` is another word.
        GeneratorNotFoundError: the checkpoint or its base cannot be found.
    """
    if dtype not in ("auto", *_DTYPES):
        raise SetupError(f"Expected dtype 'auto' or one of {', '.join(_DTYPES)}, got {dtype!r}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunFolderError(f"{output} holds something already. Choose a new folder to export to.")
    is_whole = is_whole_model(checkpoint)
    if is_whole and to == "adapter":
        raise SetupError(f"Expected an adapter in {checkpoint}, got a whole model (lora=None). Export it with merged.")
    with replace_folder(output) as scratch:
        weights = scratch / "weights"
        if is_whole:
            copy_folder(checkpoint, weights, WANTED)
        elif to == "adapter":
            copy_folder(check_adapter(checkpoint), weights, WANTED)
            _name_base(weights)
        else:
            _merge(check_adapter(checkpoint), weights, base, dtype)
    return output


def is_whole_model(checkpoint: Path) -> bool:
    """Whether a checkpoint is a whole model, and no adapter."""
    return (checkpoint / WHOLE_MODEL).is_file() and not (checkpoint / ADAPTER).is_file()


def _name_base(adapter: Path) -> None:
    """Name an adapter's base as `trained_from.json` does, in place of the path that it was trained from."""
    file, record = adapter / ADAPTER, adapter / TRAINED_FROM
    if not record.is_file():
        return
    trained, config = (json.loads(each.read_text(encoding="utf-8")) for each in (record, file))
    config |= {"base_model_name_or_path": trained["base"], "revision": trained.get("revision")}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if "files" in trained:
        trained["files"] = hash_files(adapter)
        record.write_text(json.dumps(trained, indent=2) + "\n", encoding="utf-8")


def _merge(adapter: Path, target: Path, base: str | Path | None, dtype: str) -> None:
    """Add an adapter to its base, and save the sum with everything else that is in the base's folder."""
    from peft import PeftModel

    folder = _find_base(adapter, base)
    stored = _stored_dtype(folder) if dtype == "auto" else _DTYPES[dtype]
    wide = torch.float64 if stored == torch.float32 else torch.float32
    model = load_model(folder, torch.device("cpu"), wide, trust_remote_code=False)
    with silence_libraries():
        adapted = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
        cast("torch.nn.Module", adapted).to(wide)  # PEFT keeps an adapter in single precision
        merged = cast("PreTrainedModel", adapted.merge_and_unload(safe_merge=True))
        cast("torch.nn.Module", merged).to(stored)
        merged.save_pretrained(target)
    weights = {file.name for file in folder.glob(_WEIGHTS)}
    for file in list_files(folder):
        if file.name not in weights and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def _find_base(adapter: Path, base: str | Path | None) -> Path:
    """The folder of the adapter's base. Raises `SetupError` for another base than the adapter was trained from."""
    config = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
    named = base or str(config.get("base_model_name_or_path") or "")
    folder = Weights(named, revision=None if base else config.get("revision")).folders[0]
    record = adapter / TRAINED_FROM
    expected = json.loads(record.read_text(encoding="utf-8"))["sha256"] if record.is_file() else None
    if expected is not None and expected != (got := fingerprint_of(folder)):
        raise SetupError(
            f"Expected the base that the adapter was trained from, with sha256 {expected[:12]}..., got {str(folder)!r} "
            f"with {got[:12]}.... Pass base= (--base) with the folder or hub id of the right one."
        )
    return folder


def _stored_dtype(folder: Path) -> torch.dtype:
    """The number format of a model's weights, as its config.json says; single precision if it does not."""
    config = json.loads((folder / WHOLE_MODEL).read_text(encoding="utf-8"))
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return _DTYPES.get(name, torch.float32)
