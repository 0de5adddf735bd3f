"""What a function, a class or a program does, as JSON that every process writes alike: bytecode, constants, and what
it refers to.

The bytecode is what runs; a source file may have been edited since. Line numbers, comments and docstrings do not
count. Another minor version of Python compiles to other bytecode.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import (
    CodeType,
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

from optimizers.core.canonical import CanonicalEncoder, qualified_name, stable_text, tag, text_of

_OURS = ("optimizers.tasks", "sgt_modules.embedded")
"""Where this package keeps metrics of its own, which are read as a user's are."""

_LIBRARIES = frozenset(sys.stdlib_module_names) | {"dspy", "optimizers", "sgt_modules"}
_HARMLESS = frozenset({"_contextvars", "_io", "_thread", "_weakref", "asyncio", "logging", "threading", "weakref"})
"""Modules whose objects no outcome depends on."""

_PREDICT = frozenset({"lm", "stage", "traces", "train", "demos", "signature", "config"})
_SUPPLEMENT = frozenset({"generator", "gate", "template", "role", "run_key"})
"""What is varied, or stands in the signature."""

_WATCHING = frozenset({"callbacks", "history", "_compiled", "detailed_results", "candidate_programs", "trial_logs"})
_CLASS = frozenset({"__module__", "__doc__", "__dict__", "__weakref__", "__slots__", "_abc_impl"})
_HAS_DOCSTRING = 0x4000000  # CO_HAS_DOCSTRING, from Python 3.13 on
_MADE_BY_CODE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class statement made it
_PLAIN = frozenset({bool, int, float, str, bytes, bytearray, dict, list, set, frozenset, MappingProxyType})
_BESIDE = ("default_factory", "maxlen", "typecode")  # what a container of the standard library holds besides its items
_SECRET = ("api_key", "password", "secret")


