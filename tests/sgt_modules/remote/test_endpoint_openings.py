"""Replies that a server is made to begin with a kind, on scripted servers that behave as real ones do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError
from runtime_fixtures import tiny_adapter, tiny_model
from sample_requests import requests
from scripted_server import Answer, Manner, ScriptedServer, serving

from sgt_modules import KINDS, Endpoint, SupplementGenerator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import GeneratorNotFoundError
from sgt_modules.kinds import FREE, SILENCE, Supplement
from sgt_modules.samples import SampleRequest

ROUTES = pytest.mark.parametrize("engine", ["auto", "lm15", "litellm"])
CAN: list[Manner] = ["continues", "always continues", "continues only"]
CANNOT: list[Manner] = ["opens a turn", "refuses", "tells no usage"]
ASKED = [KINDS["mistakes"], KINDS["cot"], "units", FREE]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


def untagged(prompt: str) -> str:
    return "Mind the units."


def going_on(opening: str) -> str:
    """What a model writes behind the opening: it names a kind of its own where it is free to."""
    return "seasons] Mind the units." if opening == "[" else " Mind the units."


def server_that(
    manner: Manner, script: Callable[[str], Answer] = untagged, going_on: Callable[[str], Answer] = going_on
) -> ScriptedServer:
    return ScriptedServer(script, manner=manner, going_on=going_on)


def sampled(lm: dspy.LM | Endpoint, kinds: list[Any] = ASKED) -> list[Supplement]:
    drawn = SupplementGenerator(lm).sample(["2+2?"] * len(kinds), seeds=range(len(kinds)), kinds=kinds)
    return [each.supplement for each in drawn]


@ROUTES
@pytest.mark.parametrize("manner", CAN)
def test_a_server_that_continues_a_message_is_given_the_kind_to_go_on_with(manner: Manner, engine: str) -> None:
    with serving(server_that(manner)) as server:
        endpoint = Endpoint(server.lm(engine=engine), concurrency=1)
        assert sampled(endpoint) == [
            Supplement(kind, "Mind the units.") for kind in ("mistakes", "cot", "units", "seasons")
        ]
    assert endpoint.continues
    assert [body["messages"][1] for body in server.opened] == [
        {"role": "assistant", "content": opening} for opening in ("[mistakes]", "[cot]", "[units]", "[")
    ]
    assert {(body["continue_final_message"], body["add_generation_prompt"]) for body in server.opened} == {
        (True, False)
    }


@ROUTES
@pytest.mark.parametrize("manner", CANNOT)
def test_a_server_that_cannot_is_found_out_and_its_untagged_replies_are_of_the_kind_asked_for(
    manner: Manner, engine: str
) -> None:
    with serving(server_that(manner)) as server:
        endpoint = Endpoint(server.lm(engine=engine), concurrency=1)
        assert sampled(endpoint) == [Supplement(kind, "Mind the units.") for kind in ("mistakes", "cot", "units", FREE)]
    assert endpoint.continues is False
    assert [len(body["messages"]) for body in server.asked] == [1, 1, 1, 1]
    assert "[mistakes]" in server.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize("manner", [*CAN, *CANNOT])
def test_what_a_server_can_is_found_out_once_with_a_few_single_tokens(manner: Manner, tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "sft")
    with serving(server_that(manner)) as server:
        generator = SupplementGenerator(Endpoint(server.lm(), publish=lambda _: "sft-1", concurrency=8))
        generator.draw("2+2?")
        assert len(server.requests) == 1  # nothing is found out before a reply is opened
        for each in (generator, generator.with_checkpoint(adapter)):
            each.sample(["2+2?"] * 8, seeds=range(8), kinds=[KINDS["cot"]] * 8)
    assert len(server.asked) == 1 + 16
    assert len(server.requests) - len(server.asked) in (2, 3)


@pytest.mark.parametrize("continues", [True, False])
def test_a_server_that_is_known_is_not_asked(continues: bool) -> None:
    with serving(server_that("continues" if continues else "refuses")) as server:
        sampled(Endpoint(server.lm(), continues=continues))
    assert len(server.requests) == len(ASKED)
    assert len(server.opened) == (len(ASKED) if continues else 0)


def test_the_check_finds_it_out_too() -> None:
    with serving(server_that("continues")) as server:
        generator = SupplementGenerator(endpoint := Endpoint(server.lm()))
        assert endpoint.continues is None
        generator.check()
        assert endpoint.continues
        asked = len(server.requests)
        sampled(endpoint)
    assert len(server.requests) == asked + len(ASKED)


def test_it_is_in_no_saved_state_and_a_copy_at_the_same_address_knows_it() -> None:
    with serving(server_that("continues")) as server:
        endpoint = Endpoint(server.lm())
        endpoint.check()
        other = json.loads(json.dumps(endpoint.reference()))
        assert "continues" not in json.dumps(other)
        other["lm"]["model"] = "openai/sft-1"
        assert Endpoint.from_reference(other, like=endpoint).continues
        assert Endpoint.from_reference(other, trusted=True).continues is None


@ROUTES
def test_an_opened_reply_goes_along_with_all_settings_of_the_lm_and_the_call(engine: str) -> None:
    own: dict[str, Any] = {"stop": ["##"], "extra_body": {**NO_THINKING, "min_p": 0.1}}
    own |= {} if engine == "lm15" else {"top_k": 20, "repetition_penalty": 1.1, "extra_headers": {"X-Own": "yes"}}
    with serving(server_that("continues")) as server:
        endpoint = Endpoint(server.lm(engine=engine, **own), continues=True)
        list(
            endpoint.samples(
                requests(["2+2?"], seeds=[7], temperature=0.8, top_p=0.9, max_new_tokens=9, openings=["[cot]"])
            )
        )
    (sent,) = server.requests
    limit = sent.get("max_completion_tokens") or sent["max_tokens"]
    assert (sent["temperature"], sent["top_p"], sent["seed"], limit) == (0.8, 0.9, 7, 9)
    assert (sent["stop"], sent["min_p"]) == (["##"], 0.1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent["continue_final_message"] is True
    if engine != "lm15":
        assert (sent["top_k"], sent["repetition_penalty"], server.headers[0]["X-Own"]) == (20, 1.1, "yes")


@ROUTES
def test_the_opening_is_in_the_text_and_counts_neither_as_written_nor_in_the_log_probability(engine: str) -> None:
    server = ScriptedServer(untagged, manner="continues", going_on=going_on, scores=-0.5)
    with serving(server):
        endpoint = Endpoint(server.lm(engine=engine))
        (reply,) = list(endpoint.samples(requests(["2+2?"], seeds=[0], max_new_tokens=3, openings=["[mistakes]"])))
        assert (reply.text, reply.prompt_tokens, reply.tokens) == ("[mistakes] Mind the units.", 2, 3)
        assert reply.logprob == pytest.approx(-0.5)
        one = endpoint.ask(SampleRequest("2+2?", opening="[mistakes]", max_new_tokens=2))
        assert (one.text.split(), one.cut) == (["[mistakes]Mind", "the"], True)
        assert (
            asyncio.run(endpoint.aask(SampleRequest("2+2?", opening="[mistakes]"))).text == "[mistakes] Mind the units."
        )


def test_a_coroutine_s_first_opened_reply_finds_out_too() -> None:
    with serving(server_that("continues")) as server:
        drawn = asyncio.run(SupplementGenerator(server.lm()).adraw(SampleRequest("2+2?", kind=KINDS["cot"])))
    assert (drawn.supplement, len(server.opened)) == (Supplement("cot", "Mind the units."), 1)


def test_requests_that_find_out_leave_no_history_and_no_warning_and_count_in_nobody_s_usage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lm_history: list[object]
    with serving(server_that("continues")) as server, dspy.track_usage() as usage:
        lm = server.lm()
        SupplementGenerator(lm).sample(["2+2?"], seeds=[0], kinds=[KINDS["cot"]])
        lm_history = lm.history
    assert (lm_history, usage.get_total_tokens()) == ([], {})
    assert "truncated" not in caplog.text


def test_a_server_that_is_not_there_is_an_error_and_nothing_is_found_out() -> None:
    down = [True]

    def recovering(prompt: str) -> Answer:
        return (503, {"message": "Overloaded."}) if down else "Mind the units."

    with serving(ScriptedServer(recovering, manner="continues")) as server:
        generator = SupplementGenerator(endpoint := Endpoint(server.lm()))
        with pytest.raises(LMError, match=r"Overloaded"):
            generator.draw(SampleRequest("2+2?", kind=KINDS["cot"]))
        assert endpoint.continues is None
        down.clear()
        assert generator.draw(SampleRequest("2+2?", kind=KINDS["cot"])).supplement == Supplement(
            "cot", "Mind the units."
        )
        assert endpoint.continues


@pytest.mark.parametrize("manner", ["continues", "opens a turn"])
@pytest.mark.parametrize(
    ("reply", "supplement"),
    [
        ("", SILENCE),
        ("  \n", SILENCE),
        ("[mistakes] Mind the units.", Supplement("mistakes", "Mind the units.")),
        ("mistakes] Mind the units.", Supplement("mistakes", "Mind the units.")),
        ("**[Mistakes]:** Mind the units.", Supplement("mistakes", "Mind the units.")),
        ("<think>Which units?</think> Mind the units.", Supplement("mistakes", "Mind the units.")),
        ("Achte auf die Einheiten.", Supplement("mistakes", "Achte auf die Einheiten.")),
        ("Mind the units. " + "And so on " * 2_000, Supplement("mistakes", "Mind the units.")),
    ],
)
def test_whatever_a_model_writes_it_is_of_the_kind_asked_for_and_nothing_is_doubled(
    manner: Manner, reply: str, supplement: Supplement
) -> None:
    with serving(server_that(manner, lambda _: reply, lambda _: reply)) as server:
        assert sampled(server.lm(), [KINDS["mistakes"]]) == [supplement]


@pytest.mark.parametrize(
    "reply", ["units] Mind them.", "[units] Mind them.", "[units]] Mind them.", " Units ]: Mind them."]
)
def test_free_style_is_of_the_kind_that_the_model_names_behind_the_bracket(reply: str) -> None:
    with serving(server_that("continues", untagged, lambda opening: reply)) as server:
        assert sampled(server.lm(), [FREE]) == [Supplement("units", "Mind them.")]


@ROUTES
def test_with_a_tokenizer_the_chat_is_rendered_here_and_a_text_completion_goes_on_with_the_opening(engine: str) -> None:
    folder = embedded_folder("generator")
    with serving(ScriptedServer(untagged, manner="refuses", going_on=lambda text: " Mind the units.")) as server:
        endpoint = Endpoint(
            server.lm(engine=engine, extra_body=NO_THINKING, max_completion_tokens=9), tokenizer=folder, concurrency=1
        )
        if engine == "lm15":  # which takes no extra_body for a plain prompt
            endpoint = Endpoint(server.lm(engine=engine), tokenizer=folder, concurrency=1)
        reply = endpoint.ask(
            SampleRequest("2+2?", opening="[mistakes]", seed=3, temperature=0.5, max_new_tokens=9, top_p=0.9)
        )
        again = asyncio.run(endpoint.aask(SampleRequest("2+2?", opening="[mistakes]")))
    sent = server.requests[0]
    assert (reply.text, reply.tokens, again.text) == ("[mistakes] Mind the units.", 3, reply.text)
    assert sent["prompt"].endswith("[mistakes]")
    assert "2+2?" in sent["prompt"]
    assert "BEGIN RESPONSE" not in sent["prompt"]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.5, 0.9, 9, 3)
    assert "messages" not in sent


def test_with_a_tokenizer_the_check_asks_for_a_text_completion_and_says_where_there_is_no_tokenizer(
    tmp_path: Path,
) -> None:
    with serving(server_that("refuses")) as server:
        Endpoint(server.lm(), tokenizer=embedded_folder("generator")).check()
        assert [sorted({"prompt", "messages"} & body.keys()) for body in server.requests] == [["messages"], ["prompt"]]
        with pytest.raises(GeneratorNotFoundError, match="Expected"):
            Endpoint(server.lm(), tokenizer=tmp_path / "nothing").check()
