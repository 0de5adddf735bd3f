"""What an SPT run is given by its teleprompter, and what of it a folder is taken up again by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import dspy

from optimizers.core.budget import Limits
from optimizers.core.events import Plan, Step
from optimizers.core.fingerprints import fingerprint, lm_settings
from optimizers.core.prices import has_price
from optimizers.observe.tracking import Tracker, TrackerName
from optimizers.spt.estimate import estimate_spt
from optimizers.spt.recipe import SPTRecipe
from optimizers.spt.sentences import split_sentences
from sgt_modules.errors import NoPredictorError, SetupError
from sgt_modules.wrapping import instructions_of


@dataclass(frozen=True, slots=True)
class SPTSettings:
    """What a run is given by its teleprompter; see `SupervisoryPromptTeleprompter`."""

    metric: Callable[..., object]
    corrector: dspy.LM
    recipe: SPTRecipe
    num_threads: int | None
    max_errors: int
    seed: int
    log_dir: Path | None
    only: Sequence[str] | None = None
    limits: Limits = field(default_factory=Limits)
    store: str | Path | None = None
    max_run_seconds: float | None = None
    report_to: Sequence[TrackerName | Tracker] = ()
    version: str = ""

    def recorded(self, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]) -> dict[str, object]:
        """What `run.json` remembers, and a folder is taken up again by."""
        return {
            "method": "spt",
            "recipe": self.recipe.recorded,
            "seed": self.seed,
            "corrector": self.corrector.model,
            "corrector_settings": lm_settings(self.corrector),
            "only": None if self.only is None else sorted(self.only),
            "train": fingerprint(trainset, "trainset"),
            "val": fingerprint(valset, "valset"),
        }

    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The steps of a run on so many examples, as they are expected."""
        found = estimate_spt(
            self.recipe, train=train, validation=validation, sentences=self.sentences(student), probe=None
        )
        return Plan([Step(each.name, each.actor_calls) for each in found.stages], self.recipe.threshold)

    def sentences(self, student: dspy.Module) -> list[int]:
        """How many sentences the instructions of each place have."""
        texts = instructions_of(student)
        return [len(split_sentences(texts[name], self.recipe.language)) for name in self.places(student)]

    @property
    def free(self) -> dict[str, object]:
        """What `run.json` remembers too, and may be another when a folder is taken up again."""
        return {"rounds": self.recipe.rounds, "limits": asdict(self.limits)}

    def places(self, student: dspy.Module) -> list[str]:
        """The predictors whose instructions are written; raises `NoPredictorError` for a name that none has."""
        named = list(instructions_of(student))
        unknown = sorted(set(self.only or ()) - set(named))
        if unknown or (self.only is not None and not self.only):
            raise NoPredictorError(
                f"Expected names of predictors in only, got {unknown or 'none'}. The program has {', '.join(named)}."
            )
        return [name for name in named if self.only is None or name in self.only]

    def check_priced(self) -> None:
        """Raise `SetupError` where a budget in dollars cannot hold, as nobody knows the corrector's price."""
        if self.limits.cost_usd is not None and not has_price(self.corrector):
            raise SetupError(
                f"Expected a corrector with a known price for max_cost_usd, but that of {self.corrector.model!r} is "
                "not known. Use max_actor_calls, or tell litellm its price with litellm.register_model."
            )
