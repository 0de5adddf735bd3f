"""Local Prompt Optimization (arXiv 2504.20355): an LM marks the words of the instructions that are at fault, and only
these may change.

The paper adds this to any optimizer that writes prompts; here, to one that corrects instructions from the mistakes of a
batch. It was read from public summaries.
"""

from __future__ import annotations

import difflib
import itertools
import random
import re
from collections.abc import Sequence
from typing import Any, cast

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers.comparison.instruction_search import build_evaluate, format_fields, quote_names, run_as_text, take_batch
from optimizers.core.concurrency import map_in_threads
from optimizers.core.reward import Scorer
from sgt_modules.wrapping import with_instructions

LPO_BATCH = 8
"""Training examples per step; the LM reads the mistakes among them."""

LPO_CANDIDATES = 2
"""New instructions per step; each is scored on the validation set."""

LPO_STEPS = 6
"""Steps without a budget."""

MOST_CHANGED = 0.1
"""The share of the instructions' characters that the LM may change by accident while it marks them."""

_TAG = re.compile(r"</?edit>", re.IGNORECASE)
_MARKED = re.compile(r"<edit>(.*?)</edit>", re.IGNORECASE | re.DOTALL)

Span = tuple[int, int]
"""Start and end of marked characters in the instructions; an empty span is a place to insert text."""


class MarkWords(dspy.Signature):
    """Instructions for a language model lead to mistakes. Find the few words of the instructions that are at fault.

    Copy the instructions letter by letter, and put <edit> and </edit> around the words that have to change. Where words
    are missing, write <edit></edit>. Change nothing else.
    """

    step: str = dspy.InputField(desc="What the model reads and writes under these instructions.")
    prompt: str = dspy.InputField(desc="The instructions.")
    mistakes: str = dspy.InputField(desc="Questions that the model got wrong, with what it wrote.")
    marked: str = dspy.OutputField(desc="The instructions with <edit> and </edit> around the words at fault.")


class RewriteMarked(dspy.Signature):
    """Instructions for a language model lead to mistakes. Write better words between each <edit> and </edit>.

    Copy the rest letter by letter, with the tags.
    """

    step: str = dspy.InputField(desc="What the model reads and writes under these instructions.")
    marked: str = dspy.InputField(desc="The instructions; only words between <edit> and </edit> may change.")
    mistakes: str = dspy.InputField(desc="Questions that the model got wrong, with what it wrote.")
    rewritten: str = dspy.OutputField(desc="The instructions with better words between the tags.")


def optimize_with_local_edits(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    *,
    scorer: Scorer,
    proposer: dspy.LM,
    steps: int = LPO_STEPS,
    seed: int = 0,
    num_threads: int | None = None,
) -> dspy.Module:
    """Returns a copy of the program with instructions of which only marked words were rewritten.

    Each step runs the next `LPO_BATCH` training examples and asks the LM `proposer` twice: to mark the words of one
    predictor's instructions (the predictors take turns) that led to the mistakes, and to rewrite these words, in
    `LPO_CANDIDATES` ways. The best candidate on the validation set replaces the program if its score is higher. A step
    without mistakes, or with replies that cannot be read, changes nothing. The validation set also runs once before the
    first step.
    """
    best = program.deepcopy()
    evaluate = build_evaluate(valset, lambda example, prediction: scorer(example, prediction).score, num_threads)
    names = [name for name, _ in program.named_predictors()]
    order = random.Random(seed).sample(list(trainset), len(trainset))
    score = evaluate(best).score
    for step in range(steps):
        batch = take_batch(order, step, LPO_BATCH)
        mistakes = _describe_mistakes(best, batch, scorer, num_threads)
        if not mistakes:
            continue
        for instructions in _propose(best, names[step % len(names)], mistakes, proposer, step):
            candidate = with_instructions(best, {names[step % len(names)]: instructions})
            if (candidate_score := evaluate(candidate).score) > score:
                best, score = candidate, candidate_score
    return best


def _describe_mistakes(
    program: dspy.Module, batch: Sequence[dspy.Example], scorer: Scorer, num_threads: int | None
) -> str:
    """Runs the batch; returns the examples with a reward below 1 as text for the LM. Outages are left out."""

    def describe(example: dspy.Example) -> str:
        run = run_as_text(program, example, scorer)
        if run is None or run[1].score >= 1:
            return ""
        expected = format_fields(example.labels().items())
        parts = [format_fields(example.inputs().items()), f"The model wrote: {run[0]}"]
        parts += [f"Expected: {expected}"] if expected else []
        return "\n".join([*parts, *([f"Verdict: {run[1].feedback}"] if run[1].feedback else [])])

    threads = min(len(batch), num_threads or cast("int", dspy.settings.num_threads))
    return "\n\n".join(filter(None, map_in_threads(describe, batch, threads=threads)))


