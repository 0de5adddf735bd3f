"""Models in memory. Models of one base share its weights; an adapter is active for one batch at a time.

LoadedModel ──> SharedBase (weights, lock) <── LoadedModel      each with at most one adapter
                   └─> twin                                     the same weights in modules of its own, for training
"""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.local.devices import choose_device_and_dtype
from sgt_modules.local.quantisation import quantise

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner
    from transformers import PreTrainedModel

_Key = tuple[object, ...]


class SharedBase:
    """A base model and its adapters. One user at a time: `use_adapter` waits until the model is free."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool) -> None:
        self._model = load_model(folder, device, dtype, trust_remote_code=trust_remote_code)
        cast("torch.nn.Module", self._model).requires_grad_(False)
        # Adapters replace modules of the model, and its users change its settings; these modules stay as they are.
        self._unchanged = _share_weights(self._model)
        self._device, self._dtype = device, dtype
        self._lock = threading.RLock()
        self._peft_model: PeftModel | None = None
        self._active: str | None = None
        self._names = (f"adapter{number}" for number in itertools.count())
        self._to_delete: deque[str] = deque()

    def make_twin(self) -> PreTrainedModel:
        """A model with the base's own weights, frozen, in modules of its own, without an adapter.

        Adapters, hooks and flags that a training adds to the twin do not change the base, so the base can be sampled
        from meanwhile.
        """
        assert self._dtype != torch.int8, "8 bits are not trained"
        return _share_weights(self._unchanged)

    def add_adapter(self, folder: Path) -> str:
        """Load an adapter and activate it; return its name in this base."""
        from peft import PeftModel

        with self._lock, silence_libraries():
            name, device = next(self._names), str(self._device)
            if self._peft_model is None:
                self._peft_model = PeftModel.from_pretrained(self._model, str(folder), name, torch_device=device)
            else:
                self._peft_model.load_adapter(str(folder), name, torch_device=device)
            if self._dtype == torch.float64:  # PEFT widens an adapter's weights to single precision, and no further
                cast("torch.nn.Module", self._model).to(self._dtype)
            self._model.eval()
            self._activate(name)
            return name

    def remove_adapter(self, name: str) -> None:
        """Delete an adapter before the next use. Takes no lock: any thread may call it at any time."""
        self._to_delete.append(name)

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """The model, for this caller alone inside the block, with that adapter or with none."""
        with self._lock:
            self._delete_adapters()
            if name != self._active:
                self._activate(name)
            yield self._model

    def _activate(self, name: str | None) -> None:
        if self._peft_model is not None:
            tuner = cast("BaseTuner", self._peft_model.base_model)
            if name is None:
                tuner.disable_adapter_layers()
            else:
                tuner.enable_adapter_layers()
                self._peft_model.set_adapter(name)
        self._active = name

    def _delete_adapters(self) -> None:
        while self._to_delete and self._peft_model is not None:
            name = self._to_delete.popleft()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*was active which is now deleted")
                self._peft_model.delete_adapter(name)
            self._activate(None)  # PEFT may have activated another one


class LoadedModel:
    """A base with at most one adapter, ready for use. Models with the same base files share one `SharedBase`.

    An adapter that changes the base's own weights gets a base of its own.
    """

    def __init__(
        self, folders: Sequence[Path], *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
    ) -> None:
        """`folders`: the model's, then the adapter's if there is one."""
        self.device, self.dtype = choose_device_and_dtype(device, dtype)
        folder, *adapters = folders
        alone = not all(map(_leaves_base_unchanged, adapters))
        self._base = get_base(folder, self.device, self.dtype, trust_remote_code=trust_remote_code, alone=alone)
        self._adapter = self._base.add_adapter(adapters[0]) if adapters else None
        if self._adapter is not None:
            weakref.finalize(self, self._base.remove_adapter, self._adapter).atexit = False

    @contextmanager
    def borrow(self) -> Iterator[PreTrainedModel]:
        """The model, for this caller alone inside the block."""
        with self._base.use_adapter(self._adapter) as model:
            yield model


_BASES: weakref.WeakValueDictionary[_Key, SharedBase] = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


def get_base(
    folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool, alone: bool = False
) -> SharedBase:
    """The base of these files: the one in memory if there is one, a new one if the files have changed since.

    An `alone` base is always new and never shared. A base stays in memory while an object refers to it.
    """
    paths = sorted((*folder.resolve().glob("*.safetensors"), *folder.resolve().glob("*.json")))
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in paths]
    key = (*files, device, dtype, trust_remote_code)
    with _LOADING:
        base = None if alone else _BASES.get(key)
        if base is None:
            base = SharedBase(folder, device, dtype, trust_remote_code=trust_remote_code)
            if not alone:
                _BASES[key] = base
        return base


def _leaves_base_unchanged(adapter: Path) -> bool:
    """Whether an adapter leaves the base's own weights as they are, so that others can use the base without it."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return (
        config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and not config.get("layer_replication")
        and config.get("init_lora_weights") in (None, True, False, "gaussian")  # other ways to start change the base
    )


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool) -> PreTrainedModel:
    """A new model, shared with nobody. Its weights can be trained, except in 8 bits."""
    exact = torch.float32 if dtype == torch.int8 else dtype
    with silence_libraries():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=exact, use_safetensors=True, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise GeneratorNotFoundError(explain_untrusted(folder)) from error
    placed = cast("PreTrainedModel", cast("torch.nn.Module", model).to(device).eval())
    return quantise(placed) if dtype == torch.int8 else placed


def find_cache_argument(forward: Callable[..., object]) -> str:
    """The name of the argument for the key-value cache in a model's forward pass.

    transformers renamed it in 5.24 and drops the old name in 5.40; a model's own code may use either.

    >>> find_cache_argument(lambda input_ids, cache=None: None)
    'cache'
    >>> find_cache_argument(lambda input_ids, past_key_values=None: None)
    'past_key_values'
    """
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def _share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules, with the same tensors."""
    module = cast("torch.nn.Module", model)
    shared = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(model, cast("dict[int, object]", shared))


def explain_untrusted(folder: Path) -> str:
    """The message about a model that only runs with its own code."""
    return (
        f"Expected a model that transformers knows, got {str(folder)!r}, which brings code of its own. Read that code, "
        "and if you trust it pass LocalEngine(..., trust_remote_code=True)."
    )


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Inside, transformers shows no progress bar, as a run loads a model for each stage; and PEFT and TRL cause no
    warning."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 and TRL 1.16 ask a model for the old name of a property.
            old_name = "`is_gradient_checkpointing` is deprecated"
            warnings.filterwarnings("ignore", message=old_name, category=FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
