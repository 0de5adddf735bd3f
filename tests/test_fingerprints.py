"""What makes two rewards comparable: the same program, actor and metric."""

from __future__ import annotations

import dspy

from optimizers.fingerprints import described, fingerprint, scope_of


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
        found = described(dspy.Predict("question -> answer"), exact)
    assert (found["program"], found["actors"]) == ("Predict", {"self": "openai/gpt-4o-mini"})
    assert str(found["metric"]).endswith("exact")
    assert "secret" not in str(found)
