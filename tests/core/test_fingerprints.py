"""What makes two rewards comparable: the same program, actor and metric."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import dspy
import pandas
import prompted
import pytest
import torch
from places import PATHS
from scripted import ScriptedGenerator

from optimizers.core.fingerprints import describe_scope, fingerprint, generator_settings, scope_of, supplement_settings
from optimizers.core.run_folder import RunFolder
from optimizers.spt.recipe import SPTRecipe
from optimizers.spt.teleprompter import SupervisoryPromptTeleprompter
from sgt_modules.errors import ExampleError, RunFolderError
from sgt_modules.gate import Gate
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import GeneratorPrompt
from sgt_modules.kinds import Supplement
from sgt_modules.wrapping import supplement


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def lenient(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return True


def asking(**changes: object) -> dspy.Predict:
    predict = dspy.Predict("question -> answer")
    for name, value in changes.items():
        setattr(predict, name, value)
    return predict


def test_the_same_program_actor_and_metric_have_one_scope() -> None:
    with dspy.context(lm=dspy.LM("openai/gpt-4.1", api_key="one")):
        first = scope_of(asking(), exact)
    with dspy.context(lm=dspy.LM("openai/gpt-4.1", api_key="another")):
        assert scope_of(asking(), exact) == first


def test_another_actor_setting_demo_instruction_or_metric_is_another_scope() -> None:
    with dspy.context(lm=dspy.LM("openai/gpt-4.1")):
        scopes = [
            scope_of(asking(), exact),
            scope_of(asking(), lenient),
            scope_of(asking(demos=[dspy.Example(question="2+2?", answer="4")]), exact),
            scope_of(asking(lm=dspy.LM("openai/gpt-4.1-mini")), exact),
            scope_of(asking(lm=dspy.LM("openai/gpt-4.1", temperature=0.5)), exact),
            scope_of(asking(signature=dspy.Signature("question -> answer", "Be brief.")), exact),
        ]
    assert len(set(scopes)) == len(scopes)


def test_data_are_told_apart_by_their_fields_and_order() -> None:
    one, two = (dspy.Example(question=text).with_inputs("question") for text in ("a", "b"))
    assert fingerprint([one, two]) == fingerprint([one, two])
    assert len({fingerprint([one, two]), fingerprint([two, one]), fingerprint([one])}) == 3


def test_a_scope_is_described_by_program_models_and_metric() -> None:
    def exact(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return example.answer == prediction.answer

    with dspy.context(lm=dspy.LM("openai/gpt-4o-mini", api_key="secret")):
        found = describe_scope(dspy.Predict("question -> answer"), exact)
    assert (found["program"], found["actors"]) == ("Predict", {"self": "openai/gpt-4o-mini"})
    assert str(found["metric"]).endswith("exact")
    assert "secret" not in str(found)


class Plain:
    """Nothing but its address tells one from another."""


class Tagged:
    def __init__(self, *tags: str) -> None:
        self.tags = set(tags)


@dataclass
class Row:
    tags: set[str]


HELD = {
    "a set": {"b", "a", "c"},
    "a set of tuples": {("b", 1), ("a", 2)},
    "a record": Row({"x", "y", "z"}),
    "an object": Tagged("x", "y", "z"),
    "an example": dspy.Example(a=1, b=2, c={"q", "r"}).with_inputs("a", "b"),
    "a dictionary of sets": {"k": [frozenset({"u", "v", "w"})]},
    "a path": Path("a/b"),
    "a day": date(2026, 1, 2),
    "a number": Decimal("1.50"),
    "bytes": b"abc",
}

ELSEWHERE = """
import dspy, test_fingerprints as here
from optimizers.core.fingerprints import fingerprint
from optimizers.rollouts.queries import query_id
for held in here.HELD.values():
    one = dspy.Example(question="?", held=held).with_inputs("question", "held")
    print(fingerprint([one]), query_id(one, "self"))
