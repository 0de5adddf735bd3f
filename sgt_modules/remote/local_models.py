"""Finds the files of a model that a server on this machine is to serve, before it starts."""

from __future__ import annotations

from pathlib import Path

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.saving.weights import LOCAL, refuse_pickles, resolve


def find_model(model: str, *, download: bool) -> Path:
    """The folder of a model's files: itself, or a hub id's snapshot in the hub's cache.

    With `download`, a hub id that is not in the cache is fetched.

    Raises `GeneratorNotFoundError` if there is no such folder or hub id here, or no weights in safetensors;
    for weights that are only pickled it says how to convert them.

    >>> try:
    ...     find_model("nobody/has-this-model", download=False)
    ... except GeneratorNotFoundError as error:
    ...     print(str(error)[:71])
    Expected a model on this machine, got 'nobody/has-this-model', which is
    """
    model = model.removeprefix(LOCAL)
    folder = Path(model).expanduser()
    if download or folder.is_dir() or model.count("/") != 1 or model.startswith((".", "/", "~")):
        return resolve(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    missing = (
        f"Expected a model on this machine, got {model!r}, which is neither a folder here nor complete in the "
        f"hub's cache. Run `hf download {model}`, add --download, or pass the folder of a model."
    )
    try:
        cached = Path(snapshot_download(model, local_files_only=True))
    except (OSError, HFValidationError) as error:
        raise GeneratorNotFoundError(missing) from error
    refuse_pickles(cached)  # says what to do, where no download helps
    try:
        return resolve(cached)
    except GeneratorNotFoundError as error:
        raise GeneratorNotFoundError(missing) from error
