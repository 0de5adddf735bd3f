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
"""The names that OpenAI gave a reply's token limit, the newer one first."""

_CUT = ("length", "max_tokens", "content_filter")
"""What a server names as the reason of a reply's end where the model did not end it."""

_CONFIG = ("temperature", "top_p", "top_k", "seed", "stop", "frequency_penalty", "presence_penalty")
"""Settings that have a field of their own in a typed request; a server's own go along by their names."""

_CONNECTION = (
    *("api_key", "api_base", "base_url", "headers", "extra_headers", "timeout", "api_version", "extra_query"),
    *("azure_ad_token_provider", "organization", "project", "custom_llm_provider"),
)
"""Settings of an LM that say how its server is reached, and stay with the LM."""

_NOT_SENT = ("n", "num_generations", "rollout_id", "prompt_cache", "stream", "stream_options", "cache", "caching")
"""Settings that DSPy keeps for itself."""

_CHAT_ONLY = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
"""A server's own settings that mean nothing to a text completion, and that a strict server refuses there."""


_ASKING: ContextVar[bool] = ContextVar("asking", default=False)


def asks_aside() -> bool:
    """Whether this is within a generator's call of its own LM, which is counted apart."""
    return _ASKING.get()


def _said_by_the_completion(record: logging.LogRecord) -> bool:
    """Drops DSPy's warning of a reply that the limit cut, inside a call of this module: its completion says so."""
    return not (_ASKING.get() and "response was truncated" in record.getMessage())


logging.getLogger("dspy.clients.lm").addFilter(_said_by_the_completion)


@dataclass(frozen=True, slots=True)
class Call:
    """What one call of `lm` sends, and the opening that it makes the reply begin with.

    `limit` is the most tokens that the reply may have, where one is set.
    """

    lm: dspy.LM
    said: str | Request
    options: Mapping[str, Any]
    limit: int | None
    opening: str = ""


def plain(lm: dspy.LM, prompt: str, options: Mapping[str, Any]) -> Call:
    """A prompt as a user's message, whose reply begins as the model likes."""
    return Call(lm, prompt, options, _limit({**lm.kwargs, **options}))


def continued(lm: dspy.LM, prompt: str, opening: str, options: Mapping[str, Any], *, opens: bool = True) -> Call:
    """A prompt and an assistant's message that the model goes on with; not `opens`: one that has ended.

    `continue_final_message` and `add_generation_prompt` are vLLM's and SGLang's names for that. They join what the LM
    has in its `extra_body`.

    >>> lm = dspy.LM("openai/qwen3", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    >>> continued(lm, "2+2?", "[cot]", {"max_tokens": 9}).said.messages[1].text
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


def completed(lm: dspy.LM, text: str, opening: str, options: Mapping[str, Any]) -> Call:
    """A whole text, its chat template and the opening included, that the server's `/v1/completions` goes on with.

    DSPy writes words of its own behind a text completion's prompt; the one in `extra_body` takes that prompt's place.
    """
    limit = _limit({**lm.kwargs, **options})
    body = {name: value for name, value in (lm.kwargs.get("extra_body") or {}).items() if name not in _CHAT_ONLY}
    lm = lm.copy(model_type="text", engine="litellm", max_completion_tokens=None, logprobs=None, top_logprobs=None)
    said = {name: value for name, value in options.items() if name not in (*LIMITS, "logprobs")}
    sent = {**said, "max_tokens": limit, "extra_body": {**body, "prompt": f"{text}{opening}"}}
    return Call(lm, text, {name: value for name, value in sent.items() if value is not None}, limit, opening)


def complete(call: Call) -> Sample:
    """The reply. Raises what DSPy's LM raises (`LMError`), and `ContextLengthError`."""
    with _aside() as usage, _too_long():
        lm, noted = _noting(call.lm)
        return _sample(call, lm(call.said, cache=False, **call.options), usage, noted)


async def acomplete(call: Call) -> Sample:
    """As `complete`, through the LM's own coroutine."""
    with _aside() as usage, _too_long():
        lm, noted = _noting(call.lm)
        return _sample(call, await lm.acall(call.said, cache=False, **call.options), usage, noted)


class Continuation:
    """Whether a server continues an assistant's message: found out once, for all that share this object.

    >>> Continuation(True).found(dspy.LM("openai/qwen3"), {})
    True
    """

    def __init__(self, continues: bool | None) -> None:
        self.continues = continues
        self._lock = threading.Lock()

    def found(self, lm: dspy.LM, options: Mapping[str, Any]) -> bool:
        """Whether it does, by what it reads of two requests, sometimes of a third; `options` ask for one token.

        Raises `LMError` where the server answers nothing at all, and finds out the next time.
        """
        with self._lock:
            if self.continues is None:
                self.continues = _continues(lm, options)
            return self.continues


