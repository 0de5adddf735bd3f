"""Controls on a task whose answers hang on one word of the supplement: what each row must come to, by hand."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from run_folders import met
from scripted import ScriptedEngine, ScriptedGenerator, reply
from secrets_task import (
    RECIPE,
    SHIFTED,
    TRAIN,
    advice_in,
    compiled,
    needs_secret,
    number_in,
    problem,
    write_supplement,
    writer,
)
from small_compile import WORLD, gold

from optimizers.comparison import Controls, Problem, controls, pooled
from optimizers.comparison.compiled_run import OneKindGenerator
from optimizers.comparison.control_rows import ControlRow, build_control_row, measure_leakage, measure_noise
from optimizers.comparison.interventions import exchange_supplements, measure_unchanged, remove_tags, replace_words
from optimizers.comparison.noise import estimate_noise
from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult, mark_compiled, result_of
from optimizers.core.statistics import gain_interval
from optimizers.core.usage import RunUsage
from optimizers.store.rollout_store import RolloutStore
from sgt_modules import Endpoint, errors
from sgt_modules.embedded import embedded_generator, program
from sgt_modules.embedded.program import AnswerInSQL
from sgt_modules.episode import Call, Place
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import KINDS, SILENCE, Supplement

FOUND = 0.03125  # exact McNemar: 2 * (1/2)**6


def small(answers: Callable[[str], str]) -> Endpoint:
    """A small model behind a server that is only a script."""
    return Endpoint(ScriptedEngine(answers).lm("scripted/small"), publish=lambda folder: "small")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Controls, Path, ScriptedEngine]:
    """All controls of one run, in which the small model knows nothing and the second actor needs no help."""
    folder, engine = tmp_path_factory.mktemp("controls"), ScriptedEngine(needs_secret)
    generator = writer(model=small(lambda _: reply(answer="no idea")))
    better = compiled(folder, engine, generator=generator)
    second = ScriptedEngine(lambda text: reply(answer=f"answer-{number_in(text)}")).lm("scripted/second")
    with dspy.context(lm=engine.lm()):
        return (
            controls(better, problem(), shifted=SHIFTED, second_actor=second, display_progress=False),
            folder,
            engine,
        )


EXPECTED = {
    "none": (0.0, None),
    "selected": (1.0, 1.0),
    "untrained": (0.0, 0.0),
    "sft": (1.0, 1.0),
    "dpo1": (1.0, 1.0),
    "lookup": (0.0, 0.0),
    "small_model": (0.0, 0.0),
    "shuffled": (0.0, 0.0),
    **{f"always_{kind}": (float(kind == "background"), float(kind == "background")) for kind in KINDS},
    "no_tag": (1.0, 1.0),
    "filler": (0.0, 0.0),
    "second_actor_none": (1.0, None),
    "second_actor": (1.0, 0.0),
    "shifted_none": (0.0, None),
    "shifted": (1.0, 1.0),
}
"""Score and gain of each row: what tells a question's own secret helps, whatever its kind is called. A lookup finds the
secrets of other questions only."""


def test_every_control_has_its_row_in_one_order(found: tuple[Controls, Path, ScriptedEngine]) -> None:
    assert [row.name for row in found[0].rows] == list(EXPECTED)
    assert not any(row.skipped for row in found[0].rows)
    assert {row.questions for row in found[0].rows} == {6}


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items(), ids=EXPECTED)
def test_a_control_comes_to_what_its_supplements_tell(
    found: tuple[Controls, Path, ScriptedEngine], name: str, expected: tuple[float, float | None]
) -> None:
    row = found[0].row(name)
    assert (row.score, row.gain) == expected
    if row.gain is not None:
        assert row.p_none == (FOUND if row.gain else 1.0)
        low, high = row.gain_interval or (0.0, 0.0)
        assert (low > 0) == row.helps == (row.gain == 1.0)
        assert low <= 0 <= high or row.helps


@pytest.mark.parametrize(
    ("name", "p"), [("none", FOUND), ("shuffled", FOUND), ("no_tag", 1.0), ("selected", None), ("second_actor", None)]
)
def test_a_row_is_paired_with_the_selected_stage_where_both_were_asked_the_same(
    found: tuple[Controls, Path, ScriptedEngine], name: str, p: float | None
) -> None:
    assert found[0].row(name).p_selected == p


def test_a_second_call_pays_for_nothing_and_finds_the_same(found: tuple[Controls, Path, ScriptedEngine]) -> None:
    before, folder, _ = found
    engine, second = ScriptedEngine(needs_secret), ScriptedEngine(needs_secret)
    generator = writer(model=small(lambda _: pytest.fail("The small model was asked again.")))
    better = compiled(folder, engine, generator=generator)
    with dspy.context(lm=engine.lm()):
        again = controls(
            better, problem(), shifted=SHIFTED, second_actor=second.lm("scripted/second"), display_progress=False
        )
    assert (engine.asked, second.asked) == ([], [])
    assert again.content() == before.content()


def test_what_controls_cost_is_not_the_compile_s_spending(found: tuple[Controls, Path, ScriptedEngine]) -> None:
    _, folder, _ = found
    better = compiled(folder, ScriptedEngine(needs_secret), generator=writer(model=small(needs_secret)))
    with RolloutStore(folder / "rollouts.sqlite") as store:
        spent = {run: store.spent(run).calls for run in store.runs()}
    assert result_of(better).spent.actor_calls == spent.pop("run")
    assert len(spent) == 1


def test_controls_are_kept_as_json_and_print_as_a_table(found: tuple[Controls, Path, ScriptedEngine]) -> None:
    result, folder, _ = found
    assert json.loads((folder / "controls.json").read_text()) == json.loads(json.dumps(result.content()))
    line = next(line for line in str(result).splitlines() if line.strip().startswith("shuffled"))
    assert line.split()[:5] == ["shuffled", "0.000", "0.000-0.390", "+0.000", "-0.245..+0.245"]
    assert "0.0% of the supplements hold the gold answer" in str(result)
    assert "| always_background | 1.000 |" in result.to_markdown()


def test_only_what_is_asked_for_is_run_and_the_rest_is_named(tmp_path: Path) -> None:
    engine = ScriptedEngine(needs_secret)
    better = compiled(tmp_path, engine)
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["shifted", "second_actor"], repeats=1, display_progress=False)
        with pytest.raises(
            errors.SetupError, match=r"no control shuffle\. There are untrained, stages, lookup, small_model"
        ):
            controls(better, problem(), names=["shuffle"])
    assert [(row.name, row.skipped) for row in found.rows[2:]] == [
        ("second_actor", "pass second_actor, another LM"),
        ("shifted", "pass shifted, examples unlike the training examples"),
    ]
    assert found.noise is None
    assert "shifted: skipped, pass shifted" in str(found)


def test_a_generator_that_is_not_there_has_no_row_as_a_small_model(tmp_path: Path) -> None:
    class Gone(ScriptedGenerator):
        gone = False

        def check(self) -> None:
            if self.gone:
                raise errors.GeneratorNotFoundError("No weights in /nowhere.\nLook elsewhere.")

    engine = ScriptedEngine(needs_secret)
    generator = Gone(lambda prompt: write_supplement(prompt, "cot"), trained=writer(model="scripted/trained")._trained)
    better = compiled(tmp_path, engine, generator=generator)
    generator.gone = True
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["small_model"], repeats=1, display_progress=False)
    assert found.row("small_model").skipped == "No weights in /nowhere."


def test_a_small_model_without_the_answer_s_form_is_skipped_instead_of_scored_zero(tmp_path: Path) -> None:
    engine = ScriptedEngine(needs_secret)
    better = compiled(tmp_path, engine, generator=writer(model=small(lambda _: "[cot] Think first.")))
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["small_model"], repeats=1, display_progress=False)
    assert found.row("small_model").skipped == (
        "none of the 6 answers of small@scripted has the form that the program reads"
    )
    assert "small_model" not in found.scored


def test_a_run_that_selected_no_supplement_says_so_in_each_row_that_needs_one(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda text: reply(answer=f"answer-{number_in(text)}" if not advice_in(text) else "?"))
    better = compiled(tmp_path, engine)
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["shuffled", "no_tag", "filler"], display_progress=False)
    assert found.selected == "none"
    assert {row.skipped for row in found.rows[2:]} == {"the selected stage, none, has no supplements"}
    assert (found.leakage, found.noise) == (None, None)
    assert found.row("selected").gain == 0.0


def test_what_a_control_cannot_work_with_is_refused_before_anything_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    engine, other = ScriptedEngine(needs_secret), [dspy.Example(text="a").with_inputs("text")]
    with dspy.context(lm=engine.lm()):
        with pytest.raises(errors.SetupError, match="Expected kinds_on to be one of test, val, got 'train'"):
            controls(dspy.Predict("question -> answer"), problem(), kinds_on="train")  # pyright: ignore[reportArgumentType]
        with pytest.raises(errors.SetupError, match="Expected a key"):
            controls(dspy.Predict("question -> answer"), problem(), second_actor=dspy.LM("openai/gpt-4.1"))
        with pytest.raises(errors.ExampleError, match=r"cannot be called with the inputs of example 0 \(text\)"):
            controls(dspy.Predict("question -> answer"), problem(), shifted=other)
    assert engine.asked == []


def test_a_program_that_sgt_did_not_compile_is_refused_before_anything_is_paid() -> None:
    engine = ScriptedEngine(needs_secret)
    with dspy.context(lm=engine.lm()), pytest.raises(errors.SetupError, match="Compile it again with the same log_dir"):
        controls(dspy.Predict("question -> answer"), problem())
    with dspy.context(lm=engine.lm()), pytest.raises(errors.OverlappingSplitsError):
        controls(dspy.Predict("question -> answer"), problem(), shifted=TRAIN[:1])
    assert engine.asked == []


def test_leakage_is_the_share_of_supplements_with_the_answer_and_the_gain_of_the_rest(tmp_path: Path) -> None:
    """Of the six test questions two have their answer in the supplement; of the other four the secret helps three."""

    def learned(prompt: str) -> Supplement:
        number = int(number_in(prompt))
        if number in (30, 31):
            return Supplement("answer", f"Say answer-{number}.")
        return Supplement("background", "Nobody knows." if number == 32 else f"It is secret-{number} here.")

    def actor(text: str) -> str:
        return reply(answer=f"answer-{number_in(text)}") if "Say answer-" in text else needs_secret(text)

    engine = ScriptedEngine(actor)
    better = compiled(tmp_path, engine, generator=writer(learned))
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=[], repeats=1, display_progress=False)
    assert found.leakage is not None
    assert found.leakage.share == pytest.approx(2 / 6)
    assert (found.row("selected").gain, found.leakage.rest.gain) == (pytest.approx(5 / 6), 0.75)
    assert found.leakage.rest.questions == 4


class Fickle:
    """An actor that, given the secret of question 30, is right at the first and third time and wrong at the second."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        with self._lock:
            self._times[text] += 1
            time = self._times[text]
        return reply(answer="no idea") if number_in(text) == "30" and time == 2 else needs_secret(text)


