"""Settings of a run of SGT, and which of them must be the same when a run goes on in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import dspy

from optimizers.core.fingerprints import fingerprint, generator_settings
from optimizers.core.run_settings import RunSettings
from optimizers.core.validation import check_lengths
from optimizers.training.trainer import Trainer, TrainingSettings
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.local.engine import LocalEngine
from sgt_modules.wrapping import supplement

if TYPE_CHECKING:
    from optimizers.core.events import Plan
    from optimizers.sgt.logged import LoggedOutcome
    from optimizers.sgt.recipe import Recipe
    from sgt_modules.predictor import Scope
    from sgt_modules.prompts import Template

Credit = Literal["isolate", "joint"]
"""Which places of a program vary at once; see `SGTTeleprompter`."""

LENGTH_OPTIONS = ("rounds", "patience")
"""Options of a recipe that only say how far a run goes."""


def check_credit(credit: str) -> Credit:
    """Return the word itself; raises `SetupError` for another."""
    if credit not in ("isolate", "joint"):
        raise SetupError(f"Expected credit 'isolate' or 'joint', got {credit!r}. See SGTTeleprompter.")
    return credit


@dataclass(frozen=True, slots=True, kw_only=True)
class SGTSettings(RunSettings):
    """The options of `SGTTeleprompter`, which documents them."""

    generator: SupplementGenerator
    recipe: Recipe
    trainer: Trainer | None
    credit: Credit = "isolate"
    scope: Scope | None = None
    template: Template | None = None
    logged: Sequence[LoggedOutcome] = ()

    def wrap(self, student: dspy.Module) -> dspy.Module:
        """A copy of the student whose predictors read supplements."""
        return supplement(student, generator=self.generator, only=self.only, scope=self.scope, template=self.template)

    def trainer_or_default(self) -> Trainer:
        """The trainer; by default TRL on the generator's own base model, imported here, as it brings torch.

        Raises `SetupError` for a generator whose model is behind a server.
        """
        if self.trainer is not None:
            return self.trainer
        engine = self.generator.engine
        if not isinstance(engine, LocalEngine):
            raise SetupError(
                f"Expected a trainer for {self.generator.name}, whose weights are behind a server, got none. Pass "
                "trainer=TRLTrainer(base) with the hub id or folder of the model that is served."
            )
        from optimizers.training.trl_trainer import TRLTrainer

        return TRLTrainer(engine.weights.folders[0], trust_remote_code=engine.trust_remote_code)

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs of SFT and of DPO, as far as the trainer tells its settings."""
        return self._training.sft_epochs, self._training.dpo_epochs

    @property
    def _training(self) -> TrainingSettings:
        settings = getattr(self.trainer, "settings", None)
        return settings if isinstance(settings, TrainingSettings) else TrainingSettings()

    def check_trainable(self) -> None:
        """Raise `SetupError` unless something trains the generator, and it can be had with what was trained.

        A trainer that has a `check()` of its own is asked too, as `TRLTrainer` is.
        """
        self.generator.check_trainable()
        if not self.generator.in_process:
            self.trainer_or_default()
        check = getattr(self.trainer, "check", None)
        if callable(check):
            check()

    def check_lengths(self, student: dspy.Module, examples: Sequence[dspy.Example]) -> None:
        """Raise `SetupError` where the generator can read none of a predictor's inputs, or be trained on none."""
        check_lengths(student, examples, self.generator, most=self._training.max_length, only=self.only)

    def must_match_on_resume(
        self, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]
    ) -> dict[str, object]:
        """Settings in `run.json` that must be the same when a run goes on in its folder."""
        rows = [
            dspy.Example(inputs=dict(row.inputs), said=str(row.supplement), score=row.score, feedback=row.feedback)
            for row in self.logged
        ]
        return {
            "recipe": {name: value for name, value in self.recipe.recorded.items() if name not in LENGTH_OPTIONS},
            "seed": self.seed,
            **generator_settings(self.generator),
            "credit": self.credit,
            "only": None if self.only is None else sorted(self.only),
            "scope": self.scope,
            "template": None if self.template is None else asdict(self.template),
            "training": str(getattr(self.trainer, "settings", type(self.trainer).__qualname__)),
            "train": fingerprint(trainset, "trainset"),
            "val": fingerprint(valset, "valset"),
            **({"logged": fingerprint(rows)} if rows else {}),
        }

    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The expected steps of a run on so many examples."""
        from optimizers.sgt.estimate import plan_sgt  # with rich, which takes long to import

        return plan_sgt(self.recipe, train=train, validation=validation, epochs=self.epochs)

    @property
    def may_change_on_resume(self) -> dict[str, object]:
        """Settings in `run.json` that may change when a run goes on in its folder."""
        recipe = self.recipe.recorded
        return {**{name: recipe[name] for name in LENGTH_OPTIONS}, "limits": asdict(self.limits)}
