"""Classifies what a text says of each option: chosen, concluded, called right, weighed or refuted. Pure."""

from __future__ import annotations

import re
from enum import Enum, auto

from optimizers.tasks.mentions import Mention


class MentionRole(Enum):
    """What the clause of a mention says of its option."""

    STATED = auto()
    """The answer: "the answer is C", "I choose C"."""
    CONCLUDED = auto()
    """The end of an argument: "so C.", "it is C"."""
    FAVOURED = auto()
    """Called right or better: "C is correct"."""
    OPENING = auto()
    """The beginning of the text."""
    PLAIN = auto()
    WEIGHED = auto()
    """Considered and left open: "between B and C", "it looks like C"."""
    REFUTED = auto()
    """Called wrong, or dropped."""


_CLAUSE = r"(?:(?!\b(?:but|however|so|now|then)\b)[^.;:!?\n]){0,50}"
_VERBS = (
    r"(?:\s+(?:is|are|was|(?:would|should|must|will|has\s+to)\s+be|remains|stays)\b"
    r"|\s*[:=\u2013\u2014-]|\s*\n)+"
)
_FILLERS = (
    r"(?:\s*(?:therefore|thus|clearly|probably|likely|most\s+likely|definitely|certainly|hence|then|indeed|actually|only|now"
    r"|simply|surely|either|both|option|choice|letter|answer|number|the|it\s+is|it's|that|is|to|up|with|[,:\"'>#-]))*"
)


def _compile_ending(*patterns: str) -> re.Pattern[str]:
    """Compile patterns for the end of the text before a mention."""
    return re.compile(rf"(?:{'|'.join(patterns)})\s*\Z", re.I)


def _compile_beginning(*patterns: str) -> re.Pattern[str]:
    """Compile patterns for the beginning of the text after a mention."""
    return re.compile(rf"\A[)\]\"',\s]*(?:{'|'.join(patterns)})", re.I)


_ALL_BUT = _compile_ending(
    r"\b(?:everything|all|anything|none|nothing|every\s+\w+|no\s+\w+)\s+(?:but|except(?:\s+for)?|other\s+than|save)"
)
_ARE = r"(?:is|are|was|were|seems?|looks?|sounds?|would\s+be|must\s+be|can\s+be|could\s+be)"
_HOW = (
    r"(?:\s+(?:all|both|also|clearly|definitely|therefore|probably|just|simply|obviously|certainly|thus|then|too|very"
    r"|quite|each))*"
)
_REFUTED_AFTER = _compile_beginning(
    rf"{_ARE}{_HOW}\s+(?:not|wrong|incorrect|false|unlikely|implausible|impossible|ruled|excluded|eliminated|out\b"
    r"|untrue|inaccurate|contraindicated|irrelevant|invalid|less|worse|inappropriate)",
    r"(?:isn't|aren't|wasn't|cannot|can't|can\s+not|won't|doesn't|don't|does\s+not|do\s+not|did\s+not|didn't|couldn't|fails?\b"
    r"|falls\s+out|drops\s+out|makes\s+no\s+sense)",
    r"\(?(?:wrong|incorrect|false)\b",
)
_REFUTED_BEFORE = _compile_ending(
    r"(?:\b(?:not|never|cannot|cant|nor)|n't)\s+"
    r"(?:(?!but\b|so\b|however\b|it's\b|because\b|hence\b|thus\b|therefore\b|choose\s+)[a-z']+\s+){0,4}",
    r"\b(?:not|never|nor|neither|without|unlike)(?:\s+(?:really|to|be|choose|pick|select|option|choice|answer))*",
    r"\b(?:rul(?:e|es|ed|ing)\s+out|eliminat(?:e|es|ed|ing)|exclud(?:e|es|ed|ing)|reject(?:s|ed|ing)?|discard(?:s|ed|ing)?"
    r"|dismiss(?:es|ed|ing)?|cross(?:ed|ing)?\s+out|than|instead\s+of|over|as\s+opposed\s+to|except)"
    r"(?:\s+(?:for|the|option|options|choice|choices|answer|answers|letter))*",
    r"(?:wrong|incorrect|false|out)\W+(?:and\s+)?(?:so|neither|nor)\s+(?:is|are|does|do)",
)
_GIVEN_UP = _compile_ending(
    rf"\b(?:guess\w*|initially|at\s+first|originally|(?<!second\s)thought|leaned|leaning|was\s+tempted|used\s+to){_CLAUSE}"
)
_GIVEN_UP_AFTER = _compile_beginning(r"(?:seemed|looked|sounded|appeared|was\s+my\s+(?:first|initial))")
_THEY = (
    r"(?:might|may|some|some\s+people|many|people|others|students|one\s+could|looks\s+like|seems\s+like|tempting|if)"
)
_WEIGHED = _compile_ending(rf"\b{_THEY}\b[^.;:,!?\n]{{0,30}}")
_WEIGHED_AFTER = _compile_beginning(
    r"(?:is|are|was)\s+(?:\w+\s+)?(?:tempting|plausible|possible|attractive|close|a\s+distractor|the\s+distractor|a\s+trap)",
    r"[^.;!\n]{0,40}\?(?!\s*yes)",
)
_AMONG = _compile_ending(
    r"\b(?:between|torn\s+between|out\s+of|of|among|comparing|compare|considering|consider)(?:\s+(?:options?|choices?))?"
)

