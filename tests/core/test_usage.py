"""Usage adds up by role, is never negative, and keeps the keys of its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from optimizers.comparison.outcomes import dump_usage, read_usage
from optimizers.core.usage import RunUsage, Usage, WorkSeconds

_COUNTS = st.integers(0, 10**9)
_SECONDS = st.floats(0, 1e6).map(lambda number: round(number, 3))
USAGES = st.builds(Usage, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _COUNTS)
SECONDS = st.builds(WorkSeconds, _SECONDS, _SECONDS, _SECONDS, _SECONDS)


@given(USAGES, USAGES)
def test_a_difference_is_what_was_added_and_never_below_zero(one: Usage, other: Usage) -> None:
    assert one + other - other == one
    assert one - (one + other) == Usage()


@given(USAGES, USAGES, SECONDS)
def test_spent_json_is_read_as_it_was_written(actor: Usage, generator: Usage, seconds: WorkSeconds) -> None:
    spent = RunUsage(replace(actor, runs=0, seconds=0.0), Usage(0, *_counts(generator)), seconds=seconds)
    assert list(spent.content) == [
        *("actor_calls", "actor_in", "actor_out", "generator_calls", "generator_in", "generator_out"),
        *("sampling", "acting", "training", "cost", "total"),
    ]
    assert RunUsage.read(spent.content) == spent


@given(USAGES, USAGES, USAGES, _SECONDS)
def test_a_comparison_s_usage_is_read_as_it_was_written(
    actor: Usage, generator: Usage, proposer: Usage, seconds: float
) -> None:
    used = RunUsage(actor, generator, proposer, WorkSeconds(total=seconds)) / 2
    content = dump_usage(used)
    assert list(content) == [
        *("actor_calls", "actor_in", "actor_out", "proposer_calls", "proposer_in", "proposer_out"),
        *("generator_in", "generator_out", "usd", "seconds"),
    ]
    assert dump_usage(read_usage(content, Path("outcome.json"))) == content


def _counts(usage: Usage) -> tuple[int, int, int]:
    return usage.calls, usage.tokens_in, usage.tokens_out
