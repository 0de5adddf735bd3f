"""SupplementedPredictor: a predictor that reads a supplement which a generator writes for each input."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MethodType
from typing import Any, Literal, TypeVar, cast

import dspy
from dspy.signatures.signature import ensure_signature

from sgt_modules.choosing import Choice, adraw_note, check_choice, draw_note
from sgt_modules.drafts import Draft, amake_draft, find_draft, keep_draft, make_draft
from sgt_modules.episode import Call, Place, check_thread, running_episode, running_memory
from sgt_modules.errors import SetupError
from sgt_modules.gate import Gate
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.prompts import ADVICE, SUPPLEMENT, Template, with_supplement, without_supplement
from sgt_modules.safety import harmless
from sgt_modules.samples import Sample

Scope = Literal["turn", "episode"]
"""How long a supplement is used: for one call, or for all calls of its predictor in one run of the program."""

SUPPLEMENT_STATE = ("generator", "template", "gate", "draft", "choice")
"""What the saved state of a supplemented predictor has besides a plain predictor's; `draft` and `choice` if on."""

_P = TypeVar("_P", bound=dspy.Predict)


@dataclass(frozen=True, slots=True)
class _PredictorCall:
    """One call: its inputs, the effective signature, the generator's prompt, and the supplement once it is chosen.

    `fresh` says that the supplement was chosen for this call, not passed by the caller or kept from an earlier call.
    `draft` is the actor's unaided answer, where the predictor asks for one.
    """

    inputs: Mapping[str, object]
    signature: type[dspy.Signature]
    prompt: str
    place: Place | None = None
    supplement: Supplement | str | None = None
    fresh: bool = True
    logprob: float = 0.0
    gated: bool = False
    draft: Draft | None = None


