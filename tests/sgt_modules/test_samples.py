"""What is asked of a generator and what comes, as one type each from the pools to the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedGenerator

from optimizers.rollouts.sampling import sample_stage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import FREE, KINDS, SILENCE, Kind, Supplement
from sgt_modules.samples import SILENT, Sample, SampleRequest

REQUESTS = [SampleRequest(f"Help with {name}.", seed, kind=KINDS["cot"]) for seed, name in enumerate("abcd")]


def scripted() -> ScriptedGenerator:
    return ScriptedGenerator(lambda prompt: Supplement("cot", f"Think of {prompt[10]}."))


@given(st.text(), st.sampled_from([FREE, "cot"]), st.booleans())
def test_a_sample_has_the_supplement_that_is_read_in_it(text: str, kind: str, cut: bool) -> None:
    supplement = Supplement(kind, text, cut=cut)
    sample = Sample("as the model wrote it", 7, 3, -0.5).read_as(supplement)
    assert (sample.supplement, sample.supplement.cut) == (supplement, cut)
    assert (sample.prompt_tokens, sample.tokens, sample.logprob) == (7, 3, -0.5)


def test_a_kind_with_a_text_is_given_and_needs_no_model() -> None:
    kind = Kind("refunds", text="Refunds take five days.")
    asked = SampleRequest("2+2?", kind=kind)
    assert (asked.given, SampleRequest("2+2?", kind=KINDS["cot"]).given) == (Sample(kind.text, kind="refunds"), None)
    generator = ScriptedGenerator(lambda prompt: pytest.fail(prompt))
    assert super(ScriptedGenerator, generator).draw(asked).supplement == kind.given
    assert SILENT.supplement == SILENCE


def test_a_resumed_stage_samples_only_what_its_store_does_not_have(tmp_path: Path) -> None:
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        first, again, new = scripted(), scripted(), list[Sample]()
        halfway = sample_stage(store, "warm", first, REQUESTS)
        begun = [next(halfway), next(halfway)]
        halfway.close()
        resumed = list(sample_stage(store, "warm", again, REQUESTS, on_new=new.append))
        assert [len(each.asked) for each in (first, again)] == [2, 2]
        assert (resumed[:2], resumed[2:]) == (begun, new)
        queries = [f"q{number}" for number in range(len(REQUESTS))]  # stores from before name no queries
        assert list(sample_stage(store, "warm", again, REQUESTS, queries=queries)) == resumed
        other = [SampleRequest(each.prompt, each.seed, each.kind, temperature=0.5) for each in REQUESTS]
        assert list(sample_stage(store, "warm", again, other)) == resumed
        assert len(again.asked) == 6