def test_noise_is_seen_by_running_the_same_supplements_again(tmp_path: Path) -> None:
    """Question 30 scores 1, 0, 1 (variance 1/3; a third of its three pairs agrees), the other five always 1."""
    engine = ScriptedEngine(Fickle())
    better = compiled(tmp_path, engine)
    with dspy.context(lm=engine.lm()):
        noise = controls(better, problem(), names=[], repeats=3, display_progress=False).noise
        asked = len(engine.asked)
        assert controls(better, problem(), names=[], repeats=3, display_progress=False).noise == noise
    assert len(engine.asked) == asked
    assert noise is not None
    assert (noise.runs, noise.questions) == (3, 6)
    assert noise.within == pytest.approx(1 / 18)
    assert noise.agreement == pytest.approx(16 / 18)
    assert noise.gain == pytest.approx(17 / 18)
    assert noise.reliability == pytest.approx(0.0)  # the questions' means vary by 1/54, three times that is `within`


def test_an_actor_that_always_answers_the_same_has_no_noise(found: tuple[Controls, Path, ScriptedEngine]) -> None:
    noise = found[0].noise
    assert noise is not None
    assert (noise.within, noise.agreement, noise.reliability, noise.gain) == (0.0, 1.0, 1.0, 1.0)
    assert noise.effect is noise.corrected is None


