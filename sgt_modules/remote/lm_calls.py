"""One call of a `dspy.LM`, and its sample: for a prompt, an assistant's message to continue, or a text to complete."""

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

from sgt_modules.local.chat_template import Reader, render_chat
from sgt_modules.samples import Sample
from sgt_modules.saving.weights import resolve

LIMITS = ("max_completion_tokens", "max_tokens")
"""OpenAI's names for a reply's token limit, the newer one first."""

_CUT = ("length", "max_tokens", "content_filter")
"""The reasons that servers give for the end of a reply that the model did not end."""

_CONFIG = ("temperature", "top_p", "top_k", "seed", "stop", "frequency_penalty", "presence_penalty")
"""Settings that have a field of their own in a typed request; a server's own settings are sent by name."""

_CONNECTION = (
    *("api_key", "api_base", "base_url", "headers", "extra_headers", "timeout", "api_version", "extra_query"),
    *("azure_ad_token_provider", "organization", "project", "custom_llm_provider"),
)
"""Settings of an LM that describe the connection, and stay with the LM."""

_NOT_SENT = ("n", "num_generations", "rollout_id", "prompt_cache", "stream", "stream_options", "cache", "caching")
"""Settings that DSPy keeps for itself."""

_CHAT_ONLY = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
"""A server's own settings for chats, which a strict server refuses in a text completion."""


_INSIDE_CALL: ContextVar[bool] = ContextVar("inside_call", default=False)


def in_generator_call() -> bool:
    """Whether this code runs inside a generator's call of its own LM, which is counted separately."""
    return _INSIDE_CALL.get()


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drops DSPy's warning of a cut reply inside a call of this module, whose sample is marked as cut."""
    return not (_INSIDE_CALL.get() and "response was truncated" in record.getMessage())


logging.getLogger("dspy.clients.lm").addFilter(_is_wanted)


@dataclass(frozen=True, slots=True)
class Call:
    """What one call of `lm` sends, and the opening that the reply begins with.

    `limit` is the most tokens of the reply, where one is set.
    """

    lm: dspy.LM
    message: str | Request
    options: Mapping[str, Any]
    limit: int | None
    opening: str = ""


def prompt_call(lm: dspy.LM, prompt: str, options: Mapping[str, Any]) -> Call:
    """Sends a prompt as a user's message; the model chooses how its reply begins."""
    return Call(lm, prompt, options, _limit({**lm.kwargs, **options}))


def continuation_call(
    lm: dspy.LM, prompt: str, opening: str, options: Mapping[str, Any], *, opens: bool = True
) -> Call:
    """Sends a prompt and an assistant's message for the model to continue; without `opens`, a message that has ended.

    `continue_final_message` and `add_generation_prompt` are vLLM's and SGLang's names for that. They are added to the
    LM's `extra_body`.

    >>> lm = dspy.LM("openai/qwen3", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    >>> continuation_call(lm, "2+2?", "[cot]", {"max_tokens": 9}).message.messages[1].text
    '[cot]'
    """
    settings = {
        name: value
        for name, value in {**lm.kwargs, **options}.items()
        if value is not None and name not in (*_CONNECTION, *_NOT_SENT)
    }
    limit = _limit(settings)
    own = {name: value for name, value in settings.items() if name not in (*_CONFIG, *LIMITS, "extra_body", "logprobs")}
    body = {**own, **settings.get("extra_body", {}), "continue_final_message": opens, "add_generation_prompt": False}
    config = Config(
        max_tokens=limit,
        logprobs=0 if settings.get("logprobs") else None,
        extensions=body,
        **{name: settings[name] for name in _CONFIG if name in settings},
    )
    if lm.engine == "auto" and (own or "extra_body" in settings):
        lm = lm.copy(engine="litellm")  # as DSPy does for a plain prompt with such settings
    request = Request(model=lm.model, messages=(Message.user(prompt), Message.assistant(opening)), config=config)
    return Call(lm, request, {}, limit, opening if opens else "")


def completion_call(lm: dspy.LM, text: str, opening: str, options: Mapping[str, Any]) -> Call:
    """Sends a whole text, its chat template and the opening included, for the server's `/v1/completions` to continue.

    DSPy adds words of its own to the prompt of a text completion; the prompt in `extra_body` replaces that prompt.
    """
    limit = _limit({**lm.kwargs, **options})
    body = {name: value for name, value in (lm.kwargs.get("extra_body") or {}).items() if name not in _CHAT_ONLY}
    lm = lm.copy(model_type="text", engine="litellm", max_completion_tokens=None, logprobs=None, top_logprobs=None)
    kept = {name: value for name, value in options.items() if name not in (*LIMITS, "logprobs")}
    sent = {**kept, "max_tokens": limit, "extra_body": {**body, "prompt": f"{text}{opening}"}}
    return Call(lm, text, {name: value for name, value in sent.items() if value is not None}, limit, opening)


def complete(call: Call) -> Sample:
    """The reply. Raises what DSPy's LM raises (`LMError`), and `ContextLengthError`."""
    with _counted_apart() as usage, _context_errors():
        lm, history = _with_own_history(call.lm)
        return _sample(call, lm(call.message, cache=False, **call.options), usage, history)


async def acomplete(call: Call) -> Sample:
    """As `complete`, through the LM's own coroutine."""
    with _counted_apart() as usage, _context_errors():
        lm, history = _with_own_history(call.lm)
        return _sample(call, await lm.acall(call.message, cache=False, **call.options), usage, history)


