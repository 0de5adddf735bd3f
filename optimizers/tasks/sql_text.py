"""Finds the query in a model's answer, and rewrites queries as Spider's evaluator does."""

from __future__ import annotations

import re
import sqlite3
from itertools import islice, pairwise

_FENCED = re.compile(r"```(?:sqlite3?\b|sql\b|[\w+-]*(?=\s*\n))?(.*?)(?:```|\Z)", re.I | re.S)
_BEGINS = r"(?:select\b|values\s*\(|with\s+(?:recursive\s+)?[\w\"]+\s*(?:\([^)]*\)\s*)?as\b)"
_QUERY = re.compile(_BEGINS, re.I)
_ON_A_LINE = re.compile(rf"^[ \t]*(?:\**[\w ]{{1,40}}:\**[ \t]*)?`?(?={_BEGINS})", re.I | re.M)
_STATEMENT = re.compile(
    r"(?:select|with|values|explain|insert|update|delete|replace|create|drop|alter|attach|detach|pragma|vacuum|begin|"
    r"commit|rollback|savepoint|release|reindex|analyze)\b",
    re.I,
)
_BEFORE = re.compile(r"(?:[\s(]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.S)
_ORDER_BY = re.compile(r"\border\s+by\b", re.I)
_THIS_YEAR = re.compile(r"\byear\s*\(\s*curdate\s*\(\s*\)\s*\)", re.I)
_MOST_SEMICOLONS = 100
"""Number of semicolons that are tried as the end of the first statement, so that reading takes linear time."""


def extract_query(answer: str) -> str:
    """Return the query in an answer: the last fenced query, or the text from where a query begins.

    Prose before and after the query is left out, and so are semicolons at the end. Several statements stay several,
    so that running them fails.

    >>> extract_query("Here it is:\\n```sql\\nSELECT 1;\\n```\\nIt counts.")
    'SELECT 1'
    >>> extract_query("SQL: SELECT name FROM tea; This doesn't list prices.")
    'SELECT name FROM tea'
    >>> extract_query("SELECT 1; DROP TABLE tea")
    'SELECT 1; DROP TABLE tea'
    """
    blocks = [block.strip() for block in _FENCED.findall(answer)]
    queries = [block for block in blocks if _is_query(block)]
    text = (queries or blocks or [answer])[-1].strip()
    start = None if _is_query(text) else _ON_A_LINE.search(text)
    if start is not None:
        in_backticks = start.group().endswith("`")
        text = text[start.end() :]
        text = text.partition("`")[0] if in_backticks else text
    return _first_statement(text).rstrip("; \t\r\n")


def _is_query(text: str) -> bool:
    return _QUERY.match(_skip_comments(text)) is not None


def _skip_comments(text: str) -> str:
    """Return the text from its first word on, without the comments and brackets before it."""
    return _BEFORE.sub("", text, count=1)


def _first_statement(text: str) -> str:
    """Return the text up to and with the first semicolon that no other statement follows.

    SQLite knows which semicolons are outside quotes and comments; `sqlglot` fails if prose with an apostrophe follows.
    """
    ascii_text, start = text.encode("ascii", "replace").decode().replace("\0", " "), 0
    for semicolon in islice(re.finditer(";", text), _MOST_SEMICOLONS):
        end = semicolon.end()
        if sqlite3.complete_statement(ascii_text[start:end]):
            if not _STATEMENT.match(_skip_comments(text[end:].lstrip("; \t\r\n"))):
                return text[:end]
            start = end
    return text


def repair_query(query: str) -> str:
    """Apply the two repairs of Spider's evaluator: join split comparison signs, read MySQL's current year as 2020.

    >>> repair_query("SELECT * FROM singer WHERE age > = YEAR(CURDATE())")
    'SELECT * FROM singer WHERE age >= 2020'
    """
    joined = query.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")
    return _THIS_YEAR.sub("2020", joined)


def has_order_by(query: str) -> bool:
    """Return whether a gold query says ORDER BY anywhere, which is how Spider's evaluator decides that order counts.

    >>> has_order_by("SELECT a FROM b order  by a"), has_order_by("SELECT a FROM b")
    (True, False)
    """
    return _ORDER_BY.search(query) is not None


def remove_distinct(query: str) -> str:
    """Return the query without DISTINCT; quoted texts stay.

    A query with an open quote or comment stays as it is: `sqlglot` cannot read it, and SQLite runs no open quote.

    >>> remove_distinct("SELECT DISTINCT a FROM b WHERE c = 'distinct'")
    "SELECT a FROM b WHERE c = 'distinct'"
    """
    if "distinct" not in query.lower():
        return query
    from sqlglot import TokenType, tokenize
    from sqlglot.errors import TokenError

    try:
        tokens = tokenize(query, dialect="sqlite")
    except TokenError:
        return query
    bounds = [*(token.start for token in tokens), len(query)]
    parts = zip(tokens, pairwise(bounds), strict=True)
    kept = [query[start:end] for token, (start, end) in parts if token.token_type is not TokenType.DISTINCT]
    return query[: bounds[0]] + "".join(kept)
