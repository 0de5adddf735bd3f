"""Models in memory: one base for all that use it, which wears an adapter for as long as a batch takes.

Loaded ──> Base (weights, lock) <── Loaded          each Loaded brings at most an adapter along
             └─> twin                               the same weights for training, which changes nothing here
"""

from __future__ import annotations

import copy
import ctypes
import gc
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

from sgt_modules.errors import GeneratorNotFoundError, SetupError
from sgt_modules.local.quantisation import quantise

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner
    from transformers import PreTrainedModel

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
INT8 = "int8"
"""The precision of a frozen model on a CPU whose linear layers have 8 bits, and all else float32."""

_Key = tuple[object, ...]


def choose_device(name: str, *, cuda: bool, mps: bool) -> str:
    """Where to compute: `name`, or for `auto` the best of what is there. Raises `ValueError` for what is not.

    >>> choose_device("auto", cuda=False, mps=True), choose_device("cpu", cuda=True, mps=False)
    ('mps', 'cpu')
    """
    here = [kind for kind, present in (("cuda", cuda), ("mps", mps), ("cpu", True)) if present]
    if name == "auto":
        return here[0]
    kind = name.partition(":")[0]
    if kind in ("cuda", "mps") and kind not in here:
        raise ValueError(f"Expected a device of this machine ({', '.join(here)}), got {name!r}. Use device='auto'.")
    return name


def on_cpu(device: str, dtype: str = "auto") -> bool:
    """Whether a model that is to be put on `device` will be on the CPU of this machine.

    >>> on_cpu("cpu"), on_cpu("cuda"), on_cpu("auto", "int8")
    (True, False, True)
    """
    return device == "cpu" or (device == "auto" and (dtype == INT8 or place("auto", "auto")[0].type == "cpu"))


def bfloat16_is_fast() -> bool:
    """Whether this machine's CPU multiplies in bfloat16 itself, which is about twice as fast as float32.

    >>> bfloat16_is_fast() in (True, False)
    True
    """
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def choose_dtype(name: str, device: str, *, bfloat16: bool = True) -> str:
    """The precision: `name`, or for `auto` what the device computes well; `bfloat16` says whether a GPU can do that.

    >>> [choose_dtype("auto", device) for device in ("cuda:1", "mps", "cpu")]
    ['bfloat16', 'float16', 'float32']
    """
    kind = device.partition(":")[0]
    if name == INT8:
        if kind != "cpu":
            raise SetupError(
                f"Expected a CPU for dtype='int8', got device {device!r}. Use device='cpu', or dtype='auto'."
            )
        return name
    if name == "auto":
        return {"cuda": "bfloat16" if bfloat16 else "float16", "mps": "float16"}.get(kind, "float32")
    if name not in _DTYPES:
        raise ValueError(f"Expected dtype 'auto' or one of {sorted((*_DTYPES, INT8))}, got {name!r}.")
    if (kind, name) == ("mps", "float64"):
        raise ValueError("Expected a dtype that device 'mps' has, got 'float64'. Use 'float32', or device='cpu'.")
    return name


