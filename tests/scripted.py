"""Small real things for tests: a language model that says what a function says, and finished rollouts.

The model is a real `dspy.LM` over a real engine; only the network is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from hypothesis import strategies as st

from optimizers.records import Query, Reward, Rollout
from sgt_modules.contract import Completion
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import Supplement

Script = Callable[[str], str]
"""What the model answers to a request's text; it may raise, as a provider would (`dspy.lm15.RateLimitError`)."""


class ScriptedEngine:
    """An engine that answers by script, instantly, and remembers what it was asked.

    Usage is counted in words, so that tests can tell tokens in from tokens out. Safe from many threads.

    >>> engine = ScriptedEngine(lambda text: reply(answer="4" if "2+2" in text else "?"))
    >>> with dspy.context(lm=engine.lm()):
    ...     dspy.Predict("question -> answer")(question="2+2?").answer
    '4'
    >>> len(engine.asked)
    1
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._lock = threading.Lock()
        self.asked: list[str] = []

    def complete(self, request: Request) -> Response:
        """Answer a request with what the script says to its last message."""
        text = request.messages[-1].text or ""
        with self._lock:
            self.asked.append(text)
        answer = self._script(text)
        tokens_in, tokens_out = len(text.split()), len(answer.split())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(answer),
            finish_reason="stop",
            usage=Usage(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out),
        )

    def lm(self, model: str = "scripted/actor") -> dspy.LM:
        """A `dspy.LM` over this engine, that neither caches nor retries."""
        return dspy.LM(model, engine=self, cache=False, num_retries=0)


class ScriptedGenerator(SupplementGenerator):
    """A generator that writes by script; it holds no model.

    >>> ScriptedGenerator(lambda prompt: Supplement("cot", f"Think of: {prompt}")).write("2+2?").render()
    '[cot] Think of: 2+2?'
    """

    def __init__(self, script: Callable[[str], Supplement]) -> None:
        super().__init__("scripted/generator")
        self._script = script

    def write(self, prompt: str) -> Supplement:
        """What the script says to a prompt; its tokens count as any generator's do."""
        supplement = self._script(prompt)
        self._account(Completion(supplement.render(), len(prompt.split()), len(supplement.text.split()), 0.0))
        return supplement


def reply(**fields: str) -> str:
    """Output fields as DSPy's `ChatAdapter` wants to read them.

    >>> print(reply(answer="4"))
    [[ ## answer ## ]]
    4
    <BLANKLINE>
    [[ ## completed ## ]]
    """
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()), "[[ ## completed ## ]]"])


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
    """Rollouts of up to three queries, of few kinds and texts (so that repeats happen), some without a reward."""
    return st.lists(
        st.builds(
            lambda score, number, kind, text: rollout(score, of=query(f"q{number}", number), kind=kind, text=text),
            st.sampled_from([1.0, 1.0, 0.5, 0.0, 0.0, None]),
            st.integers(0, 2),
            st.sampled_from(kinds),
            st.sampled_from(["", *"abcdefgh"]),
        ),
        max_size=60,
    )
