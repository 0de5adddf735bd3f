"""House rules: what each reading answers, what a world's sentences do to its score, and what the corrector writes."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import dspy
import pytest

from sgt_modules.embedded.rules import HouseRulesWorld, RulesCorrector, RuleSizes
from sgt_modules.embedded.rules.conventions import (
    ASKED,
    BASE,
    IDLE,
    KINDS,
    Question,
    every_sentence,
    kind_of,
    parse_sentence,
    random_question,
)
from sgt_modules.embedded.rules.corrector import correct_prompt, find_kinds, improve_brief
from sgt_modules.embedded.rules.following import find_readings, follow_instructions
from sgt_modules.embedded.rules.pieces import pieces
from sgt_modules.embedded.rules.stream import stream
from sgt_modules.embedded.tokenizer import build_tokenizer

WORLD = HouseRulesWorld(seed=0, sizes=RuleSizes(train=24, validation=24, test=80))
LIST = ("fig", "pear", "lime", "date", "plum")

ANSWERS = {
    "place": ("pear", ["2", "1", "II", "second"]),
    "size": ("", ["5", "five", "V", "|||||"]),
    "presence": ("kiwi", ["no", "false", "nay", "out"]),
    "mid": ("", ["lime", "pear", "date", "fig"]),
    "far": ("", ["plum", "date", "fig", "pear"]),
    "pair": ("", ["fig and pear", "pear and lime", "fig and lime", "pear and date"]),
    "spelling": ("fig", ["fig", "FIG", "Fig", '"fig"']),
    "listing": ("", ["fig, pear, lime", "fig / pear / lime", "fig - pear - lime", "fig + pear + lime"]),
    "marking": ("fig", ["*fig*", "(fig)", "|fig|", "<fig>"]),
    "repeating": ("fig", ["fig", "fig fig", "fig fig fig", "fig, fig"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_reading_has_the_answer_worked_out_by_hand(kind: str) -> None:
    item, answers = ANSWERS[kind]
    question = Question(kind, LIST, item)
    assert [question.answer(reading) for reading in KINDS[kind].readings] == answers
    for reading, answer in zip(KINDS[kind].readings, answers, strict=True):
        for sentence in KINDS[kind].sentences_for(reading):
            assert parse_sentence(sentence) == (kind, reading)
            assert follow_instructions(f"Be polite. {sentence}", question.fruit, question.text(1)) == answer


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_known_by_its_words_and_tells_the_readings_apart(kind: str) -> None:
    rng = random.Random(kind)
    for question in (random_question(kind, rng) for _ in range(50)):
        assert {kind_of(question.text(phrasing)) for phrasing in range(2)} == {kind}
        assert len({question.answer(reading) for reading in KINDS[kind].readings}) == 4


def test_of_two_sentences_about_a_kind_the_later_holds() -> None:
    both = "Read mid as the first item. The mid item is the fourth item."
    assert find_readings(both)["mid"] == "the fourth item"


def score(world: HouseRulesWorld, instructions: str) -> float:
    """What an actor that does just as it is told would score on test."""
    right = [
        follow_instructions(instructions, each.fruit, each.question) == each.answer for each in world.splits["test"]
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_of_a_sentence_is_what_it_does_to_the_score_of_an_obedient_actor(seed: int) -> None:
    """Each kind is an eighth of the questions; four of eight are read in the house's own way."""
    world = HouseRulesWorld(seed, sizes=WORLD.sizes)
    assert score(world, BASE) == 0.5
    for sentence in every_sentence():
        assert score(world, f"{BASE} {sentence}") == pytest.approx(0.5 + 0.125 * world.truth(sentence)), sentence


def test_the_first_prompt_does_harm_and_the_right_sentences_make_everything_right() -> None:
    assert score(WORLD, WORLD.instructions) == pytest.approx(0.375)
    assert score(WORLD, " ".join(KINDS[kind].sentences_for(reading)[0] for kind, reading in WORLD.rules.items())) == 1.0


