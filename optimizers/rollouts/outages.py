"""Watches the LM calls of a run: detects a provider's outage even if the program swallowed the exception."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import (
    AdapterParseError,
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)

from optimizers.core.counting import CallCounter, CallGate, LMCall, asks_several
from sgt_modules.predictor import SupplementedPredictor

_EMPTY_REPLY = "The reply holds no answer, and no token is counted for it."
_FILE_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def is_permanent(error: BaseException) -> bool:
    """Whether every further call would fail in the same way: a wrong key, no such model, no credit, no configuration.

    >>> is_permanent(LMAuthError("wrong key", status=401)), is_permanent(LMAuthError("moderated", status=403))
    (True, False)
    """
    if isinstance(error, LMAuthError):  # 403 may be about a single prompt
        return error.status != 403
    return isinstance(error, (LMBillingError, LMUnsupportedModelError, LMConfigurationError))


def is_outage(error: BaseException) -> bool:
    """Whether the provider failed, apart from refusing a prompt (too long, an unknown setting).

    >>> is_outage(LMProviderError("no JSON")), is_outage(LMInvalidRequestError("too long"))
    (True, False)
    """
    about_prompt = isinstance(error, (LMInvalidRequestError, LMUnsupportedFeatureError))
    return isinstance(error, LMError) and (is_permanent(error) or not about_prompt)


def is_refusal(error: BaseException) -> bool:
    """Whether the provider works but refused this prompt: too long, filtered, with an unsupported feature.

    >>> is_refusal(LMInvalidRequestError("too long")), is_refusal(LMAuthError("moderated", status=403))
    (True, True)
    >>> is_refusal(LMProviderError("no JSON")), is_refusal(LMUnsupportedModelError("no such model"))
    (False, False)
    """
    if isinstance(error, LMAuthError):  # 403 comes from moderation; every other status is about the key
        return error.status == 403
    return isinstance(error, (LMInvalidRequestError, LMUnsupportedFeatureError)) and not is_permanent(error)


def was_refused(problem: BaseException, outage: BaseException | None) -> bool:
    """Whether a program's exception comes from a refused prompt, and the run had no other `outage`.

    >>> too_long = LMInvalidRequestError("too long")
    >>> was_refused(too_long, None), was_refused(too_long, LMProviderError("no JSON")), was_refused(ValueError(), None)
    (True, False, False)
    """
    return any(map(is_refusal, _cause_chain(problem))) and (outage is None or is_refusal(outage))


def is_provider_failure(problem: Exception) -> bool:
    """Whether a program's exception says nothing about its supplement, as a provider or the network is the cause.

    >>> is_provider_failure(LMInvalidRequestError("too long")), is_provider_failure(ValueError("not a number"))
    (True, False)
    >>> import httpx
    >>> request = httpx.Request("GET", "http://tool")
    >>> failed = [httpx.HTTPStatusError("", request=request, response=httpx.Response(code)) for code in (503, 404)]
    >>> [is_provider_failure(each) for each in failed]  # of a tool that the program asks
    [True, False]
    """
    import httpx  # here, as it brings a command line of its own

    if isinstance(problem, AdapterParseError):
        return False
    return any(
        isinstance(each, (LMError, httpx.TransportError))
        or _is_network_error(each)
        or (isinstance(each, httpx.HTTPStatusError) and _is_server_fault(each.response.status_code))
        for each in _cause_chain(problem)
    )


def _is_server_fault(status: int) -> bool:
    """Whether the same request may succeed later: a timeout, too many requests, a failing server."""
    return status in (408, 429) or status >= 500


def _is_network_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, _FILE_ERRORS)


def _cause_chain(problem: BaseException) -> Iterator[BaseException]:
    """An exception, its cause, the cause of that, and so on."""
    seen: set[int] = set()
    each: BaseException | None = problem
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def is_single_call(program: dspy.Module) -> bool:
    """Whether a program makes one LM call for one answer and handles no errors, so its end is the end of the call.

    Only with DSPy's default adapter. If it cannot read a reply it asks again for JSON, which `watch_fallback` notes.
    A predictor with drafts makes up to two calls.

    >>> is_single_call(dspy.Predict("question -> answer")), is_single_call(dspy.ReAct("question -> answer", []))
    (True, False)
    """
    if type(dspy.settings.adapter or _DEFAULT) is not dspy.ChatAdapter:
        return False
    if type(program) is dspy.ChainOfThought:
        program = program.predict
    if type(program) not in (dspy.Predict, SupplementedPredictor):
        return False
    predictor = cast("dspy.Predict", program)
    if isinstance(predictor, SupplementedPredictor) and predictor.draft:
        return False
    return not asks_several(predictor.lm or dspy.settings.lm, predictor.config)


class LMCalls(BaseCallback):
    """Watches how each LM call of one run ends, and lets the `gate` check and count it. Thread-safe.

    `answered`: whether any call returned. `outage`: the error of the first call that failed for good, even if the
    program handled it. A reply without choices, or an empty one with no counted token, is an outage: overloaded
    providers send such replies.
    """

    def __init__(self, gate: CallGate) -> None:
        self.answered = False
        self.outage: LMError | None = None
        self.gate = gate
        self._usage: CallCounter = gate.counter
        self._lock = threading.Lock()
        self._begun: dict[str, LMCall] = {}
        self._before = 0

    def end_run(self, problem: Exception | None, prediction: object) -> None:
        """Note how the run ended. Of a single-call program this is all that is known, as it runs without callbacks."""
        outage = next((each for each in _cause_chain(problem) if is_outage(each)), None) if problem else None
        if isinstance(problem, AdapterParseError):
            self.note_unreadable(problem)
        if isinstance(prediction, dspy.Prediction) and not len(prediction):
            outage = outage or LMProviderError(_EMPTY_REPLY)
        if isinstance(outage, LMError):
            self.outage = self.outage or outage

    def note_unreadable(self, problem: AdapterParseError) -> None:
        """Note a reply that an adapter could not read, before it asks again. An empty one without tokens: an outage."""
        before, self._before = self._before, self._counted_tokens()
        if not problem.lm_response and self._before == before:
            self.outage = self.outage or LMProviderError(_EMPTY_REPLY)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Let the gate check a call of the program. Calls of a generator or a judge are neither counted nor limited."""
        if call := self.gate.begin(instance, inputs):
            with self._lock:
                self._begun[call_id] = call

    def on_lm_end(self, call_id: str, outputs: object, exception: BaseException | None = None) -> None:
        """Note how the call ended."""
        with self._lock:
            call = self._begun.pop(call_id, None)
        if call is not None:
            self.gate.end(call, failed=exception is not None)
        with self._lock:
            if (
                exception is None
                and call is not None
                and not _has_content(outputs)
                and (not outputs or not call.tokens_out)
            ):
                exception = LMProviderError(_EMPTY_REPLY, model=getattr(call.lm, "model", None))
            if isinstance(exception, LMError) and is_outage(exception):
                self.outage = self.outage or exception
            self.answered = self.answered or exception is None

    def _counted_tokens(self) -> int:
        return sum(each.usage.tokens_out for each in self._usage.answers)


