"""Check whether an adapter fits a model by the shapes in their files' headers; weights are not read.

A safetensors file begins with eight bytes that say how long its JSON header is; the header names each tensor's shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

from sgt_modules.errors import GeneratorNotFoundError

Shapes = Mapping[str, tuple[int, ...]]

_LONGEST_HEADER = 100_000_000
"""The most bytes of a header that the format allows."""

_PEFT_PREFIX = "base_model.model."
"""The prefix of PEFT's names; the rest is the name in the base model."""

_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class Linear(NamedTuple):
    """The input and output sizes of a layer that an adapter changes."""

    reads: int
    writes: int


class _Entry(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: list[int]


def read_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Read the shape of each floating-point tensor in safetensors files, by name; packed (quantised) ones are left out.

    Raises `GeneratorNotFoundError` if a file is not in the safetensors format.
    """
    return {
        name: tuple(entry["shape"])
        for file in files
        for name, entry in _read_header(file).items()
        if name != "__metadata__" and entry["dtype"] in _FLOATING
    }


def read_tensor_names(file: Path) -> set[str]:
    """Read the names of the tensors in a safetensors file.

    Raises `GeneratorNotFoundError` if the file is damaged, or shorter than its header says.
    """
    header = {name: entry for name, entry in _read_header(file).items() if name != "__metadata__"}
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    size = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if file.stat().st_size < size:
        raise GeneratorNotFoundError(
            f"Expected {size:,} bytes of weights in {str(file)!r}, as its header says, got {file.stat().st_size:,}. "
            "Fetch the file again."
        )
    return set(header)


def find_misfit(adapter: Shapes, base: Shapes) -> str | None:
    """Describe why a LoRA adapter does not fit a model; None if it may fit.

    Layers are compared by their names from the number on, because the prefix differs between a file and a model in
    memory. Unknown layers are accepted, as some models are rebuilt while they load, but not if all layers are unknown.

    >>> base = {"model.layers.0.q_proj.weight": (8, 4)}
    >>> name = "base_model.model.model.layers.{}.q_proj.lora_{}.weight"
    >>> find_misfit({name.format(0, "A"): (2, 4), name.format(0, "B"): (8, 2)}, base)
    >>> find_misfit({name.format(0, "A"): (2, 6), name.format(0, "B"): (8, 2)}, base)
    'model.layers.0.q_proj is 6 to 8 in the adapter, 4 to 8 in the model'
    >>> find_misfit({name.format(7, "A"): (2, 4), name.format(7, "B"): (8, 2)}, base)
    'the model has no model.layers.7.q_proj'
    """
    layers = _adapted_layers(adapter)
    matrices = {name.removesuffix(".weight"): shape for name, shape in base.items() if len(shape) == 2}
    sizes: dict[str, set[Linear]] = {}
    for name, (rows, columns) in matrices.items():
        sizes.setdefault(_layer_key(name), set()).add(Linear(reads=columns, writes=rows))
    kinds = {_layer_kind(name) for name in matrices}
    unknown = {name for name in layers if _layer_key(name) not in sizes}
    for name, layer in layers.items():
        there = sizes.get(_layer_key(name), set())
        if not there and _layer_kind(name) in kinds:
            return f"the model has no {name}"
        if there and not any(sorted(layer) == sorted(each) for each in there):  # some models keep them transposed
            own = min(there)
            return f"{name} is {layer.reads} to {layer.writes} in the adapter, {own.reads} to {own.writes} in the model"
    return f"the model has none of its layers, such as {min(unknown)}" if layers and unknown == set(layers) else None


def _adapted_layers(adapter: Shapes) -> dict[str, Linear]:
    """Return the layers that a LoRA adapter changes: A is rank x reads, B is writes x rank."""
    layers: dict[str, Linear] = {}
    for name, shape in adapter.items():
        other = name.replace(".lora_A.", ".lora_B.")
        if other != name and len(shape) == 2 and len(adapter.get(other, ())) == 2:
            layer = name.partition(".lora_A.")[0].removeprefix(_PEFT_PREFIX)
            layers[layer] = Linear(reads=shape[1], writes=adapter[other][0])
    return layers


def _layer_key(name: str) -> str:
    """Return a layer's name from its number on; its last word if it has no number."""
    words = name.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdigit()]
    return ".".join(words[numbers[0] :]) if numbers else words[-1]


def _layer_kind(name: str) -> str:
    return name.rpartition(".")[2]


def _read_header(file: Path) -> dict[str, _Entry]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= min(_LONGEST_HEADER, file.stat().st_size) else b""
        return cast("dict[str, _Entry]", json.loads(text))
    except ValueError as error:
        raise GeneratorNotFoundError(
            f"Expected weights in safetensors, got {str(file)!r}, which is damaged or in another format. "
            "Restore the file, or save the model again with save_pretrained()."
        ) from error
