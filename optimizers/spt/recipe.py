"""Every option of Supervisory Prompt Training, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from optimizers.spt.impact import Way
from optimizers.spt.meta_prompts import MetaPrompts
from sgt_modules.errors import SetupError

Variant = Literal["p", "pc"]
"""`p`: the corrector's brief is fixed; `pc`: it is rewritten from the mistakes of the first and best prompts."""

Choice = Literal["validation", "last"]

MOST_CANDIDATES = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class SPTRecipe:
    """Every option of the method; the defaults are those of `docs/method.md`.

    Args:
        variant: Whether the corrector also rewrites its own brief (`pc`) or not (`p`).
        impact: How each sentence's impact is measured for the corrector; None: no impacts.
        impact_examples: How many training examples impact is measured on, drawn by the seed.
        rounds: How often instructions are corrected; several predictors take turns.
        candidates: How many prompts the corrector writes per round.
        threshold: An answer with a lower score is a mistake.
        accept: Whether the candidate that is best on the mistakes must also not lower the mean score on the whole
            training set to become the prompt. False is the published method, which does not check earlier successes.
        choice: Which prompt is returned: the best on `validation` (the earlier on a tie), or the `last` accepted one.
        prompt_tokens: The most tokens of a prompt; a longer candidate loses its sentences of the lowest impact.
        mistake_tokens: The most tokens of mistakes in one request. If not all fit, candidates are written from
            different mistakes, drawn by the seed.
        temperature: The corrector's temperature.
        language: The language of the prompt (ISO 639), for its abbreviations when sentences are split.
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
        """The options for `run.json`, without the rounds, as a run may be resumed with more of them."""
        return {name: value for name, value in asdict(self).items() if name != "rounds"}
