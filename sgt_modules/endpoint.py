"""Endpoint: a generator's model behind any `dspy.LM`, for example one that vLLM serves with a LoRA adapter.

The LM is the user's: its address, key, retries, timeout and extra settings are used as they are. Nothing runs here.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast
from urllib.parse import urlsplit

import dspy
from dspy.lm15 import ContextLengthError
from dspy.utils.exceptions import ContextWindowExceededError, LMError
from dspy.utils.usage_tracker import UsageTracker

from sgt_modules.contract import Completion
from sgt_modules.errors import EndpointError, GeneratorNotFoundError, SavedStateError, SetupError
from sgt_modules.redaction import ADDRESSES, SECRET, redacted, without_user
from sgt_modules.states import mapping
from sgt_modules.weights import fingerprint_of

Publish = Callable[[Path], str]
"""Makes the weights in a folder known to the server, and returns the model name to ask it for.

Called once for each checkpoint, or with several processes once in each of them; the name must not have stood for other
weights before. See `VLLMLoRA`, `ServedFolder`.
"""


_LIMITS = ("max_completion_tokens", "max_tokens")
"""The names that OpenAI gave a reply's token limit, the newer one first."""

_CUT = ("length", "max_tokens", "content_filter")
"""What a server names as the reason of a reply's end where the model did not end it."""


class EndpointReference(TypedDict):
    """An endpoint as a saved generator keeps it: the LM's own state without keys, and which weights its name meant."""

    lm: dict[str, Any]
    adapter_sha256: str | None


