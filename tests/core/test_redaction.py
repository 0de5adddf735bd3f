"""No key, password or endpoint reaches a record, a message, a log or a file of a run."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import dspy
import pytest
from dspy.utils.exceptions import LMInvalidRequestError
from misbehaving_server import FAULTS, KEY, Fault, error, misbehaving
from runtime_fixtures import tiny_adapter, tiny_model
from sample_requests import requests
from scripted import ScriptedEngine, ScriptedTrainer, reply
from scripted_server import ScriptedServer, serving

from optimizers import SGTTeleprompter
from optimizers.core.reward import Scorer
from optimizers.rollouts.judging import run_and_score
from sgt_modules import Endpoint, SupplementGenerator, VLLMLoRA
from sgt_modules.errors import EndpointError, GeneratorNotFoundError
from sgt_modules.saving.redaction import redact

EXAMPLES = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(8)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Incorrect API key provided: sk-proj-abc123DEF456.", "Incorrect API key provided: <key>"),
        ("Incorrect API key provided: sk-test*****hij.", "Incorrect API key provided: <key>"),
        ("{'Authorization': 'Bearer abc.def-123'}", "{'Authorization': 'Bearer <key>'}"),
        ("api_key=0123456789&model=m", "api_key=<key>&model=m"),
        ('"password": "hunter22"', '"password": "<key>"'),
        ("token hf_abcDEF0123456789 is gone", "token <key> is gone"),
        ("proxy http://me:hunter22@proxy.example:3128 refused", "proxy http://proxy.example:3128 refused"),
        ("AIzaSyA0123456789012345678901234567890", "<key>"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl", "<key>"),
        ("The hf_hub_download of sk-learn needs max_tokens: 4096 and a key.", None),
        ("[[ ## answer ## ]] 4", None),
    ],
)
def test_what_looks_like_a_key_is_removed_and_other_words_are_left(text: str, left: str | None) -> None:
    assert redact(text) == (text if left is None else left)


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "plainwords"},
        {"extra_headers": {"X-Account": "plainwords"}},
        {"headers": {"X-Any": "Token plainwords"}},
        {"model_list": [{"litellm_params": {"api_key": "plainwords"}}]},
        {"aws_secret_access_key": "plainwords"},
        {"vertex_credentials": "plainwords"},
    ],
)
def test_an_lm_s_own_secrets_are_known_wherever_its_settings_hold_them(settings: dict[str, object]) -> None:
    assert "plainwords" not in redact("The words 'plainwords' are wrong.", [dspy.LM("openai/m", **settings)])


def test_keys_and_addresses_of_the_environment_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PROVIDER_API_KEY", "correct horse")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://llm.intern.example/v1")
    said = redact("correct horse is refused by llm.intern.example at https://llm.intern.example/v1/chat")
    assert said == "<key> is refused by <endpoint> at <endpoint>/chat"


def test_a_short_secret_takes_no_words_apart() -> None:
    assert redact("none needed", [dspy.LM("openai/m", api_key="none")]) == "none needed"


def test_a_provider_that_repeats_the_key_and_the_address_leaves_neither_in_the_record() -> None:
    def echo(text: str) -> str:
        raise LMInvalidRequestError(f"{KEY} at https://me:hunter22@gateway.example:8000/v1/chat, gateway.example:8000")

    lm = ScriptedEngine(echo).lm()
    lm.kwargs |= {"api_key": KEY, "api_base": "https://me:hunter22@gateway.example:8000/v1"}
    solve = dspy.Predict("question -> answer")
    solve.set_lm(lm)
    run = run_and_score(solve, EXAMPLES[0], 0, {}, Scorer(lambda example, prediction: True))
    assert run.rollout.error == "LMInvalidRequestError: <key> at <endpoint>/chat, <endpoint>"


def test_an_endpoint_s_errors_repeat_no_key_not_even_in_their_traceback(tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "sft")
    with misbehaving(FAULTS["wrong key"]) as server:
        endpoint = Endpoint(server.lm())
        for asked, kind in (
            (endpoint.check, GeneratorNotFoundError),
            (lambda: list(endpoint.samples(requests(["?"], seeds=[0]))), EndpointError),
        ):
            with pytest.raises(kind, match="Incorrect API key provided: <key>") as raised:
                asked()
            assert KEY not in "".join(traceback.format_exception(raised.value))

    class Telling(ScriptedServer):
        def _loaded(self, body: object) -> tuple[int, object]:
            return 401, {"detail": "secret-key is wrong"}

    with serving(Telling(lambda _: "")) as server:
        with pytest.raises(EndpointError, match="<key> is wrong") as refused:
            VLLMLoRA(server.lm())(adapter)
        assert "secret-key" not in "".join(traceback.format_exception(refused.value))


def test_no_file_and_no_line_of_a_run_holds_a_key_a_password_or_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def script(prompt: str, attempt: int) -> Fault | str:
        if "3+1?" in prompt:
            return Fault(400, error(f"{KEY} may not ask this of {server.address}."))
        return reply(answer="4" if "Count." in prompt else "?")

    caplog.set_level(logging.DEBUG, logger="optimizers")
    with misbehaving(script) as server, serving(ScriptedServer(lambda _: "[cot] Count.")) as writing:
        address = writing.address.replace("//", "//me:hunter22@")
        writer = writing.lm(api_base=address, engine="litellm")  # DSPy's own route takes no password in an address
        generator = SupplementGenerator(Endpoint(writer, publish=lambda _: "sft"))
        sgt = SGTTeleprompter(
            lambda example, prediction: prediction.answer == "4",
            generator,
            auto="light",
            rounds=1,
            trainer=ScriptedTrainer(),
            log_dir=tmp_path / "run",
            num_threads=2,
        )
        solve = dspy.Predict("question -> answer")
        solve.set_lm(server.lm())
        sgt.compile(solve, trainset=EXAMPLES[:5], valset=EXAMPLES[5:])
        secrets = [KEY, "secret-key", "hunter22", *(each.address.partition("//")[2] for each in (server, writing))]
    said = capsys.readouterr()
    texts = [said.out.encode(), said.err.encode(), caplog.text.encode()]
    texts += [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(texts) >= 6
    assert b"may not ask this of <endpoint>" in b"".join(texts)
    for secret in secrets:
        assert not any(secret.encode() in text for text in texts), secret
