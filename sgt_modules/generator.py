"""SupplementGenerator: the small model that writes the supplements, with its adapter; saved as a reference."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast
from weakref import WeakValueDictionary

import dspy
from dspy.lm15 import ContextLengthError
from dspy.predict.parameter import Parameter
from dspy.utils.callback import with_callbacks

from sgt_modules.backend import Backend
from sgt_modules.errors import SetupError
from sgt_modules.generator_prompt import NOTE, GeneratorPrompt
from sgt_modules.generator_state import (
    GeneratorSettings,
    GeneratorState,
    LookupGeneratorState,
    SavedGenerator,
    check_state,
    dump_settings,
    endpoint_of,
    local_reference,
    settings_of,
)
from sgt_modules.kinds import KINDS, Kind, Supplement
from sgt_modules.local.engine import LocalEngine
from sgt_modules.menu import Menu
from sgt_modules.prompt_length import fits, most_prompt_tokens
from sgt_modules.remote.endpoint import Endpoint
from sgt_modules.replies import read_reply
from sgt_modules.samples import SILENT, Sample, SampleRequest
from sgt_modules.sharing import SharedByCopies
from sgt_modules.winner_lookup import WinnerLookup

MAX_NEW_TOKENS = 128
"""The default limit of a supplement's tokens: enough for `max_words` of the prompt and the kind."""

FREE_TO_WRITE = Menu()
"""An empty menu: the generator writes freely."""

_F = TypeVar("_F", bound=Callable[..., object])


def _report_call(call: _F) -> _F:
    """Reports a call to DSPy's callbacks like a module's: `on_module_start` and `on_module_end`."""
    return cast("_F", with_callbacks(call))


