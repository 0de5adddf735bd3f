"""SupplementedPredictor: a frozen predictor that reads a supplement written for each of its inputs."""

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

from sgt_modules.episode import Call, Place, check_thread, running_episode, running_memory
from sgt_modules.errors import SetupError
from sgt_modules.gate import Gate
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.prompts import ADVICE, SUPPLEMENT, Template, with_supplement, without_supplement
from sgt_modules.safety import harmless
from sgt_modules.samples import Sample

Scope = Literal["turn", "episode"]
"""How long a supplement holds: for one call, or for every call of its predictor within a run of the program."""

SUPPLEMENT_STATE = ("generator", "template", "gate")
"""What a saved state holds of a supplemented predictor that a plain one's lacks."""

_P = TypeVar("_P", bound=dspy.Predict)


@dataclass(frozen=True, slots=True)
class _PredictorCall:
    """One call: its inputs, the effective signature, what the generator reads, and the supplement once it is there.

    `fresh` says that the supplement is this call's own, and neither the caller's nor an earlier call's.
    """

    inputs: Mapping[str, object]
    signature: type[dspy.Signature]
    prompt: str
    place: Place | None = None
    supplement: Supplement | str | None = None
    fresh: bool = True
    logprob: float = 0.0
    gated: bool = False


class SupplementedPredictor(dspy.Predict):
    """A `dspy.Predict` whose signature has one more input, the supplement, which a generator writes for each call.

    It keeps the name, the trace and the state of the predictor it stands for. When the supplement is empty, the actor
    reads exactly what the plain predictor would have sent. A `supplement=` among the inputs is used as it is.

    >>> predictor = SupplementedPredictor("question -> answer", generator="Qwen/Qwen3-1.7B")
    >>> list(predictor.signature.input_fields)
    ['question', 'supplement']
    """

    run_key = ""
    """The same for copies of a predictor, and for no other: by it a run knows the calls that belong to it."""

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        generator: GeneratorLike,
        role: str = "",
        scope: Scope = "turn",
        template: Template = ADVICE,
        gate: Gate | None = None,
        **config: Any,
    ) -> None:
        """`generator`: one, or a hub id, folder or LM; `role`: its name in the program; `config`: as in `dspy.Predict`.

        `scope`, `template` and `gate` as in `supplement()`.
        """
        super().__init__(with_supplement(_check_has_no_supplement(signature), template), **config)
        self.generator = SupplementGenerator.of(generator)
        self.role, self.scope, self.template, self.gate = role, check_scope(scope), template, gate
        self.run_key = _new_key()

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
    ) -> SupplementedPredictor:
        """The supplemented form of a predictor, with its demos, config, LM, callbacks; the given one is left alone.

        A predictor that is supplemented already gets the generator, role and so on. Raises `SetupError` for a subclass
        of `dspy.Predict`, whose own behaviour would be lost, and for a signature with a field of that name.
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
        return new

    def with_generator(self, generator: SupplementGenerator, gate: Gate | None = None) -> SupplementedPredictor:
        """The same predictor with another generator, and with this gate or none; the given one is left alone."""
        new = copy_as(self, SupplementedPredictor)
        new.generator, new.gate, new.run_key = generator, gate, _new_key()
        return new

    def unwrap(self) -> dspy.Predict:
        """The plain predictor again, with what was learned since; this one is left alone."""
        plain = copy_as(self, dspy.Predict)
        plain.signature = without_supplement(_signature_class(self.signature))
        for name in ("role", "scope", "run_key", *SUPPLEMENT_STATE):
            vars(plain).pop(name, None)
        return plain

    def forward(self, **kwargs: object) -> dspy.Prediction:
        """Answer with the help of a supplement: the caller's, else the episode's, else the generator's."""
        call = self._begin_call(kwargs)
        if call.supplement is None:
            call = self._add_sample(call, self.generator.draw(call.prompt))
        return super().forward(**self._actor_inputs(call))

    async def aforward(self, **kwargs: object) -> dspy.Prediction:
        """As `forward`."""
        call = self._begin_call(kwargs)
        if call.supplement is None:
            call = self._add_sample(call, await self.generator.adraw(call.prompt))
        return await super().aforward(**self._actor_inputs(call))

    def dump_state(self, json_mode: bool = True) -> dict[str, object]:
        """The predictor's state, with a reference to its generator, the template and the gate."""
        return {
            **super().dump_state(json_mode),
            "generator": self.generator.dump_state(),
            "template": asdict(self.template),
            "gate": None if self.gate is None else self.gate.dump_state(),
        }

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> SupplementedPredictor:
        """Restore a saved state; the generator's weights are loaded, and compared, at first use."""
        if "generator" not in state:
            raise SetupError(
                "Expected the state of a supplemented predictor, got one without a generator: it was saved before "
                "supplement(). Load it with program.load_state(fitting_state(program, state))."
            )
        trusted = allow_unsafe_lm_state
        generator = SupplementGenerator.from_state(state["generator"], like=self.generator, trusted=trusted)
        template = Template.of_state(state.get("template"))
        gate = None if state.get("gate") is None else Gate.load_state(state["gate"])
        known = {*super().dump_state(), "extended_signature"}  # DSPy would set any other attribute too
        plain = {name: value for name, value in state.items() if name in known}
        super().load_state(plain, allow_unsafe_lm_state=allow_unsafe_lm_state)
        self.generator, self.template, self.gate = generator, template, gate
        return self

    def _begin_call(self, kwargs: Mapping[str, object]) -> _PredictorCall:
        """A call as it begins: with a supplement where the caller, this run or the episode has one, or a shut gate."""
        signature = with_supplement(_signature_class(kwargs.get("signature", self.signature)), self.template)
        call = _PredictorCall(kwargs, signature, self.generator.prompt_for(signature, kwargs, role=self.role))
        if SUPPLEMENT in kwargs:
            given = kwargs[SUPPLEMENT]
            return replace(call, supplement=given if isinstance(given, Supplement | str) else SILENCE, fresh=False)
        memory = running_memory()
        if (
            memory is not None
            and (self.scope == "episode" or _continues_history(call))
            and (kept := memory.recall(self))
        ):
            return replace(call, supplement=kept.supplement, fresh=False)
        if running := running_episode():
            enter = partial(running.enter, self.role)
            place = memory.place(self, enter) if memory is not None and self.scope == "episode" else enter()
            call = replace(call, place=place, supplement=running.choose(place, call.prompt))
        else:
            check_thread(self.run_key, self.role)
        if call.supplement is None and self.gate is not None and not self.gate.familiar(call.prompt):
            call = replace(call, supplement=SILENCE, gated=True)
        return call

    def _add_sample(self, call: _PredictorCall, drawn: Sample) -> _PredictorCall:
        """The call with what the generator wrote, or with silence where it is unsure."""
        gated = bool(drawn.supplement) and self.gate is not None and not self.gate.sure(drawn.logprob)
        supplement = SILENCE if gated else drawn.supplement
        return replace(call, supplement=supplement, logprob=drawn.logprob, gated=gated)

    def _actor_inputs(self, call: _PredictorCall) -> dict[str, object]:
        """What the plain predictor is called with. An empty supplement leaves no trace in it."""
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
        shown = [_complete_demo(demo, call.signature) for demo in demos]
        changed = {} if all(new is old for new, old in zip(shown, demos, strict=True)) else {"demos": shown}
        return {**plain, **effective, **changed, SUPPLEMENT: supplement}

    def _get_positional_args_error_message(self) -> str:
        """DSPy's own message, without a field that callers need not know."""
        message = super()._get_positional_args_error_message()
        fields = _signature_class(self.signature).input_fields
        return message.replace(
            f"'{', '.join(fields)}'", f"'{', '.join(name for name in fields if name != SUPPLEMENT)}'"
        )

    def _record_supplement(self, call: _PredictorCall, supplement: Supplement) -> Supplement:
        """The supplement that holds: remembered for the rest of the run, and recorded in the episode."""
        held = supplement
        if memory := running_memory():
            held = memory.keep(self, supplement, first=self.scope == "episode")
        if held is supplement and (running := running_episode()) and call.place:
            running.record(Call(call.place, call.prompt, supplement, call.logprob, call.gated))
        return held


