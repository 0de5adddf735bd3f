"""A recipe that cannot work is refused when it is made, so that no run pays for what it cannot use."""

from __future__ import annotations

import pytest

from optimizers.sgt.recipe import Recipe
from sgt_modules.errors import SetupError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, r"Expected margin above 0 and up to 1, got 0\.0"),
        ({"length_preference": 1.5}, r"Expected length_preference above 0 and up to 1, got 1\.5"),
        ({"threshold": float("nan")}, "Expected threshold above 0 and up to 1, got nan"),
        ({"rounds": -1}, "Expected rounds of at least 0, got -1"),
        ({"warm_samples": 0}, "Expected warm_samples of at least 1, got 0"),
        ({"temperature": -1.0}, r"Expected temperature of at least 0, got -1\.0"),
        ({"patience": 0}, "Expected patience of at least 1, or None"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_once(options: dict[str, float], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        Recipe(**options)  # pyright: ignore[reportArgumentType]  # one option of each kind