def test_splits_share_no_question_and_hold_as_many_of_each_kind() -> None:
    asked = [(each.fruit, each.question) for split in WORLD.splits.values() for each in split]
    assert len(asked) == len(set(asked)) == 128
    for split in WORLD.splits.values():
        assert set(Counter(kind_of(each.question) for each in split).values()) == {len(split) // 8}


def test_worlds_of_other_seeds_have_other_rules() -> None:
    assert len({tuple(HouseRulesWorld(seed).rules.items()) for seed in range(20)}) == 20


def test_pretraining_teaches_nothing_but_what_the_instructions_say() -> None:
    kinds: Counter[str] = Counter()
    for turns in itertools.islice(stream(5), 200):
        system, asked, answer = turns
        instructions = system.content.rpartition("your objective is: \n")[2]
        fields = [
            part.partition(" ## ]]\n")[2].strip()
            for part in asked.content.partition("\n\nRespond")[0].split("[[ ## ")[1:]
        ]
        assert f"\n{follow_instructions(instructions, *fields)}\n" in answer.content
        kinds[str(kind_of(fields[1]))] += 1
    assert set(kinds) == set(KINDS)


def test_a_prompt_of_the_world_is_at_most_sixty_tokens_and_comes_back_from_them() -> None:
    tokenizer = build_tokenizer(pieces())
    for turns in itertools.islice(stream(6), 50):
        whole = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns)
        ids = tokenizer.encode(whole, add_special_tokens=False)
        assert tokenizer.decode(ids) == whole
    said = WORLD.instructions + "".join(f" {each}" for each in IDLE[:5])
    assert len(tokenizer.encode(said, add_special_tokens=False)) <= 20


WRONG = "Question:\n  question: Name the pair.\nWritten:\n  answer: fig\n\nQuestion:\n  question: Name the mid item."


def written(brief: str, prompt: str, seeds: int = 60) -> list[list[str]]:
    """The prompts that the corrector writes with so many seeds, sentence by sentence."""
    return [WORLD.sentences(correct_prompt(brief, prompt, WRONG, random.Random(seed))) for seed in range(seeds)]


def test_the_corrector_drops_what_is_marked_as_harmful_and_keeps_the_rest() -> None:
    prompt = "Be polite. [impact +0.00 ± 0.00] Never guess. [impact -0.10 ± 0.05] Do your best. [impact +0.10 ± 0.05]"
    for sentences in written("", prompt):
        assert sentences[:2] == ["Be polite.", "Do your best."] or "Be polite." in sentences[2:]
        assert sentences.count("Never guess.") == ("Never guess." in sentences[2:])


def test_without_a_topic_it_writes_one_or_two_sentences_and_half_of_them_about_mistakes() -> None:
    new = [each for sentences in written("", BASE, 400) for each in sentences if each != BASE]
    about = Counter((parse_sentence(each) or ("idle", ""))[0] for each in new)
    share = (about["pair"] + about["mid"]) / len(new)  # .5 + .5 * .7 * 2/8 = .59
    assert 0.52 < share < 0.66
    assert set(about) == {*ASKED, "idle"}


def test_a_brief_that_names_topics_has_it_write_one_sentence_about_each() -> None:
    brief = improve_brief("Write rules.", WRONG)
    assert brief == "Write rules. Look at pairs, the mid item."
    for sentences in written(brief, f"{BASE} The pair is items one and three. [impact +0.00 ± 0.00]"):
        about = [parse_sentence(each) for each in sentences]
        assert [each[0] for each in about if each] == ["mid", "pair"]
        assert ("pair", "items one and three") not in about


def test_it_knows_the_kinds_of_the_mistakes_and_no_truth() -> None:
    assert find_kinds(WRONG) == ["pair", "mid"]
    readings = Counter(parse_sentence(sentences[-1]) for sentences in written("Look at the mid item.", BASE, 400))
    assert set(readings) == {("mid", reading) for reading in KINDS["mid"].readings}
    assert max(readings.values()) <= 2 * min(readings.values())


def test_samples_of_a_request_differ_by_their_rollout_id_and_seed_alone() -> None:
    asking = dspy.Predict("step, prompt, mistakes -> new_prompt")

    def ask(seed: int, rollout: int) -> str:
        with dspy.context(lm=RulesCorrector(seed)):
            return asking(
                step="", prompt=BASE, mistakes=WRONG, config={"rollout_id": rollout, "temperature": 1.0}
            ).new_prompt

    every = {(seed, rollout): ask(seed, rollout) for seed in range(2) for rollout in range(10)}
    assert every == {key: ask(*key) for key in reversed(every)}
    assert len(set(every.values())) >= 15
