"""Opens a finished SGT run, and scores its stages on any examples with any actor; nothing is paid twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import dspy

from optimizers.comparison.interventions import SplitCalls
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import describe_scope, scope_of
from optimizers.core.records import Candidate, Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.reward import Metric, Scorer
from optimizers.core.run_folder import RunFolder
from optimizers.core.safe_reading import read_entry
from optimizers.core.stages import Stage
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator, Scored
from optimizers.rollouts.queries import query_of, with_own_prompts
from optimizers.sgt.nearest.winners import is_exploration
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import KINDS, Kind
from sgt_modules.prompts import Template
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.wrapping import with_generator


@dataclass(frozen=True)
class CompiledRun:
    """A finished SGT run: its result, its store, the student, and the student wrapped to read supplements.

    New rollouts go to the same store under a separate run, so that the usage of the SGT run stays unchanged. Rollouts
    that the SGT run paid for are reused.
    """

    result: SGTResult
    student: dspy.Module
    wrapped: dspy.Module
    metric: Metric
    store: RolloutStore
    kinds: Mapping[str, Kind]
    num_threads: int | None
    bus: EventBus
    version: str = ""
    threshold: float = 1.0

    @classmethod
    @contextmanager
    def open(
        cls, program: dspy.Module, student: dspy.Module, metric: Metric, *, num_threads: int | None, bus: EventBus
    ) -> Iterator[CompiledRun]:
        """Opens the run of `program`, which `SGTTeleprompter.compile` returned for `student`.

        Raises `SetupError` for a program that SGT did not compile.
        """
        result = getattr(program, "detailed_results", None)
        if not isinstance(result, SGTResult):
            raise SetupError(
                f"Expected a program that SGTTeleprompter compiled, got {type(program).__name__} without its "
                "detailed_results, which a saved file does not hold. Compile it again with the same log_dir: it "
                "costs nothing."
            )
        result, folder = result_of(program), RunFolder(result.log_dir)
        known = folder.read("run.json") or {}
        settings = cast("dict[str, Any]", read_entry(known, "settings", dict, {}, file=folder.path / "run.json"))
        template = settings.get("template")
        recipe = cast("dict[str, Any]", settings.get("recipe") or {})
        wrapped = supplement(
            student,
            generator=result.generator,
            only=settings.get("only"),
            scope=settings.get("scope"),
            template=None if template is None else Template.of_state(template),
            draft=bool(recipe.get("draft", False)),
        )
        kinds = cast("dict[str, list[str]]", recipe.get("kinds") or {})
        table = {name: Kind(name, *texts) for name, texts in kinds.items()} or KINDS
        with RolloutStore(result.store or folder.store, run=f"{known.get('id', '')} controls") as store, bus.run():
            code = cast("dict[str, Any]", (known.get("free") or {}).get("code") or {})
            version = str(code.get("version", ""))
            threshold = float(recipe.get("threshold", 1.0))
            yield cls(result, student, wrapped, metric, store, table, num_threads, bus, version, threshold)

    def explored(self, evaluator: Evaluator) -> list[Rollout]:
        """Returns all rollouts of training queries that the run paid for, with the evaluator's actor and metric."""
        known = RunFolder(self.result.log_dir).read("run.json") or {}
        name = "run" if self.result.store is None else str(known.get("id", ""))  # as `Session.opened` names it
        rollouts = with_own_prompts(self.store.rollouts(evaluator.actor.scope, run=name))
        return [rollout for rollout in rollouts if is_exploration(rollout)]

    @contextmanager
    def open_split(
        self, split: str, examples: Sequence[dspy.Example], *, lm: dspy.LM | None = None, repetition: int = 0
    ) -> Iterator[Evaluator]:
        """Yields an evaluator for these examples, with the program's own LMs or with `lm` in their place.

        A `repetition` above 0 pays for all runs again: it uses neither DSPy's cache nor the rollouts of other
        repetitions, and does not run the examples without supplements.
        """
        acting = dspy.settings.lm if lm is None else lm
        program = with_generator(self.wrapped, self.result.generator)
        for predictor in program.predictors():
            if predictor.lm is not None:
                predictor.lm = _bypass_cache(predictor.lm if lm is None else lm, repetition)
        with dspy.context(lm=_bypass_cache(acting, repetition)):
            scope = scope_of(program, self.metric, version=self.version, again=repetition)
            self.store.describe(scope, describe_scope(self.student, self.metric))
            actor = RolloutEngine(
                program, Scorer(self.metric), self.store, scope, num_threads=self.num_threads, version=self.version
            )
            evaluator = Evaluator(actor, split, examples, self.bus)
            if not repetition:
                evaluator.score_unaided()
            yield evaluator

    def score(self, stage: str, evaluator: Evaluator) -> Scored:
        """Scores a stage of the run on the evaluator's examples, as on the validation set."""
        if stage == "none":
            return Scored(evaluator.unaided, [[] for _ in evaluator.examples])
        if stage == "student":
            runs = evaluator.run_live("student", self.student)
            return Scored([run.rollout for run in runs], [run.calls for run in runs])
        generator = self.result.generator_of(stage)
        assert generator is not None
        return evaluator.score(stage, generator, self.result.stage(stage).gate)


def _bypass_cache(lm: Any, repetition: int) -> Any:
    """Returns the LM; for a repetition, a copy without DSPy's cache."""
    return lm.copy(cache=False) if repetition and isinstance(lm, dspy.BaseLM) else lm


def run_with_supplements(
    evaluator: Evaluator, name: str, split: SplitCalls, unaided: Sequence[Rollout]
) -> list[Rollout]:
    """Runs each example with these supplements, each at its place; returns rollouts in the examples' order.

    Places that are not in `split` get no supplement. An example without calls keeps its rollout of `unaided`.
    """
    actor, examples = evaluator.actor, evaluator.examples
    candidates = [
        Candidate(query_of(calls[0], examples[index], index, calls), calls[0].supplement, name)
        for index, calls in enumerate(split)
        if calls
    ]
    with evaluator.bus.work(Stage.read(name), len(candidates)) as work:
        found = actor.run(candidates, examples, stage=name, on_done=work.advance)
    by_index = {rollout.query.index: rollout for rollout in found}
    return [by_index.get(index, rollout) for index, rollout in enumerate(unaided)]


class OneKindGenerator(SupplementGenerator):
    """Asks another generator for supplements of one kind only."""

    def __init__(self, inner: SupplementGenerator, kind: Kind) -> None:
        self.inner, self.kind = inner, kind
        self.engine, self.temperature, self.max_new_tokens = inner.engine, inner.temperature, inner.max_new_tokens
        self.prompt, self.max_prompt_tokens = inner.prompt, inner.max_prompt_tokens

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the other generator, with the kind."""
        return f"{self.inner.fingerprint} asked for {self.kind.name}"

    def draw(self, prompt: str | SampleRequest) -> Sample:
        """Draws a sample of the kind from the other generator."""
        return self.inner.draw(self._set_kind(self.as_request(prompt)))

    async def adraw(self, prompt: str | SampleRequest) -> Sample:
        """Draws as `draw` does, asynchronously."""
        return await self.inner.adraw(self._set_kind(self.as_request(prompt)))

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1024) -> Iterator[Sample]:
        """Draws samples of the kind from the other generator."""
        return self.inner.samples([self._set_kind(request) for request in requests], at_once=at_once)

    def _set_kind(self, request: SampleRequest) -> SampleRequest:
        return replace(request, kind=request.kind or self.kind)
