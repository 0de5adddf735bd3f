"""The query in a model's answer, and a query as Spider's evaluator reads it."""

from __future__ import annotations

import re

_FENCED = re.compile(r"```(?:sqlite3?\b|sql\b|[\w+-]*(?=\s*\n))?(.*?)(?:```|\Z)", re.I | re.S)
_BEGINS = r"(?:select\b|values\s*\(|with\s+(?:recursive\s+)?[\w\"]+\s*(?:\([^)]*\)\s*)?as\b)"
_QUERY = re.compile(_BEGINS, re.I)
_ON_A_LINE = re.compile(rf"^[ \t]*(?:\**[\w ]{{1,40}}:\**[ \t]*)?`?(?={_BEGINS})", re.I | re.M)
_STATEMENT = re.compile(
    r"(?:select|with|values|explain|insert|update|delete|replace|create|drop|alter|attach|detach|pragma|vacuum|begin|"
    r"commit|rollback|savepoint|release|reindex|analyze)\b",
    re.I,
)
# What is opened and never closed goes to the end, so that reading takes linear time.
_TOKEN = re.compile(
    r"'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"
    r"|--[^\n]*|/\*.*?(?:\*/|\Z)|\w+|\s+|.",
    re.S,
)
_BEFORE = re.compile(r"(?:[\s(]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.S)
_ORDERS = re.compile(r"\border\s+by\b", re.I)
_THIS_YEAR = re.compile(r"\byear\s*\(\s*curdate\s*\(\s*\)\s*\)", re.I)


def query_in(answer: str) -> str:
    """The query that an answer holds: the last fenced one, or what begins like one; without semicolons at its end.

    Prose before and after is left out. Several statements stay several, so that running them fails.

    >>> query_in("Here it is:\\n```sql\\nSELECT 1;\\n```\\nIt counts.")
    'SELECT 1'
    >>> query_in("SQL: SELECT name FROM tea; This lists them.")
    'SELECT name FROM tea'
    >>> query_in("SELECT 1; DROP TABLE tea")
    'SELECT 1; DROP TABLE tea'
    """
    fenced = [each.strip() for each in _FENCED.findall(answer)]
    queries = [each for each in fenced if _is_query(each)]
    text = (queries or fenced or [answer])[-1].strip()
    begins = None if _STATEMENT.match(_uncommented(text)) and _is_query(text) else _ON_A_LINE.search(text)
    if begins is not None:
        ticked = begins.group().endswith("`")
        text = text[begins.end() :]
        text = text.partition("`")[0] if ticked else text
    return _first_statement(text).rstrip("; \t\r\n")


def _is_query(text: str) -> bool:
    return _QUERY.match(_uncommented(text)) is not None


def _uncommented(text: str) -> str:
    """Text from its first word on, without comments and brackets before it."""
    before = _BEFORE.match(text)
    return text[before.end() :] if before else text


def _first_statement(text: str) -> str:
    """Text up to its first semicolon, unless another statement comes after that."""
    place = 0
    for token in _TOKEN.findall(text):
        if token == ";" and not _STATEMENT.match(_uncommented(text[place + 1 :].lstrip("; \t\r\n"))):
            return text[:place]
        place += len(token)
    return text


def tidied(query: str) -> str:
    """A query with the two repairs of Spider's evaluator: parted comparisons joined, the current year of MySQL as 2020.

    >>> tidied("SELECT * FROM singer WHERE age > = YEAR(CURDATE())")
    'SELECT * FROM singer WHERE age >= 2020'
    """
    joined = query.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")
    return _THIS_YEAR.sub("2020", joined)


def orders(query: str) -> bool:
    """Whether a gold query orders its rows: it says ORDER BY, wherever that is, as in Spider's evaluator.

    >>> orders("SELECT a FROM b order  by a"), orders("SELECT a FROM b")
    (True, False)
    """
    return _ORDERS.search(query) is not None


def without_distinct(query: str) -> str:
    """A query without its DISTINCT, quoted texts left alone.

    >>> without_distinct("SELECT DISTINCT a FROM b WHERE c = 'distinct'")
    "SELECT a FROM b WHERE c = 'distinct'"
    """
    kept = "".join("" if token.lower() == "distinct" else token for token in _TOKEN.findall(query))
    return re.sub(
        r"(?i)(\bselect|\() +(?=\S)", lambda found: found.group(1) + (" " if found.group(1) != "(" else ""), kept
    )