def test_the_effect_without_noise_is_larger_by_the_variance_that_is_left() -> None:
    """Gains of the runs: (1, 0, 1, 0) and (1, 0, 1, 1). Variances 1/3 and 1/4, so 7/24 of a single run; within 1/8."""
    noise = estimate_noise([[1, 0, 1, 0], [1, 0, 1, 1]], before=[0, 0, 0, 0])
    assert noise.within == pytest.approx(1 / 8)
    assert noise.effect == pytest.approx(0.625 / (7 / 24) ** 0.5)
    assert noise.corrected == pytest.approx(0.625 / (7 / 24 - 1 / 8) ** 0.5)


def test_without_noise_nothing_is_corrected() -> None:
    noise = estimate_noise([[1, 0, 1, 0], [1, 0, 1, 0]], before=[0, 0, 0, 0])
    assert (noise.within, noise.reliability, noise.agreement) == (0, 1, 1)
    assert noise.effect == noise.corrected == pytest.approx(0.5 / (1 / 3) ** 0.5)


@pytest.mark.parametrize(("runs", "before"), [([[1.0]], [0.0]), ([[1.0], [1.0, 0.0]], [0.0]), ([[], []], [])])
def test_noise_wants_two_runs_of_the_same_questions(runs: list[list[float]], before: list[float]) -> None:
    with pytest.raises(ValueError, match="Expected two or more runs of the same questions"):
        estimate_noise(runs, before)


