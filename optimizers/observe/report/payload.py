"""Rollouts as the page carries them: columns of numbers into one list of texts, compressed, within a size."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimizers.observe.report.figures import BASELINES, Flipped
from optimizers.observe.report.stage_rollouts import StageRollout

MOST_ROWS = 150_000
"""Rollouts that a page carries."""

MOST_BYTES = 20 * 2**20
"""The most that the compressed rollouts may take in a page, in bytes of Base64."""

MOST_CHARACTERS = 48 * 2**20
"""The most that their texts may take before compression: what a browser reads in a second or two."""

LONGEST, SHORTEST = 16_384, 64
"""Characters of a text that are kept where all are short, and where many are long."""

COLUMNS = ("stage", "split", "source", "kind", "query", "place", "prompt", "supplement", "others", "answer")
TEXTS = (*COLUMNS, "feedback", "error")


@dataclass(frozen=True, slots=True)
class Payload:
    """The rollouts of a page: Base64 of gzip of JSON, how many rows it has, and how much was left out.

    Texts longer than `longest` characters are `cut` ones.
    """

    encoded: str
    rows: int
    left_out: int
    cut: int
    longest: int


def payload(
    found: Sequence[StageRollout],
    flips: Flipped,
    *,
    threshold: float,
    most_rows: int = MOST_ROWS,
    most_bytes: int = MOST_BYTES,
) -> Payload:
    """The rollouts, with which of them turned. Where there is too much, long texts are cut, and rows are left out."""
    kept = chosen(found, most_rows)
    place_of = {number: place for place, number in enumerate(kept)}
    rows = [found[number] for number in kept]
    texts, columns = _interned(rows)
    turned = [[place_of[after] for _, after in way if after in place_of] for way in (flips.right, flips.wrong)]
    content = {
        "threshold": threshold,
        "right": turned[0],
        "wrong": turned[1],
        "before": _before(rows),
        "position": [each.position for each in rows],
        "score": [None if each.score is None else round(each.score, 4) for each in rows],
        **columns,
    }
    longest = _longest(texts, MOST_CHARACTERS)
    encoded = _encoded(content, texts, longest)
    while len(encoded) > most_bytes and longest > SHORTEST:
        longest = max(SHORTEST, longest // 2)
        encoded = _encoded(content, texts, longest)
    cut = sum(len(text) > longest for text in texts)
    return Payload(encoded, len(rows), len(found) - len(rows), cut, longest)


def chosen(found: Sequence[StageRollout], most: int) -> list[int]:
    """Which rows are kept: all, or what scores a stage first, and of the rest as many as fit, evenly spread.

    >>> one = StageRollout("warm", "train", "free", "cot", "q", 0, "self", "2+2?", "", "", "4", 1.0, "", "")
    >>> chosen([one] * 10, 4)
    [0, 2, 5, 7]
    """
    if len(found) <= most:
        return list(range(len(found)))
    first = [number for number, each in enumerate(found) if not each.explored][:most]
    rest = [number for number, each in enumerate(found) if each.explored]
    room = most - len(first)
    spread = [rest[place * len(rest) // room] for place in range(room)] if room else []
    return sorted([*first, *spread])


def _interned(rows: Sequence[StageRollout]) -> tuple[list[str], dict[str, list[int]]]:
    """Every distinct text once, and for each column the numbers of its texts."""
    numbers: dict[str, int] = {"": 0}
    columns = {name: [numbers.setdefault(getattr(each, name), len(numbers)) for each in rows] for name in TEXTS}
    return list(numbers), columns


def _before(rows: Sequence[StageRollout]) -> list[int]:
    """For each row the one of the same question without a supplement, or -1."""
    bare: dict[tuple[str, int], int] = {}
    for number, each in enumerate(rows):
        if each.stage in BASELINES:
            bare.setdefault((each.split, each.position), number)
    return [bare.get((each.split, each.position), -1) for each in rows]


def _longest(texts: Sequence[str], most: int) -> int:
    """The length at which texts are cut so that all of them together are no more than `most` characters."""
    lengths, longest = [len(text) for text in texts], LONGEST
    while longest > SHORTEST and sum(min(length, longest) for length in lengths) > most:
        longest //= 2
    return longest


def _encoded(content: Mapping[str, Any], texts: Sequence[str], longest: int) -> str:
    short = [text if len(text) <= longest else f"{text[:longest]}\u2026 ({len(text):,} characters)" for text in texts]
    raw = json.dumps({**content, "texts": short}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii")
