"""Choosing among samples: one note or none is chosen before the actor is called, in every way of calling."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from pathlib import Path

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine, ScriptedGenerator, reply

from optimizers.core.fingerprints import supplement_settings
from sgt_modules import Kind, Menu, NoteChooser, WinnerLookup, load_program, save_program, supplement, unsupplement
from sgt_modules.choosing import Choice, seed_of
from sgt_modules.embedded import embedded_generator
from sgt_modules.errors import SavedStateError, SetupError
from sgt_modules.gate import Gate
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.note_chooser import MEASURES, measure, propose
from sgt_modules.samples import Sample
from sgt_modules.wrapping import fitting_state, with_generator

ZEROS, ONES = (0.0,) * len(MEASURES), (1.0,) * len(MEASURES)
ASYNC = pytest.mark.parametrize("is_async", [False, True])


def chooser(*, silence: float = -9.0, kinds: dict[str, float] | None = None, **measures: float) -> NoteChooser:
    """A chooser with these weights and no others."""
    kinds = kinds or {}
    own = [measures.get(name, 0.0) for name in MEASURES]
    return NoteChooser(tuple(kinds), ZEROS, ONES, (0.0, silence, *own, *kinds.values()))


class SeededGenerator(ScriptedGenerator):
    """Writes another note for another seed: tagged, untagged, cut, rambling and empty ones."""

    NOTES = (
        Supplement("cot", "Add."),
        Supplement("free", "no tag at all"),
        Supplement("mistakes", "Count twice.", cut=True),
        Supplement("background", "So, well, as I was saying " * 20),
        SILENCE,
    )

    def __init__(self) -> None:
        super().__init__(lambda _: self.NOTES[0])
        self.seeds: list[int] = []

    def said(self, prompt: str, seed: int) -> Supplement:
        self.seeds.append(seed)
        return self.NOTES[seed % len(self.NOTES)]


class Calling:
    """A predictor that chooses, its actor's engine and its generator."""

    def __init__(self, best: NoteChooser, samples: int | None = None, **options: object) -> None:
        self.engine = ScriptedEngine(lambda _: reply(answer="4"))
        self.generator = SeededGenerator()
        self.program = supplement(
            dspy.Predict("question -> answer"), generator=self.generator, samples=samples, chooser=best, **options
        )

    def ask(self, question: str = "2+2?", *, is_async: bool = False) -> str:
        with dspy.context(lm=self.engine.lm()):
            if is_async:
                asyncio.run(self.program.acall(question=question))
            else:
                self.program(question=question)
        return self.engine.asked[-1]


@ASYNC
def test_the_chosen_note_is_read_and_the_actor_is_called_once(is_async: bool) -> None:
    calling = Calling(chooser(kinds={"mistakes": 3.0}), samples=30)
    assert "[mistakes] Count twice." in calling.ask(is_async=is_async)
    assert len(calling.engine.asked) == 1
    assert len(calling.generator.asked) == 30


@ASYNC
def test_silence_is_chosen_where_it_wins_most_probably(is_async: bool) -> None:
    calling = Calling(chooser(silence=1.0), samples=30)
    plain = ScriptedEngine(lambda _: reply(answer="4"))
    with dspy.context(lm=plain.lm()):
        dspy.Predict("question -> answer")(question="2+2?")
    assert calling.ask(is_async=is_async) == plain.asked[0]


def test_silence_can_be_chosen_where_no_sample_is_silent() -> None:
    notes = [Sample("Add.", kind="cot"), Sample("4", kind="answer")]
    assert not chooser(silence=1.0).choose("2+2?", notes).supplement
    assert chooser(silence=-1.0).choose("2+2?", notes).text == "Add."  # the earlier on a tie: the greedy note


def test_equal_prompts_get_equal_notes_in_both_ways_of_calling() -> None:
    first, second, third = (Calling(chooser(characters=1.0)) for _ in range(3))
    assert first.ask() == second.ask() == third.ask(is_async=True)
    assert sorted(first.generator.seeds) == sorted(second.generator.seeds) == sorted(third.generator.seeds)
    assert len(set(first.generator.seeds)) == 8  # the default number of notes
    first.ask("3+3?")
    assert len(set(first.generator.seeds)) == 15  # the greedy request has no seed of its own


def test_seeds_fit_every_server() -> None:
    assert all(0 <= seed_of("2+2?\ud800", number) < 2**31 for number in range(200))


