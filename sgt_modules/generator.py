"""SupplementGenerator: which small model writes the supplements, with which adapter; saved as a reference."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast
from weakref import WeakValueDictionary

import dspy
from dspy.lm15 import ContextLengthError
from dspy.predict.parameter import Parameter
from dspy.utils.callback import with_callbacks

from sgt_modules.backend import Backend, Completion
from sgt_modules.errors import GeneratorNotFoundError, SavedStateError, SetupError
from sgt_modules.generator_prompt import NOTE, GeneratorPrompt
from sgt_modules.kinds import KINDS, SILENCE, Kind, Supplement
from sgt_modules.local.engine import LocalEngine, LocalReference
from sgt_modules.menu import Menu
from sgt_modules.remote.endpoint import Endpoint, EndpointReference
from sgt_modules.replies import read_reply
from sgt_modules.saving.state_checks import mapping, number, text, text_or_none, whole
from sgt_modules.saving.weights import located

logger = logging.getLogger(__name__)

Kinds = Sequence[Kind | str | None]
"""What each of several prompts is asked for; see `GeneratorPrompt.asking`."""

MAX_NEW_TOKENS = 128
"""The most tokens of a supplement, by default: a note of the prompt's `max_words`, its kind and some more."""

FREE_TO_WRITE = Menu()
"""No menu: the generator writes."""

_SHORT = 2_000
"""Characters of a prompt that fits any model, so that nobody asks how long the model's context is."""

_F = TypeVar("_F", bound=Callable[..., object])


def _heard(call: _F) -> _F:
    """DSPy's callbacks hear of a call as of a module's: `on_module_start` and `on_module_end`."""
    return cast("_F", with_callbacks(call))


class MenuState(TypedDict, total=False):
    """What a generator keeps besides where it chooses: `Menu.dump_state`."""

    menu: list[list[str]]


class GeneratorState(LocalReference, MenuState):
    """A generator as a saved program keeps it: where its weights are and their sha256, never the weights."""

    temperature: float
    max_new_tokens: int
    prompt: dict[str, object]
    max_prompt_tokens: int | None


class EndpointGeneratorState(EndpointReference, MenuState):
    """A generator behind an endpoint as a saved program keeps it: what reaches it again, and no keys."""

    temperature: float
    max_new_tokens: int
    prompt: dict[str, object]
    max_prompt_tokens: int | None


RESERVE = 160
"""Tokens that are left free in a model's context for what exploration adds to a prompt, and for the reply's kind."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A supplement as it was drawn: with the mean log-probability of its tokens (natural, untempered; 0.0 where the
    model's server tells none), and the tokens read and written."""

    supplement: Supplement
    logprob: float
    prompt_tokens: int
    tokens: int


