"""The draft of a call: the actor's unaided answer, which the generator reads before it writes.

The predictor answers once without a supplement, the generator reads the inputs and this draft, and the predictor
answers again from the inputs and the supplement; with `[none]` the draft is the answer, and there is no second call. A
supplement that a table gives needs no draft, so training pays for none: its unaided runs are both the drafts in the
queries' prompts and the outcomes of `[none]`. Where the generator writes during a run (several predictors, loops), a
memo of the unaided runs has the drafts, by predictor and inputs, and a shelf keeps them for later sessions.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic import BaseModel

from sgt_modules.generator_prompt import text_of

_KEPT = "sgt_drafts"

Inputs = Mapping[str, object]
"""The keyword arguments of a predictor's call."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An unaided answer: the prediction and the inputs that DSPy traces it with, or why it could not be read.

    >>> Draft(dspy.Prediction(answer=4)).texts, Draft(problem=ValueError("no field")).texts
    ({'answer': '4'}, {})
    """

    prediction: dspy.Prediction | None = None
    traced: Inputs | None = None
    problem: Exception | None = None

    @property
    def texts(self) -> dict[str, str]:
        """Each output field's value as text, as `GeneratorPrompt.write` takes it; empty if it could not be read."""
        return {} if self.prediction is None else {name: text_of(each) for name, each in self.prediction.items()}

    def as_answer(self, predictor: dspy.Predict) -> dspy.Prediction:
        """Return the prediction as the predictor's answer, and trace it as that; raise why it could not be read."""
        if self.prediction is None:
            raise self.problem or ValueError("a draft has a prediction or a problem")
        trace, most = dspy.settings.trace, dspy.settings.max_trace_size
        if trace is not None and self.traced is not None and most > 0:
            if len(trace) >= most:
                trace.pop(0)
            trace.append((predictor, dict(self.traced), self.prediction))
        return self.prediction


def make_draft(answer: Callable[..., dspy.Prediction], inputs: Inputs) -> Draft:
    """Call the actor without a supplement; no chunk of it reaches the user's stream, and DSPy's trace is unchanged."""
    with _hidden() as trace:
        try:
            return _traced(answer(**inputs), trace)
        except AdapterParseError as problem:
            return Draft(problem=problem)


async def amake_draft(answer: Callable[..., Awaitable[dspy.Prediction]], inputs: Inputs) -> Draft:
    """Do the same as `make_draft`, for coroutines."""
    with _hidden() as trace:
        try:
            return _traced(await answer(**inputs), trace)
        except AdapterParseError as problem:
            return Draft(problem=problem)


@contextmanager
def _hidden() -> Iterator[list[Any]]:
    trace: list[Any] = []
    with dspy.context(send_stream=None, stream_listeners=[], trace=trace):
        yield trace


def _traced(prediction: dspy.Prediction, trace: list[Any]) -> Draft:
    return Draft(prediction, trace[-1][1] if trace else None)


class DraftShelf(Protocol):
    """Keeps a program's drafts beyond this process, by a key that is equal for calls of equal role and inputs."""

    def find(self, role: str, key: str, inputs: Inputs) -> Draft | None:
        """Return the draft of a key as it answers a call with these inputs, if there is one."""
        ...

    def keep(self, role: str, key: str, draft: Draft) -> None:
        """Save a draft before this returns; the first one of a key stays."""
        ...


class DraftMemo:
    """The drafts of one program's calls, by role and inputs. Thread-safe.

    What it does not know it looks up on a `shelf`, where it puts each new draft before the next call is made. A call
    with inputs that are no JSON, such as tools, is not kept.

    >>> memo = DraftMemo()
    >>> memo.keep("self", {"question": "2+2?"}, Draft(dspy.Prediction(answer="4")))
    >>> memo.find("self", {"question": "2+2?"}).texts, memo.find("self", {"question": "3+3?"})
    ({'answer': '4'}, None)
    """

    def __init__(self, shelf: DraftShelf | None = None) -> None:
        self._drafts: dict[str, Draft] = {}
        self._lock, self._shelf = threading.Lock(), shelf

    def find(self, role: str, inputs: Inputs) -> Draft | None:
        """Return a copy of the draft of these inputs, if there is one."""
        key = _key(role, inputs)
        with self._lock:
            draft = self._drafts.get(key)
        if draft is None and key and self._shelf is not None and (found := self._shelf.find(role, key, inputs)):
            with self._lock:
                draft = self._drafts.setdefault(key, found)
        return None if draft is None else replace(draft, prediction=copy.deepcopy(draft.prediction))

    def keep(self, role: str, inputs: Inputs, draft: Draft) -> None:
        """Keep the first draft of these inputs."""
        if key := _key(role, inputs):
            kept = replace(draft, prediction=copy.deepcopy(draft.prediction))
            with self._lock:
                is_new = self._drafts.setdefault(key, kept) is kept
            if is_new and self._shelf is not None:
                self._shelf.keep(role, key, kept)

    def filling(self) -> AbstractContextManager[None]:
        """Keep the drafts of the calls inside the block; each is asked for, as a measurement of noise needs."""
        return dspy.context(**{_KEPT: _Kept(self, read=False)})

    def reusing(self) -> AbstractContextManager[None]:
        """Take the drafts of the calls inside the block from here, and keep those that are missing."""
        return dspy.context(**{_KEPT: _Kept(self, read=True)})


@dataclass(frozen=True, slots=True)
class _Kept:
    memo: DraftMemo
    read: bool


def find_draft(role: str, inputs: Inputs) -> Draft | None:
    """Return the draft that the running memo has for a call, if any."""
    kept = _running()
    return kept.memo.find(role, inputs) if kept is not None and kept.read else None


def keep_draft(role: str, inputs: Inputs, draft: Draft) -> Draft:
    """Keep a draft in the running memo, if any, and return it."""
    if kept := _running():
        kept.memo.keep(role, inputs, draft)
    return draft


def _running() -> _Kept | None:
    return cast("_Kept | None", dspy.settings.get(_KEPT))


def _key(role: str, inputs: Inputs) -> str:
    """A text that is equal for equal calls; empty if an input is no JSON."""
    try:
        return json.dumps([role, dict(inputs)], sort_keys=True, default=_as_json)
    except (TypeError, ValueError, RecursionError):
        return ""


def _as_json(value: object) -> object:
    if isinstance(value, BaseModel):
        return [type(value).__qualname__, value.model_dump(mode="json")]
    raise TypeError(f"{type(value).__name__} is no JSON")
