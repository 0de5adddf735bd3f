"""Small real things for tests: a language model that says what a function says, and finished rollouts.

The model is a real `dspy.LM` over a real engine; only the network is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from hypothesis import strategies as st

from optimizers.core.records import Checkpoint, PreferencePair, Query, Reward, Rollout, ScoredSample, SFTExample
from optimizers.training.trainer import OnStep
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.kinds import NONE, Supplement
from sgt_modules.samples import Sample, SampleRequest

Script = Callable[[str], str]
"""What the model answers to a request's text; it may raise, as a provider would (`dspy.lm15.RateLimitError`)."""


class ScriptedEngine:
    """An engine that answers by script, instantly, and remembers what it was asked.

    Usage is counted in words, so that tests can tell tokens in from tokens out; a blank answer is one token. An answer
    of more words than the LM's `max_tokens` is cut there. With `whole` the script reads the
    system's text too, before the last message. Safe from many threads.

    >>> engine = ScriptedEngine(lambda text: reply(answer="4" if "2+2" in text else "?"))
    >>> with dspy.context(lm=engine.lm()):
    ...     dspy.Predict("question -> answer")(question="2+2?").answer
    '4'
    >>> len(engine.asked)
    1
    """

    def __init__(self, script: Script, *, whole: bool = False) -> None:
        self._script, self._whole = script, whole
        self._lock = threading.Lock()
        self.asked: list[str] = []

    def complete(self, request: Request) -> Response:
        """Answer a request with what the script says to its last message."""
        text = request.messages[-1].text or ""
        text = f"{request.system}\n\n{text}" if self._whole else text
        with self._lock:
            self.asked.append(text)
        answer = self._script(text)
        whole = answer
        if request.config.max_tokens is not None and len(answer.split()) > request.config.max_tokens:
            answer = " ".join(answer.split()[: request.config.max_tokens])
        tokens_in, tokens_out = len(text.split()), len(answer.split()) or int(bool(answer))
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(answer),
            finish_reason="stop" if answer == whole else "length",
            usage=Usage(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out),
        )

    def lm(self, model: str = "scripted/actor", *, max_tokens: int | None = None) -> dspy.LM:
        """A `dspy.LM` over this engine, for calls and for coroutines, that neither caches nor retries."""
        return dspy.LM(
            model, engine=self, async_engine=_Awaited(self), cache=False, num_retries=0, max_tokens=max_tokens
        )


class _Awaited:
    """The same engine for coroutines."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        return self._engine.complete(request)


class ScriptedGenerator(SupplementGenerator):
    """A generator that writes by script; it holds no model, and remembers what it read.

    `logprob` tells how sure it is of what it writes for a prompt. With trained weights it is `trained`, itself if that
    is not given. Safe from many threads.

    >>> ScriptedGenerator(lambda prompt: Supplement("cot", f"Think of: {prompt}")).write("2+2?").render()
    '[cot] Think of: 2+2?'
    """

    def __init__(
        self,
        script: Callable[[str], Supplement],
        *,
        logprob: Callable[[str], float] = lambda _: 0.0,
        trained: ScriptedGenerator | None = None,
        model: str = "scripted/generator",
    ) -> None:
        super().__init__(model, prompt=COMPACT, max_prompt_tokens=2**31)
        self._script, self._logprob, self._trained = script, logprob, trained
        self.asked: list[str] = []

    def draw(self, prompt: str | SampleRequest) -> Sample:
        """What the script says to a prompt, which names the kind that is asked for; its tokens count as any
        generator's do."""
        request = self.as_request(prompt)
        text = self.prompt.asking(request.prompt, request.kind)
        self.asked.append(text)
        supplement = self.said(text, request.seed)
        sample = Sample("", len(text.split()), len(supplement.text.split()), self._logprob(text)).read_as(supplement)
        self._count_tokens(sample)
        return sample

    @property
    def fingerprint(self) -> str:
        """A script has no weights."""
        return f"scripted {self.name}"

    def said(self, prompt: str, seed: int) -> Supplement:
        """What it writes; the seed makes no difference to a script."""
        return self._script(prompt)

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1) -> Iterator[Sample]:
        """What the script says to each request, as they are asked for."""
        return map(self.draw, requests)

    async def adraw(self, prompt: str | SampleRequest) -> Sample:
        """As `draw`."""
        return self.draw(prompt)

    def with_checkpoint(self, path: Path) -> ScriptedGenerator:
        """The generator it becomes by training, whatever the weights."""
        return self._trained or self

    def check(self) -> None:
        """Nothing to look for."""


class ScriptedTrainer:
    """A trainer that trains nothing, and remembers the rows of each stage."""

    def __init__(self) -> None:
        self.rows: dict[str, list[SFTExample] | list[PreferencePair] | list[ScoredSample]] = {}

    def sft(
        self,
        rows: Sequence[SFTExample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """As `Trainer`."""
        self.rows[output.name] = list(rows)
        return self.trained(rows, start, output, seed)

    def dpo(
        self,
        pairs: Sequence[PreferencePair],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """As `Trainer`."""
        self.rows[output.name] = list(pairs)
        return self.trained(pairs, start, output, seed)

    def grpo(
        self,
        rows: Sequence[ScoredSample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """As `Trainer`."""
        self.rows[output.name] = list(rows)
        return self.trained(rows, start, output, seed)

    def trained(self, rows: Sequence[object], start: Checkpoint | None, output: Path, seed: int) -> Checkpoint:
        """What comes of the rows of either stage."""
        return Checkpoint(output.name, output, "scripted")


def reply(**fields: str) -> str:
    """Output fields as DSPy's `ChatAdapter` wants to read them.

    >>> print(reply(answer="4"))
    [[ ## answer ## ]]
    4
    <BLANKLINE>
    [[ ## completed ## ]]
    """
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()), "[[ ## completed ## ]]"])


UNREADABLE: dict[str, Script] = {
    "untagged": lambda _: "The answer is four.",
    "empty": lambda _: "\n",
    "rambling": lambda _: "Let me think about it once more. " * 300,
    "another field": lambda _: reply(thought="four"),
}
"""Actors whose every answer no adapter can read."""


def query(name: str = "q", index: int = 0) -> Query:
    """A query whose prompt is its own, and names no kind."""
    return Query(name, index, "self", f"Help with {name}.")


def rollout(
    score: float | None,
    *,
    of: Query | None = None,
    kind: str = "cot",
    text: str = "think",
    source: str = "predefined",
    logprob: float = 0.0,
) -> Rollout:
    """A finished rollout; `score` None for one that failed."""
    reward = None if score is None else Reward(score)
    return Rollout(of or query(), "sft", source, Supplement(kind, text), reward, logprob=logprob)


def winners_and_losers(kinds: tuple[str, ...] = ("cot", "pairs", "free")) -> st.SearchStrategy[list[Rollout]]:
    """Rollouts of up to three queries, of few kinds and texts (so that repeats happen), some silent or unrewarded."""
    return st.lists(
        st.builds(
            lambda score, number, kind, text: rollout(
                score, of=query(f"q{number}", number), kind=kind if text else NONE, text=text
            ),
            st.sampled_from([1.0, 1.0, 0.5, 0.0, 0.0, None]),
            st.integers(0, 2),
            st.sampled_from(kinds),
            st.sampled_from(["", *"abcdefgh"]),
        ),
        max_size=60,
    )
