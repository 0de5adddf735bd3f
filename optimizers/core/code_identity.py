"""Encodes what a function, a class or a program does as JSON that is the same in every process.

Code is encoded by its bytecode, constants and what it refers to, as a source file may have been edited since it was
loaded. Line numbers, comments and docstrings do not count.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import struct
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import (
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, cast, get_args, get_origin

import dspy
from pydantic import TypeAdapter

from optimizers.core.bytecode import encode_code, names_used, nested_codes
from optimizers.core.canonical import CanonicalEncoder, qualified_name, stable_text, tag, text_of
from optimizers.core.user_modules import code_imports, file_imports, is_library, is_wrapper, user_file

_IGNORED_MODULES = frozenset(
    {"_contextvars", "_io", "_thread", "_weakref", "asyncio", "logging", "threading", "weakref"}
)
"""Modules whose objects change no outcome."""

_PREDICT_ATTRIBUTES = frozenset({"lm", "stage", "traces", "train", "demos", "signature", "config"})
_SUPPLEMENT_ATTRIBUTES = frozenset({"generator", "gate", "choice", "template", "role", "run_key"})
"""Attributes of a predictor that are encoded on their own, or that stages change."""

_IGNORED_ATTRIBUTES = frozenset(
    {"callbacks", "history", "_compiled", "detailed_results", "candidate_programs", "trial_logs"}
)
_CLASS_BOOKKEEPING = frozenset({"__module__", "__doc__", "__dict__", "__weakref__", "__slots__", "_abc_impl"})
_MADE_BY_CODE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class from a class statement
_PLAIN_TYPES = frozenset({bool, int, float, str, bytes, bytearray, dict, list, set, frozenset, MappingProxyType})
_CONTAINER_ATTRIBUTES = ("default_factory", "maxlen", "typecode")  # what a standard container has apart from items
_SECRET_ENDINGS = ("api_key", "password", "secret")


class CodeIdentity(CanonicalEncoder):
    """Encodes what decides an outcome: code, what it refers to, and the state of programs.

    Functions and classes of the user's own modules and of `read_modules` are read, also where they refer to each other;
    those of other libraries are encoded by name. `table` has each definition once. `unclear` lists what cannot be read.

    >>> one, two = (CodeIdentity(frozenset({__name__})) for _ in range(2))
    >>> one.encode_text(lambda example, prediction: 1) == two.encode_text(lambda example, prediction: 2)
    False
    """

    def __init__(self, read_modules: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.table: dict[str, object] = {}
        self._read_modules = read_modules
        self._names: dict[int, str] = {}
        self._waiting: list[tuple[str, Callable[[], object], bool]] = []  # definitions to read
        self._quiet = False
        self._alive: list[object] = []  # definitions with a name, so that no other object gets their id

    def encode_text(self, value: object, where: str = "metric") -> str:
        """Everything that decides what `value` does, as one line of JSON."""
        try:
            root = self.encode(value, where)
            while self._waiting:  # in a loop: a chain of functions may be longer than Python's stack
                name, content, self._quiet = self._waiting.pop()
                unclear = len(self.unclear)
                self.table[name] = content()
                if self._quiet:
                    del self.unclear[unclear:]
            return text_of([root, self.table])
        except RecursionError:  # a list of a million links, say
            return text_of(self.mark_unclear(value, where))

    def encode_mapping(self, value: Mapping[Any, Any], where: str) -> object:
        """Encodes a mapping in its own order, as code may iterate over it; without API keys."""
        pairs = [(name, each) for name, each in value.items() if not _is_secret(name)]
        return tag("pairs", *([self.encode(name, where), self.encode(each, f"{where}.{name}")] for name, each in pairs))

    def encode_class(self, kind: type, where: str) -> object:
        """Encodes the class of a record with its code."""
        return self._refer_to_class(kind, where)

    def encode_other(self, value: object, where: str) -> object:
        """Encodes a function, class, program or any other object."""
        if isinstance(value, ModuleType):
            return tag("module", value.__name__)
        if isinstance(value, type):
            return self._refer_to_class(value, where)
        if isinstance(value, FunctionType):
            return self._refer_to_function(value, where)
        if isinstance(value, MethodType):
            return tag("method", self.encode(value.__func__, where), self.encode(value.__self__, f"{where}.self"))
        if isinstance(value, functools.partial | functools.partialmethod):
            given = [self.encode(value.args, f"{where}.args"), self.encode(value.keywords, where)]
            return tag("partial", self.encode(value.func, f"{where}.func"), *given)
        if isinstance(value, dspy.Module):
            return self._encode_program(value, where)
        if isinstance(value, dspy.BaseLM):
            return self._encode_lm(value)
        return self._encode_wrapped(cast("Any", value), where)

    def _encode_wrapped(self, value: Any, where: str) -> object:
        """Encodes a decorator by what it wraps, a builtin by its name, any other object by its class and state."""
        if isinstance(value, property):
            return tag("property", *(self.encode(each, where) for each in (value.fget, value.fset, value.fdel)))
        if isinstance(value, classmethod | staticmethod):
            return tag(type(value).__name__, self.encode(value.__func__, where))
        if isinstance(value, struct.Struct):
            return tag("struct", value.format)
        if isinstance(value, functools.cached_property):
            return tag("property", self.encode(value.func, where))
        if callable(inner := inspect.getattr_static(value, "__wrapped__", None)):
            return tag("wrapper", qualified_name(type(value)), self.encode(inner, where))
        if get_origin(value) is not None:
            return self._encode_annotation(value, where)
        if inspect.isroutine(value):
            return self._encode_builtin(value, where)
        return self._encode_instance(value, where)

    def _encode_builtin(self, value: Any, where: str) -> object:
        """Encodes a function written in C by its name and by the object that it is bound to."""
        owner = getattr(value, "__self__", None)
        within = "." in where  # a metric that is itself written in C is unclear
        if not (within and is_library(getattr(value, "__module__", None) or getattr(owner, "__module__", ""))):
            self.mark_unclear(value, where)
        bound = None if owner is None or isinstance(owner, ModuleType) else self.encode(owner, f"{where}.self")
        return tag("builtin", qualified_name(value), bound)

    def _encode_instance(self, value: object, where: str) -> object:
        """Encodes an object of a user's class by its state, and one of a library by what pickle would save."""
        kind = type(value)
        if kind.__module__.partition(".")[0] in _IGNORED_MODULES:
            return tag("named", qualified_name(kind))
        package = kind.__module__.partition(".")[0]
        if not self._is_read(kind) and package in ("optimizers", "sgt_modules"):
            return tag("named", qualified_name(kind))
        if not self._is_read(kind) and package == "dspy":
            own = {name: each for name, each in self.attributes_of(value).items() if name not in _IGNORED_ATTRIBUTES}
            return tag("object", qualified_name(kind), self._encode_quietly(own, where))
        if isinstance(value, SimpleNamespace):
            return self.encode_mapping(self.attributes_of(value), where)
        if not self._is_read(kind) or kind.__reduce__ is not object.__reduce__:
            return tag("object", self._refer_to_class(kind, where), self.encode_reduced(value, where))
        return tag("object", self._refer_to_class(kind, where), self.encode_mapping(self.attributes_of(value), where))

    def _is_read(self, value: FunctionType | type) -> bool:
        """Whether a function or class is read. One from `exec` without a module name has the module `builtins`."""
        module = value.__module__ or ""
        if module == "builtins":
            return isinstance(value, FunctionType) or bool(value.__flags__ & _MADE_BY_CODE)
        return module in self._read_modules or not is_library(module)

    def _refer_to(self, value: object, content: Callable[[], object]) -> object:
        """A reference to a definition, whose content is in the table once."""
        if id(value) not in self._names:
            base, count = str(cast("Any", value).__qualname__), 1  # a script's module has another name when imported
            while (name := base if count == 1 else f"{base} {count}") in self.table:
                count += 1
            self._names[id(value)] = name
            self._alive.append(value)
            self.table[name] = None
            self._waiting.append((name, content, self._quiet))
        return tag("see", self._names[id(value)])

    def encode(self, value: object, where: str) -> object:
        """As `CanonicalEncoder`, but a function or class is a reference to the table."""
        if isinstance(value, FunctionType | type):
            return self.encode_other(value, where)
        if isinstance(value, Enum):
            return tag("member", self._refer_to_class(type(value), where), value.name)
        content = super().encode(value, where)
        if type(value) in _PLAIN_TYPES or not isinstance(value, int | float | str | bytes | bytearray):
            return content
        return self._encode_subclass(value, content, where)

    def _encode_container(self, value: object, where: str) -> object:
        content = super()._encode_container(value, where)
        if type(value) in _PLAIN_TYPES or not isinstance(value, Mapping | Set | Sequence):
            return content
        return self._encode_subclass(value, content, where)

    def _encode_subclass(self, value: object, content: object, where: str) -> object:
        """Encodes a number, text or container of a subclass, which may have methods, a default or a length."""
        extra = self.attributes_of(value) | {
            name: getattr(value, name) for name in _CONTAINER_ATTRIBUTES if hasattr(value, name)
        }
        own = self.encode_mapping(extra, where) if self._is_read(type(value)) else self._encode_quietly(extra, where)
        return tag("special", self._refer_to_class(type(value), where), content, own)

    def _refer_to_function(self, value: FunctionType, where: str) -> object:
        if not self._is_read(value):
            return tag("named", qualified_name(value))
        return self._refer_to(value, lambda: self._encode_function(value, where))

    def _encode_function(self, function: FunctionType, where: str) -> object:
        name = where if where.endswith(function.__name__) else f"{where}.{function.__name__}"
        closed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        return [
            encode_code(function.__code__),
            self.encode(function.__defaults__, name),
            self.encode(function.__kwdefaults__, name),
            {each: self.encode(_cell_content(cell), f"{name}.{each}") for each, cell in closed},
            self._encode_globals(function, name),
            self.encode_mapping(
                {} if is_wrapper(function) else {k: v for k, v in vars(function).items() if k != "__wrapped__"}, name
            ),
        ]

    def _encode_globals(self, function: FunctionType, where: str) -> object:
        """Encodes the values of the function's global names, except those that it sets itself."""
        codes = list(nested_codes(function.__code__))
        loaded = {name for code in codes for name in names_used(code, "LOAD_GLOBAL", "LOAD_NAME")}
        stored = {name for code in codes for name in names_used(code, "STORE_GLOBAL")}
        names = {name for code in codes for name in code.co_names}
        known = function.__globals__
        found: dict[str, object] = {}
        for name in sorted(loaded - stored):
            if name in known and not name.startswith("__"):
                if function.__name__ != "__init__" and _makes_predictors(known[name], names):
                    found["asks"] = self._encode_lm(dspy.settings.lm)
                found[name] = self._encode_global(known[name], f"{where}.{name}", names)
        package = str(known.get("__package__") or "")
        for module in sorted({each for code in codes for each in code_imports(code, package)}):
            found[f"import {module}"] = self._encode_import(module)
        return found

    def _encode_global(self, value: object, where: str, names: set[str], depth: int = 0) -> object:
        """Encodes a global's value; of a user's module, only the names that the function uses."""
        if not isinstance(value, ModuleType) or is_library(value.__name__) or depth > 3:
            return self.encode(value, where)
        own = {name: vars(value)[name] for name in sorted(names) if name in vars(value)}
        return {name: self._encode_global(each, f"{where}.{name}", names, depth + 1) for name, each in own.items()}

    def _encode_import(self, module: str) -> object:
        """Encodes a module imported inside a function: a user's by its file and by the user's files that it imports."""
        files: dict[str, str] = {}
        waiting = [module]
        while waiting:
            each = waiting.pop()
            if each in files or is_library(each) or (file := user_file(each)) is None:
                continue
            files[each] = hashlib.sha256(file.read_bytes()).hexdigest()
            waiting += file_imports(file, each)
        return tag("files", files) if files else tag("module", module)

    def _refer_to_class(self, value: type, where: str) -> object:
        if issubclass(value, dspy.Signature):
            return self._encode_signature(value, where)
        if not self._is_read(value):
            return tag("named", qualified_name(value))
        return self._refer_to(value, lambda: self._encode_members(value, f"{where}.{value.__name__}"))

    def _encode_members(self, value: type, where: str) -> object:
        bases = [self.encode(each, where) for each in (*value.__bases__, type(value)) if each not in (object, type)]
        typed = {name: self._encode_annotation(each, where) for name, each in inspect.get_annotations(value).items()}
        if issubclass(value, Enum):
            return [
                bases,
                {each.name: self.encode(each.value, where) for each in value},
                self._encode_own_members(value, where, "_"),
            ]
        return [bases, typed, self._encode_defaults(value, where), self._encode_own_members(value, where, "__pydantic")]

    def _encode_own_members(self, value: type, where: str, hidden: str) -> dict[str, object]:
        """Encodes a class's own members: all functions that were written, and data that are no bookkeeping."""
        written: dict[str, object] = {}
        for name, each in vars(value).items():
            if name in _CLASS_BOOKKEEPING or isinstance(each, MemberDescriptorType | GetSetDescriptorType):
                continue
            function = isinstance(each, FunctionType | classmethod | staticmethod | property)
            generated = (
                is_dataclass(value) and getattr(getattr(each, "__code__", None), "co_filename", "") == "<string>"
            )
            if (name.startswith(("__", hidden)) and not function) or (name.startswith("__") and generated):
                continue
            if isinstance(each, Enum):
                continue
            written[name] = self.encode(each, f"{where}.{name}")
        return written

    def _encode_defaults(self, value: type, where: str) -> object:
        """Encodes the default values of the fields of a dataclass or pydantic model."""
        if is_dataclass(value):
            own_fields = [(each.name, each.default, each.default_factory) for each in fields(value)]
            return [
                [name, *(None if own is MISSING else self.encode(own, where) for own in rest)]
                for name, *rest in own_fields
            ]
        known: Mapping[str, Any] = getattr(value, "__pydantic_fields__", {})
        private: Mapping[str, Any] = getattr(value, "__private_attributes__", {})
        defaults = [(name, each.default, each.default_factory) for name, each in (*known.items(), *private.items())]
        encoded = [
            [name, self._encode_default(own, where), self.encode(factory, where)] for name, own, factory in defaults
        ]
        return [_schema(value), *encoded] if known else encoded

    def _encode_default(self, value: object, where: str) -> object:
        """Encodes the default of a field; a required field has none."""
        if value is ... or type(value).__name__ == "PydanticUndefinedType":
            return tag("required")
        return self.encode(value, where)

    def _encode_annotation(self, value: Any, where: str) -> object:
        """Encodes a type annotation: a user's class by its code, a generic type by its parts."""
        if isinstance(value, type) and not get_args(value):
            return self.encode(value, where)
        if (origin := get_origin(value)) is not None:
            parts = (self._encode_annotation(each, where) for each in get_args(value))
            return tag("type", str(getattr(origin, "__qualname__", origin)), *parts)
        if value is None or isinstance(value, str | int | bool | bytes | Enum):
            return self.encode(value, where)
        return stable_text(value) or qualified_name(type(value))

    def _encode_signature(self, value: type[dspy.Signature], where: str) -> object:
        """Encodes what an adapter reads of a signature: instructions, and each field's name, type, schema and text."""
        parts: list[object] = []
        for name, each in value.fields.items():
            extra = self._encode_quietly(cast("Any", each).json_schema_extra or {}, f"{where}.{name}")
            default = self._encode_default(each.default, f"{where}.{name}")
            parts.append(
                [name, self._encode_annotation(each.annotation, where), _schema(each.annotation), extra, default]
            )
        return tag("signature", value.instructions, *parts)

    def _encode_lm(self, value: Any) -> object:
        """Encodes an LM by its name and settings, without keys and addresses: another key is not another actor."""
        if value is None:
            return None
        given: Mapping[str, object] = getattr(value, "kwargs", {})
        given = {name: each for name, each in given.items() if not name.startswith(("api_", "base_"))}
        own = self._refer_to_class(type(value), "lm")
        return tag("lm", own, getattr(value, "model", ""), self._encode_quietly(given, "lm"))

    def _encode_quietly(self, value: Mapping[str, object], where: str) -> object:
        """Encodes a library's state, without listing what is unclear there."""
        unclear, quiet, self._quiet = len(self.unclear), self._quiet, True
        try:
            return self.encode_mapping({name: value[name] for name in sorted(value)}, where)
        finally:
            self._quiet = quiet
            del self.unclear[unclear:]

    def _encode_program(self, value: dspy.Module, where: str) -> object:
        """Encodes a program: its class and state, and for a predictor its signature, demos, config and LM."""
        kind, held = self._refer_to_class(type(value), where), self.attributes_of(value)
        asked: list[object] = []
        hidden = _IGNORED_ATTRIBUTES
        if isinstance(value, dspy.Predict):
            predictor = cast("Any", value)
            hidden = (
                hidden | _PREDICT_ATTRIBUTES | _SUPPLEMENT_ATTRIBUTES
                if not self._is_read(type(value))
                else hidden | _PREDICT_ATTRIBUTES
            )
            demos = self.encode([dict(each) for each in predictor.demos], f"{where}.demos")
            config = self._encode_quietly(predictor.config, f"{where}.config")
            lm = self._encode_lm(predictor.lm or dspy.settings.lm)
            asked = [self._encode_signature(predictor.signature, where), demos, config, lm]
        own = {name: each for name, each in held.items() if name not in hidden}
        state = self.encode_mapping(own, where) if self._is_read(type(value)) else self._encode_quietly(own, where)
        return tag("program", kind, asked, state)


def _schema(annotation: Any) -> object:
    """The JSON schema that a prompt shows of a type; None if the type has none."""
    try:
        return TypeAdapter(annotation).json_schema() if annotation is not str else None
    except Exception:  # noqa: BLE001 - whatever a user's type raises
        return None


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and name.endswith(_SECRET_ENDINGS)


def _makes_predictors(value: object, names: set[str]) -> bool:
    """Whether a function makes predictors with this global; such predictors ask the LM of DSPy's settings."""
    if value is dspy:
        return "settings" in names or any(_makes_predictors(getattr(dspy, name, None), names) for name in names)
    return isinstance(value, type) and issubclass(value, dspy.Module) and is_library(value.__module__)


def _cell_content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # no value is assigned yet
        return None
