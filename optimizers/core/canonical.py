"""Values as JSON that every process writes alike: no addresses, and no order of a set."""

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
    """A part of a canonical value that is none of JSON's own types."""
    return {_KIND: kind, "of": list(parts)}


def text_of(content: object) -> str:
    """Canonical content as one line of JSON.

    >>> text_of({"b": 1, "a": None})
    '{"a": null, "b": 1}'
    """
    return json.dumps(content, sort_keys=True)


def qualified_name(value: Any) -> str:
    """Where a class or function is found: its module and its name in it."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


class CanonicalEncoder:
    """Writes values as JSON. `unclear` names what nothing but an address tells: where it stands, and its type.

    Sets are sorted; objects are told by their class and fields. JSON's own types stay as they are.

    >>> CanonicalEncoder().encode({"tags": {"b", "a"}, "n": 1}, "example")
    {'tags': {'\\x00': 'set', 'of': ['a', 'b']}, 'n': 1}
    >>> reading = CanonicalEncoder()
    >>> _ = reading.encode({"handle": object()}, "train[0]")
    >>> reading.unclear
    ['train[0].handle (object)']
    """

    def __init__(self) -> None:
        self.unclear: list[str] = []
        self._open: dict[int, int] = {}  # what is being read, by id: how deep it stands

    def encode(self, value: object, where: str) -> object:
        """A value that stands at `where` (`train[3].tags`)."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return tag("bytes", hashlib.sha256(bytes(value)).hexdigest())
        if isinstance(value, range | slice | complex):
            return str(value)
        if id(value) in self._open:
            return tag("again", self._open[id(value)])
        self._open[id(value)] = len(self._open)
        try:
            return self._held(value, where)
        finally:
            del self._open[id(value)]

    def _held(self, value: object, where: str) -> object:
        if isinstance(value, Mapping):
            return self.mapping(cast("Mapping[Any, Any]", value), where)
        if isinstance(value, Set):
            return tag("set", *sorted((self.encode(each, f"{where}{{}}") for each in value), key=text_of))
        if isinstance(value, Sequence):
            return [self.encode(each, f"{where}[{n}]") for n, each in enumerate(value)]
        return self._object(value, where)

    def mapping(self, value: Mapping[Any, Any], where: str) -> object:
        """A mapping, by its keys in JSON's order."""
        if all(type(name) is str for name in value):
            return {name: self.encode(each, f"{where}.{name}") for name, each in value.items()}
        pairs = [[self.encode(name, where), self.encode(each, f"{where}[{name}]")] for name, each in value.items()]
        return tag("pairs", *sorted(pairs, key=text_of))

    def _object(self, value: object, where: str) -> object:
        kind = type(value)
        if isinstance(value, dspy.Example):
            asked = sorted(cast("Any", value).inputs().keys()) if getattr(value, "_input_keys", None) else []
            return tag("example", qualified_name(kind), asked, self.mapping(dict(value.items()), where))
        if isinstance(value, Enum):
            return tag("member", self.kind(kind, where), value.name)
        if (content := _fields(value)) is not None:
            return tag("record", self.kind(kind, where), self.mapping(self.held(value) | content, where))
        if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
            flat = cast("Any", value).detach().cpu().flatten()
            form = [str(cast("Any", value).dtype), list(cast("Any", value).shape)]
            return tag("tensor", form, hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest())
        if getattr_static(value, "tobytes", None) is not None and not isinstance(value, type):
            return self._array(value, where)
        return self.other(value, where)

    def _array(self, value: Any, where: str) -> object:
        """An array or an image, by its bytes; an array of objects by what it holds."""
        if str(getattr(value, "dtype", "")) == "object":
            return tag("array", self.encode(value.tolist(), where))
        form = [str(getattr(value, name, "")) for name in ("dtype", "shape", "mode", "size")]
        return tag("array", qualified_name(type(value)), form, hashlib.sha256(value.tobytes()).hexdigest())

    def kind(self, kind: type, where: str) -> object:
        """A record's class."""
        return qualified_name(kind)

    def other(self, value: object, where: str) -> object:
        """Anything else: a function by its name, an object by its own words, or by what it holds."""
        if callable(value) and hasattr(value, "__qualname__"):
            return self.nameless(value, where) if "<" in qualified_name(value) else tag("named", qualified_name(value))
        held = self.held(value)
        if not hasattr(value, "__dict__") and type(value).__module__ in sys.stdlib_module_names - {"re"}:
            return words if (words := stable_text(value)) is not None else self.nameless(value, where)
        if not held:
            return self.reduced(value, where)
        unclear = len(self.unclear)
        content = self.mapping(held, where)
        if len(self.unclear) > unclear and (words := stable_text(value)) is not None:
            del self.unclear[unclear:]
            return words
        return tag("object", qualified_name(type(value)), content)

    def reduced(self, value: Any, where: str) -> object:
        """What pickle would keep. What an object says of itself may be cut: a long pattern, a table, a model."""
        if (content := _bytes_of(value)) is not None:
            return content
        own: Any = copyreg.dispatch_table.get(type(value))
        try:
            parts: Any = value.__reduce_ex__(4) if own is None else own(value)
        except Exception:  # noqa: BLE001 - an object that is not to be pickled
            return self.nameless(value, where)
        if not isinstance(parts, tuple):
            return self.encode(parts, where)
        parts = cast("tuple[Any, ...]", parts)
        alone = len(parts[1]) == 1 and parts[1][0] is type(value)
        if alone and not any(each is not None for each in parts[2:]):  # it holds nothing
            words = stable_text(value)
            return self.nameless(value, where) if words is None else tag("says", words, self.encode(parts[1], where))
        return self.encode([list(each) if isinstance(each, Iterator) else each for each in parts], where)

    def held(self, value: object) -> dict[str, object]:
        """An object's attributes by name, without what it can compute again."""
        found = dict(getattr(value, "__dict__", {}))
        for each in reversed(type(value).__mro__):
            slots = vars(each).get("__slots__", ())
            names = [slots] if isinstance(slots, str) else list(slots)
            found |= {name: getattr(value, name) for name in names if hasattr(value, name)}
        cached = {
            name for each in type(value).__mro__ for name, own in vars(each).items() if isinstance(own, cached_property)
        }
        return {name: found[name] for name in sorted(found) if name not in cached | {"__dict__", "__weakref__"}}

    def nameless(self, value: object, where: str) -> object:
        """What only an address tells: by its type, and listed as unclear."""
        kind = getattr(value, "__qualname__", type(value).__qualname__)
        if (told := f"{where} ({kind})") not in self.unclear:
            self.unclear.append(told)
        return tag("unclear", qualified_name(type(value)))


def _fields(value: Any) -> dict[str, object] | None:
    """The fields of a dataclass's or pydantic model's instance; None for anything else."""
    kind = type(value)
    if is_dataclass(kind):
        return {each.name: getattr(value, each.name, None) for each in fields(kind)}
    if isinstance(getattr(kind, "model_fields", None), dict) and hasattr(kind, "model_validate"):
        extra = cast("dict[str, object] | None", getattr(value, "model_extra", None)) or {}
        private = cast("dict[str, object] | None", getattr(value, "__pydantic_private__", None)) or {}
        return {name: getattr(value, name, None) for name in kind.model_fields} | extra | private
    return None


def _bytes_of(value: Any) -> object:
    """The bytes of an object that is nothing but a buffer; None of any other."""
    try:
        return tag("bytes", hashlib.sha256(memoryview(value)).hexdigest())
    except (TypeError, ValueError, BufferError):
        return None


def stable_text(value: object) -> str | None:
    """What an object says of itself; None where that is its address."""
    try:
        words = str(value)
    except Exception:  # noqa: BLE001 - whatever a user's object raises
        return None
    return None if _ADDRESS.search(words) or type(value).__repr__ is object.__repr__ else words
