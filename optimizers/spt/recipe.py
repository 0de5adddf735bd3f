"""Every option of Supervisory Prompt Training, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from optimizers.spt.impact import Way
from optimizers.spt.meta_prompts import MetaPrompts
from sgt_modules.errors import SetupError

Variant = Literal["p", "pc"]
"""`p`: the corrector's brief stays; `pc`: it rewrites it from what the first and the best prompt both fail."""

Choice = Literal["validation", "last"]

MOST_CANDIDATES = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class SPTRecipe:
    """Every option of the method; the defaults are those of `docs/method.md`.

    Args:
        variant: Whether the corrector also rewrites its own brief (`pc`) or not (`p`).
        impact: Whether the corrector reads each sentence's impact, and how it is measured; None is without.
        impact_examples: Training examples it is measured on, drawn by the seed.
        rounds: How often instructions are corrected; in a program of several predictors they take turns.
        candidates: Prompts that the corrector writes a round.
        threshold: The score from which on an answer is no mistake.
        accept: The candidate that is best on the mistakes becomes the prompt only if the mean score does not fall on
            the whole training set. False is the published method, which never looks at what worked before.
        choice: What is returned: the best on `validation`, the earlier on a tie, or the `last` accepted prompt.
        prompt_tokens: A longer candidate loses its sentences of the lowest impact.
        mistake_tokens: What the corrector reads of the mistakes at once. Where they do not fit, candidates are written
            from different ones, drawn by the seed.
        temperature: The corrector's.
        language: Whose abbreviations count where sentences are told apart (ISO 639).
        meta_prompts: The corrector's briefs.

    >>> try:
    ...     SPTRecipe(rounds=0)
    ... except SetupError as error:
    ...     print(error)
    Expected rounds of at least 1, got 0.
    """

    variant: Variant = "p"
    impact: Way | None = "prefix"
    impact_examples: int = 40
    rounds: int = 5
    candidates: int = 4
    threshold: float = 1.0
    accept: bool = True
    choice: Choice = "validation"
    prompt_tokens: int = 1_000
    mistake_tokens: int = 6_000
    temperature: float = 1.0
    language: str = "en"
    meta_prompts: MetaPrompts = field(default_factory=MetaPrompts)

    def __post_init__(self) -> None:
        for name in ("impact_examples", "rounds", "candidates", "prompt_tokens", "mistake_tokens"):
            if getattr(self, name) < 1:
                raise SetupError(f"Expected {name} of at least 1, got {getattr(self, name)}.")
        if self.candidates > MOST_CANDIDATES:
            raise SetupError(f"Expected at most {MOST_CANDIDATES} candidates a round, got {self.candidates}.")
        if not 0 < self.threshold <= 1:
            raise SetupError(f"Expected a threshold above 0 and up to 1, got {self.threshold}.")
        if not self.temperature > 0:
            raise SetupError(
                f"Expected a temperature above 0, got {self.temperature}: candidates would all be the same."
            )
        for name, kind in (("variant", Variant), ("impact", Way), ("choice", Choice)):
            value = getattr(self, name)
            if value not in get_args(kind) and not (name == "impact" and value is None):
                raise SetupError(f"Expected {name} to be one of {', '.join(get_args(kind))}, got {value!r}.")

    def with_options(
        self,
        *,
        variant: Variant | None = None,
        impact: bool | Way | None = None,
        rounds: int | None = None,
        candidates: int | None = None,
    ) -> SPTRecipe:
        """A copy with the options that are not None; `impact=True` means `prefix`, `False` means None.

        >>> SPTRecipe().with_options(variant="pc", impact=False).impact is None
        True
        """
        way: Way | None = self.impact if impact is None else None if impact is False else "prefix"
        return replace(
            self,
            variant=variant or self.variant,
            impact=impact if isinstance(impact, str) else way,
            rounds=self.rounds if rounds is None else rounds,
            candidates=self.candidates if candidates is None else candidates,
        )

    @property
    def recorded(self) -> Mapping[str, object]:
        """What a run's folder remembers, but for the rounds: a run may go on with more of them."""
        return {name: value for name, value in asdict(self).items() if name != "rounds"}