def test_the_embedded_generator_writes_the_same_notes_again_in_threads_and_coroutines() -> None:
    generator = embedded_generator()
    choice = Choice(4, chooser(characters=0.1))
    prompt = generator.prompt_for(dspy.Signature("question -> sql"), {"question": "How many zoka customers?"})
    drawn = choice.draw(generator, prompt)
    assert drawn.supplement
    assert asyncio.run(choice.adraw(generator, prompt)).supplement == drawn.supplement
    assert drawn.text in {each.text for each in generator.samples(choice.requests(generator, prompt))}


def test_the_tokens_of_all_samples_are_counted() -> None:
    calling = Calling(chooser(), samples=5)
    with dspy.context(lm=calling.engine.lm(), track_usage=True):
        usage = calling.program(question="2+2?").get_lm_usage()
    one = len(calling.generator.asked[0].split())
    assert usage[calling.generator.name]["prompt_tokens"] == 5 * one


def test_with_one_sample_the_chooser_decides_between_the_note_and_none() -> None:
    assert "[cot] Add." in Calling(chooser(silence=-1.0), samples=1).ask()
    assert "[cot]" not in Calling(chooser(silence=1.0), samples=1).ask()


@ASYNC
def test_silence_keeps_the_draft(is_async: bool) -> None:
    quiet, loud = Calling(chooser(silence=1.0), draft=True), Calling(chooser(), draft=True)
    quiet.ask(is_async=is_async)
    assert len(quiet.engine.asked) == 1
    loud.ask(is_async=is_async)
    assert len(loud.engine.asked) == 2
    assert all("Draft of answer: 4" in asked for asked in loud.generator.asked)


def test_the_gate_decides_before_and_after_the_chooser() -> None:
    strange = Calling(chooser(kinds={"cot": 1.0}), gate=Gate.of(["how many cars"], most_novel=0.0))
    assert "[cot]" not in strange.ask()
    assert strange.generator.asked == []
    unsure = Calling(chooser(kinds={"cot": 1.0}), gate=Gate.of(["2+2?"], least_sure=0.5))
    assert "[cot]" not in unsure.ask()
    assert len(unsure.generator.asked) == 8


def test_a_supplement_of_the_callers_is_used_as_it_is() -> None:
    calling = Calling(chooser(silence=1.0))
    with dspy.context(lm=calling.engine.lm()):
        calling.program(question="2+2?", supplement=Supplement("units", "Seconds."))
    assert "[units] Seconds." in calling.engine.asked[-1]
    assert calling.generator.asked == []


def test_a_saved_program_chooses_as_before(tmp_path: Path) -> None:
    best = chooser(characters=0.01, kinds={"cot": 0.3})
    program = supplement(
        dspy.ChainOfThought("question -> sql"), generator=embedded_generator(), samples=4, chooser=best
    )
    save_program(program, tmp_path / "program.json")
    plain = supplement(dspy.ChainOfThought("question -> sql"), generator=embedded_generator())
    load_program(plain, tmp_path / "program.json")
    assert plain.predict.choice == Choice(4, best)
    assert "choice" not in supplement(dspy.Predict("a -> b"), generator=embedded_generator()).dump_state()


def test_a_state_without_a_choice_takes_it_away() -> None:
    plain = supplement(dspy.Predict("question -> answer"), generator=embedded_generator())
    choosing = supplement(plain, generator=embedded_generator(), chooser=chooser())
    assert choosing.load_state(plain.dump_state()).choice is None
    assert vars(choosing).keys() == vars(plain).keys()
    bare = dspy.Predict("question -> answer")
    choosing = supplement(bare, generator=embedded_generator(), chooser=chooser())
    assert choosing.load_state(fitting_state(choosing, bare.dump_state())).choice == Choice(8, chooser())
    assert set(fitting_state(bare, choosing.dump_state())) == set(bare.dump_state())


def test_copies_keep_the_choice_and_another_generator_does_not() -> None:
    program = Calling(chooser()).program
    assert copy.deepcopy(program).choice is program.choice
    assert program.reset_copy().choice is program.choice
    assert with_generator(program, embedded_generator()).choice is None
    assert supplement(program, generator=embedded_generator()).choice is None
    assert not hasattr(unsupplement(program), "choice")


