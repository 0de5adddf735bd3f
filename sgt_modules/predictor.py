"""SupplementedPredictor: a frozen predictor that reads a supplement written for each of its inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import dspy
from dspy.signatures.signature import ensure_signature

from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.prompts import SUPPLEMENT, generator_prompt, with_supplement, without_supplement
from sgt_modules.safety import harmless

_P = TypeVar("_P", bound=dspy.Predict)

_EPISODE = "sgt_episode"
"""The key of the running episode among DSPy's settings: those reach every thread that DSPy starts."""


@dataclass
class Episode:
    """One run of a program with supplements that somebody chose, or a recording of those that the generator chose.

    `prompts` and `supplements` fill as the program runs: by role, in the order of the calls.
    """

    given: Mapping[str, Supplement] | None
    prompts: dict[str, list[str]] = field(default_factory=dict)
    supplements: dict[str, list[Supplement]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def record(self, role: str, prompt: str, supplement: Supplement) -> None:
        """Note one call of a predictor."""
        with self._lock:
            self.prompts.setdefault(role, []).append(prompt)
            self.supplements.setdefault(role, []).append(supplement)


@contextmanager
def episode(given: Mapping[str, Supplement] | None) -> Iterator[Episode]:
    """Inside, a role in `given` reads that supplement and every other role none; with None the generator writes.

    Reaches the threads and coroutines that DSPy starts inside; the innermost episode counts.

    >>> with episode({"self": Supplement("free", "Count twice.")}) as run:
    ...     run.prompts
    {}
    """
    running = Episode(given)
    with dspy.context(**{_EPISODE: running}):
        yield running


class SupplementedPredictor(dspy.Predict):
    """A `dspy.Predict` whose signature has one more input, the supplement, which a generator writes for each call.

    It keeps the name, the trace and the state of the predictor it stands for. When the supplement is empty, the actor
    reads exactly what the plain predictor would have sent. A `supplement=` among the inputs is used as it is.

    >>> predictor = SupplementedPredictor("question -> answer", generator="Qwen/Qwen3-1.7B")
    >>> list(predictor.signature.input_fields)
    ['question', 'supplement']
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        generator: SupplementGenerator | str | Path,
        role: str = "",
        **config: Any,
    ) -> None:
        """`generator`: one, or a hub id or folder; `role`: its name in the program; `config`: as in `dspy.Predict`."""
        super().__init__(with_supplement(_free_of_supplement(signature)), **config)
        self.generator = SupplementGenerator.of(generator)
        self.role = role

    @classmethod
    def wrap(cls, predict: dspy.Predict, generator: SupplementGenerator, role: str) -> SupplementedPredictor:
        """The supplemented form of a predictor, with its demos, config, LM, callbacks; the given one is left alone.

        A predictor that is supplemented already gets the generator and role. Raises `SetupError` for a subclass of
        `dspy.Predict`, whose own behaviour would be lost, and for a signature with a field of that name.
        """
        if type(predict) not in (dspy.Predict, cls):
            raise SetupError(
                f"Expected a plain dspy.Predict at {role!r}, got {type(predict).__name__}, whose own behaviour would "
                "be lost. Name the predictors to supplement with only=[...]."
            )
        new = _twin(predict, cls)
        if not isinstance(predict, SupplementedPredictor):
            new.signature = with_supplement(_free_of_supplement(_class(predict.signature)))
        new.generator, new.role = generator, role
        return new

    def unwrap(self) -> dspy.Predict:
        """The plain predictor again, with what was learned since; this one is left alone."""
        plain = _twin(self, dspy.Predict)
        plain.signature = without_supplement(_class(self.signature))
        del vars(plain)["generator"], vars(plain)["role"]
        return plain

    def forward(self, **kwargs: object) -> dspy.Prediction:
        """Answer with the help of a supplement: the caller's, else the episode's, else the generator's."""
        signature, prompt = self._asked(kwargs)
        supplement = self._chosen(kwargs)
        if supplement is None:
            supplement = self.generator.write(prompt)
        return super().forward(**self._supplemented(kwargs, signature, prompt, supplement))

    async def aforward(self, **kwargs: object) -> dspy.Prediction:
        """As `forward`."""
        signature, prompt = self._asked(kwargs)
        supplement = self._chosen(kwargs)
        if supplement is None:
            supplement = await self.generator.awrite(prompt)
        return await super().aforward(**self._supplemented(kwargs, signature, prompt, supplement))

    def dump_state(self, json_mode: bool = True) -> dict[str, object]:
        """The predictor's state, with a reference to its generator."""
        return {**super().dump_state(json_mode), "generator": self.generator.dump_state()}

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> SupplementedPredictor:
        """Restore a saved state; the generator's weights are loaded, and compared, at first use."""
        if "generator" not in state:
            raise SetupError(
                "Expected the state of a supplemented predictor, got one without a generator. "
                "Load it into the plain program, then call supplement() on that."
            )
        plain = {name: value for name, value in state.items() if name != "generator"}
        super().load_state(plain, allow_unsafe_lm_state=allow_unsafe_lm_state)
        self.generator = SupplementGenerator.from_state(state["generator"])
        return self

    def _asked(self, kwargs: Mapping[str, object]) -> tuple[type[dspy.Signature], str]:
        """The effective signature, and what the generator reads."""
        signature = with_supplement(_class(kwargs.get("signature", self.signature)))
        return signature, generator_prompt(signature, kwargs)

    def _chosen(self, kwargs: Mapping[str, object]) -> Supplement | str | None:
        """The supplement that the caller or the episode gives; None: ask the generator."""
        if SUPPLEMENT in kwargs:
            given = kwargs[SUPPLEMENT]
            return given if isinstance(given, Supplement | str) else SILENCE
        running = dspy.settings.get(_EPISODE)
        return None if running is None or running.given is None else running.given.get(self.role, SILENCE)

    def _supplemented(
        self, kwargs: Mapping[str, object], signature: type[dspy.Signature], prompt: str, supplement: Supplement | str
    ) -> dict[str, object]:
        """What the plain predictor is called with. An empty supplement leaves no trace in it."""
        running = dspy.settings.get(_EPISODE)
        if running is not None and SUPPLEMENT not in kwargs:
            running.record(self.role, prompt, supplement)
        text = supplement
        if isinstance(text, Supplement):
            text = harmless(text.render(), signature.fields)
        plain = {name: value for name, value in kwargs.items() if name != SUPPLEMENT}
        if not text.strip():
            return {**plain, "signature": without_supplement(signature)}
        effective = {} if signature is self.signature else {"signature": signature}
        return {**plain, **effective, SUPPLEMENT: text}


def _class(signature: object) -> type[dspy.Signature]:
    return cast("type[dspy.Signature]", ensure_signature(cast("type[dspy.Signature] | str", signature)))


def _free_of_supplement(signature: type[dspy.Signature] | str) -> type[dspy.Signature]:
    signature = _class(signature)
    if SUPPLEMENT in signature.fields:
        raise SetupError(
            f"Expected a signature without a field named {SUPPLEMENT!r}, got {signature.signature!r}. "
            "Rename the field: the generator's text goes there."
        )
    return signature


def _twin(predict: dspy.Predict, cls: type[_P]) -> _P:
    """A predictor of another class with the same attributes: its lists are its own, its LM and callbacks are shared.

    Not through `__init__`, which draws from the global random generator.
    """
    new = cls.__new__(cls)
    for name, value in vars(predict).items():
        setattr(new, name, copy.copy(value) if isinstance(value, list | dict) else value)
    new.history = []
    return new