class SupplementedPredictor(dspy.Predict):
    """A `dspy.Predict` with one more input, the supplement, which a generator writes for each call.

    It keeps the name, the trace and the state of the plain predictor. If the supplement is empty, the actor reads
    exactly what the plain predictor sends. A `supplement=` among the inputs is used as it is.

    >>> predictor = SupplementedPredictor("question -> answer", generator="Qwen/Qwen3-1.7B")
    >>> list(predictor.signature.input_fields)
    ['question', 'supplement']
    """

    run_key = ""
    """Equal for all copies of a predictor and for no other; a run finds its own calls by this key."""

    draft: bool = False
    """Whether the generator reads the actor's unaided answer; an attribute of the instance only where it is on, so that
    a predictor without drafts is the same as before, to its fingerprint."""

    choice: Choice | None = None
    """How a note is chosen among samples; an attribute of the instance only where there is one, as `draft`."""

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        generator: GeneratorLike,
        role: str = "",
        scope: Scope = "turn",
        template: Template = ADVICE,
        gate: Gate | None = None,
        draft: bool = False,
        choice: Choice | None = None,
        **config: Any,
    ) -> None:
        """`generator`: also a hub id, folder or LM; `role`: its name in the program; `config`: as in `dspy.Predict`.

        `scope`, `template`, `gate` and `draft` as in `supplement()`, and `choice` its `samples` and `chooser`.
        """
        super().__init__(with_supplement(_check_has_no_supplement(signature), template), **config)
        self.generator = SupplementGenerator.of(generator)
        self.role, self.scope, self.template, self.gate = role, check_scope(scope), template, gate
        self.run_key = _new_key()
        self._set_options(draft, choice)

    @classmethod
    def wrap(
        cls,
        predict: dspy.Predict,
        generator: SupplementGenerator,
        role: str,
        *,
        scope: Scope = "turn",
        template: Template = ADVICE,
        gate: Gate | None = None,
        draft: bool = False,
        choice: Choice | None = None,
    ) -> SupplementedPredictor:
        """Return a supplemented copy of a predictor, with its demos, config, LM and callbacks.

        A predictor that is supplemented already gets the new generator, role and so on. Raises `SetupError` for a
        subclass of `dspy.Predict`, whose own behaviour would be lost, and for a signature with a field `supplement`.
        """
        if type(predict) not in (dspy.Predict, cls):
            raise SetupError(
                f"Expected a plain dspy.Predict at {role!r}, got {type(predict).__name__}, whose own behaviour would "
                "be lost. Name the predictors to supplement with only=[...]."
            )
        new = copy_as(predict, cls)
        plain = _signature_class(predict.signature)
        plain = without_supplement(plain) if isinstance(predict, cls) else _check_has_no_supplement(plain)
        new.signature = with_supplement(plain, template)
        new.generator, new.role, new.scope, new.template, new.gate = generator, role, scope, template, gate
        new.run_key = _new_key()
        new._set_options(draft, choice)
        return new

    def with_generator(self, generator: SupplementGenerator, gate: Gate | None = None) -> SupplementedPredictor:
        """Return a copy with another generator, and with this gate or none; it chooses among no samples."""
        new = copy_as(self, SupplementedPredictor)
        new.generator, new.gate, new.run_key = generator, gate, _new_key()
        new._set_options(self.draft, None)
        return new

    def unwrap(self) -> dspy.Predict:
        """Return a plain `dspy.Predict` with the demos, instructions and so on of this predictor."""
        plain = copy_as(self, dspy.Predict)
        plain.signature = without_supplement(_signature_class(self.signature))
        for name in ("role", "scope", "run_key", *SUPPLEMENT_STATE):
            vars(plain).pop(name, None)
        return plain

    def forward(self, **kwargs: object) -> dspy.Prediction:
        """Answer with a supplement: the caller's, else the episode's, else the generator's.

        With `draft`, the generator reads the unaided answer first, which is the answer if there is no supplement.
        """
        call = self._begin_call(kwargs)
        if self._wants_draft(call):
            inputs = self._silent_inputs(call)
            draft = find_draft(self.role, kwargs)
            call = self._add_draft(call, draft or keep_draft(self.role, kwargs, make_draft(super().forward, inputs)))
        call = self._choose(call)
        if call.supplement is None:
            call = self._add_sample(call, draw_note(self.choice, self.generator, call.prompt))
        inputs = self._actor_inputs(call)
        return call.draft.as_answer(self) if call.draft and SUPPLEMENT not in inputs else super().forward(**inputs)

    async def aforward(self, **kwargs: object) -> dspy.Prediction:
        """Do the same as `forward`, asynchronously."""
        call = self._begin_call(kwargs)
        if self._wants_draft(call):
            inputs = self._silent_inputs(call)
            draft = find_draft(self.role, kwargs)
            answer = super().aforward
            call = self._add_draft(call, draft or keep_draft(self.role, kwargs, await amake_draft(answer, inputs)))
        call = self._choose(call)
        if call.supplement is None:
            call = self._add_sample(call, await adraw_note(self.choice, self.generator, call.prompt))
        inputs = self._actor_inputs(call)
        if call.draft and SUPPLEMENT not in inputs:
            return call.draft.as_answer(self)
        return await super().aforward(**inputs)

    def dump_state(self, json_mode: bool = True) -> dict[str, object]:
        """Return the predictor's state, with a reference to its generator, the template and the gate."""
        return {
            **super().dump_state(json_mode),
            "generator": self.generator.dump_state(),
            "template": asdict(self.template),
            "gate": None if self.gate is None else self.gate.dump_state(),
            **({"draft": True} if self.draft else {}),
            **({} if self.choice is None else {"choice": self.choice.dump_state()}),
        }

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> SupplementedPredictor:
        """Restore a saved state. The generator's weights are loaded and compared at first use."""
        if "generator" not in state:
            raise SetupError(
                "Expected the state of a supplemented predictor, got one without a generator: it was saved before "
                "supplement(). Load it with program.load_state(fitting_state(program, state))."
            )
        trusted = allow_unsafe_lm_state
        generator = SupplementGenerator.from_state(state["generator"], like=self.generator, trusted=trusted)
        template = Template.of_state(state.get("template"))
        gate = None if state.get("gate") is None else Gate.load_state(state["gate"])
        draft = check_draft(state.get("draft", False))
        choice = None if state.get("choice") is None else Choice.load_state(state["choice"])
        names = {*super().dump_state(), "extended_signature"}  # DSPy would set any other attribute too
        plain = {name: value for name, value in state.items() if name in names}
        super().load_state(plain, allow_unsafe_lm_state=allow_unsafe_lm_state)
        self.generator, self.template, self.gate = generator, template, gate
        self._set_options(draft, choice)
        return self

    def _set_options(self, draft: bool, choice: Choice | None) -> None:
        for name in ("draft", "choice"):
            vars(self).pop(name, None)
        if check_draft(draft):
            self.draft = True
        if check_choice(choice, self.generator) is not None:
            self.choice = choice

    def _begin_call(self, kwargs: Mapping[str, object]) -> _PredictorCall:
        """Prepare a call; its supplement is set if the caller, the memory or a table of the episode decides it."""
        signature = with_supplement(_signature_class(kwargs.get("signature", self.signature)), self.template)
        call = _PredictorCall(kwargs, signature, self.generator.prompt_for(signature, kwargs, role=self.role))
        if SUPPLEMENT in kwargs:
            own = kwargs[SUPPLEMENT]
            return replace(call, supplement=own if isinstance(own, Supplement | str) else SILENCE, fresh=False)
        memory = running_memory()
        if (
            memory is not None
            and (self.scope == "episode" or _continues_history(call))
            and (entry := memory.recall(self))
        ):
            return replace(call, supplement=entry.supplement, fresh=False)
        if running := running_episode():
            enter = partial(running.enter, self.role)
            place = memory.place(self, enter) if memory is not None and self.scope == "episode" else enter()
            given = running.choose(place, call.prompt) if isinstance(running.source, Mapping) else None
            call = replace(call, place=place, supplement=given)
        else:
            check_thread(self.run_key, self.role)
        return call

    def _wants_draft(self, call: _PredictorCall) -> bool:
        """Whether a call needs the unaided answer: where that is the whole answer, or the generator is to read it."""
        return self.draft and call.fresh and not call.supplement

    def _silent_inputs(self, call: _PredictorCall) -> dict[str, object]:
        """Return the arguments for an answer without a supplement."""
        return self._actor_inputs(replace(call, supplement=""))

    def _add_draft(self, call: _PredictorCall, draft: Draft) -> _PredictorCall:
        """Return the call with its draft, and with the prompt in which the generator reads it."""
        prompt = self.generator.prompt_for(call.signature, call.inputs, role=self.role, draft=draft.texts)
        return replace(call, draft=draft, prompt=prompt)

    def _choose(self, call: _PredictorCall) -> _PredictorCall:
        """Return the call with its supplement set if the run or the gate decides it."""
        if call.supplement is None and call.place is not None and (running := running_episode()):
            call = replace(call, supplement=running.choose(call.place, call.prompt))
        if call.fresh and call.supplement is None and self.gate is not None and not self.gate.familiar(call.prompt):
            call = replace(call, supplement=SILENCE, gated=True)
        return call

    def _add_sample(self, call: _PredictorCall, sample: Sample) -> _PredictorCall:
        """Return the call with the generator's supplement, or with `SILENCE` if the generator is unsure."""
        gated = bool(sample.supplement) and self.gate is not None and not self.gate.sure(sample.logprob)
        supplement = SILENCE if gated else sample.supplement
        return replace(call, supplement=supplement, logprob=sample.logprob, gated=gated)

    def _actor_inputs(self, call: _PredictorCall) -> dict[str, object]:
        """Return the arguments for the plain predictor. An empty supplement leaves no trace in them."""
        supplement, inputs = call.supplement, call.inputs
        if isinstance(supplement, Supplement):
            if call.fresh:
                supplement = self._record_supplement(call, supplement)
            supplement = self.template.shown(harmless(supplement.render(), call.signature.fields))
        plain = {name: value for name, value in inputs.items() if name != SUPPLEMENT}
        if not supplement or not supplement.strip():
            return {**plain, "signature": _hide_supplement_field(call.signature)}
        effective = {} if call.signature is self.signature else {"signature": call.signature}
        demos = cast("Sequence[object]", inputs.get("demos", self.demos))
        complete_demos = [_complete_demo(demo, call.signature) for demo in demos]
        new_demos = (
            {} if all(new is old for new, old in zip(complete_demos, demos, strict=True)) else {"demos": complete_demos}
        )
        return {**plain, **effective, **new_demos, SUPPLEMENT: supplement}

    def _get_positional_args_error_message(self) -> str:
        """Return DSPy's message without the supplement field, which callers do not pass."""
        message = super()._get_positional_args_error_message()
        fields = _signature_class(self.signature).input_fields
        return message.replace(
            f"'{', '.join(fields)}'", f"'{', '.join(name for name in fields if name != SUPPLEMENT)}'"
        )

    def _record_supplement(self, call: _PredictorCall, supplement: Supplement) -> Supplement:
        """Keep the supplement for the rest of the run, record it in the episode, and return the one to use."""
        current = supplement
        if memory := running_memory():
            current = memory.keep(self, supplement, first=self.scope == "episode")
        if current is supplement and (running := running_episode()) and call.place:
            running.record(Call(call.place, call.prompt, supplement, call.logprob, call.gated))
        return current


