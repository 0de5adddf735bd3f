"""House terms: the embedded world as a task, which needs neither hub nor files."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import dspy

from optimizers.tasks.definition import Source, Task
from optimizers.tasks.rows import Pools, Split
from optimizers.tasks.splitting import Sizes
from sgt_modules.embedded import FULL, HouseTermsWorld, find_term, program

SEED = 0
"""Seed of the world; `compare_embedded` compares on one world per seed."""


@cache
def _world() -> HouseTermsWorld:
    return HouseTermsWorld(SEED)


def _load(_: Path | None) -> Pools:
    pools = Pools.of({split: _world().splits[split] for split in get_args(Split)})
    return replace(pools, origin=f"the simulated world of seed {SEED}")


def same_rows(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """Score 1.0 if the query returns the expected rows, else 0.0; see `HouseTermsWorld.metric`."""
    return _world().metric(example, prediction)


HOUSE_TERMS = Task(
    name="house_terms",
    description="Questions in a simulated company's own words, answered in SQL.",
    program=program,
    metric=same_rows,
    loader=_load,
    sizes=Sizes(train=FULL.train, val=FULL.validation, test=FULL.test),
    gold=lambda example: dspy.Prediction(sql=_world().gold_sql(example)),
    cluster=find_term,
    shows_gold=False,  # only outcomes; `sgt compare --gold` compares with gold queries
    source=Source("simulated, see sgt_modules.embedded.world", "MIT"),
)
