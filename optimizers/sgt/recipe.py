"""The options of Supplement Generation Training, with the method's values as defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from optimizers.core.cost import Cost
from optimizers.core.records import BETWEEN, Between
from optimizers.core.stages import Algorithm
from sgt_modules.errors import SetupError
from sgt_modules.generator_prompt import GeneratorPrompt
from sgt_modules.kinds import KINDS, Kind
from sgt_modules.menu import Menu

Auto = Literal["light", "medium", "heavy"]

AUTO: Auto = "light"
"""The default size of a run, in Python and on the command line."""

_LEAST = {
    **dict.fromkeys(("warm_samples", "max_per_kind", "pair_cap"), 1),
    **dict.fromkeys(("rounds", "pool_samples", "ood_kinds", "concat", "direct_samples"), 0),
}
"""The least value of each size of a recipe."""

_UNRECORDED: dict[str, object] = {
    "feedback": False,
    "algorithm": "dpo",
    "queries_per_round": None,
    "cost": None,
    "draft": False,
}
"""Values that are not recorded, so that folders of runs from before the option existed still match."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much is sampled, what counts as a success, and how pairs are made.

    The defaults are those of `docs/method.md`. `warm_samples` are the samples per prompt in the warm start (nine
    prompts per query); `pool_samples` those per kind in round 1; `ood_kinds` is how many new kinds join it; `concat`
    how many joins of winners per query; `direct_samples` are the samples per query in rounds 2 and later. `threshold`
    is the reward in [0, 1] that counts as a success; with `margin` set, pairs are made by a reward gap of at least
    `margin` instead. `max_per_kind` bounds the SFT rows of a kind, `pair_cap` the pairs of a query and category.
    `silence` lets the generator choose no supplement (the kind `none`) from round 1 on: at most a quarter of a query's
    pairs between kinds have `none` on one side. `length_preference`, in (0, 1], prefers of two winners the one that is
    shorter by at least that share (None: no preference). `gate` drops supplements at inference where the input is
    unlike the training inputs or the generator is unsure, with thresholds set on validation. `temperature` and `top_p`
    (nucleus sampling) are those of exploration, by default those of the generator's prompt (`GeneratorPrompt`). At
    inference the generator decodes with its own settings, greedily by default. `patience` stops after that many rounds
    without a better validation score (None: never). `adaptive` runs the actor only on those of a stage's samples that
    are likely to be useful (`optimizers.sgt.adaptive`); earlier outcomes count again for free. It is for programs of
    one predictor. Without `sft`, the warm start only gives round 1 its new kinds and joins, and round 1 trains the
    generator from its initial weights. `pair_categories` are the pairs that are made: between kinds (`inter`), within a
    kind (`intra`).

    `kinds` are the kinds that the generator is asked to write; a kind with a `text` is tried with that text instead.
    With `closed`, every kind has a text, and the generator learns which of them to choose, or none (`silence`). Nothing
    is sampled then: each stage tries each text once per query, and the sizes of sampling (`warm_samples`,
    `pool_samples`, `ood_kinds`, `concat`, `direct_samples`) are set accordingly.

    With `algorithm="grpo"` each round, the first one too, takes `direct_samples` of the current model for a query as a
    group, at temperature 1, and trains on their rewards; options of pairs and of round 1's pool have no effect.
    `queries_per_round` takes that many queries in turn instead of all in each round of GRPO.

    `feedback` shows, from round 2 on and in at most a quarter of a query's samples, a note that failed with the
    metric's feedback on it, and asks for a better one; it is trained on with the plain prompt
    (`optimizers.sgt.feedback`).

    `cost` prices the supplement's and the actor's tokens, steps and seconds: of two supplements that worked the cheaper
    one is preferred, and the stage with the best net score is selected (None: help is free).

    With `draft`, the generator also reads the actor's unaided answer, and `[none]` says that this draft is right; see
    `docs/beyond.md`.

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
    algorithm: Algorithm = "dpo"
    queries_per_round: int | None = None
    feedback: bool = False
    cost: Cost | None = None
    draft: bool = False

    def __post_init__(self) -> None:
        if self.closed and self.feedback:
            raise SetupError("Expected a recipe that writes for feedback=True, got closed=True. Leave one of them out.")
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
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SetupError(f"Expected {name} of at least {least}, got {getattr(self, name)!r}.")
        for name in ("threshold", "margin", "length_preference", "top_p"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise SetupError(f"Expected {name} above 0 and up to 1, got {share!r}.")
        if self.temperature is not None and not self.temperature >= 0:
            raise SetupError(f"Expected temperature of at least 0, got {self.temperature!r}.")
        if self.patience is not None and self.patience < 1:
            raise SetupError(f"Expected patience of at least 1, or None for no early stop, got {self.patience!r}.")
        if self.draft and not self.silence:
            raise SetupError(
                "Expected silence=True with draft=True, got silence=False: [none] says that the draft is right. Leave "
                "silence out, or draft."
            )
        if not self.pair_categories or not set(self.pair_categories) <= set(BETWEEN):
            raise SetupError(f"Expected pair_categories among {BETWEEN}, at least one, got {self.pair_categories!r}.")
        self._check_algorithm()

    def _check_algorithm(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise SetupError(f"Expected an algorithm of {', '.join(get_args(Algorithm))}, got {self.algorithm!r}.")
        if self.algorithm == "dpo":
            if self.queries_per_round is not None:
                raise SetupError("Expected queries_per_round with algorithm='grpo' only, got it with 'dpo'.")
            return
        if self.closed or self.adaptive or self.draft:
            option = "closed" if self.closed else "adaptive" if self.adaptive else "draft"
            raise SetupError(
                f"Expected a generator whose samples are all tried for algorithm='grpo', got {option}=True. Leave "
                f"{option} out, or use algorithm='dpo'."
            )
        if self.direct_samples < 2:
            raise SetupError(f"Expected direct_samples of at least 2 as GRPO's group, got {self.direct_samples}.")
        if self.queries_per_round is not None and self.queries_per_round < 1:
            raise SetupError(f"Expected queries_per_round of at least 1, or None, got {self.queries_per_round!r}.")

    @staticmethod
    def auto(size: Auto) -> Recipe:
        """The recipe of a size, named as in DSPy: `light` makes about a quarter of the actor calls of `heavy`.

        `heavy` has the paper's sizes. It differs from `Recipe.paper()` in two options of ours: the generator may be
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
        """Exactly the published recipe: no silence, one sample per kind in round 1.

        Source: SGT (arXiv 2604.20727).

        >>> Recipe.paper().silence, Recipe.paper().pool_samples, Recipe.paper().rounds
        (False, 1, 5)
        """
        return Recipe(silence=False, pool_samples=1)

    def with_rounds(self, rounds: int | None) -> Recipe:
        """The same recipe with another number of DPO rounds."""
        return self if rounds is None else replace(self, rounds=rounds)

    def sampling_settings(self, prompt: GeneratorPrompt) -> tuple[float, float]:
        """Temperature and top_p of exploration for a generator that reads this prompt.

        >>> from sgt_modules.generator_prompt import COMPACT
        >>> Recipe(top_p=0.5).sampling_settings(COMPACT)
        (1.0, 0.5)
        """
        temperature = prompt.temperature if self.temperature is None else self.temperature
        return temperature, prompt.top_p if self.top_p is None else self.top_p

    @property
    def menu(self) -> Menu:
        """The choices of a closed recipe's generator; an empty menu for a generator that writes.

        Raises `SetupError` if a kind has no text, or two texts are the same.

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
        """The kinds with a fixed text."""
        return [kind for kind in self.kinds.values() if kind.text]

    @property
    def kinds_asked(self) -> int:
        """How many kinds the warm start tries, with free style unless the recipe is closed."""
        return len(self.kinds) + (not self.closed)

    @property
    def recorded(self) -> dict[str, Any]:
        """Every option by name, as `run.json` records it; a kind is its instruction, its example and any text.

        >>> Recipe(rounds=2).recorded["rounds"], Recipe(sft=False).recorded["sft"]
        (2, False)
        """
        options = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.cost is not None:
            options["cost"] = self.cost.prices
        options = {name: each for name, each in options.items() if (name, each) not in _UNRECORDED.items()}
        kinds = {
            name: [kind.instruction, kind.example, *filter(None, [kind.text])] for name, kind in self.kinds.items()
        }
        return options | {"kinds": kinds, "pair_categories": list(self.pair_categories)}
