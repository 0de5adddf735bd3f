"""Settings of a run of SPT, and which of them must be the same when a run goes on in its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import dspy

from optimizers.core.fingerprints import fingerprint, lm_settings
from optimizers.core.prices import has_price
from optimizers.run_options import Examples, RunSettings
from optimizers.spt.recipe import SPTRecipe
from sgt_modules.errors import NoPredictorError, SetupError
from sgt_modules.lms import check_lm
from sgt_modules.wrapping import instructions_of

if TYPE_CHECKING:
    from optimizers.core.events import Plan


def check_corrector(lm: object) -> dspy.LM:
    """Return the LM itself; raises `SetupError` for any other object."""
    if not isinstance(lm, dspy.LM):
        raise SetupError(f"Expected a dspy.LM as corrector, got {lm!r}. Write corrector=dspy.LM('provider/model').")
    return lm


@dataclass(frozen=True, slots=True, kw_only=True)
class SPTSettings(RunSettings):
    """The options of `SupervisoryPromptTeleprompter`, which documents them."""

    corrector: dspy.LM
    recipe: SPTRecipe

    def prepare(self, student: dspy.Module, trainset: Examples, valset: Examples) -> dspy.Module:
        """Check the named predictors, and the corrector's key and price; return the student itself."""
        self.places(student)
        check_lm(self.corrector)
        if self.options.max_cost_usd is not None and not has_price(self.corrector):
            raise SetupError(
                f"Expected a corrector with a known price for max_cost_usd, but that of {self.corrector.model!r} is "
                "not known. Use max_actor_calls, or tell litellm its price with litellm.register_model."
            )
        return student

    def must_match_on_resume(self, trainset: Examples, valset: Examples) -> dict[str, object]:
        """Settings in `run.json` that must be the same when a run goes on in its folder."""
        return {
            "method": "spt",
            "recipe": self.recipe.recorded,
            "seed": self.options.seed,
            "corrector": self.corrector.model,
            "corrector_settings": lm_settings(self.corrector),
            "only": None if self.options.only is None else sorted(self.options.only),
            "train": fingerprint(trainset, "trainset"),
            "val": fingerprint(valset, "valset"),
        }

    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The expected steps of a run on so many examples."""
        from optimizers.core.events import Plan, Step
        from optimizers.spt.estimate import estimate_spt

        found = estimate_spt(
            self.recipe, train=train, validation=validation, sentences=self.sentences(student), probe=None
        )
        return Plan([Step(each.name, each.actor_calls) for each in found.stages], self.recipe.threshold)

    def sentences(self, student: dspy.Module) -> list[int]:
        """How many sentences the instructions of each place have."""
        from optimizers.spt.sentences import split_sentences

        texts = instructions_of(student)
        return [len(split_sentences(texts[name], self.recipe.language)) for name in self.places(student)]

    @property
    def may_change_on_resume(self) -> dict[str, object]:
        """Settings in `run.json` that may change when a run goes on in its folder."""
        return {"rounds": self.recipe.rounds, "limits": asdict(self.options.limits)}

    def places(self, student: dspy.Module) -> list[str]:
        """The predictors whose instructions are written; raises `NoPredictorError` for a name that none has."""
        named, only = list(instructions_of(student)), self.options.only
        unknown = sorted(set(only or ()) - set(named))
        if unknown or (only is not None and not only):
            raise NoPredictorError(
                f"Expected names of predictors in only, got {unknown or 'none'}. The program has {', '.join(named)}."
            )
        return [name for name in named if only is None or name in only]
