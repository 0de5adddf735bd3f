"""A menu: the generator chooses among given texts, learns which to say, and nothing else reaches the actor."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import dspy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine, ScriptedTrainer, reply

from optimizers import Recipe, SGTTeleprompter
from optimizers.core.estimate import Probe
from optimizers.core.records import Checkpoint
from optimizers.core.result import result_of
from optimizers.sgt.estimate import estimate_sgt
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.embedded import SETTINGS
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules import Endpoint, Kind, LocalEngine, Menu, SupplementGenerator, supplement
from sgt_modules.embedded import HouseTermsWorld, Sizes, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import RunFolderError, SavedStateError, SetupError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.local.batching import TokenRequest
from sgt_modules.local.decoding import Decoder
from sgt_modules.samples import SampleRequest

TEXTS = {
    "refunds": "Refunds take five days. Say so.",
    "hours": "We open at nine.",
    "long": "One line.\nAnd a second one.",
}
KINDS = {name: Kind(name, text=text) for name, text in TEXTS.items()}
CLOSED = Recipe(rounds=2, kinds=KINDS, closed=True)
MENU = CLOSED.menu
READ = {supplement.render() for supplement in MENU.choices}
"""What an actor may read as its supplement."""

ASKED = [
    dspy.Example(question=f"{topic} {number}?", answer=topic).with_inputs("question")
    for topic in ("refunds", "hours")
    for number in range(4)
]
TRAIN, VAL = ASKED[::2], ASKED[1::2]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def acting(text: str) -> str:
    """An actor that knows what a question is about where the text about it stands before it."""
    return reply(answer=next((name for name in TEXTS if f"{name} " in text and f"[{name}]" in text), "?"))


class Writing(ScriptedTrainer):
    """A scripted trainer that leaves weights on disk, as an endpoint looks at them."""

    def trained(self, rows: Sequence[object], start: Checkpoint | None, output: Path, seed: int) -> Checkpoint:
        output.mkdir(parents=True, exist_ok=True)
        (output / "model.safetensors").write_text(output.name)
        return super().trained(rows, start, output, seed)


def served(script: Callable[[str], str]) -> tuple[SupplementGenerator, ScriptedEngine]:
    """A generator behind a server that writes by script, before training as after it."""
    engine = ScriptedEngine(script)
    return SupplementGenerator(
        Endpoint(engine.lm("scripted/generator"), publish=lambda path: path.name, continues=False)
    ), engine


def compiled(
    folder: Path, generator: SupplementGenerator, *, recipe: Recipe = CLOSED, **settings: object
) -> tuple[dspy.Module, ScriptedEngine, Writing]:
    actor, trainer = ScriptedEngine(acting), Writing()
    sgt = SGTTeleprompter(
        exact,
        generator,
        recipe=recipe,
        trainer=trainer,
        log_dir=folder,
        display_progress=False,
        num_threads=4,
        **settings,
    )
    student = dspy.Predict("question -> answer")
    student.set_lm(actor.lm())
    return sgt.compile(student, trainset=TRAIN, valset=VAL), actor, trainer


def read_by(actor: ScriptedEngine) -> set[str]:
    """The supplements that an actor was shown; an empty one where it was shown none."""
    marker = "[[ ## supplement ## ]]\n"
    return {text.partition(marker)[2].partition("\n\nRespond")[0].strip() for text in actor.asked}


# --- which menus there are


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (
            [Kind("refunds", "Write about refunds."), KINDS["hours"]],
            r"text for each kind .* none for refunds\. Write Kind",
        ),
        ([Kind("a", text="One."), Kind("b", text=" One. ")], "reads back as it is"),
        ([Kind("a", text="One."), Kind("b", text="One.")], "each text of a menu once, got 'One.' twice"),
        ([Kind("a", text="One."), Kind("a", text="Two.")], "each kind of a menu once, got 'a' twice"),
        ([Kind("Two Words", text="One."), KINDS["hours"]], "small letters"),
        ([Kind("free", text="One."), KINDS["hours"]], "not 'free' or 'none'"),
        ([Kind("none", text="One."), KINDS["hours"]], "not 'free' or 'none'"),
        ([Kind("a", text="<think>Hm.</think>One."), KINDS["hours"]], "thoughts"),
        ([Kind("a", text="One. [a] Two."), KINDS["hours"]], "tags of its own kind"),
        ([], "two choices or more, got only '\\[none\\]'"),
    ],
)
def test_a_recipe_whose_texts_cannot_be_told_apart_is_refused_with_what_to_do(kinds: list[Kind], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        Recipe(kinds={str(number): kind for number, kind in enumerate(kinds)}, closed=True)


def test_one_text_is_a_choice_where_the_generator_may_keep_silent_only() -> None:
    one = {"hours": KINDS["hours"]}
    assert len(Recipe(kinds=one, closed=True).menu.choices) == 2
    with pytest.raises(SetupError, match="two choices or more"):
        Recipe(kinds=one, closed=True, silence=False)


REPLIES = {
    "tagged": ("[hours] We open at nine.", "hours"),
    "untagged": ("We open at nine.", "hours"),
    "tag in bold, blanks": ("**[Hours]**  We open\nat nine. ", "hours"),
    "behind a thought": ("<think>Which?</think>[hours] We open at nine.", "hours"),
    "two lines": ("[long] One line.\nAnd a second one.", "long"),
    "said again": ("[hours] We open at nine. [hours] We open at nine. [hours] We", "hours"),
    "cut": ("[refunds] Refunds take five days. Say", None),
    "cut behind a sentence": ("[refunds] Refunds take five days.", None),
    "empty": ("", None),
    "blank": (" \n", None),
    "a tag alone": ("[hours]", None),
    "rambling": ("[hours] We open at nine. " + "And then we talk about it some more. " * 50, None),
    "a word off": ("[hours] We open at ten.", None),
    "another's text": ("[refunds] We open at nine.", None),
    "another kind": ("[answer] We open at nine.", None),
    "silence": ("[none]", None),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_server_s_reply_is_a_choice_word_for_word_or_no_supplement(name: str) -> None:
    text, kind = REPLIES[name]
    generator = served(lambda _: text)[0].choosing(MENU)
    expected = SILENCE if kind is None else KINDS[kind].given
    assert generator.draw("hours 3?").supplement == expected
    assert asyncio.run(generator.adraw("hours 3?")).supplement == expected
    [sample] = generator.sample(["hours 3?"], seeds=[0], temperature=1.0)
    assert sample.supplement == expected


@given(
    st.lists(
        st.sampled_from([*MENU.replies, *TEXTS.values(), "[", "]", "[hours]", " ", "\n", "x", "<think>"]), max_size=5
    )
    .map("".join)
    .flatmap(lambda text: st.sampled_from([text, text[:-3], text[2:]]))
    | st.text()
)
def test_whatever_a_model_writes_is_read_as_a_choice_or_as_silence(text: str) -> None:
    assert MENU.read(text) in (*MENU.choices, SILENCE)


def test_every_choice_is_read_from_its_own_reply() -> None:
    assert [MENU.read(each) for each in MENU.replies] == list(MENU.choices)


# --- how a local model chooses


SHORT = Menu.of([Kind("background", text="zoka means age above 30."), Kind("cot", text="Count the rows.")])
PROMPTS = ["Question: how many zoka customers are there?", "Count the nezu staff.", "hello"]


def by_hand(engine: LocalEngine, prompt: str, text: str) -> float:
    """The log-probability of a reply and of the end token behind it: one reading of the whole text, nothing cached."""
    ids = list(engine.encoder.encode([{"role": "user", "content": prompt}]))
    tokens = engine.tokenizer([text], add_special_tokens=False)["input_ids"][0]
    with engine._get_decoder()._model.borrow() as model, torch.inference_mode():
        scores = model(torch.tensor([[*ids, *tokens]])).logits[0].double().log_softmax(-1)
    end = max(scores[-1, end].item() for end in engine._get_decoder()._ends)
    return sum(scores[len(ids) - 1 + place, token].item() for place, token in enumerate(tokens)) + end


def test_a_local_model_takes_the_choice_that_is_likeliest_to_the_end() -> None:
    generator = embedded_generator().choosing(SHORT)
    engine = generator.engine
    assert isinstance(engine, LocalEngine)
    for prompt in PROMPTS:
        likely = [by_hand(engine, prompt, text) for text in SHORT.replies]
        for text, expected in zip(SHORT.replies, likely, strict=True):
            alone = engine.ask(SampleRequest(prompt, among=(text,)))
            assert alone.text == text
            assert alone.logprob * alone.tokens == pytest.approx(expected, abs=1e-2)
        best = SHORT.choices[max(range(len(likely)), key=likely.__getitem__)]
        assert generator.draw(prompt).supplement == best
    assert len({generator.draw(prompt).supplement for prompt in PROMPTS}) > 1


def test_the_choice_is_the_same_alone_in_a_batch_at_any_seed_and_for_coroutines() -> None:
    generator = embedded_generator().choosing(SHORT)
    alone = [generator.draw(SampleRequest(prompt, seed=5, temperature=1.0)) for prompt in PROMPTS]
    batch = generator.sample(PROMPTS, seeds=[1, 2, 3], temperature=2.0, top_p=0.3)
    assert [each.supplement for each in batch] == [each.supplement for each in alone]
    assert [asyncio.run(generator.adraw(each)).supplement for each in PROMPTS] == [each.supplement for each in alone]
    assert [each.logprob for each in batch] == pytest.approx([each.logprob for each in alone], abs=1e-3)


def test_a_decoder_whose_rows_stay_scores_a_given_reply_as_one_whose_rows_leave_does() -> None:
    engine = embedded_generator().engine
    assert isinstance(engine, LocalEngine)
    loaded = engine._get_decoder()._model
    ids = engine.encoder.encode([{"role": "user", "content": PROMPTS[0]}])
    given = [tuple(engine.tokenizer([text], add_special_tokens=False)["input_ids"][0]) for text in SHORT.replies]
    requests = [TokenRequest(ids, 0, 0.0, len(tokens) + 1, reply=tokens) for tokens in given]
    drawn = [TokenRequest(ids, 7, 1.0, 9), TokenRequest(ids, 0, 0.0, 5)]
    found = [
        Decoder(loaded, engine.tokenizer, drop_ended_rows=leaving).decode([*requests, *drawn], None)
        for leaving in (True, False)
    ]
    for request, text in zip(requests, SHORT.replies, strict=True):
        total = by_hand(engine, PROMPTS[0], text)
        assert [each[request].logprob * each[request].tokens for each in found] == pytest.approx(
            [total, total], abs=1e-2
        )
        assert [(each[request].tokens, each[request].cut) for each in found] == [(request.limit, False)] * 2
    assert [found[0][each].text for each in drawn] == [found[1][each].text for each in drawn]


def test_a_prompt_that_leaves_no_room_for_the_longest_choice_gets_no_supplement() -> None:
    generator = embedded_generator().choosing(SHORT)
    words = "zoka " * (generator.engine.context or 0)
    assert generator.draw(words).supplement == SILENCE
    [first, second] = generator.sample([words, PROMPTS[0]], seeds=[0, 0])
    assert (first.supplement, second.supplement) == (SILENCE, generator.draw(PROMPTS[0]).supplement)


def test_a_kind_with_a_text_is_never_asked_of_the_model() -> None:
    generator, engine = served(lambda _: "[cot] Think.")
    kinds = [KINDS["hours"], "cot", KINDS["refunds"]]
    found = generator.sample(["a", "b", "c"], seeds=[0, 0, 0], kinds=kinds)
    assert [each.supplement for each in found] == [
        KINDS["hours"].given,
        Supplement("cot", "Think."),
        KINDS["refunds"].given,
    ]
    assert generator.draw(SampleRequest("a", kind=KINDS["hours"])).supplement == KINDS["hours"].given
    assert asyncio.run(generator.adraw(SampleRequest("a", kind=KINDS["hours"]))).supplement == KINDS["hours"].given
    assert len(engine.asked) == 1


# --- what a compile does


def test_each_text_is_tried_once_for_each_question_and_nothing_is_sampled(tmp_path: Path) -> None:
    """8 runs without supplement, 3 texts x 4 training questions, silence free; every round tries them again for 0."""
    generator, server = served(lambda prompt: MENU.replies["hours" in prompt.partition("question: ")[2]])
    better, actor, trainer = compiled(tmp_path, generator)
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        of = {stage: store.rollouts(stage=stage) for stage in ("warm", "round 1", "round 2")}
    assert {stage: len(found) for stage, found in of.items()} == {"warm": 12, "round 1": 16, "round 2": 16}
    assert {each.source for each in of["warm"]} == {"given"}
    tried = Counter((each.query.index, each.supplement.kind) for each in of["round 2"])
    assert tried == Counter(itertools.product(range(4), [*TEXTS, "none"]))
    chosen = dict.fromkeys(("sft", "dpo1", "dpo2"), 4)
    validated = {(index, text) for index in range(4) for text in [MENU.replies["hours" in VAL[index].question]]}
    assert len(actor.asked) == 8 + 12 + len(validated)
    assert sum("question: " in text for text in server.asked) == sum(chosen.values())
    result = result_of(better)
    assert (result.stage("none").score, result.best.score, result.selected) == (0.0, 1.0, "sft")
    assert result.spent.generator_calls == sum(chosen.values())
    assert read_by(actor) <= READ
    assert sorted(row.completion for row in trainer.rows["sft"]) == [
        *["[hours] We open at nine."] * 2,
        *["[refunds] Refunds take five days. Say so."] * 2,
    ]


def test_pairs_are_between_kinds_and_their_sides_are_given_texts(tmp_path: Path) -> None:
    _, _, trainer = compiled(tmp_path, served(lambda _: "")[0])
    for stage in ("dpo1", "dpo2"):
        pairs = trainer.rows[stage]
        assert {pair.category for pair in pairs} == {"inter"}
        assert {pair.chosen for pair in pairs} | {pair.rejected for pair in pairs} <= set(MENU.replies)
        assert {pair.chosen for pair in pairs} == {KINDS[name].given.render() for name in ("refunds", "hours")}


@pytest.mark.parametrize("name", ["untagged", "cut", "empty", "rambling", "another kind"])
def test_whatever_a_server_writes_the_actor_reads_a_given_text_or_none(tmp_path: Path, name: str) -> None:
    text, kind = REPLIES[name]
    better, actor, _ = compiled(tmp_path, served(lambda _: text)[0])
    assert read_by(actor) <= READ
    result = result_of(better)
    assert result.stage("sft").score == (0.0 if kind is None else 0.5)
    [note] = [note for note in result.notes if "word for word" in note]
    assert "is behind a server, which does not say how likely each given text is" in note


TERMS = HouseTermsWorld(0, sizes=Sizes(train=16, validation=8, test=4, shifted=4, terms=4, shifted_terms=4))
MEANINGS = {term.word: Kind(term.word, text=f"{term.word} means {term.condition}.") for term in TERMS.terms}


def informed(text: str) -> str:
    """An actor that knows the schema, and of the house's words those that it is told."""
    example = next(each for split in TERMS.splits.values() for each in split if each.question in text)
    known = not example.term or f"[{example.term}] {MEANINGS[example.term].text}" in text
    return reply(sql=TERMS.gold_sql(example) if known else "SELECT 1")