class _WatchedAdapter(dspy.ChatAdapter):
    """DSPy's default adapter, which notes a reply that it cannot read before it asks again for JSON."""

    def __init__(self, adapter: dspy.ChatAdapter, calls: LMCalls) -> None:
        vars(self).update(vars(adapter))
        self._calls = calls

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        problem = sys.exception()
        if isinstance(problem, AdapterParseError):
            self._calls.note_unreadable(problem)
        return super()._make_json_adapter_fallback()


_DEFAULT = dspy.ChatAdapter()


@contextmanager
def watch_fallback(calls: LMCalls) -> Iterator[None]:
    """In this context `calls` notes each reply that DSPy's default adapter cannot read and asks for again.

    It takes a tenth of the time of a callback.
    """
    adapter = dspy.settings.adapter or _DEFAULT
    if type(adapter) is not dspy.ChatAdapter or not adapter.use_json_adapter_fallback:
        yield
        return
    with dspy.context(adapter=_WatchedAdapter(adapter, calls)):
        yield


def _has_content(outputs: object) -> bool:
    """Whether an LM's outputs have any content: a text, a tool call, a thought."""
    if not isinstance(outputs, Sequence) or isinstance(outputs, str):
        return bool(outputs)
    return any(
        any(value for name, value in cast("Mapping[str, object]", each).items() if name != "logprobs")
        if isinstance(each, Mapping)
        else bool(each)
        for each in cast("Sequence[object]", outputs)
    )
