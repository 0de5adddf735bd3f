"""Encodes values as JSON that is the same in every process: without memory addresses or the order of a set."""

from __future__ import annotations

import copyreg
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property
from inspect import getattr_static
from typing import Any, cast

import dspy

_ADDRESS = re.compile(r"\b(?:at |address=)0x[0-9a-fA-F]+")
_KIND = "\0"


def tag(kind: str, *parts: object) -> dict[str, object]:
    """An encoded value of a type that JSON does not have."""
    return {_KIND: kind, "of": list(parts)}


def text_of(content: object) -> str:
    """Encoded content as one line of JSON.

    >>> text_of({"b": 1, "a": None})
    '{"a": null, "b": 1}'
    """
    return json.dumps(content, sort_keys=True)


def qualified_name(value: Any) -> str:
    """The module of a class or function, and its name there."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


class CanonicalEncoder:
    """Encodes values as JSON. `unclear` lists the values that differ only by memory address: their place and type.

    Sets are sorted; an object is encoded by its class and fields. JSON's own types stay as they are.

    >>> CanonicalEncoder().encode({"tags": {"b", "a"}, "n": 1}, "example")
    {'tags': {'\\x00': 'set', 'of': ['a', 'b']}, 'n': 1}
    >>> encoder = CanonicalEncoder()
    >>> _ = encoder.encode({"handle": object()}, "train[0]")
    >>> encoder.unclear
    ['train[0].handle (object)']
    """

    def __init__(self) -> None:
        self.unclear: list[str] = []
        self._depths: dict[int, int] = {}  # values that are being encoded, by id: their depth

    def encode(self, value: object, where: str) -> object:
        """Encodes a value; `where` is its place, such as `train[3].tags`."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return tag("bytes", hashlib.sha256(bytes(value)).hexdigest())
        if isinstance(value, range | slice | complex):
            return str(value)
        if id(value) in self._depths:
            return tag("again", self._depths[id(value)])
        self._depths[id(value)] = len(self._depths)
        try:
            return self._encode_container(value, where)
        finally:
            del self._depths[id(value)]

    def _encode_container(self, value: object, where: str) -> object:
        if isinstance(value, Mapping):
            return self.encode_mapping(cast("Mapping[Any, Any]", value), where)
        if isinstance(value, Set):
            return tag("set", *sorted((self.encode(each, f"{where}{{}}") for each in value), key=text_of))
        if isinstance(value, Sequence):
            return [self.encode(each, f"{where}[{n}]") for n, each in enumerate(value)]
        return self._encode_object(value, where)

    def encode_mapping(self, value: Mapping[Any, Any], where: str) -> object:
        """Encodes a mapping, sorted by its keys."""
        if all(type(name) is str for name in value):
            return {name: self.encode(each, f"{where}.{name}") for name, each in value.items()}
        pairs = [[self.encode(name, where), self.encode(each, f"{where}[{name}]")] for name, each in value.items()]
        return tag("pairs", *sorted(pairs, key=text_of))

    def _encode_object(self, value: object, where: str) -> object:
        kind = type(value)
        if isinstance(value, dspy.Example):
            inputs = sorted(cast("Any", value).inputs().keys()) if getattr(value, "_input_keys", None) else []
            return tag("example", qualified_name(kind), inputs, self.encode_mapping(dict(value.items()), where))
        if isinstance(value, Enum):
            return tag("member", self.encode_class(kind, where), value.name)
        if (content := _record_fields(value)) is not None:
            return tag(
                "record",
                self.encode_class(kind, where),
                self.encode_mapping(self.attributes_of(value) | content, where),
            )
        if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
            flat = cast("Any", value).detach().cpu().flatten()
            form = [str(cast("Any", value).dtype), list(cast("Any", value).shape)]
            return tag("tensor", form, hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest())
        if getattr_static(value, "tobytes", None) is not None and not isinstance(value, type):
            return self._encode_array(value, where)
        return self.encode_other(value, where)

    def _encode_array(self, value: Any, where: str) -> object:
        """Encodes an array or an image by its bytes, and an array of objects by its items."""
        if str(getattr(value, "dtype", "")) == "object":
            return tag("array", self.encode(value.tolist(), where))
        form = [str(getattr(value, name, "")) for name in ("dtype", "shape", "mode", "size")]
        return tag("array", qualified_name(type(value)), form, hashlib.sha256(value.tobytes()).hexdigest())

    def encode_class(self, kind: type, where: str) -> object:
        """Encodes the class of a record by its name."""
        return qualified_name(kind)

    def encode_other(self, value: object, where: str) -> object:
        """Encodes anything else: a function by its name, an object by its attributes or by its `str()`."""
        if callable(value) and hasattr(value, "__qualname__"):
            return (
                self.mark_unclear(value, where) if "<" in qualified_name(value) else tag("named", qualified_name(value))
            )
        attributes = self.attributes_of(value)
        if not hasattr(value, "__dict__") and type(value).__module__ in sys.stdlib_module_names - {"re"}:
            return words if (words := stable_text(value)) is not None else self.mark_unclear(value, where)
        if not attributes:
            return self.encode_reduced(value, where)
        unclear = len(self.unclear)
        content = self.encode_mapping(attributes, where)
        if len(self.unclear) > unclear and (words := stable_text(value)) is not None:
            del self.unclear[unclear:]
            return words
        return tag("object", qualified_name(type(value)), content)

    def encode_reduced(self, value: Any, where: str) -> object:
        """Encodes what pickle would save, as `str()` may be shortened: a long pattern, a table, a model."""
        if (content := _encode_buffer(value)) is not None:
            return content
        own: Any = copyreg.dispatch_table.get(type(value))
        try:
            parts: Any = value.__reduce_ex__(4) if own is None else own(value)
        except Exception:  # noqa: BLE001 - an object that refuses to be pickled
            return self.mark_unclear(value, where)
        if not isinstance(parts, tuple):
            return self.encode(parts, where)
        parts = cast("tuple[Any, ...]", parts)
        alone = len(parts[1]) == 1 and parts[1][0] is type(value)
        if alone and not any(each is not None for each in parts[2:]):  # it has no state
            words = stable_text(value)
            return (
                self.mark_unclear(value, where) if words is None else tag("says", words, self.encode(parts[1], where))
            )
        return self.encode([list(each) if isinstance(each, Iterator) else each for each in parts], where)

    def attributes_of(self, value: object) -> dict[str, object]:
        """The attributes of an object by name, without cached properties."""
        attributes = dict(getattr(value, "__dict__", {}))
        for each in reversed(type(value).__mro__):
            slots = vars(each).get("__slots__", ())
            names = [slots] if isinstance(slots, str) else list(slots)
            attributes |= {name: getattr(value, name) for name in names if hasattr(value, name)}
        cached = {
            name for each in type(value).__mro__ for name, own in vars(each).items() if isinstance(own, cached_property)
        }
        return {
            name: attributes[name] for name in sorted(attributes) if name not in cached | {"__dict__", "__weakref__"}
        }

    def mark_unclear(self, value: object, where: str) -> object:
        """Encodes a value that differs only by its address by its type, and lists it as unclear."""
        kind = getattr(value, "__qualname__", type(value).__qualname__)
        if (entry := f"{where} ({kind})") not in self.unclear:
            self.unclear.append(entry)
        return tag("unclear", qualified_name(type(value)))


def _record_fields(value: Any) -> dict[str, object] | None:
    """The fields of an instance of a dataclass or pydantic model; None for anything else."""
    kind = type(value)
    if is_dataclass(kind):
        return {each.name: getattr(value, each.name, None) for each in fields(kind)}
    if isinstance(getattr(kind, "model_fields", None), dict) and hasattr(kind, "model_validate"):
        extra = cast("dict[str, object] | None", getattr(value, "model_extra", None)) or {}
        private = cast("dict[str, object] | None", getattr(value, "__pydantic_private__", None)) or {}
        return {name: getattr(value, name, None) for name in kind.model_fields} | extra | private
    return None


def _encode_buffer(value: Any) -> object:
    """Encodes an object that is only a buffer by its bytes; None for any other."""
    try:
        return tag("bytes", hashlib.sha256(memoryview(value)).hexdigest())
    except (TypeError, ValueError, BufferError):
        return None


def stable_text(value: object) -> str | None:
    """An object's `str()`; None if it contains a memory address."""
    try:
        words = str(value)
    except Exception:  # noqa: BLE001 - whatever a user's object raises
        return None
    return None if _ADDRESS.search(words) or type(value).__repr__ is object.__repr__ else words
