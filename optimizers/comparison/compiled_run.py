"""A program that SGT compiled, opened again: its stages on any examples, under any actor, nothing paid twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import dspy

from optimizers.comparison.interventions import Told
from optimizers.core.events import Reporter
from optimizers.core.fingerprints import describe_scope, scope_of
from optimizers.core.records import Candidate, Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.reward import Metric, Scorer
from optimizers.core.run_folder import RunFolder
from optimizers.core.safe_reading import read_entry
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator, Scored
from optimizers.rollouts.queries import query_of
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import supplement
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import KINDS, Kind
from sgt_modules.prompts import Template
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.wrapping import with_generator


@dataclass(frozen=True)
class FinishedRun:
    """A compile's result, the program it was for with a supplement at each of its places, and the run's store.

    What is found out here is kept in that store under a run of its own, so that the compile's spending stays its own;
    what the compile paid for is known.
    """

    result: SGTResult
    student: dspy.Module
    wrapped: dspy.Module
    metric: Metric
    store: RolloutStore
    kinds: Mapping[str, Kind]
    num_threads: int | None
    view: Reporter
    version: str = ""

    @classmethod
    @contextmanager
    def opened(
        cls, program: dspy.Module, student: dspy.Module, metric: Metric, *, num_threads: int | None, view: Reporter
    ) -> Iterator[FinishedRun]:
        """`program` is what `SGTTeleprompter.compile` returned for `student`; raises `SetupError` for another."""
        result = getattr(program, "detailed_results", None)
        if not isinstance(result, SGTResult):
            raise SetupError(
                f"Expected a program that SGTTeleprompter compiled, got {type(program).__name__} without its "
                "detailed_results, which a saved file does not hold. Compile it again with the same log_dir: it "
                "costs nothing."
            )
        result, folder = result_of(program), RunFolder(result.log_dir)
        known = folder.read("run.json") or {}
        asked = cast("dict[str, Any]", read_entry(known, "settings", dict, {}, file=folder.path / "run.json"))
        template = asked.get("template")
        wrapped = supplement(
            student,
            generator=result.generator,
            only=asked.get("only"),
            scope=asked.get("scope"),
            template=None if template is None else Template.of_state(template),
        )
        kinds = cast("dict[str, list[str]]", (asked.get("recipe") or {}).get("kinds") or {})
        table = {name: Kind(name, *texts) for name, texts in kinds.items()} or KINDS
        with RolloutStore(result.store or folder.store, run=f"{known.get('id', '')} controls") as store, view.run():
            code = cast("dict[str, Any]", (known.get("free") or {}).get("code") or {})
            version = str(code.get("version", ""))
            yield cls(result, student, wrapped, metric, store, table, num_threads, view, version)

    @contextmanager
    def on(
        self, split: str, examples: Sequence[dspy.Example], *, lm: dspy.LM | None = None, again: int = 0
    ) -> Iterator[Evaluator]:
        """Inside, stages are scored on these examples, by the program's own LMs or by `lm` in their place.

        `again` (from 1) numbers a repetition, which is paid for anew: DSPy's cache is not asked, nor is what the store
        knows of other repetitions. Then the examples are not run without supplements.
        """
        acting = dspy.settings.lm if lm is None else lm
        program = with_generator(self.wrapped, self.result.generator)
        for predictor in program.predictors():
            if predictor.lm is not None:
                predictor.lm = _anew(predictor.lm if lm is None else lm, again)
        with dspy.context(lm=_anew(acting, again)):
            scope = scope_of(program, self.metric, version=self.version, again=again)
            self.store.describe(scope, describe_scope(self.student, self.metric))
            actor = RolloutEngine(
                program, Scorer(self.metric), self.store, scope, num_threads=self.num_threads, version=self.version
            )
            evaluator = Evaluator(actor, split, examples, self.view)
            if not again:
                evaluator.without()
            yield evaluator

    def score(self, stage: str, evaluator: Evaluator) -> Scored:
        """A stage of the compile, as it was validated."""
        if stage == "none":
            return Scored(evaluator.unaided, [[] for _ in evaluator.examples])
        if stage == "student":
            runs = evaluator.live("student", self.student)
            return Scored([run.rollout for run in runs], [run.calls for run in runs])
        generator = self.result.generator_of(stage)
        assert generator is not None
        return evaluator.score(stage, generator, self.result.stage(stage).gate)


def _anew(lm: Any, again: int) -> Any:
    """The LM itself; for a repetition, one that DSPy's cache does not answer for."""
    return lm.copy(cache=False) if again and isinstance(lm, dspy.BaseLM) else lm


def given(evaluator: Evaluator, name: str, told: Told, bare: Sequence[Rollout]) -> list[Rollout]:
    """A rollout an example, in their order: the actor under these supplements, each at its place.

    A program that calls its predictors more often than before reads nothing at the new places. An example that was
    told nothing keeps its `bare` rollout.
    """
    actor, examples = evaluator.actor, evaluator.examples
    candidates = [
        Candidate(query_of(calls[0], examples[index], index, calls), calls[0].supplement, name)
        for index, calls in enumerate(told)
        if calls
    ]
    with evaluator.reporter.stage(f"{name}: acting", len(candidates)) as view:
        found = actor.run(candidates, examples, stage=name, on_done=view.advance)
    by_index = {rollout.query.index: rollout for rollout in found}
    return [by_index.get(index, unaided) for index, unaided in enumerate(bare)]


class Asking(SupplementGenerator):
    """A generator that asks another one for one kind, whatever the prompt."""

    def __init__(self, inner: SupplementGenerator, kind: Kind) -> None:
        self.inner, self.kind = inner, kind
        self.engine, self.temperature, self.max_new_tokens = inner.engine, inner.temperature, inner.max_new_tokens
        self.prompt, self.max_prompt_tokens = inner.prompt, inner.max_prompt_tokens

    @property
    def fingerprint(self) -> str:
        """The weights', and the kind that is asked for."""
        return f"{self.inner.fingerprint} asked for {self.kind.name}"

    def draw(self, prompt: str | SampleRequest) -> Sample:
        """As the other generator's, asked for the kind."""
        return self.inner.draw(self._of_kind(self.as_request(prompt)))

    async def adraw(self, prompt: str | SampleRequest) -> Sample:
        """As `draw`."""
        return await self.inner.adraw(self._of_kind(self.as_request(prompt)))

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1024) -> Iterator[Sample]:
        """As the other generator's, asked for the kind."""
        return self.inner.samples([self._of_kind(request) for request in requests], at_once=at_once)

    def _of_kind(self, request: SampleRequest) -> SampleRequest:
        return replace(request, kind=request.kind or self.kind)
