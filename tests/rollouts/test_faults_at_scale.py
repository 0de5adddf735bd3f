"""2,000 calls, a tenth of them failing in mixed ways: the run completes, and no reward is other than without faults."""

from __future__ import annotations

import pytest
from bench_faults import chaos
from dspy.clients import execution

pytestmark = pytest.mark.slow


def test_a_tenth_of_the_calls_failing_changes_no_reward_and_no_outage_is_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "_delay", lambda problem, attempt: 0.0)
    found = chaos(2000)
    assert (found.outages_scored, found.rewards_changed) == (0, 0)
    assert 150 < found.failing < 250
    assert 0 < found.failing_for_good <= found.without_reward < found.failing
