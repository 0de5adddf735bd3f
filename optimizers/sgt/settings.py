"""Settings of a run of SGT, and which of them must be the same when a run goes on in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import dspy

from optimizers.core.actors import identify_actor
from optimizers.core.fingerprints import fingerprint, generator_settings
from optimizers.core.stages import ADAPTER_STAGE, STUDENT
from optimizers.core.validation import check_lengths
from optimizers.run_options import Examples, RunSettings
from optimizers.sgt.for_actors import check_for_actors
from optimizers.sgt.going_on import check_start, find_start, reads_the_same
from optimizers.sgt.logged import read_log
from optimizers.training.trainer import Trainer, TrainingSettings
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.local.engine import LocalEngine
from sgt_modules.wrapping import supplement, supplemented_predictors

if TYPE_CHECKING:
    from optimizers.core.events import Plan
    from optimizers.core.records import Checkpoint
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


def adapt_generator(generator: GeneratorLike, recipe: Recipe) -> SupplementGenerator:
    """The generator, which chooses among the recipe's texts if the recipe is closed.

    Raises `SetupError` for a generator that chooses and a recipe that has it write.
    """
    writer = SupplementGenerator.of(generator)
    if writer.menu and not recipe.closed:
        raise SetupError(
            f"Expected a recipe of given texts for {writer.name}, which chooses among {len(writer.menu.choices)}, got "
            "one that has it write. Pass recipe=Recipe(kinds=..., closed=True), or generator.choosing(Menu()) to let "
            "it write."
        )
    return writer.choosing(recipe.menu)


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
        return supplement(
            student,
            generator=self.generator,
            only=self.options.only,
            scope=self.scope,
            template=self.template,
            draft=self.recipe.draft,
        )

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
        """Epochs of SFT and of a round, as far as the trainer tells its settings."""
        training = self._training
        return training.sft_epochs, training.dpo_epochs if self.recipe.algorithm == "dpo" else training.grpo_epochs

    @property
    def _training(self) -> TrainingSettings:
        settings = getattr(self.trainer, "settings", None)
        return settings if isinstance(settings, TrainingSettings) else TrainingSettings()

    def prepare(self, student: dspy.Module, trainset: Examples, valset: Examples) -> dspy.Module:
        """Check the generator, its trainer and the log, and return the student's wrapped copy.

        A trainer that has a `check()` of its own is asked too, as `TRLTrainer` is.
        """
        self.generator.check_trainable()
        _ = self.start  # refuses weights that only a server has, before it is asked
        if not self.generator.in_process:
            self.trainer_or_default()  # refuses one behind a server without a trainer, before the server is asked
        self.generator.check()
        check_lengths(student, trainset, self.generator, most=self._training.max_length, only=self.options.only)
        wrapped = self.wrap(student)
        if self.actors:
            check_for_actors(self, student, wrapped)
        self.check_log(wrapped, trainset, valset)
        if self.recipe.algorithm == "grpo":
            self._check_grpo()
        trainer = self.trainer_or_default()  # last, as the default one takes long to import
        check = getattr(trainer, "check", None)
        if callable(check):
            check()
        if self.start is not None:
            check_start(self.start, trainer)
        return wrapped

    def check_log(self, wrapped: dspy.Module, trainset: Examples, valset: Examples) -> None:
        """Raise `SetupError` for a log that cannot be of this program and these examples."""
        log = read_log(self.logged, trainset, valset, menu=self.recipe.menu)
        if log.outcomes and (places := len(supplemented_predictors(wrapped))) != 1:
            raise SetupError(
                f"Expected logged outcomes for a program of one predictor that reads supplements, got {places}. Name "
                "the one that the log is of with only=[...], or leave logged out."
            )

    def _check_grpo(self) -> None:
        """Raise `SetupError` unless each sample is one of a group, and the trainer trains on groups."""
        if self.credit == "joint":
            raise SetupError(
                "Expected credit='isolate' with algorithm='grpo', got 'joint', where no two samples of a query are "
                "compared with the rest of the run equal. Leave credit out, or use algorithm='dpo'."
            )
        trainer = self.trainer_or_default()
        if not callable(getattr(trainer, "grpo", None)):
            raise SetupError(
                f"Expected a trainer with a method grpo, got {type(trainer).__name__} without one. Use TRLTrainer, or "
                "algorithm='dpo'."
            )

    @property
    def start(self) -> Checkpoint | None:
        """The trained adapter that the generator came with, where training starts; None for a base model."""
        return find_start(self.generator)

    def validates_start(self, student: dspy.Module) -> bool:
        """Whether the generator as it came is a stage: it is trained, and the student does not read it already."""
        return self.start is not None and not reads_the_same(student, self.wrap(student))

    def list_stages_as_they_came(self, student: dspy.Module) -> list[str]:
        """The stages that were trained before: of a student that reads supplements, and of a trained generator."""
        reads = [STUDENT] if supplemented_predictors(student) else []
        return [*reads, *([ADAPTER_STAGE] if self.validates_start(student) else [])]

    def must_match_on_resume(self, trainset: Examples, valset: Examples) -> dict[str, object]:
        """Settings in `run.json` that must be the same when a run goes on in its folder."""
        rows = [
            dspy.Example(inputs=dict(row.inputs), said=str(row.supplement), score=row.score, feedback=row.feedback)
            for row in self.logged
        ]
        return {
            "recipe": {name: value for name, value in self.recipe.recorded.items() if name not in LENGTH_OPTIONS},
            "seed": self.options.seed,
            **generator_settings(self.generator),
            "credit": self.credit,
            "only": None if self.options.only is None else sorted(self.options.only),
            "scope": self.scope,
            "template": None if self.template is None else asdict(self.template),
            "training": str(getattr(self.trainer, "settings", type(self.trainer).__qualname__)),
            "train": fingerprint(trainset, "trainset"),
            "val": fingerprint(valset, "valset"),
            **({"logged": fingerprint(rows)} if rows else {}),
            **({"grpo": str(self._training.grpo)} if self.recipe.algorithm == "grpo" else {}),
            **({"start": self.start.fingerprint} if self.start else {}),
            **({"actors": {name: identify_actor(lm) for name, lm in self.actors.items()}} if self.actors else {}),
        }

    def planned(self, student: dspy.Module, train: int, validation: int) -> Plan:
        """The expected steps of a run on so many examples."""
        from optimizers.sgt.estimate import plan_sgt  # with rich, which takes long to import

        came = self.list_stages_as_they_came(student)
        return plan_sgt(self.recipe, train=train, validation=validation, epochs=self.epochs, as_it_came=came)

    @property
    def may_change_on_resume(self) -> dict[str, object]:
        """Settings in `run.json` that may change when a run goes on in its folder."""
        recipe = self.recipe.recorded
        return {**{name: recipe[name] for name in LENGTH_OPTIONS}, "limits": asdict(self.options.limits)}