@pytest.mark.slow
def test_a_local_generator_learns_which_text_to_say_and_a_loaded_program_says_the_same(tmp_path: Path) -> None:
    recipe, actor = Recipe(rounds=1, kinds=MEANINGS, closed=True), ScriptedEngine(informed)
    sgt = SGTTeleprompter(
        TERMS.metric,
        embedded_generator(),
        recipe=recipe,
        trainer=TRLTrainer(embedded_folder("generator"), replace(SETTINGS, batch_size=8)),
        log_dir=tmp_path / "run",
        display_progress=False,
    )
    with dspy.context(lm=actor.lm()):
        better = sgt.compile(program(), trainset=TERMS.train, valset=TERMS.val)
        result = result_of(better)
        assert result.best.score > result.stage("none").score
        assert not any("word for word" in note for note in result.notes)
        better.save(tmp_path / "better.json")
        loaded = supplement(program(), generator=embedded_generator())
        loaded.load(tmp_path / "better.json")
        for example in TERMS.test:
            assert loaded(**example.inputs()).sql == better(**example.inputs()).sql
    [(_, predictor)] = loaded.named_predictors()
    assert predictor.generator.menu == recipe.menu
    said = {choice.render() for choice in recipe.menu.choices}
    assert read_by(actor) <= said
    assert "[none]" not in read_by(actor)