class SupplementGenerator(Parameter):
    """A small model that writes supplements. It is a DSPy parameter and no module: `set_lm` and `get_lm` pass it by.

    `model` is a hub id (at a `revision`), a folder, a `LocalEngine` that is there already, or for a model behind a
    server a `dspy.LM` or an `Endpoint`; `adapter` a PEFT folder. Nothing is loaded before the first supplement, or
    `check()`. Copies of a program share their generator.

    `prompt` is what the model reads (`GeneratorPrompt`). `max_prompt_tokens` is the most tokens of it: a longer one has
    its longest input shortened in the middle, in training as at inference; by default what the model's context leaves
    beside `max_new_tokens`, and where only a server knows that, no bound.

    With a `menu`, every supplement is one of its choices or silence: a local model takes the likeliest. A server cannot
    say which is, so its model replies greedily, and a reply that is no choice word for word is silence.

    >>> SupplementGenerator("Qwen/Qwen3-1.7B").name
    'Qwen3-1.7B'
    >>> SupplementGenerator(dspy.LM("openai/qwen3", api_base="http://localhost:8000/v1")).name
    'qwen3@localhost:8000'
    """

    menu: Menu = FREE_TO_WRITE

    def __init__(
        self,
        model: str | Path | LocalEngine | dspy.LM | Endpoint,
        *,
        adapter: Path | None = None,
        revision: str | None = None,
        temperature: float = 0.0,
        max_new_tokens: int = MAX_NEW_TOKENS,
        dtype: str = "auto",
        device: str = "auto",
        prompt: GeneratorPrompt = NOTE,
        max_prompt_tokens: int | None = None,
        menu: Menu = FREE_TO_WRITE,
    ) -> None:
        if not isinstance(prompt, GeneratorPrompt):
            raise SetupError(f"Expected a GeneratorPrompt, got {prompt!r}. Write GeneratorPrompt(introduction='...').")
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise SetupError(f"Expected max_prompt_tokens of at least 1, got {max_prompt_tokens}.")
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.prompt, self.max_prompt_tokens, self.menu = prompt, max_prompt_tokens, menu
        if isinstance(model, dspy.LM):
            model = Endpoint(model)
        if isinstance(model, Endpoint):
            if (adapter, revision, dtype, device) != (None, None, "auto", "auto"):
                raise SetupError(
                    "Expected only temperature and max_new_tokens beside an endpoint's LM, got settings of a local "
                    "model. What runs where is the server's to say; an adapter there has a model name of its own."
                )
        elif not isinstance(model, LocalEngine):
            model = LocalEngine(
                model,
                adapter=adapter,
                revision=revision,
                dtype=dtype,
                device=device,
                max_new_tokens=max_new_tokens,
            )
        elif adapter is not None:
            model = model.with_adapter(adapter)
        self.engine: Backend = model

    @classmethod
    def of(cls, model: GeneratorLike) -> SupplementGenerator:
        """A generator from whatever names one; a generator is given back as it is.

        >>> SupplementGenerator.of(SupplementGenerator.of("Qwen/Qwen3-1.7B")).name
        'Qwen3-1.7B'
        """
        return model if isinstance(model, SupplementGenerator) else cls(model)

    @property
    def name(self) -> str:
        """The base model's short name and the adapter folder's if there is one; of an endpoint, what it asks where."""
        return self.engine.name

    @property
    def identity(self) -> str:
        """What `run.json` tells the generator by."""
        return self.engine.identity

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weights; of a model behind a server, of what is known of it."""
        return self.engine.fingerprint

    @property
    def in_process(self) -> bool:
        """Whether the model runs on this process's own cores or GPU."""
        return isinstance(self.engine, LocalEngine)

    def prompt_for(self, signature: type[dspy.Signature], inputs: Mapping[str, object], *, role: str = "") -> str:
        """What the model reads for one call of a predictor, naming no kind; shortened to `max_prompt_tokens`.

        Loads the tokenizer of a local model where a prompt may be too long, and nothing else.
        """
        text = self.prompt.write(signature, inputs, role=role)
        limit = self._most_tokens(text)
        if limit is None or len(text.encode()) <= limit:  # no token is shorter than a byte
            return text
        return self.prompt.write(signature, inputs, role=role, limit=limit, count=self.engine.count)

    def fits(self, prompt: str, most: int) -> bool:
        """Whether a prompt of `prompt_for` leaves tokens of the model's context for a reply, a kind asked for too, and
        itself has fewer than `most`. True where nobody here knows: of a server's model, or of one that is not there.
        """
        try:
            context = self.engine.context
        except GeneratorNotFoundError:
            return True
        if context is None or len(prompt.encode()) + 4 * RESERVE < min(
            context, most
        ):  # no token is shorter than a byte
            return True
        asked = min((self.prompt.asking(prompt, kind) for kind in KINDS.values()), key=len)
        return self.engine.count(asked) < context and self.engine.count(prompt) < most

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        kinds: Kinds | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[Sampled]:
        """One supplement to each prompt, in order. Equal (prompt, seed, kind, temperature) give equal supplements.

        `prompts` name no kind; `kinds` are what each is asked for, as in `GeneratorPrompt.asking`.
        """
        return list(self.samples(prompts, seeds=seeds, kinds=kinds, temperature=temperature, top_p=top_p))

    def samples(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        kinds: Kinds | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        at_once: int = 1024,
    ) -> Iterator[Sampled]:
        """As `sample`, each as soon as it and those before it are there.

        A local model decodes `at_once` prompts together; an endpoint is asked for as many at a time as it is set to.
        """
        kinds = [None] * len(prompts) if kinds is None else kinds
        asks = [
            (prompt, seed, self._asked(kind))
            for prompt, seed, kind in zip(prompts, seeds, kinds, strict=True)
            if _given(kind) is None
        ]
        replies = self.engine.samples(
            [self.prompt.asking(prompt, kind) for prompt, _, kind in asks],
            seeds=[seed for _, seed, _ in asks],
            temperature=0.0 if self.menu else temperature,
            max_new_tokens=self.max_new_tokens,
            at_once=at_once,
            openings=[self.prompt.opening(kind) for *_, kind in asks],
            top_p=top_p,
            among=self.menu.replies,
        )
        return (_given(kind) or self._sampled(next(replies), kind) for kind in kinds)

    @_heard
    def draw(
        self,
        prompt: str,
        *,
        seed: int = 0,
        kind: Kind | str | None = None,
        temperature: float | None = None,
        top_p: float = 1.0,
    ) -> Sampled:
        """One supplement for one prompt, decoded together with whatever other threads ask at that moment.

        `temperature` is the generator's own by default. Stays out of the user's stream, history and cache; its tokens
        count in `track_usage` under `name`, and DSPy's callbacks hear of it as of a module. A prompt that is too long
        for the model gets no supplement, and a warning.
        """
        if given := _given(kind):
            return given
        asked, own = self._asked(kind), self.temperature if temperature is None else temperature
        try:
            reply = self.engine.ask(
                self.prompt.asking(prompt, asked),
                seed=seed,
                temperature=0.0 if self.menu else own,
                max_new_tokens=self.max_new_tokens,
                opening=self.prompt.opening(asked),
                top_p=top_p,
                among=self.menu.replies,
            )
        except ContextLengthError as error:
            return self._silent(error)
        self._account(reply)
        return self._sampled(reply, kind)

    @_heard
    async def adraw(self, prompt: str, *, kind: Kind | str | None = None) -> Sampled:
        """As `draw`, for coroutines."""
        if given := _given(kind):
            return given
        asked = self._asked(kind)
        try:
            reply = await self.engine.aask(
                self.prompt.asking(prompt, asked),
                seed=0,
                temperature=0.0 if self.menu else self.temperature,
                max_new_tokens=self.max_new_tokens,
                opening=self.prompt.opening(asked),
                among=self.menu.replies,
            )
        except ContextLengthError as error:
            return self._silent(error)
        self._account(reply)
        return self._sampled(reply, kind)

    def write(self, prompt: str) -> Supplement:
        """The supplement for one prompt, as a program reads it; see `draw`."""
        return self.draw(prompt).supplement

    def with_checkpoint(self, path: Path) -> SupplementGenerator:
        """The same generator with trained weights: a PEFT adapter's folder, or a whole model's."""
        return self._of(cast("LocalEngine | Endpoint", self.engine.with_checkpoint(path)), self.menu)

    def choosing(self, menu: Menu) -> SupplementGenerator:
        """The same generator with this menu; itself where that is its own.

        >>> from sgt_modules.kinds import Supplement
        >>> menu = Menu((Supplement("refunds", "Refunds take five days."), SILENCE))
        >>> SupplementGenerator("Qwen/Qwen3-1.7B").choosing(menu).menu.replies
        ('[refunds] Refunds take five days.', '[none]')
        """
        return self if menu == self.menu else self._of(cast("LocalEngine | Endpoint", self.engine), menu)

    def _of(self, engine: LocalEngine | Endpoint, menu: Menu) -> SupplementGenerator:
        return SupplementGenerator(
            engine,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            prompt=self.prompt,
            max_prompt_tokens=self.max_prompt_tokens,
            menu=menu,
        )

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` unless the model's files are there, and are those that were saved.

        An endpoint is asked for a single token. Raises `SetupError` where a choice of the menu has more than
        `max_new_tokens` tokens.
        """
        self.engine.check()
        longest = max(self.menu.replies, key=len, default="")
        if longest and (tokens := self.engine.count(longest)) > self.max_new_tokens:
            raise SetupError(
                f"Expected given texts of at most max_new_tokens={self.max_new_tokens} tokens, got {tokens} in "
                f"{longest[:60]!r}. Write SupplementGenerator(model, max_new_tokens={tokens}), or shorten the text."
            )

    def check_trainable(self) -> None:
        """Raise `SetupError` unless trained weights can be put to use by `with_checkpoint`."""
        self.engine.check_trainable()

    def reset(self) -> None:
        """Nothing: `reset_copy()` calls this on generators that the original program shares."""

    def dump_state(self, json_mode: bool = True) -> GeneratorState | EndpointGeneratorState:
        """The reference that a saved program keeps; an adapter's folder moves with the file it is saved to."""
        own = {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "prompt": self.prompt.dump_state(),
            "max_prompt_tokens": self.max_prompt_tokens,
            **({"menu": self.menu.dump_state()} if self.menu else {}),
        }
        return cast("GeneratorState | EndpointGeneratorState", {**self.engine.reference(), **own})

    def load_state(self, state: GeneratorState | EndpointGeneratorState) -> None:
        """Become the generator of a saved reference; weights are loaded, and compared with the sha256, at first use."""
        loaded = SupplementGenerator.from_state(state, like=self)
        self.engine, self.temperature, self.max_new_tokens = loaded.engine, loaded.temperature, loaded.max_new_tokens
        self.prompt, self.max_prompt_tokens, self.menu = loaded.prompt, loaded.max_prompt_tokens, loaded.menu

    @classmethod
    def from_state(
        cls,
        state: GeneratorState | EndpointGeneratorState,
        *,
        like: SupplementGenerator | None = None,
        trusted: bool = False,
    ) -> SupplementGenerator:
        """The generator of a saved reference; while a local one is in use, the same one again: weights load once.

        An endpoint has the keys of `like` where that is at the same address; another address is followed only for a
        `trusted` state. Raises `SavedStateError` for that, for a state of another form, or for one whose adapter is
        not the file's own.
        """
        state = cast("GeneratorState | EndpointGeneratorState", mapping(state, "a generator's state"))
        known = EndpointGeneratorState if "lm" in state else GeneratorState
        if missing := sorted(known.__required_keys__ - state.keys()):
            raise SavedStateError(
                f"Expected a generator's saved state, got one without {missing}. If an earlier version wrote it, save "
                "the program again."
            )
        if known is EndpointGeneratorState:
            return cls._of_endpoint(cast("EndpointGeneratorState", state), like, trusted)
        return cls._of_weights(cast("GeneratorState", state))

    @classmethod
    def _of_endpoint(
        cls, state: EndpointGeneratorState, like: SupplementGenerator | None, trusted: bool
    ) -> SupplementGenerator:
        reference = EndpointReference(lm=state["lm"], adapter_sha256=text_or_none(state, "adapter_sha256"))
        endpoint = Endpoint.of_reference(reference, like=None if like is None else like.engine, trusted=trusted)
        return cls(endpoint, **_own(state))

    @classmethod
    def _of_weights(cls, state: GeneratorState) -> SupplementGenerator:
        model, adapter = located(text(state, "model"), text_or_none(state, "adapter"))
        files = {name: text_or_none(state, name) for name in ("revision", "sha256", "adapter_sha256")}
        dtype, own = text(state, "dtype"), _own(state)
        told = {**own, "prompt": own["prompt"].dump_state(), "menu": own["menu"].dump_state()}
        key = json.dumps([model, adapter, files, dtype, told], sort_keys=True)
        with _SHARING:
            generator = _SHARED.get(key)
            if generator is None:
                engine = LocalEngine(
                    model,
                    adapter=adapter,
                    revision=files["revision"],
                    dtype=dtype,
                    max_new_tokens=own["max_new_tokens"],
                    sha256=files["sha256"],
                    adapter_sha256=files["adapter_sha256"],
                )
                generator = _SHARED[key] = cls(engine, **own)
            return generator

    def __copy__(self) -> SupplementGenerator:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SupplementGenerator:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.dump_state(),)

    def __repr__(self) -> str:
        return f"SupplementGenerator({self.name!r})"

    def _most_tokens(self, text: str) -> int | None:
        """The most tokens of a prompt; None where there is no bound, or none that this text could come near."""
        if self.max_prompt_tokens is not None:
            return self.max_prompt_tokens
        if len(text) < _SHORT:
            return None
        try:
            context = self.engine.context
        except GeneratorNotFoundError:  # said when the model is asked, which a caller's own supplement makes needless
            return None
        return None if context is None else max(1, context - self.max_new_tokens - RESERVE)

    def _asked(self, kind: Kind | str | None) -> Kind | str | None:
        """The kind that the model is asked for; none where it chooses."""
        return None if self.menu else kind

    def _sampled(self, reply: Completion, kind: Kind | str | None) -> Sampled:
        asked = kind.name if isinstance(kind, Kind) else kind or ""
        read = self.menu.read(reply.text) if self.menu else read_reply(reply.text, kind=asked, ended=reply.ended)
        return Sampled(read, reply.logprob, reply.prompt_tokens, reply.tokens)

    def _silent(self, error: ContextLengthError) -> Sampled:
        """No supplement for a prompt that is too long, and a warning."""
        logger.warning("No supplement, as the input does not fit %s: %s", self.name, error)
        return Sampled(SILENCE, 0.0, 0, 0)

    def _account(self, reply: Completion) -> None:
        if tracker := dspy.settings.usage_tracker:
            usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.tokens}
            tracker.add_usage(self.name, {**usage, "total_tokens": sum(usage.values())})


class _Own(TypedDict):
    """What a generator's state holds besides where its model is."""

    temperature: float
    max_new_tokens: int
    prompt: GeneratorPrompt
    max_prompt_tokens: int | None
    menu: Menu


def _own(state: Mapping[str, Any]) -> _Own:
    most = None if state.get("max_prompt_tokens") is None else whole(state, "max_prompt_tokens", 1, 2**31)
    return _Own(
        temperature=number(state, "temperature", 0.0, 1000.0),
        max_new_tokens=whole(state, "max_new_tokens", 1, 2**31),
        prompt=GeneratorPrompt.load_state(state.get("prompt")),
        max_prompt_tokens=most,
        menu=Menu.load_state(state.get("menu")),
    )


def _given(kind: Kind | str | None) -> Sampled | None:
    """What nobody is asked for: the kind's own text."""
    return Sampled(kind.given, 0.0, 0, 0) if isinstance(kind, Kind) and kind.text else None


_SHARING = threading.Lock()
_SHARED: WeakValueDictionary[str, SupplementGenerator] = WeakValueDictionary()
"""Loaded generators by their state: the predictors of one program share one."""


def _restored(state: GeneratorState | EndpointGeneratorState) -> SupplementGenerator:
    """What a pickle calls; a method would not do, cloudpickle takes those by value, with everything around them.

    Who opens a pickle trusts it.
    """
    return SupplementGenerator.from_state(state, trusted=True)


GeneratorLike = str | Path | LocalEngine | dspy.LM | Endpoint | SupplementGenerator
"""Whatever names a generator; see `SupplementGenerator.of`."""
