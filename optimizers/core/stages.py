"""The stages of a run, as its rollouts and samples name them in the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Algorithm = Literal["dpo", "grpo"]
"""How a round of SGT trains: on preference pairs, or on the generator's own samples with their rewards."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a run: its name, a part of it, and the split that it runs on.

    `name` is that of a result (`none`, `sft`, `dpo1`, `grpo1`, `round1`) or of a pool (`warm`, `round 1`). `part` is
    a step within a round of SPT, such as `impact0`. `split` is empty where SGT explores the training set.

    >>> str(Stage("dpo1", split="val")), str(Stage("round1", "impact0", "train")), str(Stage("warm"))
    ('dpo1/val', 'round1/impact0/train', 'warm')
    """

    name: str
    part: str = ""
    split: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.name, self.part, self.split)))

    def on(self, split: str) -> Stage:
        """The same stage on another split."""
        return replace(self, split=split)

    @staticmethod
    def read(text: str) -> Stage:
        """The stage that `str` wrote.

        >>> Stage.read("round1/impact0/train"), Stage.read("round 2")
        (Stage(name='round1', part='impact0', split='train'), Stage(name='round 2', part='', split=''))
        """
        whole, _, split = text.rpartition("/")
        if not (whole and split):
            return Stage(text)
        name, _, part = whole.partition("/")
        return Stage(name, part, split) if name and part else Stage(whole, split=split)


NO_STAGE = Stage("")
"""The stage of work that belongs to none."""


def pool_name(round_: int) -> str:
    """The name of a stage of SGT's exploration: the warm start (0), or a round.

    >>> pool_name(0), pool_name(2)
    ('warm', 'round 2')
    """
    return f"round {round_}" if round_ else "warm"


SFT = "sft"
"""The stage of SGT's supervised fine-tuning."""


STUDENT = "student"
"""The stage of a student that reads supplements already, as it came in."""

ADAPTER_STAGE = "adapter"
"""The stage of a generator that was trained before, as it came in."""

AS_IT_CAME = (STUDENT, ADAPTER_STAGE)
"""The stages that read supplements and that the run did not train."""


def dpo_stage(round_: int) -> str:
    """The name of the stage that a round of SGT's DPO trains, from round 1 on.

    >>> dpo_stage(1)
    'dpo1'
    """
    return f"dpo{round_}"


def round_stage(round_: int, algorithm: Algorithm = "dpo") -> str:
    """The name of the stage that a round of SGT trains, from round 1 on.

    >>> round_stage(1), round_stage(2, "grpo")
    ('dpo1', 'grpo2')
    """
    return dpo_stage(round_) if algorithm == "dpo" else f"{algorithm}{round_}"


def name_rows(stage: str) -> str:
    """What the training rows of a stage of SGT are: `pairs` of DPO, else `rows`.

    >>> name_rows("sft"), name_rows("dpo1"), name_rows("grpo1")
    ('rows', 'pairs', 'rows')
    """
    return "pairs" if stage.startswith("dpo") else "rows"
