"""Counts the errors of a run by the exception's name, with an example of each. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

UNREADABLE = "AdapterParseError"
"""DSPy's error for an answer in which the adapter does not find the output fields."""

REFUSED = "MetricError"
"""The error of a run whose score is refused: the metric raised, or did not return a valid score."""

NAN, ABOVE, BELOW = "NaN", "above 1", "below 0"
NO_NUMBER, COROUTINE = "no number", "a coroutine"
"""The kinds of refused scores; a metric that raises has the kind `raised ValueError`."""

SHOWN = 160
"""The most characters of an example in a message."""

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_SCORE = re.compile(rf"{REFUSED}: \[([^\]]*)\] ")
_ANSWER = re.compile(r"LM Response: (.*?)\s*(?:\n\nExpected to find output fields|\Z)", re.DOTALL)


class Failure(NamedTuple):
    """A run that ended with an error: its stage, the error as `Name: message`, and whether it has a reward."""

    stage: str
    error: str
    rewarded: bool = True


@dataclass(frozen=True, slots=True)
class ErrorType:
    """The runs that ended with one type of error: their count, how many have no reward, and their stages.

    `example` is the first message, shortened; for an answer that the adapter could not read it is the answer, which may
    be empty.
    """

    name: str
    count: int
    unrewarded: int
    stages: tuple[str, ...]
    example: str

    @property
    def quoted_example(self) -> str:
        """The example in quotes.

        >>> ErrorType("ValueError", 1, 0, ("sft",), "").quoted_example
        "'' (empty)"
        """
        return repr(self.example) if self.example else "'' (empty)"


def group_errors(failures: Iterable[Failure]) -> list[ErrorType]:
    """Groups failures by type of error, the most frequent first. A failure without an error's text is left out.

    >>> [each] = group_errors([Failure("warm", "ValueError: no number", True), Failure("sft", "ValueError: no", False)])
    >>> each.name, each.count, each.unrewarded, each.stages, each.example
    ('ValueError', 2, 1, ('warm', 'sft'), 'no number')
    """
    by_name: dict[str, list[Failure]] = defaultdict(list)
    for each in failures:
        if each.error:
            by_name[error_name(each.error)].append(each)
    ranked = sorted(by_name.items(), key=lambda one: -len(one[1]))
    return [
        ErrorType(
            name,
            len(own),
            sum(not each.rewarded for each in own),
            tuple(dict.fromkeys(each.stage for each in own)),
            error_example(own[0].error),
        )
        for name, own in ranked
    ]


def error_name(error: str) -> str:
    """The exception's name: the part before the colon.

    >>> error_name("LMRateLimitError: slow down"), error_name("?")
    ('LMRateLimitError', 'error')
    """
    found = _NAME.match(error)
    return found.group() if found else "error"


def is_unreadable(error: str) -> bool:
    """Whether a run ended because the adapter could not read the actor's answer.

    >>> is_unreadable("AdapterParseError: no field answer"), is_unreadable("ValueError: no number"), is_unreadable("")
    (True, False, False)
    """
    return error_name(error) == UNREADABLE


def mark_refused_score(kind: str, text: str) -> str:
    """Adds the kind to the message of a refused score, so that `count_refused_scores` can read it.

    >>> mark_refused_score(NAN, "It returned nan.")
    '[NaN] It returned nan.'
    """
    return f"[{kind}] {text}"


def count_refused_scores(errors: Iterable[str]) -> dict[str, int]:
    """Counts refused scores by kind from the rollouts' errors, the most frequent first.

    >>> errors = ["MetricError: [NaN] It returned nan.", "", "ValueError: no number", "MetricError: It raised."]
    >>> count_refused_scores(errors)
    {'NaN': 1, 'another error': 1}
    """
    found = Counter[str]()
    for error in errors:
        if error_name(error) == REFUSED:
            kind = _SCORE.match(error)
            found[kind.group(1) if kind else "another error"] += 1
    return dict(found.most_common())


def explain_refused_scores(kinds: Mapping[str, int], rollouts: int) -> str:
    """A sentence on refused scores; empty if there are none.

    >>> print(explain_refused_scores({"NaN": 2, "raised KeyError": 1}, 40))
    The metric's score was refused in 3 of 40 rollouts (2 NaN, 1 raised KeyError), so these have no reward. Return a \
number in [0, 1], and 0.0 for a prediction that the metric cannot score; then compile again with the same log_dir: \
only these are paid again.
    """
    if not kinds:
        return ""
    each = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    return (
        f"The metric's score was refused in {sum(kinds.values()):,} of {rollouts:,} rollouts ({each}), so these have "
        "no reward. Return a number in [0, 1], and 0.0 for a prediction that the metric cannot score; then compile "
        "again with the same log_dir: only these are paid again."
    )


def error_example(error: str) -> str:
    """An error for people, shortened, on one line: the answer that could not be read, else the message.

    >>> error_example("ValueError: no number")
    'no number'
    >>> error_example("AdapterParseError: No JSON.\\n\\nLM Response: It is \\n4. \\n\\nExpected to find output fields")
    'It is 4.'
    """
    answer = _ANSWER.search(error) if is_unreadable(error) else None
    if answer is not None:
        return shorten(answer.group(1))
    kind = _SCORE.match(error)
    return shorten(error[kind.end() :] if kind else error.removeprefix(error_name(error)).removeprefix(":"))


def shorten(text: str, most: int = SHOWN) -> str:
    """Puts a text on one line without control characters, and leaves out the middle of a long one.

    >>> shorten("a\\x1b[2J\\nb"), shorten("word " * 100, 24)
    ('a [2J b', 'word word word ... word')
    """
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    if len(line) <= most:
        return line
    end = (most - 5) // 4
    return f"{line[: most - 5 - end].rstrip()} ... {line[-end:].lstrip()}"


def advise_on_adapter(adapter: str = "ChatAdapter") -> str:
    """Says what to change if the adapter cannot read the actor's answers.

    >>> advise_on_adapter("JSONAdapter")
    'Use dspy.ChatAdapter() in place of JSONAdapter, a signature with fewer and plainer outputs, or a stronger actor.'
    """
    plainer = "a signature with fewer and plainer outputs"
    if adapter == "ChatAdapter":
        return f"Use {plainer}, or a stronger actor."
    return f"Use dspy.ChatAdapter() in place of {adapter}, {plainer}, or a stronger actor."