# --- what is refused, kept and counted


def test_a_saved_menu_that_is_none_is_refused(tmp_path: Path) -> None:
    state = embedded_generator().choosing(MENU).dump_state()
    assert SupplementGenerator.from_state(state).menu == MENU
    for menu in ("refunds", [["refunds"]], [["refunds", 5]], [["refunds", "One."]], [["a", "One."], ["a", "One."]]):
        with pytest.raises(SavedStateError, match="Save the program again"):
            SupplementGenerator.from_state({**state, "menu": menu})  # pyright: ignore[reportArgumentType]
    assert "menu" not in embedded_generator().dump_state()


def test_a_generator_that_chooses_is_trained_by_a_recipe_of_given_texts_only() -> None:
    chooser = embedded_generator().choosing(MENU)
    with pytest.raises(SetupError, match=r"chooses among 4, got one that has it write\. Pass recipe=Recipe"):
        SGTTeleprompter(exact, chooser)
    fewer = Recipe(kinds={"hours": KINDS["hours"]}, closed=True)
    assert SGTTeleprompter(exact, chooser, recipe=fewer).settings.generator.menu == fewer.menu


def test_a_text_that_is_longer_than_a_reply_may_be_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    long = replace(CLOSED, kinds={**KINDS, "essay": Kind("essay", text=("We open at nine. " * 60).strip())})
    with pytest.raises(SetupError, match=r"at most max_new_tokens=128 tokens, got \d+ in '\[essay\] We open"):
        compiled(tmp_path / "run", served(lambda _: "")[0], recipe=long)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_texts_is_another_run(tmp_path: Path) -> None:
    compiled(tmp_path, served(lambda _: "")[0])
    other = replace(CLOSED, kinds={**KINDS, "hours": Kind("hours", text="We open at ten.")})
    with pytest.raises(RunFolderError, match="recipe"):
        compiled(tmp_path, served(lambda _: "")[0], recipe=other)
    _, actor, _ = compiled(tmp_path, served(lambda _: "")[0])
    assert actor.asked == []