def _propose(program: dspy.Module, name: str, mistakes: str, proposer: dspy.LM, step: int) -> list[str]:
    """Returns new instructions for a predictor, without repetitions; none if no reply could be read."""
    signature = cast("Any", dict(program.named_predictors())[name]).signature
    before: str = signature.instructions
    role = f"From {quote_names(signature.input_fields)} it writes {quote_names(signature.output_fields)}."
    reply = _ask(MarkWords, proposer, step, step=role, prompt=before, mistakes=mistakes)
    spans = read_marks(before, reply)
    marked = mark(before, spans)
    written: dict[str, None] = {}
    for number in range(LPO_CANDIDATES if spans else 0):
        turn = step * LPO_CANDIDATES + number
        reply = _ask(RewriteMarked, proposer, turn, step=role, marked=marked, mistakes=mistakes)
        after = replace_marked(before, spans, reply)
        if after and after != before:
            written[after] = None
    return list(written)


def _ask(signature: type[dspy.Signature], proposer: dspy.LM, number: int, **inputs: str) -> str:
    """Asks the LM; returns its output, empty if it cannot be read. `number` makes equal requests distinct."""
    (output,) = signature.output_fields
    try:
        with dspy.context(lm=proposer):
            prediction = dspy.Predict(signature, temperature=1.0)(**inputs, config={"rollout_id": number})
    except AdapterParseError:
        return ""
    return str(cast("Any", prediction)[output] or "")


def read_marks(instructions: str, marked: str) -> list[Span]:
    """Finds the marked spans of the instructions in the LM's copy; none if the copy changed too much.

    >>> read_marks("Answer in words.", "Answer <edit>in words</edit>.")
    [(7, 15)]
    >>> read_marks("Answer in words.", "Answer, in <edit>words</edit>.")  # the copy has a comma too many
    [(10, 15)]
    >>> read_marks("Answer in words.", "I would write: <edit>be brief</edit>")
    []
    """
    pieces = _TAG.split(marked)
    copy = "".join(pieces)
    matcher = difflib.SequenceMatcher(None, copy, instructions, autojunk=False)
    same = sum(block.size for block in matcher.get_matching_blocks())
    if max(len(copy), len(instructions)) - same > MOST_CHANGED * len(instructions):
        return []
    place = [*_map_places(matcher), len(instructions)]
    ends = list(itertools.accumulate(len(piece) for piece in pieces[:-1]))
    tags = [tag.casefold() for tag in _TAG.findall(marked)]
    spans = [
        (place[start], place[end])
        for (start, first), (end, second) in itertools.pairwise(zip(ends, tags, strict=True))
        if (first, second) == ("<edit>", "</edit>")
    ]
    return [span for span in spans if span[0] <= span[1]]


def _map_places(matcher: difflib.SequenceMatcher[str]) -> list[int]:
    """For each character of the copy, the same place in the instructions."""
    places: list[int] = []
    for _, first, last, start, end in matcher.get_opcodes():
        places += [min(start + offset, end) for offset in range(last - first)]
    return places


def mark(instructions: str, spans: Sequence[Span]) -> str:
    """Puts tags around the spans.

    >>> mark("Answer in words.", [(7, 15)])
    'Answer <edit>in words</edit>.'
    """
    return _replace_spans(instructions, spans, [f"<edit>{instructions[start:end]}</edit>" for start, end in spans])


def replace_marked(instructions: str, spans: Sequence[Span], rewritten: str) -> str:
    """Puts the text between the reply's tags in place of the spans; nothing else of the reply is used.

    Returns an empty text if the reply has another number of marked texts.

    >>> replace_marked("Answer in words.", [(7, 15)], "Please answer <edit>as a number</edit>!")
    'Answer as a number.'
    >>> replace_marked("Answer in words.", [(7, 15)], "Answer as a number.")
    ''
    """
    texts = [_TAG.sub("", each) for each in _MARKED.findall(rewritten)]
    return _replace_spans(instructions, spans, texts) if len(texts) == len(spans) else ""


def _replace_spans(instructions: str, spans: Sequence[Span], texts: Sequence[str]) -> str:
    parts: list[str] = []
    last = 0
    for (start, end), text in zip(spans, texts, strict=True):
        parts += [instructions[last:start], text]
        last = end
    return "".join([*parts, instructions[last:]])