_NOUN = (
    r"(?:answer|choice|option|solution|conclusion|verdict|response|correction|correct|final|pick|selection|diagnosis)"
)
_NOW = (
    r"(?:\s*(?:'d|'ll|would|will|now|finally|then|must|shall|have\s+to|should|(?:am|'m)\s+going\s+to|can|therefore|still"
    r"|thus|hence|only))*"
)
_TO_CHOOSE = (
    r"(?:choose|pick|select|go(?:ing)?\s+(?:with|for)|say|vote\s+for|opt\s+for|settle\s+(?:on|for)|answer|prefer|conclude|believe"
    r"|think|take|guess|mark|submit|stick\s+with)"
)
_STATED_BEFORE = _compile_ending(
    rf"\b{_NOUN}(?:\s+(?:here|choice|option|letter|answer|is))*{_VERBS}{_FILLERS}",
    rf"\b(?:answers|choices|options|solutions)\s+(?:here\s+)?are{_FILLERS}",
    rf"\b(?:I|we){_NOW}\s+{_TO_CHOOSE}(?=\s){_FILLERS}",
    r"\b(?:choose|pick|select|choosing|picking|selecting|chose|picked|selected)(?:\s+(?:option|choice|letter|answer))?",
    r"\b(?:chang\w+|switch\w*|back|revis\w+)(?:\s+(?:my|the|answer|mind|choice|it))*\s+to(?:\s+(?:option|choice|letter))?",
    r"(?:\A|[\s(])(?:no|yes|wait|correction|sorry)\b[\s,:;.!\u2026\u2013\u2014-]*(?:(?:no|yes|wait|rather|actually|it|is|it's|that's|must|be|I|mean|option)[\s,]*)*",
)
_STATED_AFTER = _compile_beginning(
    r"(?:is|must\s+be|would\s+be|has\s+to\s+be)\s+(?:therefore\s+|thus\s+|clearly\s+|indeed\s+|actually\s+|then\s+)?(?:the|my|our)"
    r"\s+(?:(?:correct|right|best|final|only|true|proper|single|most|one|\w+ly|appropriate|likely|accurate|suitable|plausible)\s+)*"
    r"(?:answer|choice|option|pick|one|solution)\b"
)
_SO = (
    r"(?:therefore|thus|hence|so|consequently|accordingly|ergo|in\s+conclusion|overall|finally|in\s+summary|in\s+short"
    r"|altogether|[=-]+>|[\u2192\u21d2\u2234])"
)
_CONCLUDED_BEFORE = _compile_ending(
    rf"(?:\b|(?<=\W)|\A){_SO}[\s,:]*(?:(?:it\s+is|it's|it\s+must\s+be|must\s+be|only|we\s+get|we\s+have|that's|is|leaves)\b)?{_FILLERS}",
    r"(?<!so\s)(?<!nor\s)(?<!neither\s)\b(?:is|be|it's|that's|leaves|leaving|gives|yields|means)"
    r"(?:\s+(?:only|actually|therefore|clearly|really|us|with|option|choice|letter|just|probably|likely|definitely|obviously|now))*",
    r"\b(?:lies\s+in|favou?rs|points?\s+to|supports|corresponds\s+to|matches)(?:\s+(?:option|choice|letter|answer))*",
)
_CLOSED = re.compile(
    r"\A[)\]\"']*\s*(?:\Z|\n|[.,;:!()\u2013\u2014\u2026-]|because\b|since\b|as\b|for\b|due\b|here\b|though\b|which\b|while\b|with\b"
    r"|given\b|is\s+(?:the\s+)?(?:correct|right|answer|best|only|true)|over\b|rather\b|instead\b|not\b|after\b|then\b|too\b|by\b)",
    re.I,
)
"""What may follow the letter of a conclusion: "so C." is one, "so C lies in Italy" is none."""
_FAVOURED = _compile_beginning(
    rf"{_ARE}{_HOW}\s+(?:the\s+)?(?:correct|right|true|better|best|more|most|preferred|preferable|superior|appropriate|fitting|stronger)\b",
    r"(?:fits?|matches|works?|holds?)\s+(?:better|best|most)|wins\b|makes?\s+(?:the\s+most|more)\s+sense|it\s+is\b|remains\b"
    r"|is\s*[.!]|is\s+what\b|alone\b",
)
_PREMISE = _compile_ending(
    r"\b(?:because|since|although|though|if|while|when|whereas|given\s+that|even\s+if)\b[^.;:,!?\n]{0,80}"
)
_FIRST = re.compile(r"\A\W*(?:(?:option|choice|letter)\s+)?\W*\Z", re.I)
_SECOND_THOUGHT = re.compile(
    r"\b(?:wait|actually|hmm|on\s+second\s+thought|on\s+reflection|correction|scratch\s+that|hold\s+on|no)\b", re.I
)
_WRONG_ITEM = re.compile(r"\b(?:not|no|wrong|incorrect|false|isn't|never|neither)\b|[\u2717\u2718\u274c]", re.I)
_RIGHT_ITEM = re.compile(r"\b(?:correct|right|true|yes)\b|[\u2713\u2714\u2705]", re.I)


