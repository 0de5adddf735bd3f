"""Where a model's files are, what tells one set of weights from another, and how a saved program refers to them.

Reads files and loads no model. Only safetensors count as weights: a pickle can run code when it is opened.
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

WHOLE_MODEL = "config.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINED_FROM = "trained_from.json"
"""Stands beside weights that training wrote: which base model they belong to, and how they came about."""

SHIPPED = Path(__file__).parents[1] / "embedded" / "weights"
"""The models inside this package; `sgt:generator` names one of them, wherever the package is installed."""

_SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[^/]+)$")
"""A model's folder in the hub's cache, from its hub id and its commit."""

_SHIPPED_NAME = re.compile(r"sgt:([\w-]+)")
_SAFE = "*.safetensors"
WANTED = (_SAFE, "*.json", "*.txt", "*.model", "*.jinja")
"""The files that make a model or an adapter."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class Reference(TypedDict):
    """A model as a saved program keeps it: no weights, but where they are and their sha256.

    `model` is a hub id, `sgt:<name>`, or a path; a path that begins with `./` is relative to the state file's folder.
    `revision` is the commit on the hub. `adapter` is a path in a file, relative there.
    """

    model: str
    revision: str | None
    adapter: str | None
    sha256: str | None
    adapter_sha256: str | None