def test_given_texts_stand_beside_kinds_that_are_written(tmp_path: Path) -> None:
    """In an open recipe a text is tried once a question in the warm start and in round 1."""
    kinds = {"hours": KINDS["hours"], "cot": Kind("cot", "Think.")}
    recipe = Recipe(rounds=1, kinds=kinds, warm_samples=2, pool_samples=1, ood_kinds=0, concat=0)
    _, _, trainer = compiled(tmp_path, served(lambda _: "[cot] Think.")[0], recipe=recipe)
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        tried = Counter((each.stage, each.source, each.supplement.kind) for each in store.iter_rollouts())
    assert tried["warm", "given", "hours"] == tried["round 1", "given", "hours"] == 4
    assert tried["warm", "predefined", "cot"] == 4
    assert [row.completion for row in trainer.rows["sft"]] == ["[hours] We open at nine."] * 2


def test_an_estimate_of_given_texts_counts_each_once_and_no_samples_of_them() -> None:
    """3 texts x 100 questions, once; validations ask the generator for 50 choices each."""
    found = estimate_sgt(CLOSED, train=100, validation=50, epochs=(3, 1), probe=None)
    counted = {stage.name: (round(stage.at_most), round(stage.samples)) for stage in found.stages}
    assert counted == {
        "none": (150, 0),
        "warm": (300, 0),
        "sft": (50, 50),
        "round 1": (0, 0),
        "dpo1": (50, 50),
        "round 2": (0, 0),
        "dpo2": (50, 50),
    }
    several = estimate_sgt(CLOSED, train=100, validation=50, epochs=(3, 1), probe=Probe(places=2.0))
    assert {stage.name: round(stage.at_most) for stage in several.stages}["round 1"] > 0


