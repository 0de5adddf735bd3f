"""When not to speak: how new an input is, what a gate lets through, and what a gated call sends."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import re
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DOUBLES
from runtime_fixtures import tiny_generator, tiny_model
from scripted import ScriptedEngine, ScriptedGenerator, reply

from sgt_modules import SupplementedPredictor, supplement
from sgt_modules.episode import Call, episode
from sgt_modules.gate import Gate
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.wrapping import with_generator

HINT = Supplement("answer", "Add one.")
TRAINED = Gate.of(["red car", "red boat", "Red ship!"])


@pytest.mark.parametrize(
    ("prompt", "novelty"),
    [
        ("red car", 0.0),
        ("RED, car?", 0.0),
        ("red train", 1.0),
        ("red car train", 2 / 3),
        ("red car boat train", 1 / 2),
        ("red car plane train", 4 / 5),
        ("train train car", 2 / 3),
        ("red", 0.0),
        ("", 0.0),
    ],
)
def test_novelty_is_the_weighed_share_of_unseen_words(prompt: str, novelty: float) -> None:
    """Three inputs: `red` stands in all of them, the others in one. Weights by hand, log((1 + 3) / (1 + count)):
    red log(4/4) = 0, car, boat and ship log(4/2) = log 2, an unseen word log(4/1) = 2 log 2.
    `red car plane train` is then 4 log 2 of 5 log 2.
    """
    assert TRAINED.novelty(prompt) == pytest.approx(novelty)


@given(st.text(), st.lists(st.text(), max_size=4))
def test_novelty_lies_between_nothing_and_all_and_a_seen_input_is_never_novel(prompt: str, inputs: list[str]) -> None:
    assert 0 <= Gate.of(inputs).novelty(prompt) <= 1
    assert Gate.of([*inputs, prompt]).novelty(prompt) == 0


CHINESE: dict[str, list[str]] = json.loads((DOUBLES / "chinese_questions.json").read_text("utf-8"))
"""Sums for school in words: twenty for training and ten alike; and ten questions of other kinds."""


def test_chinese_questions_like_the_training_ones_are_less_new_than_all_others() -> None:
    gate = Gate.of(CHINESE["training"])
    alike, unrelated = ([gate.novelty(each) for each in CHINESE[name]] for name in ("alike", "unrelated"))
    assert max(alike) + 0.3 < min(unrelated)
    assert sum(alike) / len(alike) < 0.4


@pytest.mark.parametrize(
    ("trained", "alike", "unlike"),
    [
        ("東京の天気はどうですか", "東京の天気は", "株価が下落した理由"),
        ("ราคาข้าวเท่าไหร่", "ราคาข้าว", "เมืองหลวงอยู่ไหน"),
    ],
    ids=["Japanese", "Thai"],
)
def test_a_part_of_a_text_without_spaces_is_known_and_another_text_is_new(
    trained: str, alike: str, unlike: str
) -> None:
    gate = Gate.of([trained, "1 2", "3"])
    assert gate.novelty(alike) == 0.0
    assert gate.novelty(unlike) > 0.8


def test_pairs_of_characters_are_the_words_of_chinese_and_words_those_of_spaced_scripts() -> None:
    assert Gate.of(["東京tower 2 Über-x, 水 안녕 дом", "京都市"]).seen == {
        "2": 1,
        "tower": 1,
        "x": 1,
        "über": 1,
        "дом": 1,
        "안녕": 1,
        "東京": 1,
        "水": 1,
        "京都": 1,
        "都市": 1,
    }


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=200))
def test_words_of_spaced_text_are_runs_of_letters_digits_and_underscores(text: str) -> None:
    assert set(Gate.of([text]).seen) == set(re.findall(r"\w+", text.casefold()))


def test_the_thresholds_themselves_are_let_through() -> None:
    gate = Gate.of(["red car", "red boat", "red ship"], most_novel=1 / 2, least_sure=-0.5)
    assert (gate.familiar("red car boat train"), gate.familiar("red car train")) == (True, False)
    assert (gate.sure(-0.5), gate.sure(-0.6)) == (True, False)


def test_a_gate_without_thresholds_and_one_that_saw_nothing_let_everything_through() -> None:
    assert TRAINED.familiar("train")
    assert TRAINED.sure(-1e6)
    assert Gate.of([], most_novel=0.0).familiar("train")


@pytest.mark.parametrize("gate", [TRAINED, Gate.of(["ünits"], most_novel=0.25, least_sure=-0.75)])
def test_a_gate_is_saved_as_json_and_comes_back_the_same(gate: Gate) -> None:
    assert Gate.load_state(json.loads(json.dumps(gate.dump_state(), allow_nan=False))) == gate


def test_copies_of_a_program_share_its_gate() -> None:
    assert copy.deepcopy(TRAINED) is TRAINED


def gated(generator: ScriptedGenerator) -> SupplementedPredictor:
    """A predictor whose gate has seen one question and lets through what brings no new word."""
    predictor = SupplementedPredictor("question -> answer", generator=generator, role="self")
    known = COMPACT.write(predictor.signature, {"question": "What is 2+2?"}, role="self")
    predictor.gate = Gate.of([known], most_novel=0.0, least_sure=-1.0)
    return predictor


def asked(predictor: dspy.Module, question: str, *, use_async: bool) -> tuple[list[object], list[Call]]:
    """The requests of the actor, and the calls that were noted."""
    lm = ScriptedEngine(lambda _: reply(answer="4")).lm()
    with dspy.context(lm=lm), episode(None) as run:
        asyncio.run(predictor.acall(question=question)) if use_async else predictor(question=question)
    return [entry["messages"] for entry in lm.history], run.calls


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_a_familiar_input_and_a_sure_generator_are_let_through(use_async: bool) -> None:
    predictor = gated(ScriptedGenerator(lambda _: HINT, logprob=lambda _: -1.0))
    ([messages], [call]) = asked(predictor, "What is 2+2?", use_async=use_async)
    assert HINT.render() in str(messages)
    assert (call.supplement, call.logprob, call.gated) == (HINT, -1.0, False)


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_an_unlike_input_sends_the_plain_request_and_the_generator_is_not_even_asked(use_async: bool) -> None:
    generator = ScriptedGenerator(lambda _: HINT)
    predictor = gated(generator)
    plain, _ = asked(dspy.Predict("question -> answer"), "Why do cats purr?", use_async=use_async)
    requests, [call] = asked(predictor, "Why do cats purr?", use_async=use_async)
    assert requests == plain
    assert generator.asked == []
    assert (call.supplement, call.gated) == (SILENCE, True)


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_an_unsure_generator_s_supplement_is_dropped_and_the_plain_request_is_sent(use_async: bool) -> None:
    predictor = gated(ScriptedGenerator(lambda _: HINT, logprob=lambda _: -1.5))
    plain, _ = asked(dspy.Predict("question -> answer"), "What is 2+2?", use_async=use_async)
    requests, [call] = asked(predictor, "What is 2+2?", use_async=use_async)
    assert requests == plain
    assert (call.supplement, call.logprob, call.gated) == (SILENCE, -1.5, True)


def test_a_generator_that_chose_silence_is_not_gated() -> None:
    predictor = gated(ScriptedGenerator(lambda _: SILENCE, logprob=lambda _: -9.0))
    _, [call] = asked(predictor, "What is 2+2?", use_async=False)
    assert not call.gated


def test_a_supplement_that_somebody_chose_passes_the_gate() -> None:
    predictor = gated(ScriptedGenerator(lambda _: HINT))
    engine = ScriptedEngine(lambda _: reply(answer="4"))
    with dspy.context(lm=engine.lm()), episode({"self": HINT}) as run:
        predictor(question="Why do cats purr?")
    predictor(question="Why do cats purr?", supplement="My own.", lm=engine.lm())
    assert HINT.render() in engine.asked[0]
    assert "My own." in engine.asked[1]
    assert not run.calls[0].gated


def test_a_program_keeps_its_gate_where_it_is_copied_saved_and_loaded_and_drops_it_for_another_generator(
    tmp_path: Path,
) -> None:
    gate = Gate.of(["how many red cars"], most_novel=0.25, least_sure=-math.inf)
    generator = tiny_generator(tiny_model(tmp_path / "tiny"))
    program = supplement(dspy.ChainOfThought("question -> answer"), generator=generator, gate=gate)
    assert program.deepcopy().predict.gate is gate
    program.save(tmp_path / "program.json")
    bare = supplement(dspy.ChainOfThought("question -> answer"), generator=generator)
    assert bare.predict.gate is None
    bare.load(tmp_path / "program.json")
    assert bare.predict.gate == gate
    assert with_generator(program, generator).predict.gate is None