class Continuation:
    """Whether a server continues an assistant's message: tested once, for all endpoints that share this object.

    >>> Continuation(True).test(dspy.LM("openai/qwen3"), {})
    True
    """

    def __init__(self, continues: bool | None) -> None:
        self.continues = continues
        self._lock = threading.Lock()

    def test(self, lm: dspy.LM, options: Mapping[str, Any]) -> bool:
        """Whether the server does, by the tokens that it reads of two or three requests; `options` ask for one token.

        Raises `LMError` where the server does not answer at all; the next call tests again.
        """
        with self._lock:
            if self.continues is None:
                self.continues = _continues(lm, options)
            return self.continues


def _continues(lm: dspy.LM, options: Mapping[str, Any]) -> bool:
    """Whether a server reads fewer tokens of a message to continue than of one that has ended.

    Where both are the same, or it refuses the message that has ended, it may continue an assistant's message in any
    case: then it reads a single token more, the bracket, than of the prompt alone. A server that ends the message, or
    begins another, reads more than that.
    """

    def read(opens: bool) -> int:
        return complete(continuation_call(lm, "Hello.", "[", options, opens=opens)).prompt_tokens

    try:
        open_message = read(True)
    except (LMError, ContextLengthError, TypeError, ValueError):  # the latter two: settings that no request can carry
        complete(prompt_call(lm, "Hello.", options))  # raises where the fields are not the cause
        return False
    try:
        if 0 < open_message < read(False):
            return True
    except (LMError, ContextLengthError):
        pass
    alone = complete(prompt_call(lm, "Hello.", options)).prompt_tokens
    return alone > 0 and open_message == alone + 1


class ChatText:
    """Renders prompts with the chat template in a model's folder, as in training.

    Raises `GeneratorNotFoundError` at first use where the model does not exist.
    """

    def __init__(self, model: str | Path) -> None:
        self._model = model
        self._reader = Reader(trust_remote_code=False)
        self._lock = threading.Lock()

    def render(self, prompt: str) -> str:
        """The text after which the reply begins, without a first token that the server's tokenizer adds by itself."""
        tokenizer = self._reader.tokenizer(resolve(self._model))
        with self._lock:
            text = render_chat(tokenizer, [{"role": "user", "content": prompt}])
            first = tokenizer.bos_token
            if isinstance(first, str) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
                text = text.removeprefix(first)
            return text


def _limit(settings: Mapping[str, Any]) -> int | None:
    """The most tokens that a reply may have, where one is set."""
    return next((settings[name] for name in LIMITS if settings.get(name) is not None), None)


def _with_own_history(lm: dspy.LM) -> tuple[dspy.LM, list[Mapping[str, Any]]]:
    """A copy of the LM, and the list that is its only history.

    The history has the reason of a reply's end, which a call does not return.
    """
    history: list[Mapping[str, Any]] = []

    def add(entry: Mapping[str, Any]) -> None:
        history.append(entry)

    copied = lm.copy()
    copied.update_history = add
    return copied, history


@contextmanager
def _counted_apart() -> Iterator[UsageTracker]:
    """Inside, calls of an LM do not reach the user's stream, and are counted by the yielded tracker."""
    usage, before = UsageTracker(), _INSIDE_CALL.set(True)
    try:
        with dspy.context(send_stream=None, stream_listeners=[], disable_history=False, usage_tracker=usage):
            yield usage
    finally:
        _INSIDE_CALL.reset(before)


@contextmanager
def _context_errors() -> Iterator[None]:
    """Raises DSPy's error for a prompt that is too long as `ContextLengthError`, as a local engine does."""
    try:
        yield
    except ContextWindowExceededError as error:
        raise ContextLengthError(str(error)) from error


def _sample(
    call: Call,
    outputs: Response | Sequence[str | Mapping[str, Any]],
    usage: UsageTracker,
    history: Sequence[Mapping[str, Any]],
) -> Sample:
    """What an LM call returned, with the opening before it."""
    text, tokens = _text_and_tokens(outputs)
    scores = [float(_field(token, "logprob")) for token in tokens]
    entries = [entry for of_model in usage.usage_data.values() for entry in of_model]
    read, wrote = (sum(entry.get(name) or 0 for entry in entries) for name in ("prompt_tokens", "completion_tokens"))
    logprob = sum(scores) / len(scores) if scores else 0.0
    cut = _is_cut(history[-1]["response"] if history else None, wrote, call.limit)
    return Sample(f"{call.opening}{text}", read, wrote, logprob, cut)


def _text_and_tokens(outputs: Response | Sequence[str | Mapping[str, Any]]) -> tuple[str, Sequence[object]]:
    """A reply's text, and its tokens with their scores; DSPy returns a mapping where there is more than a text."""
    if isinstance(outputs, Response):
        return outputs.text or "", outputs.logprobs or ()
    output = outputs[0]
    reply: Mapping[str, Any] = {"text": output} if isinstance(output, str) else output
    return reply["text"] or "", _field(reply.get("logprobs"), "content") or ()


def _is_cut(response: object, wrote: int, limit: int | None) -> bool:
    """Whether something else than the model ended the reply: the server names another reason, or the limit is reached.

    Clients report "stop" where a server gives no reason at all, so the written tokens are compared with the limit too.
    """
    response = cast("tuple[object, ...]", response)[0] if isinstance(response, tuple) and response else response
    choices = _field(response, "choices") or [None]
    reason = _field(response, "finish_reason") or _field(choices[0], "finish_reason")
    return str(reason) in _CUT or (limit is not None and wrote >= limit)


def _field(value: object, name: str) -> Any:
    """A field of a provider's reply, which is a mapping, an object or None."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
