"""Rewrites the ways models write numbers (Unicode, LaTeX, Markdown) as plain text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

Rewrite = tuple[re.Pattern[str], str]

_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xFE0E, 0xFE0F, 0x20E3])
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_POWER = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),  # hyphens, the en dash, the minus sign
        **dict.fromkeys("\u2014\u2015", ", "),  # the em dash sets off a clause
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **dict.fromkeys("\u00d7\u00b7\u22c5\u2219", "*"),
        **dict.fromkeys("\u2248\u2245\u2192\u21d2", "="),
        "\u00f7": " ÷ ",
        "\u2044": "/",
    }
)


def _compile_rewrites(*rows: tuple[str, str]) -> Sequence[Rewrite]:
    return [(re.compile(pattern, re.I | re.M), by) for pattern, by in rows]


_WORDS = r"\\(?:text|mathrm|mathbf|mathit|textbf|textit|textrm|emph|underline|mbox|operatorname)\s?\{([^{}]*)\}"
_LATEX = _compile_rewrites(
    *[(_WORDS, r"\1")] * 3,  # nested at most three deep
    (r"\{\s?,\s?\}", ","),
    (r"\\(?:left|right|displaystyle)\b", ""),
    (r"\^\s?\{?\s?\\circ\s?\}?", "°"),
    (r"\^\s?\{\s?([+-]?\w{1,9})\s?\}", r"^\1"),
    (r"\\(?:times|cdot)\b", "*"),
    (r"\\div\b", " ÷ "),
    (r"\\(?:approx|simeq|to|rightarrow|implies)\b", "="),
    (r"\\pm\b", "±"),
    (r"\\(?:qquad|quad)\b|\\ |~", " "),
    (r"\\[,;:!()\[\]]|\\(?=[$%&#_])", ""),
    (r"(?<=\d)\s?(?=\\[dtc]?frac)", " "),  # a mixed number
    (r"\\[dtc]?frac\s?\{\s?(-?[\d,.]{1,60})\s?\}\s?\{\s?([\d,.]{1,60})\s?\}", r"\1/\2"),
    (r"\\[dtc]?frac\s?(\d)\s?(\d)", r"\1/\2"),
)
_MARKDOWN = _compile_rewrites(
    (r"^[ \t]{0,9}[-*+][ \t]+(?=\*\*)", ""),
    (r"\*\*|(?<!\w)_{1,2}(?=\w)|(?<=\w)_{1,2}(?!\w)", ""),
    (r"`", " "),
    (r"<<[^<>\n]{0,200}>>|</?[a-z][^<>\n]{0,40}>", ""),  # GSM8K's calculator; HTML
    (r"\bRs\.?(?=\s?\d)", "₹"),
    (r"->|=>", "="),
)


def simplify_notation(text: str) -> str:
    r"""Return the text without markup: minus `-`, product `*`, power `^`, fraction `1/2`, arrow or `≈` `=`.

    >>> simplify_notation(r"**$1\frac{1}{2}$** m², about 4.2 \times 10^{3} or 1{,}234½")
    '$1 1/2$ m^2, about 4.2 * 10^3 or 1,234 1/2'
    """
    text = _POWER.sub(lambda match: f"^{match[0].translate(_RAISED)}", text.translate(_INVISIBLE))
    text = "".join(f" {each}" if unicodedata.category(each) == "No" else each for each in text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    for pattern, by in (*_LATEX, *_MARKDOWN):
        text = pattern.sub(by, text)
    is_list = "\n" in text.strip()  # a dash before the only line is a minus
    return re.sub(r"(?m)^[ \t]*[-+\u2022][ \t]+", "", text) if is_list else text