"""


@pytest.mark.slow
def test_examples_that_hold_sets_records_and_objects_are_the_same_in_every_process() -> None:
    def said(seed: str) -> list[str]:
        paths = os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])
        surroundings = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE], env=surroundings, check=True, capture_output=True, text=True
        )
        return done.stdout.splitlines()

    first = said("1")
    assert len(set(first)) == len(HELD)
    assert said("2") == said("3") == first


def test_examples_of_plain_fields_keep_the_fingerprint_they_had() -> None:
    asked = dspy.Example(question="2+2?", answer=4, parts=["a", {"b": None}]).with_inputs("question")
    before = json.dumps([dict(asked.items())], sort_keys=True, default=str)
    assert fingerprint([asked]) == hashlib.sha256(before.encode()).hexdigest()[:16]


def test_another_value_within_a_set_a_record_or_an_object_is_another_example() -> None:
    values = [{"a"}, {"b"}, Row({"a"}), Row({"b"}), Tagged("a"), Tagged("b"), ["a"], b"a", b"b"]
    assert len({fingerprint([dspy.Example(held=value)]) for value in values}) == len(values)


def test_a_field_that_only_its_address_tells_is_refused_by_name_before_anything_is_paid(tmp_path: Path) -> None:
    bad = dspy.Example(question="small 9", answer="small-9", handle=Plain()).with_inputs("question")
    acting = prompted.actor()
    wanted = r"only a memory address identifies trainset\[8\]\.handle \(Plain\)\. Give its class fields or a __repr__"
    with dspy.context(lm=acting.lm()), pytest.raises(ExampleError, match=wanted):
        prompted.spt(prompted.corrector([]), tmp_path).compile(
            prompted.student(), trainset=[*prompted.TRAIN, bad], valset=prompted.VAL
        )
    assert not acting.asked


def generated(**changes: Any) -> SupplementGenerator:
    lm = dspy.LM("openai/tiny", api_base="http://localhost:1", api_key="k", **changes.pop("lm", {}))
    return SupplementGenerator(lm, **changes)


GENERATORS = {
    "max_new_tokens changed from 512 to 32": ({"max_new_tokens": 512}, {"max_new_tokens": 32}),
    "temperature changed from 0.0 to 0.7": ({}, {"temperature": 0.7}),
    "generator_lm.top_p": ({"lm": {"top_p": 0.9}}, {"lm": {"top_p": 0.5}}),
    "max_prompt_tokens changed from null to 100": ({}, {"max_prompt_tokens": 100}),
    r"prompt\.max_words changed from 40 to 20": ({}, {"prompt": GeneratorPrompt(max_words=20)}),
}


@pytest.mark.parametrize("changed", GENERATORS)
def test_a_folder_is_not_gone_on_with_by_a_generator_of_other_settings(tmp_path: Path, changed: str) -> None:
    before, after = (generator_settings(generated(**each)) for each in GENERATORS[changed])
    RunFolder.create(tmp_path).begin_or_resume(before)
    RunFolder.create(tmp_path).begin_or_resume(before)
    with pytest.raises(RunFolderError, match=changed):
        RunFolder.create(tmp_path).begin_or_resume(after)


def test_keys_and_addresses_of_a_generators_server_stand_in_no_settings() -> None:
    told = json.dumps(generator_settings(generated(lm={"top_p": 0.9})))
    assert "localhost" not in told
    assert '"k"' not in told


def test_what_a_students_own_supplements_depend_on_is_compared_too() -> None:
    def student(gate: Gate | None = None, **changes: Any) -> dict[str, object]:
        return supplement_settings(
            supplement(dspy.Predict("question -> answer"), generator=generated(**changes), gate=gate)
        )

    kinds = [
        student(),
        student(max_new_tokens=32),
        student(temperature=0.5),
        student(gate=Gate.of(["a b"])),
        student(gate=Gate.of(["a b"], most_novel=0.5)),
    ]
    assert len({json.dumps(each, sort_keys=True) for each in kinds}) == len(kinds)
    assert student() == student()
    assert supplement_settings(dspy.Predict("question -> answer")) == {}


def test_a_run_of_a_student_with_another_gate_or_more_tokens_is_refused(tmp_path: Path) -> None:
    written = ScriptedGenerator(lambda prompt: Supplement("hint", "Think."))

    def run(gate: Gate | None = None, tokens: int = 512) -> None:
        written.max_new_tokens = tokens
        student = supplement(prompted.student(), generator=written, gate=gate)
        with dspy.context(lm=prompted.actor().lm()):
            prompted.spt(
                prompted.corrector([]), tmp_path, lambda example, prediction: True, recipe=SPTRecipe(rounds=1)
            ).compile(student, trainset=prompted.TRAIN, valset=prompted.VAL)

    run()
    run()
    with pytest.raises(RunFolderError, match=r"student\.self\.max_new_tokens changed from 512 to 32"):
        run(tokens=32)
    with pytest.raises(RunFolderError, match=r"student\.self\.gate changed from null"):
        run(gate=Gate.of(["a"]))


def test_a_corrector_of_another_temperature_is_another_run(tmp_path: Path) -> None:
    def settings(temperature: float) -> Any:
        lm = dspy.LM("openai/gpt-4.1", temperature=temperature)
        return SupervisoryPromptTeleprompter(prompted.exact, lm).settings.must_match_on_resume(
            prompted.TRAIN, prompted.VAL
        )

    RunFolder.create(tmp_path).begin_or_resume(settings(0.5))
    with pytest.raises(RunFolderError, match=r"corrector_settings\.temperature changed from 0\.5 to 1\.0"):
        RunFolder.create(tmp_path).begin_or_resume(settings(1.0))


def middle(number: int) -> list[int]:
    return [*range(99), number, *range(99)]


@pytest.mark.parametrize(
    "made",
    [
        lambda n: pandas.DataFrame({"n": middle(n)}),
        lambda n: pandas.Series(middle(n)),
        lambda n: torch.tensor([*middle(n)] * 10),
        lambda n: torch.tensor(float(n), dtype=torch.bfloat16),
        lambda n: re.compile("a" * 250 + str(n)),
    ],
    ids=["table", "column", "tensor", "number", "pattern"],
)
def test_examples_differ_by_what_a_library_does_not_show_of_a_value(made: Callable[[int], object]) -> None:
    def of(number: int) -> str:
        return fingerprint([dspy.Example(given=made(number))])

    assert of(1) == of(1) != of(2)