class Endpoint:
    """A model that a `dspy.LM` asks, with the interface that `LocalEngine` has for a generator.

    Requests stay out of the user's stream, history and cache. They carry the temperature, the token limit and, where
    DSPy knows that the provider takes them, a seed (when sampling) and the wish for log-probabilities: without the
    first, equal seeds do not give equal replies; without the second, a log-probability is 0.0. `concurrency` requests
    are under way at a time in `sample`. `publish` makes trained weights known to the server; training needs it.

    A model that thinks before it answers is told not to by the LM: `dspy.LM(..., extra_body={"chat_template_kwargs":
    {"enable_thinking": False}})` for Qwen3 behind vLLM. Retries are the LM's too (`num_retries`).

    >>> Endpoint(dspy.LM("openai/qwen3", api_base="http://localhost:8000/v1")).name
    'qwen3@localhost:8000'
    """

    def __init__(
        self,
        lm: dspy.LM,
        *,
        publish: Publish | None = None,
        concurrency: int = 64,
        adapter_sha256: str | None = None,
    ) -> None:
        if not isinstance(lm, dspy.LM):
            raise SetupError(f"Expected a dspy.LM, got {lm!r}. Write Endpoint(dspy.LM('provider/model', ...)).")
        if concurrency < 1:
            raise SetupError(f"Expected concurrency of at least 1, got {concurrency}.")
        self.lm, self.publish, self.concurrency = lm, publish, concurrency
        self.adapter_sha256 = adapter_sha256
        self._published: dict[tuple[Path, str], str] = {}

    @property
    def name(self) -> str:
        """The model's short name and where it is asked, so that no actor's LM has the same name."""
        provider, _, model = self.lm.model.rpartition("/")
        host = "" if self.address is None else urlsplit(self.address).netloc.rpartition("@")[2]
        return f"{model}@{host or provider.partition('/')[0] or 'dspy'}"

    @property
    def address(self) -> str | None:
        """The server's base address, where the LM names one."""
        address = self.lm.kwargs.get("api_base") or self.lm.kwargs.get("base_url")
        return None if address is None else str(address)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the model's name, the server's address and, where they are known, the adapter's weights."""
        return hashlib.sha256(json.dumps([self.lm.model, self.address, self.adapter_sha256]).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """The model's short name with the fingerprint's first 16 digits: an address is kept in no file of a run."""
        return f"{self.lm.model.rpartition('/')[2]} {self.fingerprint[:16]}"

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        openings: Sequence[str] | None = None,
        top_p: float = 1.0,
    ) -> list[Completion]:
        """One reply to each prompt, in order, `concurrency` at a time; see `samples`."""
        return list(
            self.samples(
                prompts,
                seeds=seeds,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                openings=openings,
                top_p=top_p,
            )
        )

    def samples(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        at_once: int = 1,
        openings: Sequence[str] | None = None,
        top_p: float = 1.0,
    ) -> Iterator[Completion]:
        """As `sample`, each reply as soon as it and those before it are there; `at_once` makes no difference here.

        Raises `EndpointError` for the first reply that cannot be had, and asks for no more.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"Expected one seed a prompt, got {len(seeds)} seeds for {len(prompts)} prompts.")
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="sgt-endpoint")
        try:
            waiting = [
                pool.submit(
                    contextvars.copy_context().run,
                    self._ask,
                    prompt,
                    self._options(temperature, seed, max_new_tokens, top_p),
                )
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            for number, reply in enumerate(waiting):
                try:
                    yield reply.result()
                except LMError as error:
                    raise EndpointError(
                        f"Expected {len(prompts)} replies of {self.name}, got {number} and then an error: "
                        f"{redacted(str(error), [self.lm])}. "
                        "What an actor was paid for is saved. Look at the server and start again with the same "
                        "log_dir, or give the LM more num_retries."
                    ) from None  # its own words may hold the key
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def ask(
        self,
        prompt: str,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        opening: str = "",
        top_p: float = 1.0,
    ) -> Completion:
        """One reply to one prompt. Raises what DSPy's LM raises (`LMError`), and `ContextLengthError`."""
        return self._ask(prompt, self._options(temperature, seed, max_new_tokens, top_p))

    async def aask(
        self,
        prompt: str,
        *,
        seed: int = 0,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        opening: str = "",
        top_p: float = 1.0,
    ) -> Completion:
        """As `ask`, through the LM's own coroutine."""
        options = self._options(temperature, seed, max_new_tokens, top_p)
        with _aside() as usage, _too_long():
            lm, noted = _noting(self.lm)
            return _completion(await lm.acall(prompt, cache=False, **options), usage, noted, self._limit(options))

    def with_checkpoint(self, path: Path) -> Endpoint:
        """The same endpoint asked for the weights in this folder, which are published first.

        Raises `SetupError` where no `publish` was given, and `EndpointError` where the server refuses them.
        """
        self.check_trainable()
        publish = cast("Publish", self.publish)
        sha256 = fingerprint_of(path)
        if (path, sha256) not in self._published:
            self._published[path, sha256] = publish(path)
        provider, slash, _ = self.lm.model.partition("/")
        lm = self.lm.copy(model=f"{provider if slash else ''}{slash}{self._published[path, sha256]}")
        other = Endpoint(lm, publish=publish, concurrency=self.concurrency, adapter_sha256=sha256)
        other._published = self._published
        return other

    def check(self) -> None:
        """Ask for a single token: raises `GeneratorNotFoundError` for a wrong address, key or name."""
        try:
            Endpoint(self.lm.copy(num_retries=0)).ask("Hello.", max_new_tokens=1)
        except (LMError, ContextLengthError) as error:
            where = "" if self.address is None else f" at {without_user(self.address)}"
            raise GeneratorNotFoundError(
                f"Expected a reply of the generator {self.lm.model!r}{where}, got an error: "
                f"{redacted(str(error), [self.lm])}. Start its server, or correct the LM's model, api_base or api_key."
            ) from None  # its own words may hold the key

    def check_trainable(self) -> None:
        """Raise `SetupError` unless the server can be told of trained weights."""
        if self.publish is None:
            raise SetupError(
                f"Expected a way to tell the server of {self.name} about trained weights, got none. Pass "
                "generator=Endpoint(lm, publish=...): VLLMLoRA(lm) for vLLM, ServedFolder(base) for a server that "
                "takes a folder as a model's name, or a function of your own from a checkpoint's folder to the name."
            )

    def reference(self) -> EndpointReference:
        """The LM's own state without keys and headers. Raises `SavedStateError` for settings that are no JSON."""
        state = _without_secrets(self.lm.dump_state())
        for name in ADDRESSES:
            if isinstance(state.get(name), str):
                state[name] = without_user(state[name])
        try:
            return EndpointReference(lm=json.loads(json.dumps(state)), adapter_sha256=self.adapter_sha256)
        except TypeError as error:
            raise SavedStateError(
                f"Expected an LM whose settings can be written as JSON, got {self.lm.model!r} with one that cannot "
                f"({error}). Leave it out, and set it again on the LM that you load the program with."
            ) from error

    @classmethod
    def of_reference(cls, state: EndpointReference, *, like: object = None, trusted: bool = False) -> Endpoint:
        """The endpoint of a saved reference; nothing is asked yet.

        Keys, headers and `publish` are those of `like`, if that is an endpoint at the same address; else they come
        from the environment, as in any `dspy.LM`. An address that is not `like`'s is followed only if the file is
        `trusted`, as the key is sent there: otherwise `SavedStateError`.
        """
        settings, sha256 = mapping(state["lm"], "an endpoint's LM"), state["adapter_sha256"]
        known = like if isinstance(like, Endpoint) else None
        if known is not None and known.reference() == state:
            return known
        if known is not None and _addresses(known.reference()["lm"]) != _addresses(settings):
            known = None
        if known is None and _addresses(settings) and not trusted:
            raise SavedStateError(
                f"Expected a generator at an address that the program uses already, got {_addresses(settings)} from a "
                "file. Load it into a program supplemented with Endpoint(dspy.LM(..., api_base=...)) of that address, "
                "or pass allow_unsafe_lm_state=True for a file that you trust: your key is sent there."
            )
        try:
            lm = dspy.BaseLM.load_state(dict(settings), allow_custom_lm_class=trusted)
        except (LMError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
            raise SavedStateError(
                f"Expected the saved settings of a dspy.LM, got some that it does not take ({error}). Save the program "
                "again, or set the generator anew."
            ) from error
        if not isinstance(lm, dspy.LM):
            raise SavedStateError(f"Expected a saved dspy.LM, got a {type(lm).__name__}. Set the generator anew.")
        if known is None:
            return cls(lm, adapter_sha256=sha256)
        own = {name: value for name, value in known.lm.kwargs.items() if name in ADDRESSES or SECRET.search(name)}
        return cls(lm.copy(**own), publish=known.publish, concurrency=known.concurrency, adapter_sha256=sha256)

    def __copy__(self) -> Endpoint:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Endpoint:
        return self

    def __repr__(self) -> str:
        return f"Endpoint({self.lm.model!r})"

    @cached_property
    def _taken(self) -> set[str]:
        """The names of the settings that DSPy knows this LM's provider to take."""
        return self.lm.supported_params

    @property
    def context(self) -> None:
        """Unknown: the server's to say."""
        return None

    def count(self, prompt: str) -> int:
        """A guess at a prompt's tokens: a token has about three bytes or more."""
        return len(prompt.encode()) // 3

    def _options(self, temperature: float, seed: int, max_new_tokens: int | None, top_p: float) -> dict[str, Any]:
        limit = _LIMITS[0] if _LIMITS[0] in self.lm.kwargs else _LIMITS[1]
        options: dict[str, Any] = {"temperature": temperature}
        if temperature > 0 and top_p < 1:
            options["top_p"] = top_p
        if max_new_tokens is not None:
            options[limit] = max_new_tokens
        if temperature > 0 and "seed" in self._taken:
            options["seed"] = seed
        if "logprobs" in self._taken:
            options["logprobs"] = True
        return options

    def _ask(self, prompt: str, options: Mapping[str, Any]) -> Completion:
        with _aside() as usage, _too_long():
            lm, noted = _noting(self.lm)
            return _completion(lm(prompt, cache=False, **options), usage, noted, self._limit(options))

    def _limit(self, options: Mapping[str, Any]) -> int | None:
        """The most tokens that a reply may have, where one is set."""
        asked = {**self.lm.kwargs, **options}
        return next((asked[name] for name in _LIMITS if asked.get(name) is not None), None)


def _noting(lm: dspy.LM) -> tuple[dspy.LM, list[Mapping[str, Any]]]:
    """A copy of the LM, and the list that it writes its history to, and to nothing else.

    What a call returns does not say what ended the reply; its entry in the history does.
    """
    noted: list[Mapping[str, Any]] = []

    def note(entry: Mapping[str, Any]) -> None:
        noted.append(entry)

    copied = lm.copy()
    copied.update_history = note
    return copied, noted


@contextmanager
def _aside() -> Iterator[UsageTracker]:
    """Inside, calls of an LM do not reach the user's stream, and are counted apart."""
    usage = UsageTracker()
    with dspy.context(send_stream=None, stream_listeners=[], disable_history=False, usage_tracker=usage):
        yield usage


@contextmanager
def _too_long() -> Iterator[None]:
    """DSPy's word for a prompt that is too long, as a local engine says it."""
    try:
        yield
    except ContextWindowExceededError as error:
        raise ContextLengthError(str(error)) from error


def _completion(
    outputs: Sequence[str | Mapping[str, Any]],
    usage: UsageTracker,
    noted: Sequence[Mapping[str, Any]],
    limit: int | None,
) -> Completion:
    """What an LM call returned: a text, or a mapping where there is more than a text."""
    output = outputs[0]
    said: Mapping[str, Any] = {"text": output} if isinstance(output, str) else output
    scores = [float(_of(token, "logprob")) for token in _of(said.get("logprobs"), "content") or ()]
    entries = [entry for of_model in usage.usage_data.values() for entry in of_model]
    read, wrote = (sum(entry.get(name) or 0 for entry in entries) for name in ("prompt_tokens", "completion_tokens"))
    logprob = sum(scores) / len(scores) if scores else 0.0
    ended = _ended(noted[-1]["response"] if noted else None, wrote, limit)
    return Completion(said["text"] or "", read, wrote, logprob, ended)


def _ended(response: object, wrote: int, limit: int | None) -> bool:
    """Whether the model ended its reply itself: the server names no other reason, and the limit was not reached.

    Clients say "stop" where a server gives no reason at all, so the tokens that were written are counted as well.
    """
    response = cast("tuple[object, ...]", response)[0] if isinstance(response, tuple) and response else response
    choices = _of(response, "choices") or [None]
    reason = _of(response, "finish_reason") or _of(choices[0], "finish_reason")
    return str(reason) not in _CUT and (limit is None or wrote < limit)


def _of(value: object, name: str) -> Any:
    """A field of what a provider's client returned: a mapping or an object, or nothing at all."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _addresses(settings: Mapping[str, Any]) -> dict[str, object]:
    return {name: settings[name] for name in ADDRESSES if settings.get(name) is not None}


def _without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what is named like a key, at any depth."""
    return {
        name: _without_secrets(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if not SECRET.search(str(name))
    }
