from __future__ import annotations

import dspy
import pytest
from scripted import rollout

from optimizers.core.records import Rollout
from optimizers.rollouts.engine import parallel_map


def test_rollouts_come_in_the_positions_order_under_the_caller_s_settings() -> None:
    with dspy.context(num_threads=77):
        rollouts = parallel_map(
            lambda n: rollout(1.0, text=f"{n + dspy.settings.num_threads}"), iter([[2, 0], [1], [3]]), threads=3
        )
    assert [each.supplement.text for each in rollouts] == ["77", "78", "79", "80"]


def test_each_rollout_is_passed_on_as_it_is_done() -> None:
    done: list[Rollout] = []
    rollouts = parallel_map(lambda n: rollout(1.0, text=str(n)), iter([[1, 0]]), threads=2, on_done=done.append)
    assert done == rollouts[::-1]


def test_the_first_exception_stops_the_other_threads_and_is_raised() -> None:
    worked: list[int] = []

    def work(position: int) -> Rollout:
        worked.append(position)
        if position == 1:
            raise ValueError("one")
        return rollout(1.0)

    with pytest.raises(ValueError, match="one"):
        parallel_map(work, iter([n] for n in range(1000)), threads=1)
    assert worked == [0, 1]
