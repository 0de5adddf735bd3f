"""The simulated corrector of house rules: a script behind `dspy.LM` that writes random prompts and briefs.

It reads the same text as a real corrector (the brief, the prompt with its impacts, the mistakes). It knows all
sentences, but not which of them help. Its replies depend only on the request, its seed and the call's `rollout_id`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from sgt_modules.embedded.rules.conventions import ASKED, IDLE, KINDS, kind_of, parse_sentence

ABOUT_A_MISTAKE = 0.5
"""The share of new sentences about a question of the mistakes, if the brief names no topic."""

IDLY = 0.3
"""The share of idle sentences among the others."""

FORGOTTEN = 0.1
"""The share of sentences that are dropped if the prompt has no impacts."""

_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]\n(.*?)(?=\n\n\[\[ ## |\n\nRespond with|\Z)", re.DOTALL)
_SENTENCE = re.compile(r"([^.\[\]]+\.)(?:\s*\[impact ([+-][\d.]+)[^\]]*\])?")
_QUESTION = re.compile(r"^  question: (.+)$", re.MULTILINE)
_LOOK = re.compile(r"Look at ([^.]+)\.")

_SAMPLE: ContextVar[int] = ContextVar("_SAMPLE", default=0)


class RulesCorrector(dspy.LM):
    """A simulated corrector, for `SupervisoryPromptTeleprompter` on the house-rules world.

    For a prompt, it drops the sentences with a negative impact and adds one or two new ones: half of them are about a
    question with a wrong answer, in a random reading; the others are about any kind. If the brief says `Look at ...`,
    it adds a sentence about each of those topics. A new sentence about a kind replaces an earlier one. For a brief, it
    writes `Look at ...` with the topics of the mistakes.

    >>> lm = RulesCorrector(seed=0)
    >>> written = dspy.Predict("step, prompt, mistakes -> new_prompt")
    >>> with dspy.context(lm=lm):
    ...     read = {"prompt": "Be polite. [impact -0.10 ± 0.05]", "mistakes": "  question: Name the pair."}
    ...     print(written(step="", **read).new_prompt)
    The size of a list is written as a word. By pair we mean items one and three.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(f"simulated/rules-corrector-{seed}", engine=_Writer(seed), cache=False, num_retries=0)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as any LM; `rollout_id`, also one of an LM around this one, distinguishes samples of a request."""
        sample = _SAMPLE.set(int(kwargs.get("rollout_id") or _SAMPLE.get()))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _SAMPLE.reset(sample)


@dataclass(frozen=True)
class _Writer:
    seed: int

    def complete(self, request: Request) -> Response:
        brief = str(request.system or "").rpartition("your objective is:")[2]
        message = request.messages[-1].text or ""
        fields = dict(_FIELD.findall(message))
        rng = random.Random(f"{self.seed}|{_SAMPLE.get()}|{brief}|{message}")
        if "meta_prompt" in fields:
            reply = f"[[ ## new_meta_prompt ## ]]\n{improve_brief(fields['meta_prompt'], fields['mistakes'])}"
        else:
            reply = f"[[ ## new_prompt ## ]]\n{correct_prompt(brief, fields['prompt'], fields['mistakes'], rng)}"
        read, wrote = len(f"{brief} {message}".split()), len(reply.split())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(f"{reply}\n\n[[ ## completed ## ]]"),
            finish_reason="stop",
            usage=Usage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote),
        )


def correct_prompt(brief: str, prompt: str, mistakes: str, rng: random.Random) -> str:
    """Write a new prompt from a prompt with its impacts and mistakes."""
    read = [(sentence.strip(), impact) for sentence, impact in _SENTENCE.findall(prompt)]
    has_impacts = any(impact for _, impact in read)
    kept_sentences = [
        each for each, impact in read if float(impact or 0) >= 0 and (has_impacts or rng.random() >= FORGOTTEN)
    ]
    for sentence in _write_sentences(brief, mistakes, kept_sentences, rng):
        about = parse_sentence(sentence)
        kept_sentences = [
            each for each in kept_sentences if each != sentence and not _are_same_kind(parse_sentence(each), about)
        ]
        kept_sentences.append(sentence)
    return " ".join(kept_sentences)


def _are_same_kind(one: tuple[str, str] | None, other: tuple[str, str] | None) -> bool:
    return one is not None and other is not None and one[0] == other[0]


def _write_sentences(brief: str, mistakes: str, kept_sentences: Sequence[str], rng: random.Random) -> list[str]:
    current_readings = dict(filter(None, map(parse_sentence, kept_sentences)))
    if topics := _find_topics(brief):
        return [_write_sentence(kind, current_readings, rng) for kind in topics]
    wrong = find_kinds(mistakes)
    sentences: list[str] = []
    for _ in range(rng.randint(1, 2)):
        if wrong and rng.random() < ABOUT_A_MISTAKE:
            sentences.append(_write_sentence(rng.choice(wrong), current_readings, rng))
        elif rng.random() < IDLY:
            sentences.append(rng.choice(IDLE))
        else:
            sentences.append(_write_sentence(rng.choice(list(ASKED)), current_readings, rng))
    return sentences


def _write_sentence(kind: str, current_readings: dict[str, str], rng: random.Random) -> str:
    """Write a sentence about a kind, with another reading than the prompt's."""
    readings = [each for each in KINDS[kind].readings if each != current_readings.get(kind)]
    return rng.choice(KINDS[kind].sentences_for(rng.choice(readings)))


def find_kinds(mistakes: str) -> list[str]:
    """Find the kinds of the questions in the mistakes, each once.

    >>> find_kinds("Question:\\n  question: Name the pair.\\nWritten:\\n  answer: fig")
    ['pair']
    """
    return list(dict.fromkeys(filter(None, map(kind_of, _QUESTION.findall(mistakes)))))


def _find_topics(brief: str) -> list[str]:
    topics = {each.strip() for match in _LOOK.findall(brief) for each in match.split(",")}
    return [name for name, kind in KINDS.items() if kind.topic in topics]


def improve_brief(brief: str, mistakes: str) -> str:
    """Replace the topics that a brief looks at by those of the mistakes.

    >>> improve_brief("Write rules. Look at sizes.", "  question: Name the pair.")
    'Write rules. Look at pairs.'
    """
    topics = ", ".join(KINDS[name].topic for name in find_kinds(mistakes))
    return f"{_LOOK.sub('', brief).strip()} Look at {topics}."