class CodeIdentity(CanonicalEncoder):
    """Writes what decides an outcome: code, what it refers to, and what programs hold.

    Functions and classes of a user's own modules are read, wherever one refers to another; those of libraries stand
    by name, but for the modules in `home`. `table` holds each definition once. `unclear` names what cannot be read.

    >>> one, two = (CodeIdentity(frozenset({__name__})) for _ in range(2))
    >>> one.text(lambda example, prediction: 1) == two.text(lambda example, prediction: 2)
    False
    """

    def __init__(self, home: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.table: dict[str, object] = {}
        self._home = home
        self._names: dict[int, str] = {}
        self._waiting: list[tuple[str, Callable[[], object], bool]] = []  # definitions that are met and not yet read
        self._quiet = False
        self._alive: list[object] = []  # what has a name stays alive, so that nothing else gets its id

    def text(self, value: object, where: str = "metric") -> str:
        """All that decides what `value` does, as one line of JSON."""
        try:
            root = self.encode(value, where)
            while self._waiting:  # one after another: a chain of helpers may be longer than Python's stack is deep
                name, content, self._quiet = self._waiting.pop()
                unclear = len(self.unclear)
                self.table[name] = content()
                if self._quiet:
                    del self.unclear[unclear:]
            return text_of([root, self.table])
        except RecursionError:  # a list of a million links, say
            return text_of(self.nameless(value, where))

    def mapping(self, value: Mapping[Any, Any], where: str) -> object:
        """A mapping in its own order, in which code may walk it; without keys of servers."""
        pairs = [(name, each) for name, each in value.items() if not _is_secret(name)]
        return tag("pairs", *([self.encode(name, where), self.encode(each, f"{where}.{name}")] for name, each in pairs))

    def kind(self, kind: type, where: str) -> object:
        """A record's class, with its code."""
        return self._class(kind, where)

    def other(self, value: object, where: str) -> object:
        """A function, class, program or any other object."""
        if isinstance(value, ModuleType):
            return tag("module", value.__name__)
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, FunctionType):
            return self._function(value, where)
        if isinstance(value, MethodType):
            return tag("method", self.encode(value.__func__, where), self.encode(value.__self__, f"{where}.self"))
        if isinstance(value, functools.partial | functools.partialmethod):
            given = [self.encode(value.args, f"{where}.args"), self.encode(value.keywords, where)]
            return tag("partial", self.encode(value.func, f"{where}.func"), *given)
        if isinstance(value, dspy.Module):
            return self._module(value, where)
        if isinstance(value, dspy.BaseLM):
            return self.lm(value)
        return self._unwrapped(cast("Any", value), where)

    def _unwrapped(self, value: Any, where: str) -> object:
        """A decorator's object by what it wraps; a builtin by its name; any other object by its class and state."""
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
            return self.annotation(value, where)
        if inspect.isroutine(value):
            return self._builtin(value, where)
        return self._instance(value, where)

    def _builtin(self, value: Any, where: str) -> object:
        """What is written in C, by its name, and by what it is bound to."""
        owner = getattr(value, "__self__", None)
        within = "." in where  # a metric that is written in C itself is named
        if not (within and is_library(getattr(value, "__module__", None) or getattr(owner, "__module__", ""))):
            self.nameless(value, where)
        bound = None if owner is None or isinstance(owner, ModuleType) else self.encode(owner, f"{where}.self")
        return tag("builtin", qualified_name(value), bound)

    def _instance(self, value: object, where: str) -> object:
        """An object of a user's class by its state; a library's by what it says of itself."""
        kind = type(value)
        if kind.__module__.partition(".")[0] in _HARMLESS:
            return tag("named", qualified_name(kind))
        package = kind.__module__.partition(".")[0]
        if not self._reads(kind) and package in ("optimizers", "sgt_modules"):
            return tag("named", qualified_name(kind))
        if not self._reads(kind) and package == "dspy":
            own = {name: each for name, each in self.held(value).items() if name not in _WATCHING}
            return tag("object", qualified_name(kind), self._quietly(own, where))
        if isinstance(value, SimpleNamespace):
            return self.mapping(self.held(value), where)
        if not self._reads(kind) or kind.__reduce__ is not object.__reduce__:
            return tag("object", self._class(kind, where), self.reduced(value, where))
        return tag("object", self._class(kind, where), self.mapping(self.held(value), where))

    def _reads(self, value: FunctionType | type) -> bool:
        """Whether a function or class is read; what was made by `exec` without a module's name says `builtins`."""
        module = value.__module__ or ""
        if module == "builtins":
            return isinstance(value, FunctionType) or bool(value.__flags__ & _MADE_BY_CODE)
        return module in self._home or not is_library(module)

    def _defined(self, value: object, content: Callable[[], object]) -> object:
        """A reference to a definition, which the table holds once."""
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
        """As `CanonicalEncoder`; a function or class is referred to by its name in the table, wherever it stands."""
        if isinstance(value, FunctionType | type):
            return self.other(value, where)
        if isinstance(value, Enum):
            return tag("member", self._class(type(value), where), value.name)
        content = super().encode(value, where)
        if type(value) in _PLAIN or not isinstance(value, int | float | str | bytes | bytearray):
            return content
        return self._special(value, content, where)

    def _held(self, value: object, where: str) -> object:
        content = super()._held(value, where)
        if type(value) in _PLAIN or not isinstance(value, Mapping | Set | Sequence):
            return content
        return self._special(value, content, where)

    def _special(self, value: object, content: object, where: str) -> object:
        """A number, text or container of no plain class: its class may hold a method, a default, a length."""
        beside = self.held(value) | {name: getattr(value, name) for name in _BESIDE if hasattr(value, name)}
        own = self.mapping(beside, where) if self._reads(type(value)) else self._quietly(beside, where)
        return tag("special", self._class(type(value), where), content, own)

    def _function(self, value: FunctionType, where: str) -> object:
        if not self._reads(value):
            return tag("named", qualified_name(value))
        return self._defined(value, lambda: self._body(value, where))

    def _body(self, function: FunctionType, where: str) -> object:
        name = where if where.endswith(function.__name__) else f"{where}.{function.__name__}"
        closed = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        return [
            self._code(function.__code__),
            self.encode(function.__defaults__, name),
            self.encode(function.__kwdefaults__, name),
            {each: self.encode(_content(cell), f"{name}.{each}") for each, cell in closed},
            self._globals(function, name),
            self.mapping(
                {} if _wraps(function) else {k: v for k, v in vars(function).items() if k != "__wrapped__"}, name
            ),
        ]

    def _code(self, code: CodeType) -> object:
        constants = [None if n == 0 and _has_docstring(code) else each for n, each in enumerate(code.co_consts)]
        return [
            code.co_code.hex(),
            code.co_exceptiontable.hex(),
            [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars],
            [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING],
            [self._code(each) if isinstance(each, CodeType) else _constant(each) for each in constants],
        ]

    def _globals(self, function: FunctionType, where: str) -> object:
        """What the function's global names stand for, but for those that it sets itself."""
        codes = list(_codes(function.__code__))
        loaded = {name for code in codes for name in _named_by(code, "LOAD_GLOBAL", "LOAD_NAME")}
        stored = {name for code in codes for name in _named_by(code, "STORE_GLOBAL")}
        names = {name for code in codes for name in code.co_names}
        known = function.__globals__
        found: dict[str, object] = {}
        for name in sorted(loaded - stored):
            if name in known and not name.startswith("__"):
                if function.__name__ != "__init__" and _makes_predictors(known[name], names):
                    found["asks"] = self.lm(dspy.settings.lm)
                found[name] = self._global(known[name], f"{where}.{name}", names)
        package = str(known.get("__package__") or "")
        for module in sorted({each for code in codes for each in _imports_of(code, package)}):
            found[f"import {module}"] = self._imported(module)
        return found

    def _global(self, value: object, where: str, names: set[str], depth: int = 0) -> object:
        """A global's value; of a user's module, what the function may take from it."""
        if not isinstance(value, ModuleType) or is_library(value.__name__) or depth > 3:
            return self.encode(value, where)
        own = {name: vars(value)[name] for name in sorted(names) if name in vars(value)}
        return {name: self._global(each, f"{where}.{name}", names, depth + 1) for name, each in own.items()}

    def _imported(self, module: str) -> object:
        """A module that a function imports itself: a user's by its file, and by those of the user's that it imports."""
        files: dict[str, str] = {}
        waiting = [module]
        while waiting:
            each = waiting.pop()
            if each in files or is_library(each) or (file := _file_of(each)) is None:
                continue
            files[each] = hashlib.sha256(file.read_bytes()).hexdigest()
            waiting += _imports_in(file, each)
        return tag("files", files) if files else tag("module", module)

    def _class(self, value: type, where: str) -> object:
        if issubclass(value, dspy.Signature):
            return self.signature(value, where)
        if not self._reads(value):
            return tag("named", qualified_name(value))
        return self._defined(value, lambda: self._members(value, f"{where}.{value.__name__}"))

    def _members(self, value: type, where: str) -> object:
        bases = [self.encode(each, where) for each in (*value.__bases__, type(value)) if each not in (object, type)]
        typed = {name: self.annotation(each, where) for name, each in inspect.get_annotations(value).items()}
        if issubclass(value, Enum):
            return [bases, {each.name: self.encode(each.value, where) for each in value}, self._own(value, where, "_")]
        return [bases, typed, self._defaults(value, where), self._own(value, where, "__pydantic")]

    def _own(self, value: type, where: str, hidden: str) -> dict[str, object]:
        """A class's own members: all functions that somebody wrote, and data that are no one's bookkeeping."""
        written: dict[str, object] = {}
        for name, each in vars(value).items():
            if name in _CLASS or isinstance(each, MemberDescriptorType | GetSetDescriptorType):
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

    def _defaults(self, value: type, where: str) -> object:
        """What the fields of a dataclass or pydantic model are where nobody gives them."""
        if is_dataclass(value):
            told = [(each.name, each.default, each.default_factory) for each in fields(value)]
            return [
                [name, *(None if own is MISSING else self.encode(own, where) for own in rest)] for name, *rest in told
            ]
        known: Mapping[str, Any] = getattr(value, "__pydantic_fields__", {})
        private: Mapping[str, Any] = getattr(value, "__private_attributes__", {})
        told = [(name, each.default, each.default_factory) for name, each in (*known.items(), *private.items())]
        made = [[name, self._default(own, where), self.encode(factory, where)] for name, own, factory in told]
        return [_schema(value), *made] if known else made

    def _default(self, value: object, where: str) -> object:
        """A field's default; nothing where pydantic has a mark of its own."""
        if value is ... or type(value).__name__ == "PydanticUndefinedType":
            return tag("required")
        return self.encode(value, where)

    def annotation(self, value: Any, where: str) -> object:
        """A type as it is written: a user's class by its code, a generic one by its parts."""
        if isinstance(value, type) and not get_args(value):
            return self.encode(value, where)
        if (origin := get_origin(value)) is not None:
            parts = (self.annotation(each, where) for each in get_args(value))
            return tag("type", str(getattr(origin, "__qualname__", origin)), *parts)
        if value is None or isinstance(value, str | int | bool | bytes | Enum):
            return self.encode(value, where)
        return stable_text(value) or qualified_name(type(value))

    def signature(self, value: type[dspy.Signature], where: str) -> object:
        """What an adapter reads of a signature: the instructions, and each field's name, type, its schema and words."""
        told: list[object] = []
        for name, each in value.fields.items():
            extra = self._quietly(cast("Any", each).json_schema_extra or {}, f"{where}.{name}")
            default = self._default(each.default, f"{where}.{name}")
            told.append([name, self.annotation(each.annotation, where), _schema(each.annotation), extra, default])
        return tag("signature", value.instructions, *told)

    def lm(self, value: Any) -> object:
        """An LM by its name and settings, without keys and addresses: another key is not another actor."""
        if value is None:
            return None
        given: Mapping[str, object] = getattr(value, "kwargs", {})
        given = {name: each for name, each in given.items() if not name.startswith(("api_", "base_"))}
        own = self._class(type(value), "lm")
        return tag("lm", own, getattr(value, "model", ""), self._quietly(given, "lm"))

    def _quietly(self, value: Mapping[str, object], where: str) -> object:
        """What a library holds: nobody need hear of what cannot be read there."""
        unclear, quiet, self._quiet = len(self.unclear), self._quiet, True
        try:
            return self.mapping({name: value[name] for name in sorted(value)}, where)
        finally:
            self._quiet = quiet
            del self.unclear[unclear:]

    def _module(self, value: dspy.Module, where: str) -> object:
        """A program: its class, what it holds, and of a predictor what is asked of which LM."""
        kind, held = self._class(type(value), where), self.held(value)
        asked: list[object] = []
        hidden = _WATCHING
        if isinstance(value, dspy.Predict):
            predictor = cast("Any", value)
            hidden = hidden | _PREDICT | _SUPPLEMENT if not self._reads(type(value)) else hidden | _PREDICT
            demos = self.encode([dict(each) for each in predictor.demos], f"{where}.demos")
            config = self._quietly(predictor.config, f"{where}.config")
            lm = self.lm(predictor.lm or dspy.settings.lm)
            asked = [self.signature(predictor.signature, where), demos, config, lm]
        own = {name: each for name, each in held.items() if name not in hidden}
        state = self.mapping(own, where) if self._reads(type(value)) else self._quietly(own, where)
        return tag("program", kind, asked, state)


