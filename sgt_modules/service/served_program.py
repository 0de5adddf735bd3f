"""The program behind the routes: it is called with typed inputs or a chat's last message, and can answer as a chat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dspy
from pydantic import BaseModel

from sgt_modules.calling import call_program
from sgt_modules.episode import episode
from sgt_modules.errors import NoActorError
from sgt_modules.lms import acting_as, check_lm
from sgt_modules.service.advice import split_inputs
from sgt_modules.service.metrics import Metrics
from sgt_modules.service.schemas import build_input_model, dump_outputs
from sgt_modules.wrapping import supplemented_predictors, unsupplement


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """The program's outputs, its supplements in order, and the tokens of the run.

    `usage` has OpenAI's form: the tokens that the actor read and wrote, as its server counts them; 0 for a reply from
    DSPy's cache.
    """

    outputs: Mapping[str, Any]
    supplements: Sequence[Mapping[str, Any]]
    usage: Mapping[str, int]

    def content(self) -> dict[str, Any]:
        """Return the answer of `POST /predict`."""
        return {"outputs": self.outputs, "supplements": self.supplements}


class ServedProgram:
    """A program with the type of its `inputs`, its `name` and its actor's `lm`.

    `supplements` says whether one of its predictors reads supplements.
    """

    def __init__(self, program: dspy.Module, lm: dspy.LM | None, metrics: Metrics) -> None:
        self.inputs = build_input_model(program)
        self.name = type(program).__name__
        self.supplements = bool(supplemented_predictors(program))
        self.lm, self._program, self._metrics = lm, program, metrics

    @property
    def acts(self) -> bool:
        """Whether each predictor has an LM."""
        return all(actor is not None for _, actor in _actors(self._program, self.lm))

    def read(self, text: str) -> BaseModel:
        """Split a message into inputs at lines that begin with their names; else it is the last required input.

        Raises pydantic's `ValidationError` if an input is missing or of another type.
        """
        fields = self.inputs.model_fields
        return self.inputs(**split_inputs(text, sorted(fields, key=lambda name: fields[name].is_required())))

    def answer(self, inputs: BaseModel) -> ServedAnswer:
        """Run the program with its supplements."""
        with episode(None) as run:
            outputs, usage = self._run(self._program, inputs)
        supplements = [
            {
                "predictor": call.place.role,
                "turn": call.place.turn,
                "kind": call.supplement.kind,
                "text": call.supplement.text,
            }
            for call in run.ordered
        ]
        for each in supplements:
            self._metrics.count_supplement(str(each["kind"]))
        return ServedAnswer(outputs, supplements, usage)

    def answer_without(self, inputs: BaseModel) -> ServedAnswer:
        """Run the program without supplements."""
        outputs, usage = self._run(unsupplement(self._program), inputs)
        return ServedAnswer(outputs, (), usage)

    def _run(self, program: dspy.Module, inputs: BaseModel) -> tuple[dict[str, Any], dict[str, int]]:
        values = {name: getattr(inputs, name) for name in type(inputs).model_fields}
        with acting_as(self.lm), dspy.track_usage() as tracker:
            outputs = dump_outputs(call_program(program, values))
        usages = [each for entries in tracker.usage_data.values() for each in entries]
        usage = {name: sum(each.get(name) or 0 for each in usages) for name in ("prompt_tokens", "completion_tokens")}
        return outputs, {**usage, "total_tokens": sum(usage.values())}


def check_service(program: dspy.Module, lm: dspy.LM | None, *, needed: bool = True) -> bool:
    """Return whether each predictor has an LM. Raise `SetupError` for faults that make every request fail.

    These are a predictor without an LM where one is `needed`, an LM without its key, a generator without its weights.
    """
    actors = _actors(program, lm)
    for name, actor in actors:
        if actor is None and needed:
            raise NoActorError(
                f"Expected an LM for the predictor {name!r}, got none. Name one with --lm, such as "
                "openai/gpt-4.1-mini, or call dspy.configure(lm=...) in the program's module."
            )
        check_lm(actor)
    for _, predictor in supplemented_predictors(program):
        predictor.generator.check()
    return all(actor is not None for _, actor in actors)


def _actors(program: dspy.Module, lm: dspy.LM | None) -> list[tuple[str, object]]:
    return [(name, each.lm or lm or dspy.settings.lm) for name, each in program.named_predictors()]


def format_outputs(outputs: Mapping[str, Any]) -> str:
    """Write outputs as a message: the text of a single output, else one line `name: text` for each.

    >>> format_outputs({"answer": "4"})
    '4'
    >>> print(format_outputs({"answer": "4", "sure": [1, 2]}))
    answer: 4
    sure: [1, 2]
    """
    texts = {name: each if isinstance(each, str) else json.dumps(each) for name, each in outputs.items()}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def build_completion(model: str, text: str, usage: Mapping[str, int]) -> dict[str, Any]:
    """Build a chat completion of one message in OpenAI's form.

    >>> build_completion("Adder", "4", {"total_tokens": 0})["choices"]
    [{'index': 0, 'message': {'role': 'assistant', 'content': '4'}, 'finish_reason': 'stop'}]
    """
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**_head(model), "object": "chat.completion", "choices": [choice], "usage": usage}


def stream_completion(model: str, text: str, usage: Mapping[str, int] | None = None) -> Iterator[str]:
    """Yield a chat completion as server-sent events: the message, its end, and its usage if there is one.

    >>> [event.partition(":")[0] for event in stream_completion("Adder", "4", {"total_tokens": 4})]
    ['data', 'data', 'data', 'data']
    """
    head = {**_head(model), "object": "chat.completion.chunk", **({"usage": None} if usage else {})}
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    if usage is not None:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _head(model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}