def classify_mention(mention: Mention) -> MentionRole:
    """Return what a text says of a mention; the first role that applies."""
    before, after = mention.before, mention.after
    if _ALL_BUT.search(before) and _REFUTED_AFTER.match(after):
        return MentionRole.STATED
    if _REFUTED_AFTER.match(after) or _REFUTED_BEFORE.search(before):
        return MentionRole.REFUTED
    if _GIVEN_UP.search(before) or _GIVEN_UP_AFTER.match(after):
        return MentionRole.REFUTED
    if _WEIGHED.search(before) or _WEIGHED_AFTER.match(after):
        return MentionRole.WEIGHED
    if len(mention.letters) > 1 and _AMONG.search(before):
        return MentionRole.WEIGHED
    if _STATED_BEFORE.search(before) or _STATED_AFTER.match(after):
        return MentionRole.STATED
    return _classify_weaker(before, after)


def _classify_weaker(before: str, after: str) -> MentionRole:
    if _CONCLUDED_BEFORE.search(before) and _CLOSED.match(after):
        return MentionRole.CONCLUDED
    if _FAVOURED.match(after):
        return MentionRole.PLAIN if _PREMISE.search(before) else MentionRole.FAVOURED
    return MentionRole.OPENING if _FIRST.match(before) and _CLOSED.match(after) else MentionRole.PLAIN


def is_second_thought(text: str) -> bool:
    """Return whether a text takes back the text before it."""
    return _SECOND_THOUGHT.search(text) is not None


def is_marked_right(text: str) -> bool:
    """Return whether the text of a list item calls it right."""
    return _RIGHT_ITEM.search(text) is not None and _WRONG_ITEM.search(text) is None