@functools.cache
def is_library(module: str) -> bool:
    """Whether a module is the standard library's, an installed package's, or this package's own.

    >>> is_library("json"), is_library("dspy.predict"), is_library("__main__")
    (True, True, False)
    """
    if module == "__main__" or module.startswith(_OURS):  # a notebook's `__main__` is a file of a library
        return False
    if module.partition(".")[0] in _LIBRARIES:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def home_of(metric: Any) -> frozenset[str]:
    """The module of a metric, which is read whosever it is."""
    while isinstance(metric, functools.partial):
        metric = metric.func
    metric = getattr(metric, "__func__", metric)
    own = metric if hasattr(metric, "__qualname__") else type(metric)
    return frozenset({str(own.__module__)})


def _schema(annotation: Any) -> object:
    """What a prompt says of a type's fields, with their words and bounds; None of a type without a schema."""
    try:
        return TypeAdapter(annotation).json_schema() if annotation is not str else None
    except Exception:  # noqa: BLE001 - whatever a user's type raises
        return None


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and name.endswith(_SECRET)


def _wraps(function: FunctionType) -> bool:
    """Whether a library's decorator made the function, which may count its calls on it."""
    return "__wrapped__" in vars(function) and is_library(str(function.__globals__.get("__name__", "")))


def _makes_predictors(value: object, names: set[str]) -> bool:
    """Whether a global is what a predictor is made of where it is used; such a one asks DSPy's LM of that moment."""
    if value is dspy:
        return "settings" in names or any(_makes_predictors(getattr(dspy, name, None), names) for name in names)
    return isinstance(value, type) and issubclass(value, dspy.Module) and is_library(value.__module__)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was assigned yet
        return None