def _new_key() -> str:
    return uuid.uuid4().hex


def check_scope(scope: str) -> Scope:
    """Return the scope; raise `SetupError` for any other word."""
    if scope not in ("turn", "episode"):
        raise SetupError(f"Expected scope 'turn' or 'episode', got {scope!r}. See supplement().")
    return scope


def check_draft(draft: object) -> bool:
    """Return the flag; raise `SetupError` for anything but True and False."""
    if not isinstance(draft, bool):
        raise SetupError(f"Expected draft as True or False, got {draft!r}. See supplement().")
    return draft


def _continues_history(call: _PredictorCall) -> bool:
    """Whether a call has a history and no task inputs, as ReActV2's calls from the second turn on."""
    passed_inputs = {name: call.inputs[name] for name in call.signature.input_fields if name in call.inputs}
    carried = [value for value in passed_inputs.values() if isinstance(value, dspy.History) or _are_tools(value)]
    missing = set(call.signature.input_fields) - {SUPPLEMENT, *passed_inputs}
    has_history = any(isinstance(value, dspy.History) for value in carried)
    return has_history and len(carried) == len(passed_inputs) and bool(missing)


def _complete_demo(demo: Any, signature: type[dspy.Signature]) -> Any:
    """Add an empty supplement to a demo that lacks only the supplement; return any other demo as it is.

    Otherwise DSPy's adapters introduce the demo as an example with missing fields.
    """
    if not isinstance(demo, dspy.Example | Mapping):  # a program may keep other objects there
        return demo
    lacking = [name for name in signature.fields if demo.get(name) is None]
    if lacking != [SUPPLEMENT]:
        return demo
    return demo.copy(supplement="") if isinstance(demo, dspy.Example) else {**demo, SUPPLEMENT: ""}


