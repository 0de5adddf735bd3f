"""The options of Supplement Generation Training, with the method's own values as defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from optimizers.core.records import BETWEEN, Between
from sgt_modules.errors import SetupError
from sgt_modules.generator_prompt import GeneratorPrompt
from sgt_modules.kinds import KINDS, Kind
from sgt_modules.menu import Menu

Auto = Literal["light", "medium", "heavy"]

AUTO: Auto = "light"
"""The size of a run where nobody names one, in Python and on the command line."""

_RECORDED_IF_CHANGED = ("sft", "pair_categories", "closed")
"""Options that runs of earlier versions did not record: they stand in a run's folder where they are not the default."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much is sampled, what counts as a success, and how pairs are made.

    The defaults are those of `docs/method.md`. `warm_samples` are samples a prompt in the warm start (nine prompts a
    query); `pool_samples` samples a kind in round 1; `ood_kinds` how many new kinds join it; `concat` concatenations a
    query; `direct_samples` samples a query in rounds 2 and later. `threshold` is the reward in [0, 1] that counts as a
    success; with `margin` set, pairs are made by a reward gap of at least `margin` instead. `max_per_kind` bounds the
    SFT rows of a kind, `pair_cap` the pairs of a query and category. `silence` lets the generator choose the kind
    `none` from round 1 on, by pairs whose other side is a supplement: at most a quarter of a query's pairs between
    kinds. `length_preference`, in (0, 1], prefers of two winners the one that is shorter by at least that share (None:
    no preference). `gate` drops supplements at inference where the input is unlike the training inputs or the generator
    is unsure, with thresholds set on validation. `temperature` and `top_p` (the share of probability that tokens are
    drawn from) are exploration's; by default the generator's prompt says (`GeneratorPrompt`). At inference the
    generator decodes as it is set to, greedily by default. `patience` stops after that many rounds without a
    better validation score (None: never). `adaptive` runs the actor on a part of what each stage samples, where
    it is likely to be of use (`optimizers.sgt.adaptive`); what was tried before counts again for free. For programs of
    one predictor. Without `sft` the warm start is only a pool: round 1 gets its new kinds and joins from it, and
    trains the generator as it came. `pair_categories` are the pairs that are made: between kinds (`inter`), within
    one (`intra`).

    `kinds` are what is asked for; one with a `text` is that text, tried as it is. With `closed`, every kind has a text,
    and the generator learns which of them to say, or nothing (`silence`): nothing is sampled, each stage tries each
    text once for each query, and what the actor reads is one of the texts or none. The sizes of sampling
    (`warm_samples`, `pool_samples`, `ood_kinds`, `concat`, `direct_samples`) are then set to what that means.

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
    temperature: float | None = None
    top_p: float | None = None
    patience: int | None = None
    silence: bool = True
    length_preference: float | None = None
    gate: bool = False
    adaptive: bool = False
    sft: bool = True
    pair_categories: Sequence[Between] = BETWEEN
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
    closed: bool = False

    def __post_init__(self) -> None:
        if self.closed:
            sizes = {
                "warm_samples": 1,
                "pool_samples": 1,
                "ood_kinds": 0,
                "concat": 0,
                "direct_samples": len(self.menu.choices),
            }
            for name, size in sizes.items():
                object.__setattr__(self, name, size)
        if not self.pair_categories or not set(self.pair_categories) <= set(BETWEEN):
            raise SetupError(f"Expected pair_categories among {BETWEEN}, at least one, got {self.pair_categories!r}.")

    @staticmethod
    def auto(size: Auto) -> Recipe:
        """A recipe by DSPy's word for its size: `light` takes about a quarter of the actor calls of `heavy`.

        `heavy` has the paper's sizes, and differs from `Recipe.paper()` in two options of ours: the generator may keep
        silent (`silence=True`), and round 1 takes two samples a kind (`pool_samples=2`), so that it has pairs within a
        kind.
        """
        sizes = {
            "heavy": Recipe(),
            "medium": Recipe(rounds=3, warm_samples=3, direct_samples=12),
            "light": Recipe(rounds=2, warm_samples=2, pool_samples=1, direct_samples=8, concat=1),
        }
        if size not in sizes:
            raise ValueError(f"auto must be one of {sorted(sizes)}, not {size!r}.")
        return sizes[size]

    @staticmethod
    def paper() -> Recipe:
        """The published recipe and nothing else: no silence, one sample a kind in round 1.

        Source: SGT (arXiv 2604.20727).

        >>> Recipe.paper().silence, Recipe.paper().pool_samples, Recipe.paper().rounds
        (False, 1, 5)
        """
        return Recipe(silence=False, pool_samples=1)

    def with_rounds(self, rounds: int | None) -> Recipe:
        """The same recipe with another number of DPO rounds."""
        return self if rounds is None else replace(self, rounds=rounds)

    def sampling(self, prompt: GeneratorPrompt) -> tuple[float, float]:
        """Temperature and top_p of exploration for a generator that reads this prompt.

        >>> from sgt_modules.generator_prompt import COMPACT
        >>> Recipe(top_p=0.5).sampling(COMPACT)
        (1.0, 0.5)
        """
        temperature = prompt.temperature if self.temperature is None else self.temperature
        return temperature, prompt.top_p if self.top_p is None else self.top_p

    @property
    def menu(self) -> Menu:
        """What a closed recipe's generator chooses among; an empty menu for one that writes.

        Raises `SetupError` where a kind has no text, or two are the same.

        >>> texts = {"refunds": "Refunds take five days.", "hours": "We open at nine."}
        >>> recipe = Recipe(kinds={name: Kind(name, text=text) for name, text in texts.items()}, closed=True)
        >>> recipe.menu.replies
        ('[refunds] Refunds take five days.', '[hours] We open at nine.', '[none]')
        """
        return Menu.of(self.kinds.values(), silence=self.silence) if self.closed else Menu()

    @property
    def written_kinds(self) -> dict[str, Kind]:
        """The kinds that the generator is asked to write."""
        return {name: kind for name, kind in self.kinds.items() if not kind.text}

    @property
    def given_kinds(self) -> list[Kind]:
        """The kinds that are tried as they are."""
        return [kind for kind in self.kinds.values() if kind.text]

    @property
    def kinds_asked(self) -> int:
        """How many kinds the warm start tries, free style among them unless the recipe is closed."""
        return len(self.kinds) + (not self.closed)

    @property
    def recorded(self) -> dict[str, Any]:
        """Every option by name, as a run's folder keeps it; a kind is its instruction, its example and any text.

        >>> Recipe(rounds=2).recorded["rounds"], "sft" in Recipe().recorded, Recipe(sft=False).recorded["sft"]
        (2, False, False)
        """
        usual = {each.name: each.default for each in fields(Recipe)}
        found = {name: getattr(self, name) for name in usual}
        kinds = {
            name: [kind.instruction, kind.example, *filter(None, [kind.text])] for name, kind in self.kinds.items()
        }
        return {
            name: value for name, value in found.items() if name not in _RECORDED_IF_CHANGED or value != usual[name]
        } | {"kinds": kinds}
