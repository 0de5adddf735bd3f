"""Reads training examples and logged outcomes from production traces: JSON lines, or MLflow's traces. Pays nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import dspy

from optimizers.sgt.logged import LoggedOutcome
from sgt_modules.errors import SetupError
from sgt_modules.kinds import Supplement, parse
from sgt_modules.prompts import SUPPLEMENT

_ROW = '{"inputs": {...}, "output": {...}, "score": 1.0, "supplement": "[cot] ..."}'


class LogExamples(NamedTuple):
    """What a log gives a compile: examples to train on, and outcomes of supplements that cost no call.

    `unlabelled` counts the inputs that are no example, as no row of theirs has `expected` or a good output; `unrated`
    counts the traces that were left out, as nobody has given the score's feedback yet.
    """

    examples: list[dspy.Example]
    outcomes: list[LoggedOutcome]
    unlabelled: int
    unrated: int = 0


class _Row(NamedTuple):
    inputs: dict[str, Any]
    labels: dict[str, Any] | None
    has_expected: bool
    score: float
    supplement: Supplement | None
    feedback: str

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """The row of an inputs with the highest rank gives the labels."""
        return self.has_expected, self.labels is not None, self.score


def examples_of(log: str | Path | Iterable[object], *, score: str = "", threshold: float = 1.0) -> LogExamples:
    """Read a log's rows as training examples and logged outcomes, for `compile(examples, logged=outcomes)`.

    Each inputs are one example. Its labels are the row's `expected`, else the `output` of its best row, if that scored
    at least `threshold`; inputs without either are left out. A row with a supplement is an outcome too. A trace in
    which different supplements were read is none, as its score does not say which one helped.

    Args:
        log: A file of one JSON object per line, or the objects themselves: rows of `inputs`, `output`, `score` and if
            known `supplement`, `expected`, `feedback`; or traces of MLflow, as objects or as their JSON. `inputs`,
            `output` and `expected` are mappings of a program's fields. A trace's root span gives inputs and output.
        score: The name of the feedback of a trace that is the score; by default the only one that is a number or a
            bool.
        threshold: The least score, in [0, 1], of an output that is taken as a label.

    Raises:
        SetupError: a row cannot be read; its line, what was expected, and what came.

    >>> rows = [
    ...     {"inputs": {"question": "2+2?"}, "output": {"answer": "5"}, "score": 0.0, "supplement": "[cot] Guess."},
    ...     {"inputs": {"question": "2+2?"}, "output": {"answer": "4"}, "score": 1.0, "supplement": "[cot] Add."},
    ... ]
    >>> found = examples_of(rows)
    >>> found.examples[0].answer, [(str(each.supplement.kind), each.score) for each in found.outcomes]
    ('4', [('cot', 0.0), ('cot', 1.0)])
    """
    if not 0 < threshold <= 1:
        raise SetupError(f"Expected threshold above 0 and up to 1, got {threshold!r}.")
    best: dict[str, _Row] = {}
    outcomes: list[LoggedOutcome] = []
    unrated: list[set[str]] = []
    for where, item in _items(log):
        row = _read_row(item, where, score)
        if not isinstance(row, _Row):
            unrated.append(row)
            continue
        if row.supplement:
            outcomes.append(LoggedOutcome(row.inputs, row.supplement, row.score, row.feedback))
        key = json.dumps(row.inputs, sort_keys=True, default=str)
        if key not in best or row.rank > best[key].rank:
            best[key] = row
    if not best:
        if unrated:
            raise SetupError(
                f"Expected traces with the feedback{f' {score!r}' if score else ' that is the score'}, got "
                f"{len(unrated)} without it, among {sorted(set[str]().union(*unrated))}. Name the one that is the "
                "score: examples_of(log, score='...')."
            )
        raise SetupError(f"Expected a log with rows, got none. Give it rows such as {_ROW}.")
    good = [row for row in best.values() if row.has_expected or (row.labels and row.score >= threshold)]
    examples = [dspy.Example(**{**cast("dict[str, Any]", row.labels), **row.inputs}) for row in good]
    marked = [each.with_inputs(*row.inputs) for each, row in zip(examples, good, strict=True)]
    return LogExamples(marked, outcomes, len(best) - len(marked), len(unrated))


def _items(log: str | Path | Iterable[object]) -> Iterator[tuple[str, object]]:
    """The rows with the place of each, for messages."""
    if not isinstance(log, str | Path):
        yield from ((f"row {number} of the log", item) for number, item in enumerate(log, 1))
        return
    file = Path(log)
    if not file.is_file():
        raise SetupError(f"Expected a file of one JSON object per line, got {str(file)!r}, which is no file.")
    with file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}, line {number}", _parse(line, f"{file}, line {number}")
        except UnicodeDecodeError as problem:
            raise SetupError(f"Expected {file} in UTF-8, got {problem}. Write it as JSON lines.") from problem


def _parse(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise SetupError(f"Expected a JSON object in {where}, got what is none ({problem}). Write {_ROW}.") from None


def _read_row(item: object, where: str, score: str) -> _Row | set[str]:
    """A row; for a trace without the score's feedback the names of the others."""
    to_dict = getattr(item, "to_dict", None)
    content: object = to_dict() if callable(to_dict) else item
    if not isinstance(content, Mapping):
        raise SetupError(f"Expected an object in {where}, got {_shown(content)}. Write {_ROW}.")
    row = cast("Mapping[str, Any]", content)
    if "info" in row and "data" in row:
        row = _of_trace(row, where, score)
        if isinstance(row, set):
            return row
    inputs = _fields(row, "inputs", where)
    expected = _fields(row, "expected", where) if row.get("expected") is not None else None
    output = _fields(row, "output", where) if row.get("output") is not None else None
    return _Row(
        inputs,
        expected if expected is not None else output,
        expected is not None,
        _score(row, where),
        _supplement(row, where),
        str(row.get("feedback") or ""),
    )


