"""Find a model's files, compute the fingerprints of weights, and write a saved program's reference to them.

No model is loaded. Only safetensors are accepted as weights: a pickle can run code when it is opened.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TypedDict

from sgt_modules.errors import GeneratorNotFoundError, SavedStateError
from sgt_modules.saving.shapes import find_misfit, read_shapes
from sgt_modules.saving.state_file import (
    copy_folder,
    file_being_read,
    file_being_written,
    follow_path,
    is_relative,
    lies_within,
    relative_path,
)

LOCAL = "local:"
"""What may stand before a hub id, to say that the model runs in this process."""

WHOLE_MODEL = "config.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINED_FROM = "trained_from.json"
"""The file next to trained weights that records their base model and their training."""

SHIPPED = Path(__file__).parents[1] / "embedded" / "weights"
"""The models in this package; `sgt:generator` names one of them, wherever the package is installed."""

_SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[^/]+)$")
"""Matches a model's folder in the hub's cache, with its hub id and its commit."""

_SHIPPED_NAME = re.compile(r"sgt:([\w-]+)")
_SAFE = "*.safetensors"
WANTED = (_SAFE, "*.json", "*.txt", "*.model", "*.jinja")
"""The files of a model or an adapter."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class Reference(TypedDict):
    """A saved program's reference to a model: the place of the weights and their sha256.

    `model` is a hub id, `sgt:<name>`, or a path; a path that begins with `./` is relative to the state file's folder.
    `revision` is the commit on the hub. `adapter` is a path; in a state file it is relative.
    """

    model: str
    revision: str | None
    adapter: str | None
    sha256: str | None
    adapter_sha256: str | None