def _continues(lm: dspy.LM, options: Mapping[str, Any]) -> bool:
    """A server that knows the fields reads less of a message that goes on than of one that has ended.

    Where both are the same, or it refuses the one that has ended, it may go on with an assistant's message in any case:
    then it reads a single token more, the bracket, than of the prompt alone. One that ends the message, or opens
    another, reads more than that.
    """

    def read(opens: bool) -> int:
        return complete(continued(lm, "Hello.", "[", options, opens=opens)).prompt_tokens

    try:
        going_on = read(True)
    except (LMError, ContextLengthError, TypeError, ValueError):  # the latter two: settings that no request can carry
        complete(plain(lm, "Hello.", options))  # raises where the fields are not to blame
        return False
    try:
        if 0 < going_on < read(False):
            return True
    except (LMError, ContextLengthError):
        pass
    alone = complete(plain(lm, "Hello.", options)).prompt_tokens
    return alone > 0 and going_on == alone + 1


class ChatText:
    """A prompt as the text that a model reads, through the chat template in the model's folder, as in training.

    Raises `GeneratorNotFoundError` for a model that is not there, at first use.
    """

    def __init__(self, model: str | Path) -> None:
        self._model = model
        self._reader = Reader(trust_remote_code=False)
        self._lock = threading.Lock()

    def of(self, prompt: str) -> str:
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


def _noting(lm: dspy.LM) -> tuple[dspy.LM, list[Mapping[str, Any]]]:
    """A copy of the LM, and the list that it writes its history to, and to nothing else.

    What a call returns does not say what ended the reply; its entry in the history does.
    """
    noted: list[Mapping[str, Any]] = []

    def note(entry: Mapping[str, Any]) -> None:
        noted.append(entry)

    copied = lm.copy()
    copied.update_history = note
    return copied, noted


@contextmanager
def _aside() -> Iterator[UsageTracker]:
    """Inside, calls of an LM do not reach the user's stream, and are counted apart."""
    usage, before = UsageTracker(), _ASKING.set(True)
    try:
        with dspy.context(send_stream=None, stream_listeners=[], disable_history=False, usage_tracker=usage):
            yield usage
    finally:
        _ASKING.reset(before)


@contextmanager
def _too_long() -> Iterator[None]:
    """DSPy's word for a prompt that is too long, as a local engine says it."""
    try:
        yield
    except ContextWindowExceededError as error:
        raise ContextLengthError(str(error)) from error


def _sample(
    call: Call,
    outputs: Response | Sequence[str | Mapping[str, Any]],
    usage: UsageTracker,
    noted: Sequence[Mapping[str, Any]],
) -> Sample:
    """What an LM call returned, with the opening before it."""
    text, tokens = _text_and_tokens(outputs)
    scores = [float(_of(token, "logprob")) for token in tokens]
    entries = [entry for of_model in usage.usage_data.values() for entry in of_model]
    read, wrote = (sum(entry.get(name) or 0 for entry in entries) for name in ("prompt_tokens", "completion_tokens"))
    logprob = sum(scores) / len(scores) if scores else 0.0
    cut = _is_cut(noted[-1]["response"] if noted else None, wrote, call.limit)
    return Sample(f"{call.opening}{text}", read, wrote, logprob, cut)


def _text_and_tokens(outputs: Response | Sequence[str | Mapping[str, Any]]) -> tuple[str, Sequence[object]]:
    """A reply's text, and its tokens with their scores; a plain call returns a text, or a mapping if there is more."""
    if isinstance(outputs, Response):
        return outputs.text or "", outputs.logprobs or ()
    output = outputs[0]
    said: Mapping[str, Any] = {"text": output} if isinstance(output, str) else output
    return said["text"] or "", _of(said.get("logprobs"), "content") or ()


def _is_cut(response: object, wrote: int, limit: int | None) -> bool:
    """Whether something else than the model ended the reply: the server names another reason, or the limit is reached.

    Clients report "stop" where a server gives no reason at all, so the written tokens are compared with the limit too.
    """
    response = cast("tuple[object, ...]", response)[0] if isinstance(response, tuple) and response else response
    choices = _of(response, "choices") or [None]
    reason = _of(response, "finish_reason") or _of(choices[0], "finish_reason")
    return str(reason) in _CUT or (limit is not None and wrote >= limit)


def _of(value: object, name: str) -> Any:
    """A field of what a provider's client returned: a mapping or an object, or nothing at all."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