def _of_trace(trace: Mapping[str, Any], where: str, score: str) -> dict[str, Any] | set[str]:
    """A trace of MLflow as a row: its root span, one of its assessments, and the supplement that a span read.

    Feedback that somebody has revised stays in the trace as no longer valid, and does not count. Without the feedback
    the names of the others.
    """
    data, info = (trace[name] if isinstance(trace[name], Mapping) else {} for name in ("data", "info"))
    spans = [each for each in data.get("spans") or [] if isinstance(each, Mapping)]
    root = next((each for each in spans if not each.get("parent_span_id") and not each.get("parent_id")), None)
    if root is None:
        raise SetupError(f"Expected a trace with a root span in {where}, got {len(spans)} spans. Export it whole.")
    found = [
        each
        for each in info.get("assessments") or []
        if isinstance(each, Mapping) and isinstance(each.get("feedback"), Mapping) and each.get("valid") is not False
    ]
    named = [each for each in found if not score or each.get("assessment_name") == score]
    names = {str(each.get("assessment_name")) for each in found}
    if not named:
        return names
    scored = [each for each in named if isinstance(each["feedback"].get("value"), int | float)]
    if len(scored) != 1:
        raise SetupError(
            f"Expected one feedback{f' {score!r}' if score else ''} with a number in {where}, got {len(scored)} among "
            f"{sorted(names)}. Name the one that is the score: examples_of(log, score='...')."
        )
    texts = {text for each in spans for text in _supplements_in(_attribute(each, "mlflow.spanInputs"))}
    return {
        "inputs": _attribute(root, "mlflow.spanInputs"),
        "output": _attribute(root, "mlflow.spanOutputs"),
        "score": scored[0]["feedback"]["value"],
        "feedback": scored[0].get("rationale"),
        "supplement": texts.pop() if len(texts) == 1 else None,
    }


def _attribute(span: Mapping[str, Any], name: str) -> Any:
    """A span's attribute, which MLflow writes as JSON."""
    value = (span.get("attributes") or {}).get(name)
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _supplements_in(inputs: object) -> Iterator[str]:
    """The supplements that a span reads, also where DSPy's spans hold the inputs one level deeper."""
    if isinstance(inputs, Mapping):
        own = cast("Mapping[str, Any]", inputs)
        for each in (own, *(value for value in own.values() if isinstance(value, Mapping))):
            if isinstance(text := each.get(SUPPLEMENT), str) and text.strip():
                yield text


def _fields(row: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = row.get(name)
    if not isinstance(value, Mapping) or not value:
        raise SetupError(f"Expected {name!r} as an object of fields in {where}, got {_shown(value)}. Write {_ROW}.")
    fields = {str(key): each for key, each in cast("Mapping[object, Any]", value).items()}
    if name == "inputs":
        fields.pop(SUPPLEMENT, None)
    return fields


def _score(row: Mapping[str, Any], where: str) -> float:
    score = row.get("score")
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise SetupError(f"Expected a score in [0, 1] in {where}, got {_shown(score)}. Scale it as your metric does.")
    return float(score)


def _supplement(row: Mapping[str, Any], where: str) -> Supplement | None:
    text = row.get(SUPPLEMENT)
    if text is None:
        return None
    if not isinstance(text, str):
        raise SetupError(f"Expected the supplement as a text in {where}, got {_shown(text)}. Leave it out if unknown.")
    return parse(text) or None


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)[:60]
