"""A name means one thing: no public one is defined at the top of three or more modules of the two packages.

Private names (`_read`) say nothing outside their module, and Python's own (`__all__`) are the same everywhere.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("optimizers", "sgt_modules")
MOST_MODULES = 2


def names_defined(body: list[ast.stmt]) -> Iterator[str]:
    """Functions, classes and assigned names at a module's top, also under `if`, `try` and `with`."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                yield name
            case ast.Assign(targets=targets):
                parts = [part for target in targets for part in ast.walk(target)]
                yield from (part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            case ast.AnnAssign(target=ast.Name(name)):
                yield name
            case ast.If() | ast.Try() | ast.With():
                inner = [each for each in ast.iter_child_nodes(statement) if isinstance(each, ast.stmt)]
                inner += [each for handler in getattr(statement, "handlers", []) for each in handler.body]
                yield from names_defined(inner)
            case _:
                pass


def modules_by_name(sources: dict[str, str]) -> dict[str, list[str]]:
    """The modules that define each public name, from each module's source."""
    modules: dict[str, list[str]] = defaultdict(list)
    for module, source in sources.items():
        for name in sorted(set(names_defined(ast.parse(source).body))):
            if not name.startswith("_"):
                modules[name].append(module)
    return modules


def test_definitions_of_every_form_are_found_and_uses_are_not() -> None:
    source = """
from elsewhere import imported
async def awaited(): inner = 1
def plain(): ...
class Noun: attribute = 1
one, (two, *three) = used, (4, 5, 6)
noted: int = 0
table[key] = value
try:
    import fast
except ImportError:
    fallback = None
if noted:
    with plain() as handle:
        nested = 1
_private = __dunder__ = 2
"""
    found = {"awaited", "plain", "Noun", "one", "two", "three", "noted", "fallback", "nested"}
    assert set(modules_by_name({"module": source})) == found


def test_no_public_name_is_defined_in_three_modules() -> None:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    sources = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}
    repeated = {name: found for name, found in modules_by_name(sources).items() if len(found) > MOST_MODULES}
    assert repeated == {}, "\n".join(f"{name}: {', '.join(found)}" for name, found in repeated.items())
