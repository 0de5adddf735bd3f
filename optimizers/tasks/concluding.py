"""Finds the sentence of a worked solution that states its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optimizers.tasks.quantities import Quantity, find_quantities, prefer_digits

SentenceKind = Literal["final", "answer", "conclusion", "plain", "given", "aside", "working"]
"""The role of a sentence: `given` repeats the problem, `aside` talks to the user, `working` explains the answer."""

MAX_SENTENCE = 2_000
"""A longer sentence is cut to this many characters, from its end."""

STEP = "\ue000"
"""Placeholder for the number of a step."""

CUE = re.compile(
    r"\b(?:answers?|ans\.?)\b[\"')]*(?:\s(?:to|for|of|in)\s[^.!?\n:=]{0,80}?)?"
    r"(?:\s+(?:is|was|are|(?:w|sh)ould\s+be|must\s+be|comes\s+to|equals)\b|\s*[:=])",
    re.I,
)
HEADING = re.compile(r"^\W{0,4}(?:final\s+)?(?:result|total|solution)\s*[:=]", re.I | re.M)
BEHIND = re.compile(r"\bis\s+(?:the|my|our)\s+(?:\w+\s+)?answer\b", re.I)
_FINAL = re.compile(
    r"\b(?:final|correct|overall)\s+(?:answer|result)\b|\banswer\s+to\s+(?:the|your|this)\s+(?:\w+\s+)?(?:question|problem)\b",
    re.I,
)
_CONCLUSION = re.compile(
    r"\W{0,4}(?:so|therefore|thus|hence|finally|altogether|overall|consequently|as\s+a\s+result|in\s+(?:total|all|conclusion)"
    r"|(?:that|this)(?:\s+(?:means|makes|gives|leaves)|'s))\b"
    r"|.*\b(?:in\s+(?:total|all)|altogether)\W*\Z",
    re.I | re.S,
)
_GIVEN = re.compile(
    r"\W{0,4}(?:there\s+(?:are|were|is|was)|each|every|(?:he|she|they|it)\s+had|.*\b(?:could|might)\b)",
    re.I | re.S,
)
_ASIDE = re.compile(
    r"\W{0,4}(?:i\s+(?:hope|need|used|can|apologi)|hope\b|let\s+me\s+know|feel\s+free|please|thanks?\b|great\b|good\s+(?:job|luck)"
    r"|well\s+done|is\s+there|would\s+you|do\s+you|happy\b|remember|note\b|keep\b|you(?:'ve|\s+have)\s+(?:now\s+)?completed"
    r"|you\s+asked|that's\s+it|my\s+limit|congratulations|p\.?s\b|if\s+you(?:'d|\s+(?:need|want|would|have\s+(?:any|\w+\s+more))))"
    r"|.*\b(?:any|more|other|further|another)\s+questions?\b",
    re.I | re.S,
)
_PARENTHESIS = re.compile(r"\(\w+\s+\w")
_WORKING = re.compile(
    r"\W{0,4}(?:explanation|reasoning|justification|verification|proof|working\s?:|check\b|to\s+(?:check|verify)|because\b|(?:this|that)(?:\s+is|'s)\s+(?:because|\S+\s+(?:more|less|fewer))"
    r"|here(?:'s|\s+is|\s+are)\s+(?:how|why|the\s+(?:explanation|reason|working|calculations?|breakdown|steps)))",
    re.I,
)
_CORRECTION = re.compile(
    r"\b(?:wait|correction|i\s+made\s+(?:a|an)\s+(?:mistake|error)|let\s+me\s+(?:re\w+|correct))\b", re.I
)
_STEP = re.compile(r"\b(?:Step|STEP)\s+#?\d+\b[.:)]?|\bstep\s+\d+(?=\s?[:.)])")
_MONTH = r"(?-i:January|February|March|April|May|June|July|August|September|October|November|December)"
_LABEL = re.compile(
    r"\b(?:problem|question|part|example|exercise|equation|option|in\s+step)\s+#?\d+\b"
    r"|\b(?:day|week|month|year|round|trip|person|group|class|room|grade)\s+\d+(?=\s?:)"
    r"|\b(?:days|weeks|months|rounds|steps|parts|questions)\s+\d+(?:,\s\d+)*,?\s(?:and|to|through)\s\d+\b"
    rf"|\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,\s\d{{4}}\b)?",
    re.I,
)
_LIST_NUMBER = re.compile(r"^([ \t]{0,20}[>(]?[ \t]{0,3})(\d{1,2})[.)](?=[ \t]{1,20}\S)", re.M)
_SENTENCE = re.compile(r"\n+|(?<=[.!?])[\s\"')*]+(?=\S)")


@dataclass(frozen=True)
class Statement:
    """A sentence with numbers; `step` is the number of solution steps that have begun."""

    text: str
    kind: SentenceKind
    step: int
    numbers: Sequence[Quantity]


def remove_labels(text: str) -> str:
    r"""Return the text without the numbers of steps, lists and problems, and without days of a month.

    >>> remove_labels("Step 2: Add.\n1. 3 + 4 = 7\n2. Problem 5 is done.").replace(STEP, "_")
    '_ Add.\n_ 3 + 4 = 7\n_  is done.'
    """
    text, last = _LABEL.sub("", _STEP.sub(STEP, text)), 0

    def replace_number(match: re.Match[str]) -> str:
        nonlocal last
        if int(match[2]) != 1 and int(match[2]) != last + 1:
            return match[0]
        last = int(match[2])
        return match[1] + STEP

    return _LIST_NUMBER.sub(replace_number, text)


def find_conclusion(text: str) -> Statement | None:
    """Return the sentence that states the answer; None if no sentence has a number.

    The last sentence with a "final answer" wins. Without one, it is the last "answer is" or conclusion ("so", "in
    total"). An answer sentence in a later step overrides an earlier "answer", and any later calculation overrides a
    conclusion. Given facts, talk to the user and explanations of the answer do not count.

    >>> find_conclusion("Answer: 7.\\nSo, there are 6 x 7 = 42 eggs. I can do 2 more.").text
    'So, there are 6 x 7 = 42 eggs.'
    """
    text = remove_labels(text)
    corrections = [each.end() for each in _CORRECTION.finditer(text)]
    for part in (text[corrections[-1] :] if corrections else "", text):
        statements = list(_iter_statements(part))
        if statements:
            return _choose(_prefer_digits(statements))
    return None


def _prefer_digits(statements: Sequence[Statement]) -> Sequence[Statement]:
    """Drop numbers in words if other sentences have digits; an answer or a conclusion may stay in words."""
    if not any(not number.spelled for each in statements for number in each.numbers):
        return statements
    answer_kinds = ("final", "answer", "conclusion")
    kept = [replace(each, numbers=prefer_digits(each.numbers)) for each in statements]
    return [
        each
        for each in kept
        if not each.numbers
        or not each.numbers[0].spelled
        or (each.kind in answer_kinds and any(abs(number.value) > 1 for number in each.numbers))
    ]


def _iter_statements(text: str) -> Iterator[Statement]:
    step, announced = 0, None
    for sentence in (each[-MAX_SENTENCE:] for each in _SENTENCE.split(text)):
        step += sentence.lstrip("*# \t").startswith(STEP)
        kind, numbers = _classify(sentence), find_quantities(sentence)
        if kind == "working" or numbers:
            yield Statement(sentence, announced if announced and kind == "plain" else kind, step, numbers)
            announced = None
        elif sentence.strip():
            announced = kind if kind in ("final", "answer") else announced if not sentence.strip(" *_:.") else None


def _classify(sentence: str) -> SentenceKind:
    bare = sentence.lstrip(f"{STEP}*#:. \t")
    if _ASIDE.match(bare) or _PARENTHESIS.match(bare) or bare.rstrip(" *\"')").endswith("?"):
        return "aside"
    if _WORKING.match(bare):
        return "working"
    if _FINAL.search(bare):
        return "final"
    if CUE.search(bare) or BEHIND.search(bare):
        return "answer"
    if _CONCLUSION.match(bare) or HEADING.match(bare):
        return "conclusion"
    return "given" if _GIVEN.match(bare) and "=" not in bare else "plain"


def _choose(statements: Sequence[Statement]) -> Statement | None:
    chosen: Statement | None = None
    for each in statements:
        if each.kind == "working":
            if chosen and chosen.kind in ("final", "answer", "conclusion"):
                break
        elif each.numbers and each.kind != "aside" and _overrides(each, chosen):
            chosen = each
    with_numbers = [each for each in statements if each.numbers]
    return chosen or (with_numbers[-1] if with_numbers else None)


def _overrides(later: Statement, chosen: Statement | None) -> bool:
    if chosen is None or later.kind == "final" or chosen.kind == "given":
        return True
    if chosen.kind == "final":
        return False
    if later.kind in ("answer", "conclusion"):
        return True
    if chosen.kind == "answer":
        return later.step > chosen.step
    return later.kind == "plain" or chosen.kind == "plain"
