"""Finds runs that are already in the store, so that nothing is paid twice.

A run that was scored by another metric is scored again by this one, from its stored answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

import dspy

from optimizers.core.budget import Budget
from optimizers.core.fingerprints import split_scope
from optimizers.core.records import Candidate, Rollout
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import rescore
from optimizers.rollouts.prompt_keys import NO_KEY, PromptKeys
from optimizers.rollouts.queries import query_id
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.episode import Call
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import supplemented_predictors

_Value = TypeVar("_Value")


class KnownRuns:
    """The runs of one program (`scope`) in a store.

    `on_rescored` is called with the first rollout of each run that is scored again. Scoring again stops with
    `StoppedError` once the budget is used up.
    """

    def __init__(
        self,
        program: dspy.Module,
        scorer: Scorer,
        store: RolloutStore,
        scope: str,
        *,
        budget: Budget,
        on_rescored: Callable[[Rollout], None],
    ) -> None:
        self._program, self._scorer, self._store, self._scope = program, scorer, store, scope
        self._budget, self._on_rescored, self._prompts = budget, on_rescored, PromptKeys(program)

    def find_rollout(self, candidate: Candidate, example: dspy.Example, stage: str) -> Rollout | None:
        """The rollout of a candidate; None where the store has none."""
        query = candidate.query.id
        for key in self._keys(candidate.supplement):
            known = self._store.get(self._scope, query, candidate.supplement, prompts=key)
            if known is not None:
                rollout = known.with_proposal(candidate, stage)
                self._store.reuse(rollout, self._scope, prompts=key)
                return rollout
        again = self._rescore_attempt(example, query, candidate.supplement)
        if again is None:
            return None
        rollout = again[0].with_proposal(candidate, stage)
        self._save([rollout], again[1])
        return rollout

    def find_probe(self, example: dspy.Example, index: int, stage: str) -> list[Rollout]:
        """The rollouts of an example without supplements, one for each call; empty where the store has none."""
        for key in self._prompts.all:
            find = partial(self._store.get, self._scope, supplement=SILENCE, prompts=key)
            known = self._find_of_calls(example, find)
            if known and all(self._prompts.accepts(key, each.query) for each in known):
                rollouts = [replace(each.with_index(index), stage=stage) for each in known]
                for rollout in rollouts:
                    self._store.reuse(rollout, self._scope, prompts=key)
                return rollouts
        return self._rescore_probe(example, index, stage)

    def find_live_run(
        self, program: dspy.Module, example: dspy.Example, stage: str, name: str, query: str | None = None
    ) -> tuple[list[Rollout], list[Call]] | None:
        """The rollouts and calls of a live run that was saved under `name`; None where the store has none."""
        known = self._store.get_live_run(self._scope, name, query)
        return known or self._rescore_live_run(program, example, stage, name, query)

    def add_missing(self, rollouts: Sequence[Rollout]) -> None:
        """Save outcomes from elsewhere; a stored reward is kept."""
        for each in rollouts:
            keys = self._keys(each.supplement)
            if all(self._store.get(self._scope, each.query.id, each.supplement, prompts=key) is None for key in keys):
                self._store.add(each, self._scope, prompts=self.find_key([each]))

    def find_key(self, rollouts: Sequence[Rollout]) -> str:
        """The key of the program's prompts under which the store holds a run; empty for one with a supplement."""
        if any(each.supplement for each in rollouts):
            return NO_KEY
        return self._prompts.find(each.query for each in rollouts)

    def _keys(self, supplement: Supplement) -> Sequence[str]:
        return [NO_KEY] if supplement else self._prompts.all

    def roles(self) -> list[str]:
        """The roles of the wrapped predictors, and the empty role of a run that called none of them."""
        return [*dict.fromkeys(each.role for _, each in supplemented_predictors(self._program)), ""]

    def _find_of_calls(self, example: dspy.Example, find: Callable[[str], _Value | None]) -> list[_Value]:
        """What `find` returns for each call on an example: by role, then by turn up to the first that has nothing."""
        values: list[_Value] = []
        for role in self.roles():
            for turn in itertools.count():
                value = find(query_id(example, role, turn))
                if value is None:
                    break
                values.append(value)
        return values

    @cached_property
    def _other_scopes(self) -> list[str]:
        """The scopes of the same program and LMs under other metrics."""
        program, _ = split_scope(self._scope)
        return [each for each in self._store.find_scopes(f"{program}-") if each != self._scope] if program else []

    def _rescore(self, program: dspy.Module, example: dspy.Example, rollout: Rollout) -> Rollout | None:
        if self._budget.stop_reason:
            self._budget.check()
        return rescore(program, example, rollout, self._scorer)

    def _rescore_attempt(self, example: dspy.Example, query: str, supplement: Supplement) -> tuple[Rollout, int] | None:
        """A rollout that another metric scored, scored by this one, and how many supplements its run asked for."""
        for scope, key in itertools.product(self._other_scopes, self._keys(supplement)):
            known = self._store.find_attempt(scope, query, supplement, prompts=key)
            rollout = None if known is None else self._rescore(self._program, example, known[0])
            if known is not None and rollout is not None:
                return rollout, known[1]
        return None

    def _rescore_probe(self, example: dspy.Example, index: int, stage: str) -> list[Rollout]:
        """Scores the answer of a run without supplements once, and gives each of its calls that reward."""
        for scope, key in itertools.product(self._other_scopes, self._prompts.all):
            find = partial(self._store.find_attempt, scope, supplement=SILENCE, prompts=key)
            known = self._find_of_calls(example, find)
            own = bool(known) and all(self._prompts.accepts(key, each.query) for each, _ in known)
            scored = self._rescore(self._program, example, known[0][0]) if own else None
            if scored is not None:
                rollouts = [
                    replace(each.with_index(index), stage=stage, reward=scored.reward, error=scored.error)
                    for each, _ in known
                ]
                self._save(rollouts, known[0][1])
                return rollouts
        return []

    def _rescore_live_run(
        self, program: dspy.Module, example: dspy.Example, stage: str, name: str, query: str | None
    ) -> tuple[list[Rollout], list[Call]] | None:
        for scope in self._other_scopes:
            known = self._store.get_live_run(scope, name, query, rewarded=False)
            scored = None if known is None else self._rescore(program, example, known[0][0])
            if known is not None and scored is not None:
                rollouts = [replace(each, stage=stage, reward=scored.reward, error=scored.error) for each in known[0]]
                self._save(rollouts, len(known[1]), live=name, calls=known[1])
                return rollouts, known[1]
        return None

    def _save(self, rollouts: Sequence[Rollout], asked: int, *, live: str = "", calls: Sequence[Call] = ()) -> None:
        """Store a run that was scored again, at no cost."""
        prompts = "" if live else self.find_key(rollouts)
        self._store.add_all(rollouts, self._scope, live=live, asked=asked, calls=calls, prompts=prompts)
        self._on_rescored(rollouts[0])
