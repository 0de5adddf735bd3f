"""What a run costs: DSPy's price list by the model's name, nothing where it has no price."""

from __future__ import annotations

import dspy
import pytest
from scripted import ScriptedEngine, reply
from scripted_server import ScriptedServer, serving

from optimizers.core.prices import Price, cost_of, has_price, price_of
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import run_and_score
from sgt_modules.wrapping import supplement

PRICE = Price(
    {
        "input_cost_per_token": 2.0,
        "output_cost_per_token": 10.0,
        "cache_read_input_token_cost": 0.5,
        "cache_creation_input_token_cost": 3.0,
        "input_cost_per_token_above_1k_tokens": 4.0,
    }
)


@pytest.fixture(autouse=True)
def _the_list_that_came_with_dspy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 3}, 10 * 2 + 3 * 10),
        ({"prompt_tokens": 10, "completion_tokens": None}, 10 * 2),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}, 6 * 2 + 4 * 0.5),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cache_creation_tokens": 4}}, 6 * 2 + 4 * 3),
        ({"completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 4}}, 10 * 10),
        ({"prompt_tokens": 1001, "prompt_tokens_details": None}, 1001 * 4),
        ({}, 0.0),
    ],
)
def test_a_call_costs_what_its_tokens_do(usage: dict[str, object], dollars: float) -> None:
    assert PRICE.cost(usage) == dollars


def test_without_a_price_for_what_is_written_nothing_is_known() -> None:
    half = Price({"input_cost_per_token": 2.0})
    assert not half.is_known
    assert half.cost({"prompt_tokens": 10}) == 0.0


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("openai/gpt-4o-mini", True),
        ("anthropic/claude-sonnet-4-5", True),
        ("together_ai/meta-llama/Llama-3-8b-chat-hf", True),  # DSPy asks it through litellm
        ("openai/a-model-of-mine", False),
    ],
)
def test_a_model_has_a_price_where_the_list_has_it(model: str, known: bool) -> None:
    assert has_price(dspy.LM(model)) is known


@pytest.mark.parametrize("lm", [None, "openai/gpt-4o-mini", ScriptedEngine(str).lm("openai/gpt-4o-mini")])
def test_what_dspy_does_not_ask_a_provider_for_has_no_price(lm: object) -> None:
    assert not has_price(lm)


def test_an_lm_of_another_name_has_another_price() -> None:
    lm = dspy.LM("openai/gpt-4o-mini")
    assert has_price(lm)
    lm.model = "openai/a-model-of-mine"
    assert not has_price(lm)


def test_usage_of_several_models_adds_up_and_an_unknown_one_is_free() -> None:
    mini = dspy.LM("openai/gpt-4o-mini")
    usage = {mini.model: [{"prompt_tokens": 1_000_000}] * 2, "somebody/else": [{"prompt_tokens": 5}]}
    a_million = price_of(mini).cost({"prompt_tokens": 1_000_000})
    assert a_million == pytest.approx(0.15)
    assert cost_of(usage, [mini, None]) == 2 * a_million


def test_a_run_s_cost_is_what_dspy_s_history_says_and_an_answer_from_its_cache_costs_nothing() -> None:
    with serving(ScriptedServer(lambda text: reply(answer="four, I think"))) as server:
        lm = server.lm("openai/gpt-4o-mini", cache=True, temperature=0.25)
        program = supplement(dspy.Predict("question -> answer"), generator="none/needed")
        program.set_lm(lm)
        example = dspy.Example(question=f"2+2? ({server.address})", answer="4").with_inputs("question")
        paid, again = (run_and_score(program, example, 0, {}, Scorer(lambda *_: True)) for _ in range(2))
        lm(f"The price of this? ({server.address})")
    history = lm.history[-1]
    assert price_of(lm).cost(history["usage"]) == pytest.approx(history["cost"])
    expected = 0.15e-6 * paid.usage.tokens_in + 0.6e-6 * paid.usage.tokens_out
    assert paid.usage.cost == paid.rollout.cost == pytest.approx(expected)
    assert paid.usage.cost > 0.0
    assert (again.usage.calls, again.usage.cost, again.rollout.cost) == (0, 0.0, 0.0)