class Weights:
    """The files of a model and its adapter, found at first use.

    With `sha256` or `adapter_sha256`, `check` refuses files with another fingerprint. With a `revision` (a commit,
    branch or tag), `model` is a hub id, with or without `local:`; with `code`, its Python files are fetched too.
    Nothing is fetched before the first use, and paths need not exist before it.

    >>> Weights("some/model").adapter is None
    True
    >>> Weights("local:some/model").model
    'some/model'
    """

    def __init__(
        self,
        model: str | Path,
        adapter: str | Path | None = None,
        *,
        revision: str | None = None,
        sha256: str | None = None,
        adapter_sha256: str | None = None,
        code: bool = False,
    ) -> None:
        name = str(model).removeprefix(LOCAL)
        shipped = _SHIPPED_NAME.fullmatch(name)
        self.model = str(SHIPPED / shipped[1]) if shipped else name
        self.adapter = None if adapter is None else Path(adapter)
        self.revision = revision
        self._expected_fingerprints = (sha256, adapter_sha256)
        self._code = code
        self._known_fingerprints: dict[Path, str] = {}

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The folder of the model, and of the adapter if there is one. Raises `GeneratorNotFoundError`."""
        adapters = () if self.adapter is None else (check_adapter(self.adapter),)
        return (resolve(self.model, self.revision, code=self._code), *adapters)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """sha256 (hex) of the weights in each folder."""
        return tuple(self._known_fingerprints.get(folder) or fingerprint_of(folder) for folder in self.folders)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weights; with an adapter, of both fingerprints together."""
        base, *adapters = self.fingerprints
        return hashlib.sha256("".join((base, *adapters)).encode()).hexdigest() if adapters else base

    @cached_property
    def bytes(self) -> int:
        """The size of the base model's weight files."""
        return sum(file.stat().st_size for file in self.folders[0].glob("*.safetensors"))

    @cached_property
    def context(self) -> int:
        """The most tokens of prompt and reply together."""
        return context_of(self.folders[0])

    def with_adapter(self, adapter: str | Path | None) -> Weights:
        """Return the model with another adapter, or with none; its fingerprint is not computed again."""
        other = Weights(self.model, adapter, revision=self.revision, code=self._code)
        if "fingerprints" in vars(self):
            other._known_fingerprints = {self.folders[0]: self.fingerprints[0]}
        return other

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` if files are missing, have changed since saving, or do not fit together."""
        folders = self.folders
        if any(self._expected_fingerprints):
            for folder, expected, actual in zip(folders, self._expected_fingerprints, self.fingerprints, strict=False):
                if expected is not None and actual != expected:
                    del self.fingerprints  # the right files may be put there later
                    raise GeneratorNotFoundError(
                        f"Expected {_describe_weights(folder)} in {str(folder)!r} to have sha256 {expected[:12]}..., "
                        f"got {actual[:12]}... Restore the files this program was saved with, or compile it again."
                    )
        if self.adapter is not None:
            self._check_fit()

    def reference(self) -> Reference:
        """Return the reference for a saved program; while a file is being written, paths are relative to it.

        An adapter or a trained model is copied next to the file, unless it lies below the file's folder. Raises
        `GeneratorNotFoundError` as `check` does.
        """
        self.check()
        base, *adapters = self.fingerprints
        return Reference(
            model=self._model_reference(),
            revision=self._commit(),
            adapter=_portable_path(self.folders[1], "adapter", adapters[0]) if adapters else None,
            sha256=base,
            adapter_sha256=adapters[0] if adapters else None,
        )

    def _model_reference(self) -> str:
        folder, file = self.folders[0], file_being_written()
        if not self._is_local():
            return self.model
        if folder.resolve().parent == SHIPPED.resolve():
            return f"sgt:{folder.name}"
        owned = (folder / TRAINED_FROM).is_file() or (file is not None and lies_within(folder, file.parent))
        return _portable_path(folder, "model", self.fingerprints[0]) if owned else str(folder.absolute())

    def _commit(self) -> str | None:
        """Return the commit of a hub's snapshot, if it has been fetched."""
        if self._is_local():
            return None
        folder = self.folders[0]
        return folder.name if folder.parent.name == "snapshots" else self.revision

    def _is_local(self) -> bool:
        return self.revision is None and Path(self.model).expanduser().is_dir()

    def _check_fit(self) -> None:
        base, adapter = self.folders
        trained_from = _read_trained_from(adapter)
        reason = find_misfit(read_shapes(_weight_files(adapter)), read_shapes(_weight_files(base)))
        if reason is None and trained_from is not None and trained_from != self.fingerprints[0]:
            reason = f"it was trained over {trained_from[:12]}... (sha256), not {self.fingerprints[0][:12]}..."
        if reason is not None:
            raise GeneratorNotFoundError(
                f"Expected an adapter for {self.model!r}, got {str(adapter)!r}, which is for another base model: "
                f"{reason}. Use the model it was trained from, or train an adapter for this one."
            )


def locate(model: str, adapter: str | None) -> tuple[str, str | None]:
    """Return a reference's model and adapter with absolute paths, resolved from the file that is being read.

    Raises `SavedStateError` if the adapter lies outside of the file's folder.

    >>> locate("Qwen/Qwen3-1.7B", None)
    ('Qwen/Qwen3-1.7B', None)
    """
    if is_relative(model):
        model = str(follow_path(model))
    if adapter is not None and (file_being_read() is not None or not Path(adapter).is_absolute()):
        adapter = str(follow_path(adapter))
    return model, adapter


def resolve(model: str | Path, revision: str | None = None, *, code: bool = False) -> Path:
    """Return the folder of a model's files. A hub id gives its snapshot in the hub's cache, which is fetched if it is
    missing; with `code`, it includes the model's Python files.

    Raises `GeneratorNotFoundError` if there is no such folder or model, or no weights in safetensors.

    >>> try:  # doctest: +ELLIPSIS
    ...     resolve("no/such/folder/here")
    ... except GeneratorNotFoundError as error:
    ...     print(error)
    Expected a folder ... got 'no/such/folder/here'. ...
    """
    folder = Path(model).expanduser()
    if revision is not None or not folder.is_dir():
        folder = _fetch_snapshot(str(model), revision, code=code)
    refuse_pickles(folder)
    if not (folder / WHOLE_MODEL).is_file() or not _weight_files(folder):
        raise GeneratorNotFoundError(
            f"Expected {WHOLE_MODEL} and {_SAFE} in the folder of {str(model)!r}, got "
            f"{sorted(each.name for each in folder.iterdir())[:8]}. Save the model with save_pretrained()."
        )
    return folder


def refuse_pickles(folder: Path) -> None:
    """Raise `GeneratorNotFoundError` if a folder has only pickled weights; next to safetensors they are never read.

    A Trainer's pickled settings, `training_args.bin`, are no weights.

    >>> refuse_pickles(SHIPPED / "generator")
    """
    found = {file.name for pattern in _PICKLES for file in folder.glob(pattern)}
    pickles = sorted(found - {"training_args.bin"})
    if pickles and not _weight_files(folder):
        raise GeneratorNotFoundError(
            f"Expected weights as {_SAFE} in {str(folder)!r}, got only {pickles[:4]}, and a pickle can run code when "
            "it is opened. Convert them where you trust them: load the model there and call "
            "save_pretrained(folder, safe_serialization=True)."
        )


def list_files(folder: Path) -> list[Path]:
    """The files of a model or an adapter in a folder (`WANTED`), sorted by name."""
    return sorted({file for pattern in WANTED for file in folder.glob(pattern)})


def check_adapter(adapter: Path) -> Path:
    """Return the folder of a PEFT adapter; raise `GeneratorNotFoundError` if it lacks files."""
    refuse_pickles(adapter)
    if not (adapter / ADAPTER).is_file() or not (adapter / ADAPTER_WEIGHTS).is_file():
        raise GeneratorNotFoundError(
            f"Expected a PEFT adapter's folder ({ADAPTER} and {ADAPTER_WEIGHTS}), got {str(adapter)!r}, which "
            f"{'lacks them' if adapter.is_dir() else 'does not exist'}. Pass the folder that training wrote (copy it "
            "along with a saved program), or adapter=None for the bare model."
        )
    return adapter


def fingerprint_of(folder: Path) -> str:
    """Return the sha256 (hex, 64 characters) of a folder's safetensors files, in order of their names."""
    digest = hashlib.sha256()
    for file in _weight_files(folder):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def origin_of(folder: Path) -> tuple[str | None, str | None]:
    """Return a model folder's hub id and commit, or `sgt:<name>` and None; None for both if unknown.

    >>> origin_of(Path("hub/models--Qwen--Qwen3-1.7B/snapshots/70d244cc"))
    ('Qwen/Qwen3-1.7B', '70d244cc')
    >>> origin_of(SHIPPED / "generator"), origin_of(Path("mine/model"))
    (('sgt:generator', None), (None, None))
    """
    match = _SNAPSHOT.search(folder.as_posix())
    if match is not None:
        return f"{match['owner']}/{match['name']}", match["commit"]
    return (f"sgt:{folder.name}" if folder.resolve().parent == SHIPPED.resolve() else None), None


def record_base(folder: Path, base: str | Path, lineage: Mapping[str, object] | None = None) -> None:
    """Write a record next to trained weights: their base model, and with `lineage` how they were trained (as JSON).

    Weights with this record are copied with a saved program, and an adapter with it is refused by any other base. Only
    the `sha256` of the base is required in a record.
    """
    source = resolve(base)
    name, revision = origin_of(source)
    record = {"base": name or source.name, "revision": revision, "sha256": fingerprint_of(source), **(lineage or {})}
    (folder / TRAINED_FROM).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def context_of(folder: Path) -> int:
    """Return the model's context window in tokens from its config.json; 2**31 if it names none."""
    config = json.loads((folder / WHOLE_MODEL).read_text(encoding="utf-8"))
    window = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return int(window or 2**31)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(_SAFE))


def _describe_weights(folder: Path) -> str:
    names = [file.name for file in _weight_files(folder)]
    return names[0] if len(names) == 1 else f"{len(names)} files ({_SAFE})"


def _read_trained_from(folder: Path) -> str | None:
    """Return the sha256 of the weights' base model, if training recorded it."""
    file = folder / TRAINED_FROM
    return json.loads(file.read_text(encoding="utf-8"))["sha256"] if file.is_file() else None


def _portable_path(folder: Path, label: str, sha256: str) -> str:
    """Return the path of an adapter or trained model for a reference: relative to a file, absolute in memory."""
    file = file_being_written()
    if file is None:
        return str(folder.absolute())
    if not lies_within(folder, file.parent):
        source, folder = folder, file.with_name(f"{file.stem}-{label}-{sha256[:12]}")
        if folder.is_dir() and fingerprint_of(folder) != sha256:
            shutil.rmtree(folder)  # an earlier copy that was damaged
        if not folder.is_dir():
            copy_folder(source, folder, WANTED)
        if fingerprint_of(folder) != sha256:
            raise SavedStateError(
                f"Expected the weights in {str(source)!r} to be still those with sha256 {sha256[:12]}..., but they "
                "have changed. Save the program before its files change, or build it again from them."
            )
    return relative_path(folder, file.parent)


def _fetch_snapshot(hub_id: str, revision: str | None, *, code: bool) -> Path:
    expected = (
        f"Expected a folder with {WHOLE_MODEL} and {_SAFE}, or a hub id such as 'Qwen/Qwen3-1.7B', got {hub_id!r}"
    )
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        raise GeneratorNotFoundError(
            f"{expected}. No such folder is on this machine: pass the path of a model saved with save_pretrained(). A "
            "saved program needs its base model where it was, unless that stands below the saved file's folder."
        )
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = [*WANTED, "*.py"] if code else [*WANTED]
    fetch = partial(snapshot_download, hub_id, revision=revision, allow_patterns=patterns)
    try:
        try:
            return Path(fetch())
        except (OSError, HTTPError):  # offline, the hub's client looks for a branch in its cache, but not for a commit
            return Path(fetch(local_files_only=True))
    except (OSError, HTTPError, HFValidationError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise GeneratorNotFoundError(
            f"The model {hub_id!r}{at} cannot be loaded: it is not a folder here, it has not been downloaded, and "
            f"{_explain_failure(error)}. Then run `hf download {hub_id}`; or fetch it where there is a network "
            f"with `hf download {hub_id} --local-dir FOLDER` and pass that folder: it needs {WHOLE_MODEL}, {_SAFE} and "
            "the tokenizer's files."
        ) from error


def _explain_failure(error: Exception) -> str:
    """Say why a model could not be fetched, and what to do first."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    seen: set[type] = set()
    each: BaseException | None = error
    while each is not None:
        seen |= {type(each)}
        each = each.__cause__ or each.__context__
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the hub is not used. Unset it"
    if GatedRepoError in seen:
        return "the hub needs you to accept its terms. Accept them on its page and set HF_TOKEN"
    if HFValidationError in seen:
        return "the hub does not accept this name. Check the name"
    if seen & {RepositoryNotFoundError, RevisionNotFoundError}:
        return "the hub has no model of this name, or it is private. Check the name, and set HF_TOKEN for a private one"
    return f"the hub could not be reached ({type(error).__name__}). Check the network"
