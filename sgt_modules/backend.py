"""What a generator needs of the model behind it; DSPy's requests as plain chats, samples as DSPy's responses. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from dspy.lm15 import Message, Request, Response, TextPart, UnsupportedFeatureError, Usage

from sgt_modules.samples import Sample, SampleRequest

_REFUSED = ("top_k", "response_format", "tool_choice", "frequency_penalty", "presence_penalty", "logprobs")


class Backend(Protocol):
    """The model behind a generator: `LocalEngine` is one in this process, `Endpoint` one behind any `dspy.LM`.

    Copies share the model.
    """

    @property
    def name(self) -> str:
        """A short name for people and for counting usage; no actor's LM has the same."""
        ...

    @property
    def identity(self) -> str:
        """The model's name in `run.json`."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weights, or of what identifies a server's model."""
        ...

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its reply together; None if only a server knows."""
        ...

    def count(self, prompt: str) -> int:
        """Count a prompt's tokens; an estimate if only a server knows the tokenizer."""
        ...

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int) -> Iterator[Sample]:
        """One sample for each request, in order, each as soon as it and the earlier ones are ready.

        A prompt that is too long gets an empty sample. `at_once` is how many requests are decoded together, where the
        caller can choose.
        """
        ...

    def ask(self, request: SampleRequest) -> Sample:
        """Return one sample; raise `dspy.lm15.ContextLengthError` if the prompt is too long."""
        ...

    async def aask(self, request: SampleRequest) -> Sample:
        """Do the same as `ask`, for coroutines."""
        ...

    def with_checkpoint(self, path: Path) -> Self:
        """The same backend with trained weights: a PEFT adapter's folder, or a whole model's."""
        ...

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` unless the model can be asked."""
        ...

    def check_trainable(self) -> None:
        """Raise `SetupError` unless `with_checkpoint` can work."""
        ...

    def reference(self) -> Mapping[str, object]:
        """What a saved program keeps to find the model: no weights and no keys."""
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


def sampling_of(request: Request) -> SampleRequest:
    """How to sample a reply to DSPy's request; the prompt is its last message alone, see `chat` for the others.

    >>> sampling_of(Request(model="m", messages=(Message.user("Hi"),))).temperature
    0.0
    """
    config = request.config
    return SampleRequest(
        request.messages[-1].text or "",
        config.seed or 0,
        temperature=config.temperature or 0.0,
        top_p=config.top_p or 1.0,
        max_new_tokens=config.max_tokens,
    )


def answer(request: Request, sample: Sample) -> Response:
    """A reply as DSPy's response: cut at the first stop text, with its tokens counted.

    >>> answer(Request(model="m", messages=(Message.user("Hi"),)), Sample("Hello", 3, 2, -0.5)).finish_reason
    'stop'
    """
    text = sample.text
    stops = [place for place in (text.find(stop) for stop in request.config.stop) if place >= 0]
    return Response(
        id=None,
        model=request.model,
        message=Message.assistant([TextPart(text[: min(stops)] if stops else text)]),
        finish_reason="length" if sample.cut and not stops else "stop",
        usage=Usage(input_tokens=sample.prompt_tokens, output_tokens=sample.tokens),
    )


def _system(system: str | Sequence[object]) -> str:
    parts = [system] if isinstance(system, str) else [part.text for part in system if isinstance(part, TextPart)]
    return "\n".join(parts)
