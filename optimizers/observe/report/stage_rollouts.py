"""The rollouts of a run's stages, read from its store once and kept small: equal texts are one text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from optimizers.core.records import Rollout
from optimizers.core.stages import Stage

TRAIN = "train"
"""The split of what a stage explores."""


@dataclass(frozen=True, slots=True)
class StageRollout:
    """A rollout of a stage: the question and its split, the supplement and its source, the answer and its score.

    `supplement` and `answer` are texts as a person reads them; `others` is what the program's other places read
    meanwhile; `score` is None where an outage kept the reward back.
    """

    stage: str
    split: str
    source: str
    kind: str
    query: str
    position: int
    place: str
    prompt: str
    supplement: str
    others: str
    answer: str
    score: float | None
    feedback: str
    error: str

    @property
    def explored(self) -> bool:
        """Whether it was tried to learn from; the others score a stage."""
        return self.split == TRAIN and self.source != "none"


def compact(rollouts: Iterable[Rollout]) -> Iterator[StageRollout]:
    """Each rollout as the report keeps it."""
    known: dict[str, str] = {}

    def one(text: str) -> str:
        return known.setdefault(text, text)

    for each in rollouts:
        query, reward = each.query, each.reward
        stage = Stage.read(each.stage)
        yield StageRollout(
            one(str(stage.on(""))),
            one(stage.split or TRAIN),
            one(each.source),
            one(each.supplement.kind),
            one(query.id),
            query.index,
            one(query.predictor if not query.turn else f"{query.predictor}, call {query.turn + 1}"),
            one(query.prompt),
            one(each.supplement.render()),
            one(_others(each)),
            one(answer_of(each.output)),
            None if reward is None else reward.score,
            one("" if reward is None else reward.feedback),
            one(each.error),
        )


def answer_of(output: Mapping[str, str]) -> str:
    """An output's fields as text: the value alone of a single one, otherwise a field a line.

    >>> answer_of({"sql": "SELECT 1"}), answer_of({"reasoning": "Add.", "answer": "4"})
    ('SELECT 1', 'reasoning: Add.\\nanswer: 4')
    """
    if len(output) == 1:
        return _text(next(iter(output.values())))
    return "\n".join(f"{name}: {_text(value)}" for name, value in output.items())


def first_on_split(found: Iterable[StageRollout], split: str) -> Iterable[StageRollout]:
    """Each stage's first rollout of each example on a split: of several calls, the one that stands for the program."""
    chosen: dict[tuple[str, int], StageRollout] = {}
    for each in found:
        if each.split == split:
            chosen.setdefault((each.stage, each.position), each)
    return chosen.values()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _others(rollout: Rollout) -> str:
    said = [(place, each.render()) for place, each in rollout.query.others if each]
    return "\n".join(f"{role}{f', call {turn + 1}' if turn else ''}: {text}" for (role, turn), text in said)
