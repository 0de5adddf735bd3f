"""Calls a `dspy.LM` for one sample: with a prompt, an assistant's message to continue, or a text to complete."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dspy
from dspy.lm15 import Config, ContextLengthError, Message, Request, Response
from dspy.utils.exceptions import ContextWindowExceededError, LMError
from dspy.utils.usage_tracker import UsageTracker

from sgt_modules.local.chat_template import ChatTokenizer, render_chat
from sgt_modules.samples import Sample
from sgt_modules.saving.weights import resolve

LIMITS = ("max_completion_tokens", "max_tokens")
"""OpenAI's names for a reply's token limit, the newer one first."""

_CUT = ("length", "max_tokens", "content_filter")
"""The reasons that servers report if something else than the model ended a reply."""

_CONFIG = ("temperature", "top_p", "top_k", "seed", "stop", "frequency_penalty", "presence_penalty")
"""Settings with a field of their own in a typed request; other settings are sent by name."""

_CONNECTION = (
    *("api_key", "api_base", "base_url", "headers", "extra_headers", "timeout", "api_version", "extra_query"),
    *("azure_ad_token_provider", "organization", "project", "custom_llm_provider"),
)
"""Settings of an LM that describe the connection; a typed request must not repeat them."""

_DSPY_ONLY = ("n", "num_generations", "rollout_id", "prompt_cache", "stream", "stream_options", "cache", "caching")
"""Settings for DSPy itself, which are not sent."""

_CHAT_ONLY = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
"""Server settings for chats; a strict server refuses them in a text completion."""


_INSIDE_CALL: ContextVar[bool] = ContextVar("inside_call", default=False)


def in_generator_call() -> bool:
    """Whether this code runs inside a generator's call of its LM. The usage of such a call is counted separately."""
    return _INSIDE_CALL.get()


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether to log a record. In a generator's call, DSPy's warning of a cut reply is not logged; a sample says it."""
    return not (_INSIDE_CALL.get() and "response was truncated" in record.getMessage())


logging.getLogger("dspy.clients.lm").addFilter(_is_wanted)


@dataclass(frozen=True, slots=True)
class LMCall:
    """A call of `lm`, not sent yet.

    Args:
        lm: The LM.
        message: A prompt, or a typed request.
        options: The call's own settings.
        limit: The most tokens of the reply; None for the server's limit.
        opening: The text before the part of the reply that the server returns.
    """

    lm: dspy.LM
    message: str | Request
    options: Mapping[str, Any]
    limit: int | None
    opening: str = ""


def make_prompt_call(lm: dspy.LM, prompt: str, options: Mapping[str, Any]) -> LMCall:
    """A call that sends a prompt as a user message; the model chooses how its reply begins."""
    return LMCall(lm, prompt, options, _find_limit({**lm.kwargs, **options}))


def make_continuation_call(
    lm: dspy.LM, prompt: str, opening: str, options: Mapping[str, Any], *, is_open: bool = True
) -> LMCall:
    """A call that sends a prompt and an assistant's message: to continue if `is_open`, complete otherwise.

    vLLM and SGLang take `continue_final_message` and `add_generation_prompt` for that; both are added to the LM's
    `extra_body`.

    >>> lm = dspy.LM("openai/qwen3", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    >>> make_continuation_call(lm, "2+2?", "[cot]", {"max_tokens": 9}).message.messages[1].text
    '[cot]'
    """
    settings = {
        name: value
        for name, value in {**lm.kwargs, **options}.items()
        if value is not None and name not in (*_CONNECTION, *_DSPY_ONLY)
    }
    limit = _find_limit(settings)
    typed = (*_CONFIG, *LIMITS, "extra_body", "logprobs")
    server_settings = {name: value for name, value in settings.items() if name not in typed}
    body = {
        **server_settings,
        **settings.get("extra_body", {}),
        "continue_final_message": is_open,
        "add_generation_prompt": False,
    }
    config = Config(
        max_tokens=limit,
        logprobs=0 if settings.get("logprobs") else None,
        extensions=body,
        **{name: settings[name] for name in _CONFIG if name in settings},
    )
    if lm.engine == "auto" and (server_settings or "extra_body" in settings):
        lm = lm.copy(engine="litellm")  # DSPy does the same for a plain prompt with such settings
    request = Request(model=lm.model, messages=(Message.user(prompt), Message.assistant(opening)), config=config)
    return LMCall(lm, request, {}, limit, opening if is_open else "")


def make_completion_call(lm: dspy.LM, text: str, opening: str, options: Mapping[str, Any]) -> LMCall:
    """A call that sends `text`, a rendered chat, and the opening to the server's `/v1/completions`.

    DSPy adds text of its own to the prompt of a text completion; the prompt in `extra_body` replaces it.
    """
    limit = _find_limit({**lm.kwargs, **options})
    body = {name: value for name, value in (lm.kwargs.get("extra_body") or {}).items() if name not in _CHAT_ONLY}
    lm = lm.copy(model_type="text", engine="litellm", max_completion_tokens=None, logprobs=None, top_logprobs=None)
    other_options = {name: value for name, value in options.items() if name not in (*LIMITS, "logprobs")}
    call_options = {**other_options, "max_tokens": limit, "extra_body": {**body, "prompt": f"{text}{opening}"}}
    return LMCall(lm, text, {name: value for name, value in call_options.items() if value is not None}, limit, opening)


def complete(call: LMCall) -> Sample:
    """Send a call; return its sample. Raises `ContextLengthError`, and the `LMError` of DSPy's LM."""
    with _count_separately() as usage, _convert_context_error():
        lm, history = _copy_with_history(call.lm)
        return _make_sample(call, lm(call.message, cache=False, **call.options), usage, history)


async def acomplete(call: LMCall) -> Sample:
    """As `complete`, through the LM's own coroutine."""
    with _count_separately() as usage, _convert_context_error():
        lm, history = _copy_with_history(call.lm)
        return _make_sample(call, await lm.acall(call.message, cache=False, **call.options), usage, history)


class ContinuationTest:
    """Tests once whether a server continues an assistant's message, for all endpoints that share this object.

    >>> ContinuationTest(True).run(dspy.LM("openai/qwen3"), {})
    True
    """

    def __init__(self, continues: bool | None) -> None:
        self.continues = continues
        self._lock = threading.Lock()

    def run(self, lm: dspy.LM, options: Mapping[str, Any]) -> bool:
        """Whether the server continues a message. The test sends two or three requests with `options` for one token.

        Raises `LMError` if the server does not answer; then the next call tests again.
        """
        with self._lock:
            if self.continues is None:
                self.continues = _test_continuation(lm, options)
            return self.continues


def _test_continuation(lm: dspy.LM, options: Mapping[str, Any]) -> bool:
    """Whether a server continues an assistant's message, by the number of prompt tokens that it reports.

    It does if an open message has fewer tokens than a complete one. If both have the same number, or the server refuses
    the complete one, it may continue every assistant's message: then the message `[` adds a single token to the prompt
    alone. A server that completes the message, or begins another one, reads more than that.
    """

    def count_prompt_tokens(is_open: bool) -> int:
        return complete(make_continuation_call(lm, "Hello.", "[", options, is_open=is_open)).prompt_tokens

    try:
        open_tokens = count_prompt_tokens(True)
    except (LMError, ContextLengthError, TypeError, ValueError):  # the last two: a setting that no request can have
        complete(make_prompt_call(lm, "Hello.", options))  # raises if the fields are not the cause
        return False
    try:
        if 0 < open_tokens < count_prompt_tokens(False):
            return True
    except (LMError, ContextLengthError):
        pass
    prompt_tokens = complete(make_prompt_call(lm, "Hello.", options)).prompt_tokens
    return prompt_tokens > 0 and open_tokens == prompt_tokens + 1


class ChatRenderer:
    """Renders prompts with a model's chat template, as in training.

    Raises `GeneratorNotFoundError` at first use if the model does not exist.
    """

    def __init__(self, model: str | Path) -> None:
        self._model = model
        self._tokenizer = ChatTokenizer(trust_remote_code=False)
        self._lock = threading.Lock()

    def render(self, prompt: str) -> str:
        """The text before the model's reply, without a first token that the server's tokenizer adds itself."""
        tokenizer = self._tokenizer.load(resolve(self._model))
        with self._lock:
            text = render_chat(tokenizer, [{"role": "user", "content": prompt}])
            first = tokenizer.bos_token
            if isinstance(first, str) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
                text = text.removeprefix(first)
            return text


def _find_limit(settings: Mapping[str, Any]) -> int | None:
    """The most tokens of a reply; None if no setting says."""
    return next((settings[name] for name in LIMITS if settings.get(name) is not None), None)


def _copy_with_history(lm: dspy.LM) -> tuple[dspy.LM, list[Mapping[str, Any]]]:
    """A copy of the LM, and the list that it writes its history to.

    The history has the reason why a reply ended, which a call does not return.
    """
    history: list[Mapping[str, Any]] = []

    def add(entry: Mapping[str, Any]) -> None:
        history.append(entry)

    copied = lm.copy()
    copied.update_history = add
    return copied, history


@contextmanager
def _count_separately() -> Iterator[UsageTracker]:
    """Inside, calls of an LM are kept from the user's stream, and the yielded tracker counts them."""
    usage, before = UsageTracker(), _INSIDE_CALL.set(True)
    try:
        with dspy.context(send_stream=None, stream_listeners=[], disable_history=False, usage_tracker=usage):
            yield usage
    finally:
        _INSIDE_CALL.reset(before)


@contextmanager
def _convert_context_error() -> Iterator[None]:
    """Raises `ContextLengthError`, as a local engine does, for DSPy's own error about a prompt that is too long."""
    try:
        yield
    except ContextWindowExceededError as error:
        raise ContextLengthError(str(error)) from error


def _make_sample(
    call: LMCall,
    outputs: Response | Sequence[str | Mapping[str, Any]],
    usage: UsageTracker,
    history: Sequence[Mapping[str, Any]],
) -> Sample:
    """The sample of an LM call: its text after the opening, and its token counts."""
    text, tokens = _read_text_and_tokens(outputs)
    logprobs = [float(_get_field(token, "logprob")) for token in tokens]
    entries = [entry for of_model in usage.usage_data.values() for entry in of_model]
    read, written = (sum(entry.get(name) or 0 for entry in entries) for name in ("prompt_tokens", "completion_tokens"))
    logprob = sum(logprobs) / len(logprobs) if logprobs else 0.0
    cut = _is_cut(history[-1]["response"] if history else None, written, call.limit)
    return Sample(f"{call.opening}{text}", read, written, logprob, cut)


def _read_text_and_tokens(outputs: Response | Sequence[str | Mapping[str, Any]]) -> tuple[str, Sequence[object]]:
    """A reply's text, and its tokens with their log-probabilities; with those, DSPy returns a mapping."""
    if isinstance(outputs, Response):
        return outputs.text or "", outputs.logprobs or ()
    output = outputs[0]
    reply: Mapping[str, Any] = {"text": output} if isinstance(output, str) else output
    return reply["text"] or "", _get_field(reply.get("logprobs"), "content") or ()


def _is_cut(response: object, written: int, limit: int | None) -> bool:
    """Whether a limit or a filter ended the reply, not the model: by the server's reason, or by the number of tokens.

    Clients report "stop" if a server gives no reason, so the written tokens are compared with the limit too.
    """
    response = cast("tuple[object, ...]", response)[0] if isinstance(response, tuple) and response else response
    choices = _get_field(response, "choices") or [None]
    reason = _get_field(response, "finish_reason") or _get_field(choices[0], "finish_reason")
    return str(reason) in _CUT or (limit is not None and written >= limit)


def _get_field(value: object, name: str) -> Any:
    """A field of a provider's reply, which is a mapping, an object or None."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
