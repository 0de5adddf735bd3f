"""What a generator needs of the model behind it; and between DSPy's requests and responses and plain chat. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from dspy.lm15 import Message, Request, Response, TextPart, UnsupportedFeatureError, Usage

_REFUSED = ("top_k", "response_format", "tool_choice", "frequency_penalty", "presence_penalty", "logprobs")


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply: its text, the tokens read and written (the end token counts), the mean log-probability of those written
    (natural, untempered; 0.0 where the model's server tells none), and whether the model ended it by itself (else the
    token limit did).

    Where the reply was made to begin with an opening, `text` begins with it; its tokens count as read."""

    text: str
    prompt_tokens: int
    tokens: int
    logprob: float
    ended: bool = True


class Backend(Protocol):
    """The model behind a generator: `LocalEngine` is one in this process, `Endpoint` one behind any `dspy.LM`.

    A prompt is a user message's text. An opening is what its reply is made to begin with; a server that cannot do that
    replies as it likes. `top_p` in (0, 1] is the share of probability that tokens are drawn from. With `among`, the
    reply is the likeliest of these; a server tells no such thing, and replies as it likes. Copies share the model.
    """

    @property
    def name(self) -> str:
        """Short, for people and for counting usage; no actor's LM has the same."""
        ...

    @property
    def identity(self) -> str:
        """What `run.json` tells this model by."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what is known of the weights."""
        ...

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its reply together, where that is known."""
        ...

    def count(self, prompt: str) -> int:
        """How many tokens a prompt has as the model reads it; a guess where only a server knows."""
        ...

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        temperature: float,
        max_new_tokens: int | None,
        openings: Sequence[str] | None = None,
        top_p: float = 1.0,
        among: Sequence[str] = (),
    ) -> list[Completion]:
        """One reply to each prompt, in order; an empty one to a prompt that is too long."""
        ...

    def samples(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        temperature: float,
        max_new_tokens: int | None,
        at_once: int,
        openings: Sequence[str] | None = None,
        top_p: float = 1.0,
        among: Sequence[str] = (),
    ) -> Iterator[Completion]:
        """As `sample`, each reply as soon as it and those before it are there.

        `at_once`: how many prompts are decoded together, where that is the caller's to choose.
        """
        ...

    def ask(
        self,
        prompt: str,
        *,
        seed: int,
        temperature: float,
        max_new_tokens: int | None,
        opening: str = "",
        top_p: float = 1.0,
        among: Sequence[str] = (),
    ) -> Completion:
        """One reply to one prompt; raises `dspy.lm15.ContextLengthError` for one that is too long."""
        ...

    async def aask(
        self,
        prompt: str,
        *,
        seed: int,
        temperature: float,
        max_new_tokens: int | None,
        opening: str = "",
        top_p: float = 1.0,
        among: Sequence[str] = (),
    ) -> Completion:
        """As `ask`, for coroutines."""
        ...

    def with_checkpoint(self, path: Path) -> Self:
        """The same with trained weights: a PEFT adapter's folder, or a whole model's."""
        ...

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` unless the model can be asked."""
        ...

    def check_trainable(self) -> None:
        """Raise `SetupError` unless `with_checkpoint` can work."""
        ...

    def reference(self) -> Mapping[str, object]:
        """What a saved program keeps to find the model again: no weights and no keys."""
        ...


def chat(request: Request) -> list[dict[str, str]]:
    """A request's messages as `role` and `content`, the system text first.

    Raises `dspy.lm15.UnsupportedFeatureError` for anything but text, and for settings that the engine cannot honour:
    they are refused rather than dropped.

    >>> chat(Request(model="m", messages=(Message.user("Hi"),), system="Be brief."))
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hi'}]
    """
    refused = [f"config.{name}" for name in _REFUSED if getattr(request.config, name) is not None]
    if refused or request.tools:
        feature = [*refused, "tools"][0]
        raise UnsupportedFeatureError(
            f"Expected temperature, top_p, max_tokens, seed and stop, got {feature}. Leave it out for a local engine.",
            feature=feature,
        )
    turns = [] if request.system is None else [{"role": "system", "content": _system(request.system)}]
    for message in request.messages:
        if message.role == "tool" or message.text is None:
            raise UnsupportedFeatureError(f"Expected text, got a {message.role} message of {message.parts}.")
        turns.append({"role": "system" if message.role == "developer" else message.role, "content": message.text})
    return turns


def answer(request: Request, completion: Completion) -> Response:
    """A reply as DSPy's response: cut at the first stop text, with its tokens counted.

    >>> answer(Request(model="m", messages=(Message.user("Hi"),)), Completion("Hello", 3, 2, -0.5)).finish_reason
    'stop'
    """
    text = completion.text
    cuts = [place for place in (text.find(stop) for stop in request.config.stop) if place >= 0]
    return Response(
        id=None,
        model=request.model,
        message=Message.assistant([TextPart(text[: min(cuts)] if cuts else text)]),
        finish_reason="stop" if cuts or completion.ended else "length",
        usage=Usage(input_tokens=completion.prompt_tokens, output_tokens=completion.tokens),
    )


def _system(system: str | Sequence[object]) -> str:
    parts = [system] if isinstance(system, str) else [part.text for part in system if isinstance(part, TextPart)]
    return "\n".join(parts)