def test_a_fingerprint_has_the_choice_only_where_there_is_one() -> None:
    one, other = Calling(chooser()).program, Calling(chooser(silence=1.0)).program
    plain = supplement(dspy.Predict("question -> answer"), generator=ScriptedGenerator(lambda _: SILENCE))
    assert supplement_settings(one)["self"] != supplement_settings(other)["self"]
    assert "choice" not in supplement_settings(plain)["self"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 8}, "Expected a NoteChooser with samples=8, got None"),
        ({"chooser": "gradient boosted"}, "Expected a NoteChooser"),
        ({"chooser": chooser(), "samples": 0}, "whole number in \\[1, 256\\], got 0"),
        ({"chooser": chooser(), "samples": True}, "whole number in \\[1, 256\\], got True"),
        ({"chooser": chooser(), "samples": 2.0}, "whole number in \\[1, 256\\], got 2.0"),
    ],
)
def test_what_cannot_choose_is_refused_before_anything_is_asked(options: dict[str, object], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        supplement(dspy.Predict("question -> answer"), generator=embedded_generator(), **options)


def test_a_menu_and_a_lookup_have_one_note_for_a_prompt() -> None:
    menu = Menu.of([Kind("refunds", text="Refunds take five days.")])
    for generator in (embedded_generator().choosing(menu), WinnerLookup()):
        with pytest.raises(SetupError, match="all samples are the same"):
            supplement(dspy.Predict("question -> answer"), generator=generator, chooser=chooser())
        one = supplement(dspy.Predict("question -> answer"), generator=generator, samples=1, chooser=chooser())
        assert one.choice == Choice(1, chooser())


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"samples": 2.5},
        {"samples": 10**6},
        {"chooser": None},
        {"chooser": {"kinds": ["cot", "cot"]}},
        {"chooser": {"kinds": [1]}},
        {"chooser": {"kinds": "cot"}},
        {"chooser": {"weights": [0.0]}},
        {"chooser": {"weights": ["0.0"] * 7}},
        {"chooser": {"weights": [math.nan] * 7}},
        {"chooser": {"weights": [math.inf] * 7}},
        {"chooser": {"weights": [True] * 7}},
        {"chooser": {"scales": [0.0] * 5}},
        {"chooser": {"scales": None}},
        {"chooser": {"means": [[0.0]] * 5}},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    state = json.loads(json.dumps(Choice(8, chooser()).dump_state()))
    assert Choice.load_state(state) == Choice(8, chooser())
    changed = {**state, **change}
    if isinstance(change.get("chooser"), dict):
        changed["chooser"] = {**state["chooser"], **change["chooser"]}
    with pytest.raises(SavedStateError):
        Choice.load_state(changed)


def test_the_measures_of_a_note() -> None:
    add, again, four = (
        Sample("Add 2.", logprob=-0.5, kind="cot"),
        Sample("Add 2.", kind="cot"),
        Sample("4", kind="free"),
    )
    first, second, silence = propose([add, again, four])
    assert first.sample is add
    assert measure("What is 2+2?", first)[:4] == [-0.5, 6.0, 0.5, pytest.approx(2 / 3)]
    assert measure("What is 2+2?", second)[2:4] == [0.0, pytest.approx(1 / 3)]
    assert measure("What is 2+2?", silence)[4] == 0.0
    assert propose([Sample("", kind="none")])[0].share == 1.0


_SAMPLES = st.lists(
    st.builds(
        Sample,
        st.sampled_from(["", "  ", "Add.", "2+2 is 4", "[cot] Add.", "é\n" * 400]),
        logprob=st.sampled_from([-0.5, 0.0, math.nan, -math.inf, math.inf, -1e300]),
        kind=st.sampled_from(["cot", "free", "none", "x"]),
        cut=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(st.sampled_from(["", "2+2?", "é add"]), _SAMPLES)
def test_any_samples_are_scored_and_one_of_them_or_none_is_chosen(prompt: str, samples: list[Sample]) -> None:
    best = chooser(silence=0.1, logprob=1.0, characters=-0.2, overlap=1.0, share=2.0, kinds={"cot": 0.5})
    scores = best.score(prompt, samples)
    assert all(0 <= score <= 1 for score in scores)
    chosen = best.choose(prompt, samples)
    assert not chosen.supplement or chosen in samples or math.isnan(chosen.logprob)
    by_note: dict[Supplement, set[float]] = {}
    for sample, score in zip(samples, scores, strict=True):
        by_note.setdefault(sample.supplement or SILENCE, set()).add(score)
    assert all(len(found) == 1 for found in by_note.values())
