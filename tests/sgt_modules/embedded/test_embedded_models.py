"""The shipped models: their size, what the actors can read, and that the generator knows forms and no contents."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import dspy
import pytest

from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.embedded.company import SCHEMA, conditions
from sgt_modules.embedded.models import WEIGHTS, ActorName
from sgt_modules.embedded.phrasing import FREE_STYLE, PREDEFINED, Claim, phrase
from sgt_modules.embedded.program import AnswerInSQL
from sgt_modules.embedded.questions import random_ask, term_rows
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import FREE, KINDS
from sgt_modules.wrapping import supplement

WORLD = HouseTermsWorld(seed=0)
TERMS = {term.word: term for term in WORLD.terms}
ASKED = [example for example in WORLD.test if example.term][:40]


def claim(example: dspy.Example) -> Claim:
    """The truth about an example's term, to be said in any kind."""
    term = TERMS[example.term]
    rng = random.Random(example.question)
    other = rng.choice([each for each in conditions(term.table) if each != term.condition])
    gold = WORLD.gold_sql(example)
    ask = next(each for _ in range(10_000) if (each := random_ask(term.table, rng)).sql(term.condition) == gold)
    rows = term_rows(term.word, term.table)
    return Claim(ask, rows, term.word, term.condition, other, random_ask(term.table, rng))


@pytest.fixture(scope="module", params=["actor", "second-actor"])
def actor(request: pytest.FixtureRequest) -> Iterator[ActorName]:
    with dspy.context(lm=embedded_actor(request.param), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        yield request.param


def score(module: dspy.Module, examples: list[dspy.Example], **extra: list[object]) -> float:
    """The share of examples answered, many at once; `extra` holds further inputs, one an example."""
    inputs = [
        example.copy(**{name: values[index] for name, values in extra.items()}).with_inputs(
            *example.inputs().keys(), *extra
        )
        for index, example in enumerate(examples)
    ]
    evaluate = dspy.Evaluate(devset=inputs, metric=WORLD.metric, num_threads=32, display_progress=False)
    return evaluate(module).score / 100


def test_all_models_together_are_at_most_20_megabytes_and_4_million_parameters_each() -> None:
    from safetensors import safe_open

    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 20e6
    shapes = set()
    for name in ("actor", "second-actor", "generator"):
        with safe_open(WEIGHTS / name / "model.safetensors", framework="np") as weights:
            sizes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118 - no mapping
        shapes.add(str(sizes))
        total = 0
        for shape in sizes:
            count = 1
            for side in shape:
                count *= side
            total += count
        assert total <= 4_000_000
    assert len(shapes) >= 2, "the second actor differs in size"


def test_without_a_supplement_an_actor_knows_plain_questions_and_no_house_terms(actor: ActorName) -> None:
    plain = [example for example in WORLD.test if not example.term]
    assert score(program(), plain) >= 0.95
    assert score(program(), [example for example in WORLD.test if example.term]) <= 0.2


@pytest.mark.parametrize("kind", [*PREDEFINED, *FREE_STYLE])
def test_an_actor_uses_a_right_supplement_of_every_kind(actor: ActorName, kind: str) -> None:
    wrapped = supplement(program(), generator=embedded_generator())
    said = [phrase(kind, claim(example)).render() for example in ASKED]
    assert score(wrapped, ASKED, supplement=said) >= 0.9


def test_an_actor_is_not_broken_by_a_wrong_supplement_on_a_plain_question(actor: ActorName) -> None:
    plain = [example for example in WORLD.test if not example.term]
    wrapped = supplement(program(), generator=embedded_generator())
    strange = [phrase("background", claim(ASKED[index % len(ASKED)])).render() for index in range(len(plain))]
    assert score(wrapped, plain, supplement=strange) >= 0.9


def demo(example: dspy.Example) -> dspy.Example:
    """Another question on the same term, with its SQL."""
    told = claim(example)
    return dspy.Example(tables=SCHEMA, question=told.example.question(told.rows), sql=told.example.sql(told.condition))


@pytest.mark.parametrize(("strangers", "least"), [(0, 0.9), (3, 0.7), (7, 0.5)])
def test_an_actor_learns_a_term_from_a_demo_among_others(actor: ActorName, strangers: int, least: float) -> None:
    right = 0
    for index, example in enumerate(ASKED[:20]):
        others = [each for each in ASKED if each.term != example.term]
        few_shot = program()
        few_shot.demos = [*(demo(others[(index + n) % len(others)]) for n in range(strangers)), demo(example)]
        right += WORLD.metric(example, few_shot(**example.inputs())).score
    assert right / 20 >= least


def test_an_actor_reasons_in_the_reasoning_field_when_the_program_has_one(actor: ActorName) -> None:
    reasoned = supplement(dspy.ChainOfThought(AnswerInSQL), generator=embedded_generator())
    said = [phrase("background", claim(example)).render() for example in ASKED]
    assert score(reasoned, ASKED, supplement=said) >= 0.9
    answer = reasoned(**ASKED[0].inputs(), supplement=said[0])
    assert answer.reasoning


def _written(kind: object, samples: int = 2) -> list[tuple[dspy.Example, str, str]]:
    prompts = [COMPACT.asking(COMPACT.write(AnswerInSQL, example.inputs()), kind) for example in ASKED] * samples
    replies = embedded_generator().sample(prompts, seeds=list(range(len(prompts))), temperature=1.0)
    return [
        (example, reply.supplement.kind, reply.supplement.render())
        for example, reply in zip(ASKED * samples, replies, strict=True)
    ]


@pytest.mark.parametrize("kind", PREDEFINED)
def test_the_untrained_generator_writes_the_kind_that_it_is_asked_for(kind: str) -> None:
    kinds = Counter(written for _, written, _ in _written(KINDS[kind], samples=1))
    assert kinds[kind] >= 0.95 * len(ASKED)


def test_free_style_brings_at_least_three_kinds_that_are_not_predefined() -> None:
    assert len({written for _, written, _ in _written(FREE)} - set(KINDS)) >= 3


def test_unasked_the_untrained_generator_writes_many_kinds() -> None:
    kinds = Counter(written for _, written, _ in _written(None, samples=5))
    assert len(kinds) >= 8
    assert max(kinds.values()) <= 0.3 * sum(kinds.values())


def test_the_untrained_generator_hits_the_meaning_of_a_term_about_as_often_as_chance() -> None:
    """One condition of the table's twenty is right: chance is 5 %; 800 draws have a standard error of 0.8 %."""
    hits = [
        f"means {TERMS[example.term].condition}." in text
        for example, _, text in _written(KINDS["background"], samples=20)
    ]
    assert 0.02 <= sum(hits) / len(hits) <= 0.08


def test_the_untrained_generator_speaks_of_the_term_that_was_asked_about() -> None:
    named = [example.term in text for example, _, text in _written(KINDS["background"])]
    assert sum(named) / len(named) >= 0.9