class TwoSteps(dspy.Module):
    """A program of two predictors: the first says something, the second answers."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.Predict("question -> thought")
        self.answer = dspy.Predict("question, thought -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, thought=self.think(question=question).thought)


def test_a_program_of_several_predictors_has_every_row_and_pays_once(tmp_path: Path) -> None:
    def actor(text: str) -> str:
        thinks = "[[ ## thought ## ]]" in text.partition("Respond with")[2]
        return reply(thought="Hm.") if thinks else needs_secret(text)

    engine, two = ScriptedEngine(actor), problem(TwoSteps())
    better = compiled(tmp_path, engine, two, generator=writer(model=small(actor)))
    second = ScriptedEngine(actor).lm("scripted/second")
    with dspy.context(lm=engine.lm()):
        found = controls(better, two, shifted=SHIFTED, second_actor=second, display_progress=False)
        asked = len(engine.asked)
        again = controls(better, two, shifted=SHIFTED, second_actor=second, display_progress=False)
    assert len(engine.asked) == asked
    assert again.content() == found.content()
    gains = {row.name: row.gain for row in found.rows}
    expected = {name: gain for name, (_, gain) in EXPECTED.items()}
    assert gains == expected | {"second_actor": 1.0}
    assert found.noise is not None
    assert (found.noise.agreement, found.noise.gain) == (1.0, 1.0)


def test_a_gated_stage_is_scored_behind_its_gate(tmp_path: Path) -> None:
    engine = ScriptedEngine(needs_secret)
    better = compiled(tmp_path, engine, recipe=replace(RECIPE, gate=True))
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["stages"], repeats=1, display_progress=False)
    assert [row.name for row in found.rows] == ["none", "selected", "sft", "dpo1", "gated"]
    assert found.selected == "gated"
    assert found.row("gated").score == found.row("selected").score


def test_a_shared_store_is_found_again(tmp_path: Path) -> None:
    engine = ScriptedEngine(needs_secret)
    better = compiled(tmp_path / "run", engine, store=tmp_path / "shared.sqlite")
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["shuffled"], repeats=1, display_progress=False)
    assert found.row("shuffled").gain == 0.0
    assert not (tmp_path / "run" / "rollouts.sqlite").exists()


def calls(*texts: str) -> list[list[Call]]:
    """One call an example; an empty text is an example that asks for no supplement."""
    return [[Call(Place("self"), "q", Supplement("cot", text))] if text else [] for text in texts]


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(lambda has: sum(has) > 1), st.integers(0, 9))
def test_an_exchange_gives_each_example_the_supplements_of_another(has: list[bool], seed: int) -> None:
    before = calls(*(f"t{number}" if asks else "" for number, asks in enumerate(has)))
    after = exchange_supplements(before, random.Random(seed))
    read = [one[0].supplement.text for one in after if one]
    assert sorted(read) == sorted(one[0].supplement.text for one in before if one)
    assert measure_unchanged(before, after) == 0.0
    assert [bool(one) for one in after] == has
    assert exchange_supplements(before, random.Random(seed)) == after


def test_a_place_that_the_other_lacks_reads_nothing() -> None:
    first = [Call(Place("self", turn), "q", Supplement("cot", f"a{turn}")) for turn in range(2)]
    second = [Call(Place("self"), "q", Supplement("cot", "b0"))]
    one, other = exchange_supplements([first, second], random.Random(0))
    assert [call.supplement for call in one] == [Supplement("cot", "b0"), SILENCE]
    assert [call.supplement for call in other] == [Supplement("cot", "a0")]


def test_one_example_cannot_exchange_its_supplements() -> None:
    with pytest.raises(ValueError, match="two or more"):
        exchange_supplements(calls("alone", ""), random.Random(0))


def test_the_tag_goes_from_both_parts_of_a_join_and_the_words_stay() -> None:
    join = Supplement("cot", "Add  them.\n[answer] It is [4], see [x](y).")
    [[call]] = remove_tags([[Call(Place("self"), "q", join)]])
    assert call.supplement.render() == "Add  them.\nIt is [4], see [x](y)."
    [[silent]] = remove_tags([[Call(Place("self"), "q", SILENCE)]])
    assert silent.supplement == SILENCE


def test_replaced_words_have_the_same_lengths_and_are_all_new() -> None:
    before = [[Call(Place("self"), "q", Supplement("cot", "Every gold\ncustomer counts twice."))]]
    [[call]] = replace_words(before, random.Random(3))
    text = call.supplement.render()
    assert [len(word) for word in text.split()] == [5, 5, 4, 8, 6, 6]
    assert text.count("\n") == 1
    assert not set(text.split()) & {"[cot]", "Every", "gold", "customer", "counts", "twice."}
    assert replace_words(before, random.Random(3)) == [[call]] != replace_words(before, random.Random(4))


def test_the_interval_of_a_gain_of_shares_is_agresti_and_min_s() -> None:
    """Of 20 questions 5 turned right, 2 wrong: 3/22 +- 1.96 sqrt(((5 + 2 + 1)/22 - (3/22)**2) / 22)"""
    before = [0.0] * 5 + [1.0] * 2 + [0.0] * 13
    after = [1.0] * 5 + [0.0] * 2 + [0.0] * 13
    half = 1.959963984540054 * ((8 / 22 - (3 / 22) ** 2) / 22) ** 0.5
    assert gain_interval(before, after) == pytest.approx((3 / 22 - half, 3 / 22 + half))
    assert gain_interval(after, before) == pytest.approx((-3 / 22 - half, -3 / 22 + half))


def test_an_interval_of_gains_that_do_not_differ_has_a_width_and_of_none_says_nothing() -> None:
    low, high = gain_interval([0.25, 0.5], [0.5, 0.75])
    assert low < 0.25 < high
    assert gain_interval([], []) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="as many scores before as after"):
        gain_interval([0.0], [])


def test_a_note_says_that_a_shuffle_changes_nothing(tmp_path: Path) -> None:
    def same(prompt: str) -> Supplement:
        return Supplement("cot", "Guess." if "cot" in prompt else "Count twice.")

    engine = ScriptedEngine(
        lambda text: reply(answer=f"answer-{number_in(text)}" if "twice" in advice_in(text) else "")
    )
    generator = ScriptedGenerator(same, trained=ScriptedGenerator(lambda _: Supplement("cot", "Count twice.")))
    better = compiled(tmp_path, engine, generator=generator)
    with dspy.context(lm=engine.lm()):
        found = controls(better, problem(), names=["shuffled"], repeats=1, display_progress=False)
    assert (found.row("shuffled").gain, found.row("shuffled").note) == (
        1.0,
        "100% of the questions have the same supplement as before",
    )


def test_the_embedded_generator_writes_supplements_untrained_and_does_not_know_the_form_of_an_answer(
    tmp_path: Path,
) -> None:
    result = SGTResult((), "none", RunUsage(), (), tmp_path, embedded_generator())
    asked = Problem(program(), WORLD.metric, WORLD.train, WORLD.val, WORLD.test)
    with dspy.context(lm=ScriptedEngine(gold).lm(), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        found = controls(
            mark_compiled(program(), result), asked, names=["small_model", "untrained"], display_progress=False
        )
    assert [(row.name, row.questions) for row in found.rows] == [
        ("none", 4),
        ("selected", 4),
        ("untrained", 4),
        ("small_model", 0),
    ]
    assert all(each.supplement for each in found.scored["untrained"])
    assert "none of the 4 answers" in found.row("small_model").skipped
    assert found.row("none").score == 1.0


@pytest.mark.parametrize("kind", ["background", "pairs"])
def test_a_generator_that_is_asked_for_a_kind_writes_it(kind: str) -> None:
    asking = OneKindGenerator(embedded_generator(), KINDS[kind])
    prompt = COMPACT.write(AnswerInSQL, WORLD.test[0].inputs().toDict())
    [sampled] = asking.sample([prompt], seeds=[0], temperature=0.0)
    assert sampled.supplement.kind == asking.draw(prompt).supplement.kind == kind
    assert asking.fingerprint != OneKindGenerator(embedded_generator(), KINDS["cot"]).fingerprint


def test_predictors_with_their_own_lm_keep_it_and_another_actor_takes_its_place(tmp_path: Path) -> None:
    own, around = ScriptedEngine(needs_secret), ScriptedEngine(lambda _: pytest.fail("DSPy's LM was asked."))
    student = dspy.Predict("question -> answer")
    student.set_lm(own.lm("scripted/own"))
    better = compiled(tmp_path, around, problem(student))
    second = ScriptedEngine(lambda text: reply(answer=f"answer-{number_in(text)}"))
    with dspy.context(lm=around.lm()):
        found = controls(
            better,
            problem(student),
            names=["second_actor"],
            second_actor=second.lm("scripted/second"),
            repeats=2,
            display_progress=False,
        )
    assert (found.row("none").score, found.row("selected").score, found.row("second_actor_none").score) == (0, 1, 1)
    assert len(second.asked) == 12
    assert student.lm.model == "scripted/own"


def scored(*scores: float | None) -> list[Rollout]:
    return [met("test", n, score) for n, score in enumerate(scores)]


def of_program(none: list[Rollout], selected: list[Rollout], again: list[Rollout], held: list[bool]) -> Controls:
    """The controls of a program whose supplements were run twice."""
    rows = [build_control_row("none", none), build_control_row("selected", selected, none=none)]
    return Controls(
        "dpo1",
        rows,
        measure_leakage(held, selected, none),
        measure_noise([selected, again], none),
        scored={"none": none, "selected": selected},
        repetitions=[again],
    )


def test_pooled_controls_are_those_of_one_program_that_was_asked_all_questions() -> None:
    """Three and two questions: of the five, two leak, and of the four with both runs one changes its answer."""
    one = of_program(scored(0, 0, 1), scored(1, 1, 1), scored(1, 0, 1), [True, False, False])
    two = of_program(scored(0, 0), scored(1, 0), scored(1, None), [False, True])
    both = pooled([one, two])
    assert (both.row("selected").score, both.row("selected").gain) == (pytest.approx(4 / 5), pytest.approx(3 / 5))
    assert both.leakage is not None
    assert both.noise is not None
    assert both.leakage.share == pytest.approx(2 / 5)
    assert (both.leakage.rest.questions, both.leakage.rest.gain) == (3, pytest.approx(2 / 3))
    assert (both.noise.runs, both.noise.questions) == (2, 4)
    assert both.noise.agreement == pytest.approx(3 / 4)
    assert both.noise.gain == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert "40.0% of the supplements hold the gold answer" in str(both)


def test_pooled_controls_lack_what_one_of_them_lacks() -> None:
    one = of_program(scored(0, 0), scored(1, 1), scored(1, 0), [True, False])
    silent = replace(one, leakage=None, noise=None, repetitions=[])
    assert (pooled([one, silent]).leakage, pooled([one, silent]).noise) == (None, None)


@pytest.mark.parametrize("width", [80, 92, 140])
def test_no_number_is_cut_on_a_terminal_of_eighty_columns(width: int) -> None:
    row = ControlRow("always_background", 0.585, (0.234, 0.789), -0.146, (-0.468, 0.213), 0.312, 1.0, 1200)
    shown = StringIO()
    Console(file=shown, width=width).print(Controls("gated", [row]))
    [line] = [line for line in shown.getvalue().splitlines() if "always" in line]
    score_interval = ["0.234-0.789"] if width > 80 else []
    assert line.split() == [
        *("always_background", "0.585", *score_interval, "-0.146", "-0.468..+0.213", ".312", "1.000", "1200")
    ]
