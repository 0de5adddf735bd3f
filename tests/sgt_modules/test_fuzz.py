"""Hostile bytes, in small numbers (`fuzz.py` takes millions), and what such runs have found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dspy
import fuzz
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgt_modules import SupplementGenerator
from sgt_modules.errors import SavedStateError
from sgt_modules.gate import Gate
from sgt_modules.kinds import parse
from sgt_modules.predictor import SupplementedPredictor
from sgt_modules.prompts import Template
from sgt_modules.safety import harmless
from sgt_modules.saving.redaction import redact
from sgt_modules.saving.state_file import lies_within

GENERATOR, _ = fuzz.own_state()
GATE = {"seen": {"red": 1}, "inputs": 2, "most_novel": 0.5, "least_sure": -2.0}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_mutated_inputs_are_taken_or_refused(name: str, tmp_path: Path) -> None:
    inputs = {"store": 12, "statefile": 150}.get(name, 1000)
    assert fuzz.fuzzed(name, inputs, 1, tmp_path)["findings"] == 0


def test_a_target_that_breaks_or_hangs_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(content: bytes) -> object:
        raise LookupError

    def hangs(content: bytes) -> object:
        while True:
            time.sleep(0.01)

    for read in (breaks, hangs):
        monkeypatch.setitem(fuzz.TARGETS, "reply", lambda room, read=read: fuzz.Target([b"x"], read, (ValueError,)))
        monkeypatch.setattr(fuzz, "SECONDS", 0.1)
        assert fuzz.fuzzed("reply", 2, 0, tmp_path)["findings"] == 2


@given(st.text())
def test_any_reply_is_a_supplement_that_forges_no_marker(reply: str) -> None:
    shown = harmless(parse(reply).render(), ["question", "answer"])
    assert not any(marker in shown for marker in ("[[ ##", "<|im_start|>", "</answer>"))


@given(st.dictionaries(st.sampled_from([*GENERATOR]), JSON))
def test_any_state_of_a_generator_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        generator = SupplementGenerator.from_state({**GENERATOR, **changes})
    except SavedStateError:
        return
    assert generator.max_new_tokens >= 1


@given(JSON | st.dictionaries(st.sampled_from([*GATE]), JSON).map(lambda changes: {**GATE, **changes}))
def test_any_state_of_a_gate_is_taken_or_refused(state: Any) -> None:
    try:
        gate = Gate.load_state(state)
    except SavedStateError:
        return
    assert 0.0 <= gate.novelty("how many red goats") <= 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", None),
        ("adapter", 3),
        ("adapter", "../elsewhere"),
        ("adapter", "./\0"),
        ("revision", []),
        ("dtype", {}),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("temperature", -1),
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("max_new_tokens", 10**400),
        ("max_prompt_tokens", 0),
    ],
)
def test_a_generator_s_state_of_a_wrong_kind_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SavedStateError, match=f"'{name}'|leads out"):
        SupplementGenerator.from_state({**GENERATOR, name: value})


@pytest.mark.parametrize("lm", [None, [], "openai/m", {}, {"model": 3}, {"model": "openai/m", "engine": "none such"}])
def test_an_endpoint_s_state_that_is_no_lm_s_is_refused(lm: object) -> None:
    own = {name: GENERATOR[name] for name in ("temperature", "max_new_tokens", "prompt", "max_prompt_tokens")}
    with pytest.raises(SavedStateError, match="Expected") as refused:
        SupplementGenerator.from_state({"lm": lm, "adapter_sha256": None, **own})
    assert "without" not in str(refused.value)


def test_a_gate_that_saw_a_word_more_often_than_inputs_is_refused() -> None:
    with pytest.raises(SavedStateError, match="'red'"):
        Gate.load_state({**GATE, "seen": {"red": 3}})


@pytest.mark.parametrize("state", ["x", [1], {"text": 3}, {"description": None}])
def test_a_template_s_state_of_a_wrong_kind_is_refused(state: object) -> None:
    with pytest.raises(SavedStateError):
        Template.of_state(state)


def test_a_state_sets_no_attribute_that_no_predictor_saves() -> None:
    predictor = fuzz.wrapped()
    assert isinstance(predictor, SupplementedPredictor)
    plain = dspy.Predict(predictor.signature).dump_state()
    state = {**plain, "generator": GENERATOR, "forward": "gone", "role": 3, "callbacks": None}
    loaded = predictor.load_state(state)
    assert callable(loaded.forward)
    assert (loaded.role, loaded.callbacks) == ("self", [])


def test_a_generator_s_state_is_refused_before_anything_is_loaded() -> None:
    predictor = fuzz.wrapped()
    predictor.demos = [{"question": "kept"}]
    plain = dspy.Predict(predictor.signature).dump_state()
    state = {**plain, "demos": [], "generator": {**GENERATOR, "dtype": 3}}
    with pytest.raises(SavedStateError):
        predictor.load_state(state)
    assert predictor.demos == [{"question": "kept"}]


@pytest.mark.parametrize(
    "text",
    [
        "x" + "\n" * 100_000 + "x",
        "sk-" * 50_000,
        "eyJ-" * 50_000,
        "<" * 100_000,
        "bearer " * 30_000,
        "api_key=" * 30_000,
    ],
)
def test_long_texts_take_no_longer_than_they_are_long(text: str) -> None:
    began = time.process_time()
    harmless(parse(text).render(), ["question"])
    redact(text)
    assert time.process_time() - began < 2.0


def test_links_in_a_circle_lie_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert not lies_within(tmp_path / "loop", tmp_path)