def _new_key() -> str:
    return uuid.uuid4().hex


def check_scope(scope: str) -> Scope:
    """The scope itself; raises `SetupError` for a word that is none."""
    if scope not in ("turn", "episode"):
        raise SetupError(f"Expected scope 'turn' or 'episode', got {scope!r}. See supplement().")
    return scope


def _continues_history(call: _PredictorCall) -> bool:
    """Whether a call brings a history and none of the task's own inputs, as ReActV2's does from its second turn."""
    given = {name: call.inputs[name] for name in call.signature.input_fields if name in call.inputs}
    carried = [value for value in given.values() if isinstance(value, dspy.History) or _are_tools(value)]
    missing = set(call.signature.input_fields) - {SUPPLEMENT, *given}
    has_history = any(isinstance(value, dspy.History) for value in carried)
    return has_history and len(carried) == len(given) and bool(missing)


def _complete_demo(demo: Any, signature: type[dspy.Signature]) -> Any:
    """A demo that lacks nothing but a supplement as one whose supplement is empty; any other as it is.

    DSPy's adapters would introduce it as an example of which some fields are not supplied.
    """
    if not isinstance(demo, dspy.Example | Mapping):  # whatever a program keeps there
        return demo
    lacking = [name for name in signature.fields if demo.get(name) is None]
    if lacking != [SUPPLEMENT]:
        return demo
    return demo.copy(supplement="") if isinstance(demo, dspy.Example) else {**demo, SUPPLEMENT: ""}


def _hide_supplement_field(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """The signature without its supplement field, which Refine, GEPA and their like still know as the predictor's own.

    They look for the predictor whose signature equals that of a call, to give it its advice or to learn of its errors.
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
    """A predictor of another class with the same attributes: its lists are its own, its LM and callbacks are shared.

    Not through `__init__`, which draws from the global random generator. Methods stay behind: DSPy's tracing leaves
    a predictor's `forward` on it, which would go on calling the old one.
    """
    new = cls.__new__(cls)
    kept = {name: value for name, value in vars(predict).items() if not isinstance(value, MethodType)}
    for name, value in kept.items():
        setattr(new, name, copy.copy(value) if isinstance(value, list | dict) else value)
    new.history = []
    return new