def _hide_supplement_field(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Remove the supplement field, but keep the result equal to the predictor's own signature.

    Refine and GEPA compare the signature of a call with those of the predictors to find the predictor that was called.
    """
    plain = without_supplement(signature)
    own: Any = type(plain)

    class Silenced(own):
        def __hash__(self) -> int:
            return hash(signature)

        def __eq__(self, other: object) -> bool:
            return other is self or other is signature

    cast("Any", plain).__class__ = Silenced
    return plain


def _are_tools(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dspy.Tool) for each in cast("list[object]", value))


def _signature_class(signature: object) -> type[dspy.Signature]:
    return cast("type[dspy.Signature]", ensure_signature(cast("type[dspy.Signature] | str", signature)))


def _check_has_no_supplement(signature: type[dspy.Signature] | str) -> type[dspy.Signature]:
    signature = _signature_class(signature)
    if SUPPLEMENT in signature.fields:
        raise SetupError(
            f"Expected a signature without a field named {SUPPLEMENT!r}, got {signature.signature!r}. "
            "Rename the field: the generator's text goes there."
        )
    return signature


def copy_as(predict: dspy.Predict, cls: type[_P]) -> _P:
    """Copy a predictor into another class: lists and dicts are copied, the LM and the callbacks are shared.

    `__init__` is not called, because it draws from the global random generator. Methods among the attributes are not
    copied: DSPy's tracing leaves a predictor's `forward` there, which calls the old predictor.
    """
    new = cls.__new__(cls)
    attributes = {name: value for name, value in vars(predict).items() if not isinstance(value, MethodType)}
    for name, value in attributes.items():
        setattr(new, name, copy.copy(value) if isinstance(value, list | dict) else value)
    new.history = []
    return new