class SupplementGenerator(Parameter, SharedByCopies):
    """A small model that writes supplements. It is a DSPy parameter and no module: `set_lm` and `get_lm` skip it.

    `model` is a hub id (at a `revision`), a folder, a `LocalEngine`, for a model behind a server a `dspy.LM` or an
    `Endpoint`, or a `WinnerLookup`, which has no model; `adapter` is a PEFT folder. Nothing is loaded before the first
    supplement, or `check()`. Copies of a program share their generator.

    `prompt` is what the model reads (`GeneratorPrompt`). `max_prompt_tokens` bounds it: in a longer prompt the longest
    input is shortened in the middle, in training as at inference. By default the bound is what the model's context
    leaves after `max_new_tokens`; there is none where only a server knows the context.

    With a `menu`, every supplement is one of its choices or silence: a local model takes the likeliest. A server cannot
    say which is the likeliest, so its model replies greedily, and a reply that is no choice word for word is silence.

    >>> SupplementGenerator("Qwen/Qwen3-1.7B").name
    'Qwen3-1.7B'
    >>> SupplementGenerator(dspy.LM("openai/qwen3", api_base="http://localhost:8000/v1")).name
    'qwen3@localhost:8000'
    """

    menu: Menu = FREE_TO_WRITE

    def __init__(
        self,
        model: str | Path | LocalEngine | dspy.LM | Endpoint | WinnerLookup,
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
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.prompt, self.max_prompt_tokens, self.menu = prompt, max_prompt_tokens, menu
        if isinstance(model, dspy.LM):
            model = Endpoint(model)
        if isinstance(model, Endpoint | WinnerLookup):
            if (adapter, revision, dtype, device) != (None, None, "auto", "auto"):
                raise SetupError(
                    "Expected only temperature and max_new_tokens with an endpoint's LM, got settings of a local "
                    "model. The server decides what runs where; an adapter there has a model name of its own."
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
        """Build a generator for a model, folder, LM or endpoint; return a generator as it is.

        >>> SupplementGenerator.of(SupplementGenerator.of("Qwen/Qwen3-1.7B")).name
        'Qwen3-1.7B'
        """
        return model if isinstance(model, SupplementGenerator) else cls(model)

    @property
    def name(self) -> str:
        """The short names of the base model and the adapter's folder; for an endpoint, the model's name and host."""
        return self.engine.name

    @property
    def identity(self) -> str:
        """The generator's name in `run.json`."""
        return self.engine.identity

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weights; for a model behind a server, of its name and address."""
        return self.engine.fingerprint

    @property
    def in_process(self) -> bool:
        """Whether the model runs in this process."""
        return isinstance(self.engine, LocalEngine)

    def prompt_for(
        self,
        signature: type[dspy.Signature],
        inputs: Mapping[str, object],
        *,
        role: str = "",
        draft: Mapping[str, str] | None = None,
    ) -> str:
        """Write the prompt without a kind for one call of a predictor, shortened to `max_prompt_tokens`.

        `draft` as in `GeneratorPrompt.write`. Loads the tokenizer of a local model where a prompt may be too long, and
        nothing else.
        """
        text = self.prompt.write(signature, inputs, role=role, draft=draft)
        limit = self.max_prompt_tokens or most_prompt_tokens(text, self.engine, self.max_new_tokens)
        if limit is None or len(text.encode()) <= limit:  # a token has a byte or more
            return text
        return self.prompt.write(signature, inputs, role=role, draft=draft, limit=limit, count=self.engine.count)

    def fits(self, prompt: str, most: int) -> bool:
        """Whether a prompt of `prompt_for` has fewer than `most` tokens, and leaves tokens for a reply of any kind."""
        with_kind = min((self.prompt.asking(prompt, kind) for kind in KINDS.values()), key=len)
        return fits(prompt, with_kind, self.engine, most)

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        kinds: Sequence[Kind | str | None] | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[Sample]:
        """One supplement for each prompt, in order. Equal (prompt, seed, kind, temperature) give equal supplements.

        `prompts` name no kind; `kinds` are the kinds to ask for, as in `GeneratorPrompt.asking`.
        """
        kinds = [None] * len(prompts) if kinds is None else kinds
        requests = [
            SampleRequest(prompt, seed, kind, temperature, top_p)
            for prompt, seed, kind in zip(prompts, seeds, kinds, strict=True)
        ]
        return list(self.samples(requests))

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1024) -> Iterator[Sample]:
        """One supplement for each request, in order, each as soon as it and the earlier ones are ready.

        A local model decodes `at_once` requests together; an endpoint has a limit of its own. A kind with a text is
        that text, and no model is asked. A prompt that is too long gets no supplement, and a warning.
        """
        to_model = [self._to_model(request) for request in requests if request.given is None]
        replies = self.engine.samples(to_model, at_once=at_once)
        return (request.given or self._read(next(replies), request) for request in requests)

    @_report_call
    def draw(self, prompt: str | SampleRequest) -> Sample:
        """Draw one supplement for a prompt; the requests of other threads are decoded in the same batch.

        A bare prompt is asked as a program does at inference: at the generator's own temperature, naming no kind. The
        call stays out of the user's stream, history and cache; its tokens count in `track_usage` under `name`, and
        DSPy's callbacks are called as for a module. A prompt that is too long gets no supplement, and a warning.
        """
        request = self.as_request(prompt)
        if given := request.given:
            return given
        try:
            reply = self.engine.ask(self._to_model(request))
        except ContextLengthError as error:
            return self._skip_long_prompt(error)
        self._count_tokens(reply)
        return self._read(reply, request)

    @_report_call
    async def adraw(self, prompt: str | SampleRequest) -> Sample:
        """Do the same as `draw`, for coroutines."""
        request = self.as_request(prompt)
        if given := request.given:
            return given
        try:
            reply = await self.engine.aask(self._to_model(request))
        except ContextLengthError as error:
            return self._skip_long_prompt(error)
        self._count_tokens(reply)
        return self._read(reply, request)

    def as_request(self, prompt: str | SampleRequest) -> SampleRequest:
        """Build the request that a program makes for a prompt at inference; return a request as it is."""
        return prompt if isinstance(prompt, SampleRequest) else SampleRequest(prompt, temperature=self.temperature)

    def write(self, prompt: str) -> Supplement:
        """Write the supplement for one prompt, as a program reads it; see `draw`."""
        return self.draw(prompt).supplement

    def with_checkpoint(self, path: Path) -> SupplementGenerator:
        """Return the generator with trained weights: a PEFT adapter's folder, or a whole model's."""
        return self._of(self.engine.with_checkpoint(path), self.menu)

    def choosing(self, menu: Menu) -> SupplementGenerator:
        """Return the generator with this menu; the same object if it has the menu already.

        >>> from sgt_modules.kinds import SILENCE, Supplement
        >>> menu = Menu((Supplement("refunds", "Refunds take five days."), SILENCE))
        >>> SupplementGenerator("Qwen/Qwen3-1.7B").choosing(menu).menu.replies
        ('[refunds] Refunds take five days.', '[none]')
        """
        return self if menu == self.menu else self._of(self.engine, menu)

    def _of(self, engine: Backend, menu: Menu) -> SupplementGenerator:
        settings = self._settings()
        settings["menu"] = menu
        return SupplementGenerator(cast("LocalEngine | Endpoint | WinnerLookup", engine), **settings)

    def _settings(self) -> GeneratorSettings:
        return GeneratorSettings(
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            prompt=self.prompt,
            max_prompt_tokens=self.max_prompt_tokens,
            menu=self.menu,
        )

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` unless the model's files exist and have not changed since saving.

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
        """Raise `SetupError` unless `with_checkpoint` can use trained weights."""
        self.engine.check_trainable()

    def reset(self) -> None:
        """Do nothing: `reset_copy()` calls this on generators that the original program shares."""

    def dump_state(self, json_mode: bool = True) -> SavedGenerator:
        """Return the reference for a saved program; an adapter's folder is copied next to the saved file."""
        state = {**self.engine.reference(), **dump_settings(self._settings())}
        return cast("SavedGenerator", state)

    def load_state(self, state: SavedGenerator) -> None:
        """Load a saved reference; weights are loaded and compared with the sha256 at first use."""
        loaded = SupplementGenerator.from_state(state, like=self)
        self.engine, self.temperature, self.max_new_tokens = loaded.engine, loaded.temperature, loaded.max_new_tokens
        self.prompt, self.max_prompt_tokens, self.menu = loaded.prompt, loaded.max_prompt_tokens, loaded.menu

    @classmethod
    def from_state(
        cls,
        state: SavedGenerator,
        *,
        like: SupplementGenerator | None = None,
        trusted: bool = False,
    ) -> SupplementGenerator:
        """Load the generator of a saved reference; a local one that is in use is shared, so that weights load once.

        An endpoint takes the keys of `like` if that has the same address; another address is used only for a `trusted`
        state. Raises `SavedStateError` otherwise, for a state of another form, and for an adapter that is not in the
        file's folder.
        """
        state = check_state(state)
        if "lm" in state:
            endpoint = endpoint_of(state, like=None if like is None else like.engine, trusted=trusted)
            return cls(endpoint, **settings_of(state))
        return cls._reuse_or_build(state)

    @classmethod
    def _reuse_or_build(cls, state: GeneratorState | LookupGeneratorState) -> SupplementGenerator:
        """Return the generator of this state that is in use, or a new one."""
        settings = settings_of(state)
        reference = state["winners"] if "winners" in state else local_reference(state)
        key = json.dumps([reference, state.get("neighbours"), dump_settings(settings)], sort_keys=True)
        with _SHARING:
            generator = _SHARED.get(key)
            if generator is None:
                generator = _SHARED[key] = cls(_engine_of(state, settings), **settings)
            return generator

    def __reduce__(self) -> tuple[object, ...]:
        return _restore_from_pickle, (self.dump_state(),)

    def __repr__(self) -> str:
        return f"SupplementGenerator({self.name!r})"

    def _to_model(self, request: SampleRequest) -> SampleRequest:
        """Build the model's request: its prompt asks for the kind, and its reply is limited, opened or chosen.

        A generator with a menu ignores the kind.
        """
        kind = None if self.menu else request.kind
        return replace(
            request,
            prompt=self.prompt.asking(request.prompt, kind),
            temperature=0.0 if self.menu else request.temperature,
            max_new_tokens=self.max_new_tokens,
            opening=self.prompt.opening(kind),
            among=self.menu.replies,
        )

    def _read(self, reply: Sample, request: SampleRequest) -> Sample:
        """Read the supplement in a model's reply; one that was looked up is read already."""
        if isinstance(self.engine, WinnerLookup):
            return reply
        if self.menu:
            return reply.read_as(self.menu.read(reply.text))
        return reply.read_as(read_reply(reply.text, kind=request.kind_name, ended=not reply.cut))

    def _skip_long_prompt(self, error: ContextLengthError) -> Sample:
        """Warn that a prompt is too long, and return a sample without a supplement."""
        logging.getLogger(__name__).warning("No supplement, as the input does not fit %s: %s", self.name, error)
        return SILENT

    def _count_tokens(self, reply: Sample) -> None:
        """Count a reply's tokens in DSPy's `track_usage`."""
        if tracker := dspy.settings.usage_tracker:
            usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.tokens}
            tracker.add_usage(self.name, {**usage, "total_tokens": sum(usage.values())})


_SHARING = threading.Lock()
_SHARED: WeakValueDictionary[str, SupplementGenerator] = WeakValueDictionary()
"""Generators in use, by their state: the predictors of one program share one."""


def _engine_of(state: GeneratorState | LookupGeneratorState, settings: GeneratorSettings) -> LocalEngine | WinnerLookup:
    if "winners" in state:
        return WinnerLookup.from_reference(state)
    return LocalEngine(**local_reference(state), max_new_tokens=settings["max_new_tokens"])


def _restore_from_pickle(state: SavedGenerator) -> SupplementGenerator:
    """Load a pickled generator; a function, as cloudpickle would copy a method with all that it refers to.

    A pickle runs code when it is opened, so its state is trusted.
    """
    return SupplementGenerator.from_state(state, trusted=True)


GeneratorLike = str | Path | LocalEngine | dspy.LM | Endpoint | WinnerLookup | SupplementGenerator
"""The types that `SupplementGenerator.of` accepts."""
