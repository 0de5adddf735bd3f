"""The program behind its routes: called with typed inputs or with a chat's last message, and its reply as a chat's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import dspy
from pydantic import BaseModel

from sgt_modules.calling import called
from sgt_modules.episode import episode
from sgt_modules.lms import acting_as
from sgt_modules.service.advice import parted
from sgt_modules.service.metrics import Metrics
from sgt_modules.service.typed import inputs_of, outputs_of


class Answering:
    """A program with its actor: what it takes (`inputs`), what it is called (`name`), who acts in it (`lm`)."""

    def __init__(self, program: dspy.Module, lm: dspy.LM | None, metrics: Metrics) -> None:
        self.inputs = inputs_of(program)
        self.name = type(program).__name__
        self.lm, self._program, self._metrics = lm, program, metrics

    def read(self, text: str) -> BaseModel:
        """A message as the program's inputs: by the names that its lines begin with, else as the last one it needs.

        Raises pydantic's `ValidationError` where an input is missing or of another type.
        """
        fields = self.inputs.model_fields
        return self.inputs(**parted(text, sorted(fields, key=lambda name: fields[name].is_required())))

    def answer(self, given: BaseModel) -> dict[str, Any]:
        """The program's `outputs`, and the `supplements` that were read, in order."""
        values = {name: getattr(given, name) for name in type(given).model_fields}
        with acting_as(self.lm), episode(None) as run:
            outputs = outputs_of(called(self._program, values))
        told = [
            {
                "predictor": call.place.role,
                "turn": call.place.turn,
                "kind": call.supplement.kind,
                "text": call.supplement.text,
            }
            for call in run.ordered
        ]
        for each in told:
            self._metrics.told(str(each["kind"]))
        return {"outputs": outputs, "supplements": told}


def written(outputs: Mapping[str, Any]) -> str:
    """Outputs as a message: the only one's text, or each on a line that begins with its name.

    >>> written({"answer": "4"})
    '4'
    >>> print(written({"answer": "4", "sure": [1, 2]}))
    answer: 4
    sure: [1, 2]
    """
    texts = {name: each if isinstance(each, str) else json.dumps(each) for name, each in outputs.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def completion(model: str, text: str) -> dict[str, Any]:
    """A chat completion of one message, as OpenAI writes it.

    >>> completion("Adder", "4")["choices"]
    [{'index': 0, 'message': {'role': 'assistant', 'content': '4'}, 'finish_reason': 'stop'}]
    """
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**_head(model), "object": "chat.completion", "choices": [choice]}


def streamed(model: str, text: str) -> Iterator[str]:
    """The same as server-sent events: the whole message in one part, its end in another.

    >>> [event.partition(":")[0] for event in streamed("Adder", "4")]
    ['data', 'data', 'data']
    """
    head = {**_head(model), "object": "chat.completion.chunk"}
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


def _head(model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}