def test_a_probe_of_given_texts_tries_them_and_samples_nothing(tmp_path: Path) -> None:
    generator, server = served(lambda _: "")
    actor = ScriptedEngine(acting)
    student = dspy.Predict("question -> answer")
    student.set_lm(actor.lm())
    sgt = SGTTeleprompter(exact, generator, recipe=CLOSED, trainer=Writing(), log_dir=tmp_path, display_progress=False)
    found = sgt.estimate(student, TRAIN, VAL, probe=2)
    assert found.probe is not None
    assert (found.probe.distinct, len(actor.asked)) == (1.0, 2 + 6)
    assert not any("question: " in text for text in server.asked)


def test_the_recipe_s_own_words_for_sizes_are_those_of_given_texts() -> None:
    recipe = Recipe.auto("heavy")
    closed = replace(recipe, kinds=KINDS, closed=True)
    sizes = (closed.warm_samples, closed.pool_samples, closed.ood_kinds, closed.concat, closed.direct_samples)
    assert sizes == (1, 1, 0, 0, 4)
    assert (recipe.recorded["closed"], closed.recorded["closed"]) == (False, True)
    assert closed.recorded["kinds"]["hours"] == ["", "", "We open at nine."]
    assert recipe.recorded["kinds"]["cot"] == [recipe.kinds["cot"].instruction, recipe.kinds["cot"].example]
