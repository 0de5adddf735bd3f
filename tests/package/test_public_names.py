"""What the two packages offer by name is documented, with an example that `make check` runs."""

from __future__ import annotations

import inspect

import pytest

import optimizers
import sgt_modules

NAMES = [
    (package, name)
    for package in (sgt_modules, optimizers)
    for name in package.__all__
    if inspect.isclass(getattr(package, name)) or inspect.isfunction(getattr(package, name))
]
"""All but tables and modules, which have no docstring of their own."""


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_public_name_says_what_it_is_with_an_example(package: object, name: str) -> None:
    offered = getattr(package, name)
    members = vars(offered).values() if inspect.isclass(offered) else []
    texts = [inspect.getdoc(each) or "" for each in (offered, *members)]
    assert len(texts[0]) > 40
    assert any(">>>" in text for text in texts), f"{name} has no example"