class Weights:
    """The files of a model and its adapter, looked up when first asked for.

    With `sha256` or `adapter_sha256`, files of another fingerprint are refused by `check`. With a `revision` (a commit,
    branch or tag), `model` is a hub id; with `code`, its Python files are fetched too. A path must exist by then;
    nothing is fetched before.

    >>> Weights("some/model").adapter is None
    True
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
        shipped = _SHIPPED_NAME.fullmatch(str(model))
        self.model = str(SHIPPED / shipped[1]) if shipped else str(model)
        self.adapter = None if adapter is None else Path(adapter)
        self.revision = revision
        self._expected_fingerprints = (sha256, adapter_sha256)
        self._code = code
        self._known_fingerprints: dict[Path, str] = {}

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The model's folder, then the adapter's if there is one. Raises `GeneratorNotFoundError`."""
        adapters = () if self.adapter is None else (check_adapter(self.adapter),)
        return (resolve(self.model, self.revision, code=self._code), *adapters)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """sha256 (hex) of the weights in each of the folders."""
        return tuple(self._known_fingerprints.get(folder) or fingerprint_of(folder) for folder in self.folders)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weights; with an adapter, of both fingerprints."""
        base, *adapters = self.fingerprints
        return hashlib.sha256("".join((base, *adapters)).encode()).hexdigest() if adapters else base

    @cached_property
    def bytes(self) -> int:
        """The size of the base's weight files."""
        return sum(file.stat().st_size for file in self.folders[0].glob("*.safetensors"))

    @cached_property
    def context(self) -> int:
        """The most tokens that prompt and reply may have together."""
        return context_of(self.folders[0])

    def with_adapter(self, adapter: str | Path | None) -> Weights:
        """The same model with another adapter, or with none; its fingerprint is not computed again."""
        other = Weights(self.model, adapter, revision=self.revision, code=self._code)
        if "fingerprints" in vars(self):
            other._known_fingerprints = {self.folders[0]: self.fingerprints[0]}
        return other

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` if files are missing, are not those that were saved, or don't fit together."""
        folders = self.folders
        if any(self._expected_fingerprints):
            for folder, expected, found in zip(folders, self._expected_fingerprints, self.fingerprints, strict=False):
                if expected is not None and found != expected:
                    del self.fingerprints  # the right files may be put there later
                    raise GeneratorNotFoundError(
                        f"Expected {_describe_weights(folder)} in {str(folder)!r} to have sha256 {expected[:12]}..., "
                        f"got {found[:12]}... Restore the files this program was saved with, or compile it again."
                    )
        if self.adapter is not None:
            self._check_fit()

    def reference(self) -> Reference:
        """What a saved program keeps; into a file, with paths relative to it.

        Weights that the program alone has, an adapter or a trained model, are copied beside a file that does not stand
        above them. Raises `GeneratorNotFoundError` as `check` does.
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
        """The commit of a hub's snapshot, once it is here."""
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
    """A reference's model and adapter with absolute paths, as seen from the file that is being read.

    Raises `SavedStateError` for an adapter that such a file places outside of its own folder.

    >>> locate("Qwen/Qwen3-1.7B", None)
    ('Qwen/Qwen3-1.7B', None)
    """
    if is_relative(model):
        model = str(follow_path(model))
    if adapter is not None and (file_being_read() is not None or not Path(adapter).is_absolute()):
        adapter = str(follow_path(adapter))
    return model, adapter


def resolve(model: str | Path, revision: str | None = None, *, code: bool = False) -> Path:
    """The folder of a model's files: a path as it is, a hub id as its snapshot in the hub's cache (fetched if need be,
    with the model's own Python files if `code`).

    Raises `GeneratorNotFoundError` when there is no such folder, no such model, or no weights in safetensors.

    >>> try:  # doctest: +ELLIPSIS
    ...     resolve("no/such/folder/here")
    ... except GeneratorNotFoundError as error:
    ...     print(error)
    Expected a folder ... got 'no/such/folder/here'. ...
    """
    folder = Path(model).expanduser()
    if revision is not None or not folder.is_dir():
        folder = _fetch_snapshot(str(model), revision, code=code)
    _refuse_pickles(folder)
    if not (folder / WHOLE_MODEL).is_file() or not _weight_files(folder):
        raise GeneratorNotFoundError(
            f"Expected {WHOLE_MODEL} and {_SAFE} in the folder of {str(model)!r}, got "
            f"{sorted(each.name for each in folder.iterdir())[:8]}. Save the model with save_pretrained()."
        )
    return folder


def check_adapter(adapter: Path) -> Path:
    """The folder of a PEFT adapter, or `GeneratorNotFoundError`."""
    _refuse_pickles(adapter)
    if not (adapter / ADAPTER).is_file() or not (adapter / ADAPTER_WEIGHTS).is_file():
        raise GeneratorNotFoundError(
            f"Expected a PEFT adapter's folder ({ADAPTER} and {ADAPTER_WEIGHTS}), got {str(adapter)!r}, which "
            f"{'lacks them' if adapter.is_dir() else 'does not exist'}. Pass the folder that training wrote (copy it "
            "along with a saved program), or adapter=None for the bare model."
        )
    return adapter


def fingerprint_of(folder: Path) -> str:
    """sha256 (hex, 64 characters) of a folder's safetensors file; of all of them, in order of their names."""
    digest = hashlib.sha256()
    for file in _weight_files(folder):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def origin_of(folder: Path) -> tuple[str | None, str | None]:
    """Where a model's folder came from: its hub id and commit, `sgt:<name>`, or nothing known.

    >>> origin_of(Path("hub/models--Qwen--Qwen3-1.7B/snapshots/70d244cc"))
    ('Qwen/Qwen3-1.7B', '70d244cc')
    >>> origin_of(SHIPPED / "generator"), origin_of(Path("mine/model"))
    (('sgt:generator', None), (None, None))
    """
    found = _SNAPSHOT.search(folder.as_posix())
    if found is not None:
        return f"{found['owner']}/{found['name']}", found["commit"]
    return (f"sgt:{folder.name}" if folder.resolve().parent == SHIPPED.resolve() else None), None


def record_base(folder: Path, base: str | Path, lineage: Mapping[str, object] | None = None) -> None:
    """Write beside trained weights which model they were trained from, and what else is known of how (as JSON).

    Weights with this record move with a saved program, and an adapter with it is refused by any other model. Only the
    base's `sha256` is ever asked for: a record without the rest, as earlier versions wrote it, will do.
    """
    source = resolve(base)
    name, revision = origin_of(source)
    record = {"base": name or source.name, "revision": revision, "sha256": fingerprint_of(source), **(lineage or {})}
    (folder / TRAINED_FROM).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def context_of(folder: Path) -> int:
    """The model's context window in tokens, as its config.json says; practically none where it says nothing."""
    config = json.loads((folder / WHOLE_MODEL).read_text(encoding="utf-8"))
    window = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return int(window or 2**31)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(_SAFE))


def _describe_weights(folder: Path) -> str:
    names = [file.name for file in _weight_files(folder)]
    return names[0] if len(names) == 1 else f"{len(names)} files ({_SAFE})"


def _read_trained_from(folder: Path) -> str | None:
    """The sha256 of the model that weights were trained from, where training recorded it."""
    file = folder / TRAINED_FROM
    return json.loads(file.read_text(encoding="utf-8"))["sha256"] if file.is_file() else None


def _portable_path(folder: Path, label: str, sha256: str) -> str:
    """The path to keep of weights that the program alone has: absolute in memory; in a file relative to it."""
    file = file_being_written()
    if file is None:
        return str(folder.absolute())
    if not lies_within(folder, file.parent):
        source, folder = folder, file.with_name(f"{file.stem}-{label}-{sha256[:12]}")
        if folder.is_dir() and fingerprint_of(folder) != sha256:
            shutil.rmtree(folder)  # a copy of ours that was damaged
        if not folder.is_dir():
            copy_folder(source, folder, WANTED)
        if fingerprint_of(folder) != sha256:
            raise SavedStateError(
                f"Expected the weights in {str(source)!r} to be still those with sha256 {sha256[:12]}..., but they "
                "have changed. Save the program before its files change, or build it from them anew."
            )
    return relative_path(folder, file.parent)


def _refuse_pickles(folder: Path) -> None:
    """A folder whose only weights are pickles; beside safetensors they are never read."""
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not _weight_files(folder):
        raise GeneratorNotFoundError(
            f"Expected weights as {_SAFE} in {str(folder)!r}, got only {pickles[:4]}, and a pickle can run code when "
            "it is opened. Convert them where you trust them: load the model there and call "
            "save_pretrained(folder, safe_serialization=True)."
        )


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

    wanted = [*WANTED, "*.py"] if code else [*WANTED]
    fetch = partial(snapshot_download, hub_id, revision=revision, allow_patterns=wanted)
    try:
        try:
            return Path(fetch())
        except (OSError, HTTPError):  # offline, the hub's client looks for a branch in its cache, but not for a commit
            return Path(fetch(local_files_only=True))
    except (OSError, HTTPError, HFValidationError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise GeneratorNotFoundError(
            f"The model {hub_id!r}{at} cannot be had: it is no folder here, it has not been downloaded, and "
            f"{_explain_failure(error)}. Then `hf download {hub_id}` brings it; or fetch it where there is a network "
            f"with `hf download {hub_id} --local-dir FOLDER` and pass that folder: it needs {WHOLE_MODEL}, {_SAFE} and "
            "the tokenizer's files."
        ) from error


def _explain_failure(error: Exception) -> str:
    """What is wrong with the hub or the name, and what to do first."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    seen: set[type] = set()
    each: BaseException | None = error
    while each is not None:
        seen |= {type(each)}
        each = each.__cause__ or each.__context__
    if constants.HF_HUB_OFFLINE:
        return "the hub is not asked, as HF_HUB_OFFLINE is set. Unset it"
    if GatedRepoError in seen:
        return "the hub gives it only to those who accepted its terms. Accept them on its page and set HF_TOKEN"
    if HFValidationError in seen:
        return "the hub takes no such name. Check the name"
    if seen & {RepositoryNotFoundError, RevisionNotFoundError}:
        return "the hub has none of that name, or it is private. Check the name, and set HF_TOKEN for a private one"
    return f"the hub could not be reached ({type(error).__name__}). Check the network"