def place(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Both choices on this machine; a GPU with its number. 8 bits are by default the CPU's, also where a GPU is."""
    if dtype == INT8 and device == "auto":
        device = "cpu"
    cuda = torch.cuda.is_available()
    chosen = torch.device(choose_device(device, cuda=cuda, mps=torch.backends.mps.is_available()))
    where = torch.device("cuda", torch.cuda.current_device()) if str(chosen) == "cuda" else chosen
    able = not cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    chosen_dtype = choose_dtype(dtype, where.type, bfloat16=able)
    return where, torch.int8 if chosen_dtype == INT8 else _DTYPES[chosen_dtype]


class Base:
    """A model without adapters, and those it can put on. One user at a time: `wearing` waits for its turn."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool) -> None:
        self._model = load_model(folder, device, dtype, trust_remote_code=trust_remote_code)
        cast("torch.nn.Module", self._model).requires_grad_(False)
        self._untouched = _twin(self._model)  # adapters change the model's modules, its users their settings
        self._device, self._dtype = device, dtype
        self._turn = threading.RLock()
        self._adapted: PeftModel | None = None
        self._worn: str | None = None
        self._names = (f"adapter{number}" for number in itertools.count())
        self._stale: deque[str] = deque()

    def twin(self) -> PreTrainedModel:
        """The base's own weights, frozen, in modules apart: adapters, hooks, flags and whatever else a training run
        leaves on a model are the twin's alone, and go with it. Whoever samples from the base need not wait.
        """
        assert self._dtype != torch.int8, "8 bits are not trained"
        return _twin(self._untouched)

    def add(self, folder: Path) -> str:
        """Load an adapter; its name here."""
        from peft import PeftModel

        with self._turn, quietly():
            name, where = next(self._names), str(self._device)
            if self._adapted is None:
                self._adapted = PeftModel.from_pretrained(self._model, str(folder), name, torch_device=where)
            else:
                self._adapted.load_adapter(str(folder), name, torch_device=where)
            if self._dtype == torch.float64:  # PEFT widens an adapter's weights to single precision, and no further
                cast("torch.nn.Module", self._model).to(self._dtype)
            self._model.eval()
            self._wear(name)
            return name

    def drop(self, name: str) -> None:
        """Forget an adapter before the next use. May be called from any thread, at any time."""
        self._stale.append(name)

    @contextmanager
    def wearing(self, name: str | None) -> Iterator[PreTrainedModel]:
        """The model with that adapter, or with none, while the block runs."""
        with self._turn:
            self._clear()
            if name != self._worn:
                self._wear(name)
            yield self._model

    def _wear(self, name: str | None) -> None:
        if self._adapted is not None:
            tuner = cast("BaseTuner", self._adapted.base_model)
            if name is None:
                tuner.disable_adapter_layers()
            else:
                tuner.enable_adapter_layers()
                self._adapted.set_adapter(name)
        self._worn = name

    def _clear(self) -> None:
        while self._stale and self._adapted is not None:
            name = self._stale.popleft()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*was active which is now deleted")
                self._adapted.delete_adapter(name)
            self._wear(None)  # PEFT may have put on another one


class Loaded:
    """A base with at most one adapter, ready for use; the base is shared with whoever loads the same.

    An adapter that changes the base's own weights gets a base for itself.
    """

    def __init__(
        self, folders: Sequence[Path], *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
    ) -> None:
        """`folders`: the model's, then the adapter's if there is one."""
        self.device, self.dtype = place(device, dtype)
        folder, *adapters = folders
        alone = not all(map(_only_adds, adapters))
        self._base = base_of(folder, self.device, self.dtype, trust_remote_code=trust_remote_code, alone=alone)
        self._adapter = self._base.add(adapters[0]) if adapters else None
        if self._adapter is not None:
            weakref.finalize(self, self._base.drop, self._adapter).atexit = False

    @contextmanager
    def model(self) -> Iterator[PreTrainedModel]:
        """The model, for this user alone while the block runs."""
        with self._base.wearing(self._adapter) as model:
            yield model


_BASES: weakref.WeakValueDictionary[_Key, Base] = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


def base_of(
    folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool, alone: bool = False
) -> Base:
    """The base of these files: the one in memory, unless they have changed since or it is to be `alone`.

    It stays in memory for as long as anyone holds it.
    """
    found = sorted((*folder.resolve().glob("*.safetensors"), *folder.resolve().glob("*.json")))
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found]
    key = (*files, device, dtype, trust_remote_code)
    with _LOADING:
        base = None if alone else _BASES.get(key)
        if base is None:
            base = Base(folder, device, dtype, trust_remote_code=trust_remote_code)
            if not alone:
                _BASES[key] = base
        return base


def _only_adds(adapter: Path) -> bool:
    """Whether an adapter leaves the base's own weights as they are, so that it can be taken off again."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return (
        config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and not config.get("layer_replication")
        and config.get("init_lora_weights") in (None, True, False, "gaussian")  # others move part of the base
    )


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool) -> PreTrainedModel:
    """A copy of its own of a model, whose weights can be trained, but those of 8 bits."""
    exact = torch.float32 if dtype == torch.int8 else dtype
    with quietly():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=exact, use_safetensors=True, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise GeneratorNotFoundError(untrusted(folder)) from error
    placed = cast("PreTrainedModel", cast("torch.nn.Module", model).to(device).eval())
    return quantise(placed) if dtype == torch.int8 else placed


def cache_argument(forward: Callable[..., object]) -> str:
    """The name under which a model's forward pass takes the keys and values of what it has read.

    transformers renamed it in 5.24 and drops the old name in 5.40; code that a model brings along may know either.

    >>> cache_argument(lambda input_ids, cache=None: None), cache_argument(lambda input_ids, past_key_values=None: None)
    ('cache', 'past_key_values')
    """
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    module = cast("torch.nn.Module", model)
    shared = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(model, cast("dict[int, object]", shared))


@contextmanager
def one_core() -> Iterator[None]:
    """Inside, what this thread computes on a CPU takes one core; other threads keep what they have.

    PyTorch sets this for a whole process, OpenMP for a thread. Where no OpenMP is found, as on macOS and Windows,
    nothing changes.

    >>> with one_core():
    ...     torch.ones(2).sum().item()
    2.0
    """
    before = torch.get_num_threads()
    if _SET_CORES is None or before == 1:
        yield
        return
    _SET_CORES(1)
    try:
        yield
    finally:
        _SET_CORES(before)


def _core_setter() -> Callable[[int], object] | None:
    """OpenMP's own function, for the thread that calls it."""
    try:
        return cast("Callable[[int], object]", ctypes.CDLL(None).omp_set_num_threads)
    except (AttributeError, OSError, TypeError):  # no such function; no such library; Windows, which takes no None
        return None


_SET_CORES = _core_setter()


def release() -> None:
    """Give back what nobody holds any more: cycles of objects with tensors in them, and the GPU's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def untrusted(folder: Path) -> str:
    """What to say of a model that only runs with its own code."""
    return (
        f"Expected a model that transformers knows, got {str(folder)!r}, which brings code of its own. Read that code, "
        "and if you trust it pass LocalEngine(..., trust_remote_code=True)."
    )


@contextmanager
def quietly() -> Iterator[None]:
    """No progress bar a model, as a run loads one for each stage; and no warning that PEFT and TRL cause."""
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
