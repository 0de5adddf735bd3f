"""Builds the teleprompter that the options of `sgt compile` and `sgt estimate` name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    from optimizers.core.reward import Metric
    from optimizers.observe.tracking import TrackerName
    from optimizers.sgt.nearest.teleprompter import NearestWinner
    from optimizers.sgt.recipe import Auto, Recipe
    from optimizers.sgt.teleprompter import SGTTeleprompter
    from optimizers.training.trl_trainer import TRLTrainer
    from sgt_modules.generator import GeneratorLike

MethodName = Literal["sgt", "nearest_winner"]
"""What compiles a program: a generator that is trained, or a table of winners; as contenders are named."""

AlgorithmName = Literal["dpo", "grpo"]
"""Equal to `optimizers.core.stages.Algorithm`; repeated here because options must not import what is heavy."""

NO_GENERATOR = "none"
"""The name of no generator, where a log alone is looked up."""


class RunWords(TypedDict, total=False):
    """The options of `RunOptions` that the commands take."""

    seed: int
    num_threads: int | None
    log_dir: Path | None
    max_actor_calls: int | None
    max_cost_usd: float | None
    max_seconds: float | None
    report_to: list[TrackerName]
    display_progress: bool | None


@dataclass(frozen=True, slots=True)
class Method:
    """What `--method`, `--algorithm`, `--auto` and `--rounds` say, and the names of the generator and its server."""

    name: MethodName
    algorithm: AlgorithmName
    auto: Auto
    rounds: int | None
    generator: str
    generator_at: str

    def __post_init__(self) -> None:
        if self.name == "nearest_winner" and self.algorithm != "dpo":
            raise SetupError(
                f"Expected --algorithm {self.algorithm} with --method sgt, got --method nearest_winner, which trains "
                "nothing. Leave one of them out."
            )

    @property
    def recipe(self) -> Recipe:
        """The recipe of this size and algorithm, with this number of rounds.

        >>> Method("sgt", "grpo", "light", 3, "embedded", "").recipe.rounds
        3
        """
        from optimizers.sgt.recipe import Recipe

        return replace(Recipe.auto(self.auto).with_rounds(self.rounds), algorithm=self.algorithm)

    def teleprompter(self, metric: Metric, **options: Unpack[RunWords]) -> SGTTeleprompter | NearestWinner:
        """Return the teleprompter; raise `SetupError` for a generator that cannot be named so."""
        if self.name == "nearest_winner":
            from optimizers.sgt.nearest.teleprompter import NearestWinner

            writer = _load_writer(self.generator, self.generator_at)
            return NearestWinner(metric, writer, auto=self.auto, recipe=self.recipe, **options)
        from optimizers.sgt.teleprompter import SGTTeleprompter

        model, trainer = _load_trainable(self.generator, self.generator_at)
        return SGTTeleprompter(metric, model, trainer=trainer, auto=self.auto, recipe=self.recipe, **options)


def _load_trainable(name: str, at: str) -> tuple[GeneratorLike, TRLTrainer | None]:
    """Return the generator, behind a server if `at` names one, and a trainer for that one or the embedded one.

    The late imports save others the ten seconds of TRL.
    """
    generator = _load_generator(name, at)
    if at:
        from optimizers.training.trl_trainer import TRLTrainer

        return generator, TRLTrainer(name)
    if name != "embedded":
        return generator, None
    from optimizers.training.embedded import embedded_trainer

    return generator, embedded_trainer()


def _load_writer(name: str, at: str) -> GeneratorLike | None:
    """Return a generator that is never trained: also an LM of a provider; None for the name `none`."""
    if name == NO_GENERATOR:
        return None
    if at or not _names_provider(name):
        return _load_generator(name, at)
    from sgt_modules.lms import check_lm, lm_named

    lm = lm_named(name)
    check_lm(lm)
    return lm


def _load_generator(name: str, at: str) -> GeneratorLike:
    if at:
        from sgt_modules.remote.server_use import ServedModel, served_generator

        return served_generator(ServedModel.parse(name, at))
    return named_generator(name)


def named_generator(name: str) -> GeneratorLike:
    """Return the generator that an option names: the embedded one, or the hub id or folder as it is."""
    from sgt_modules.embedded import embedded_generator

    return embedded_generator() if name == "embedded" else name


def _names_provider(name: str) -> bool:
    """Whether a name is a provider's model, as `openai/gpt-4.1-mini` is, and no folder or model of the hub.

    >>> _names_provider("openai/gpt-4.1-mini"), _names_provider("Qwen/Qwen3-1.7B"), _names_provider("./openai/mine")
    (True, False, False)
    """
    import litellm

    provider, _, model = name.partition("/")
    return bool(model) and provider in litellm.provider_list and not Path(name).is_dir()
