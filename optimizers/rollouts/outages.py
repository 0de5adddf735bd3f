"""What became of a run's LM calls: an outage is known even where the program made something of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import dspy
import httpx
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
    """Whether every further call would fail in the same way: a wrong key, no such model, no credit, no set-up.

    >>> is_permanent(LMAuthError("wrong key", status=401)), is_permanent(LMAuthError("moderated", status=403))
    (True, False)
    """
    if isinstance(error, LMAuthError):  # 403 is also said of a single prompt
        return error.status != 403
    return isinstance(error, (LMBillingError, LMUnsupportedModelError, LMConfigurationError))


def is_outage(error: BaseException) -> bool:
    """Whether the provider failed; not that it took no such prompt (too long, a setting it does not know).

    >>> is_outage(LMProviderError("no JSON")), is_outage(LMInvalidRequestError("too long"))
    (True, False)
    """
    about_prompt = isinstance(error, (LMInvalidRequestError, LMUnsupportedFeatureError))
    return isinstance(error, LMError) and (is_permanent(error) or not about_prompt)


def is_refusal(error: BaseException) -> bool:
    """Whether the provider refused this prompt: too long, filtered, with a feature that it lacks. It did not fail.

    >>> is_refusal(LMInvalidRequestError("too long")), is_refusal(LMAuthError("moderated", status=403))
    (True, True)
    >>> is_refusal(LMProviderError("no JSON")), is_refusal(LMUnsupportedModelError("no such model"))
    (False, False)
    """
    if isinstance(error, LMAuthError):  # 403 is what moderation says; every other status is about the key
        return error.status == 403
    return isinstance(error, (LMInvalidRequestError, LMUnsupportedFeatureError)) and not is_permanent(error)


def was_refused(problem: BaseException, outage: BaseException | None) -> bool:
    """Whether what a program raised comes from a refused prompt, while no call of the run failed by an `outage`.

    >>> too_long = LMInvalidRequestError("too long")
    >>> was_refused(too_long, None), was_refused(too_long, LMProviderError("no JSON")), was_refused(ValueError(), None)
    (True, False, False)
    """
    return any(map(is_refusal, _cause_chain(problem))) and (outage is None or is_refusal(outage))


def is_uninformative(problem: Exception) -> bool:
    """Whether what a program raised tells nothing of its supplement: a provider or the network stands behind it.

    >>> is_uninformative(LMInvalidRequestError("too long")), is_uninformative(ValueError("not a number"))
    (True, False)
    """
    if isinstance(problem, AdapterParseError):
        return False
    return any(
        isinstance(each, (LMError, httpx.TransportError)) or _is_network_error(each) for each in _cause_chain(problem)
    )


def _is_network_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, _FILE_ERRORS)


def _cause_chain(problem: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on."""
    seen: set[int] = set()
    each: BaseException | None = problem
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def is_single_call(program: dspy.Module) -> bool:
    """Whether a program asks one LM once, for one answer, and makes nothing of its errors: then how it ended tells all.

    Only under DSPy's default adapter; where it asks again for JSON, as it cannot read a reply, `watch_fallback` tells.

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
    return not asks_several(predictor.lm or dspy.settings.lm, predictor.config)


class LMCalls(BaseCallback):
    """Hears how each LM call of one run ended, and has the `gate` check it and count it; safe from many threads.

    `answered`: whether any came back with something. `outage`: the first that failed for good, however the program took
    it. A reply without a choice is none, nor is an empty one for which no token is counted: overloaded providers send
    such.
    """

    def __init__(self, gate: CallGate) -> None:
        self.answered = False
        self.outage: LMError | None = None
        self.gate = gate
        self._usage: CallCounter = gate.counter
        self._lock = threading.Lock()
        self._begun: dict[str, LMCall] = {}
        self._before = 0

    def ended(self, problem: Exception | None, prediction: object) -> None:
        """Note how the run ended: all that is known where nobody listened, as DSPy's callbacks take their time."""
        outage = next((each for each in _cause_chain(problem) if is_outage(each)), None) if problem else None
        if isinstance(problem, AdapterParseError):
            self.unread(problem)
        if isinstance(prediction, dspy.Prediction) and not len(prediction):
            outage = outage or LMProviderError(_EMPTY_REPLY)
        if isinstance(outage, LMError):
            self.outage = self.outage or outage

    def unread(self, problem: AdapterParseError) -> None:
        """Note a reply that an adapter could not read, before it asks again: none, if empty and without a token."""
        before, self._before = self._before, self._counted_in_all()
        if not problem.lm_response and self._before == before:
            self.outage = self.outage or LMProviderError(_EMPTY_REPLY)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Ask for the call, if it is the program's: a generator's or a judge's is neither counted nor limited."""
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

    def _counted_in_all(self) -> int:
        return sum(each.usage.tokens_out for each in self._usage.answers)


class _WatchedAdapter(dspy.ChatAdapter):
    """DSPy's default adapter, which tells of a reply that it cannot read before it asks again for JSON."""

    def __init__(self, adapter: dspy.ChatAdapter, calls: LMCalls) -> None:
        vars(self).update(vars(adapter))
        self._calls = calls

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        problem = sys.exception()
        if isinstance(problem, AdapterParseError):
            self._calls.unread(problem)
        return super()._make_json_adapter_fallback()


_DEFAULT = dspy.ChatAdapter()


@contextmanager
def watch_fallback(calls: LMCalls) -> Iterator[None]:
    """Inside, `calls` hears of a reply that DSPy's default adapter asks for again, at a tenth of a callback's cost."""
    adapter = dspy.settings.adapter or _DEFAULT
    if type(adapter) is not dspy.ChatAdapter or not adapter.use_json_adapter_fallback:
        yield
        return
    with dspy.context(adapter=_WatchedAdapter(adapter, calls)):
        yield


def _has_content(outputs: object) -> bool:
    """Whether an LM's outputs hold anything: a text, a tool call, a thought."""
    if not isinstance(outputs, Sequence) or isinstance(outputs, str):
        return bool(outputs)
    return any(
        any(value for name, value in cast("Mapping[str, object]", each).items() if name != "logprobs")
        if isinstance(each, Mapping)
        else bool(each)
        for each in cast("Sequence[object]", outputs)
    )
