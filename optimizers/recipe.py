"""The options of Supplement Generation Training, with the method's own values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sgt_modules.kinds import KINDS, Kind

Auto = Literal["light", "medium", "heavy"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much is sampled, what counts as a success, and how pairs are made.

    The defaults are those of `docs/method.md`. `warm_samples` are samples a prompt in the warm start (nine prompts a
    query); `pool_samples` samples a kind in round 1; `ood_kinds` how many new kinds join it; `concat` concatenations a
    query; `direct_samples` samples a query in rounds 2 and later. `threshold` is the reward in [0, 1] that counts as a
    success; with `margin` set, pairs are made by a reward gap of at least `margin` instead. `max_per_kind` bounds the
    SFT rows of a kind, `pair_cap` the pairs of a query and category. `silence` lets the generator choose the kind
    `none` from round 1 on. `length_preference`, in (0, 1], prefers of two winners the one that is shorter by at least
    that share (None: no preference). `gate` drops supplements at inference where the input is unlike the training
    inputs or the generator is unsure, with thresholds set on validation. `temperature` is exploration's; at inference
    the generator decodes as it is set to (greedily by default). `patience` stops after that many rounds without a
    better validation score (None: never). `adaptive` takes a part of each stage's samples, where they are
    likely to be of use (`optimizers.halving`), and makes pairs of all that was tried so far; for programs of one
    predictor.

    >>> Recipe.auto("heavy").rounds
    5
    """

    rounds: int = 5
    warm_samples: int = 5
    pool_samples: int = 2
    ood_kinds: int = 3
    concat: int = 3
    direct_samples: int = 20
    threshold: float = 1.0
    margin: float | None = None
    max_per_kind: int = 200
    pair_cap: int = 20
    temperature: float = 1.0
    patience: int | None = None
    silence: bool = True
    length_preference: float | None = None
    gate: bool = False
    adaptive: bool = False
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)

    @staticmethod
    def auto(size: Auto) -> Recipe:
        """A recipe by DSPy's word for its size: `heavy` is the paper's, `light` about a quarter of its actor calls."""
        sizes = {
            "heavy": Recipe(),
            "medium": Recipe(rounds=3, warm_samples=3, direct_samples=12),
            "light": Recipe(rounds=2, warm_samples=2, pool_samples=1, direct_samples=8, concat=1),
        }
        if size not in sizes:
            raise ValueError(f"auto must be one of {sorted(sizes)}, not {size!r}.")
        return sizes[size]

    def with_rounds(self, rounds: int | None) -> Recipe:
        """The same recipe with another number of DPO rounds."""
        return self if rounds is None else replace(self, rounds=rounds)