def _has_docstring(code: CodeType) -> bool:
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & _HAS_DOCSTRING)
    wrote = bool(code.co_consts) and isinstance(code.co_consts[0], str)
    return wrote and bool(code.co_flags & inspect.CO_NEWLOCALS) and not code.co_name.startswith("<")


def _constant(value: object) -> object:
    """A constant of a compiled function."""
    if isinstance(value, tuple):
        return tag("tuple", *map(_constant, cast("tuple[object, ...]", value)))
    if isinstance(value, frozenset):
        return tag("set", *sorted(map(_constant, cast("frozenset[object]", value)), key=text_of))
    return value if value is None or isinstance(value, bool | int | str) else f"{type(value).__name__} {value!r}"


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of every function within it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _named_by(code: CodeType, *operations: str) -> list[str]:
    return [str(each.argval) for each in dis.get_instructions(code) if each.opname in operations]


def _imports_of(code: CodeType, package: str) -> Iterator[str]:
    """The modules that a function's code may import, by their whole names."""
    steps = list(dis.get_instructions(code))
    for n, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":  # after the level and the names of `from`
            yield from _modules(str(step.argval), package, steps[n - 2].argval or 0, steps[n - 1].argval or ())


def _imports_in(file: Path, module: str) -> Iterator[str]:
    """The modules that a file's text may import, by their whole names; the file is not run."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        text = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for each in ast.walk(text):
        if isinstance(each, ast.Import):
            for name in each.names:
                yield from _modules(name.name, package)
        if isinstance(each, ast.ImportFrom):
            yield from _modules(each.module or "", package, each.level, [name.name for name in each.names])


def _modules(name: str, package: str, level: int = 0, taken: Sequence[str] = ()) -> Iterator[str]:
    """A module as an import names it, the packages around it, and what may be modules within it.

    >>> list(_modules("rules", "users.own", 2, ["near"]))
    ['users', 'users.rules', 'users.rules.near']
    """
    base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
    parts = [each for each in [*base, *name.split(".")] if each]
    yield from (".".join(parts[: n + 1]) for n in range(len(parts)))
    yield from (".".join([*parts, each]) for each in taken if each != "*")


def _file_of(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") and not _installed(origin) else None


def _installed(file: str) -> bool:
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))
