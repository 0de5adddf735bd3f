"""DS-1000's pass@1: an answer's code is found, run against the row's own tests, and its failure told."""

from __future__ import annotations

import time

import dspy
import pytest
from ds1000_rows import ROWS

from optimizers.tasks.code_text import extract_code
from optimizers.tasks.ds1000_metric import DS1000Metric, build_test_script, ds1000_metric
from optimizers.tasks.sandbox import Limits, isolation
from sgt_modules.errors import MetricError

pytestmark = pytest.mark.skipif(not isolation().is_enough, reason=f"this kernel has {isolation()}")

PANDAS, NUMPY, SCIPY, TORCH = range(4)
PAID, CENTERED = 'df["paid"] = df["cups"] * df["price"]', "result = a - a.mean(axis=0)"
WELCH = "    return scipy.stats.ttest_ind(a, b, equal_var=False).pvalue"
PASSES = "The tests pass."


def example(which: int) -> dspy.Example:
    row = ROWS[which]
    fields = {name: row[name] for name in ("prompt", "code_context", "reference_code")}
    return dspy.Example(**fields, library=row["metadata"]["library"]).with_inputs("prompt")


def each_library() -> list[object]:
    """Each row by its library; PyTorch alone takes ten seconds to import in a sandbox."""
    names = [row["metadata"]["library"] for row in ROWS]
    marks = {"Pytorch": [pytest.mark.slow]}
    return [pytest.param(which, id=name, marks=marks.get(name, [])) for which, name in enumerate(names)]


@pytest.mark.parametrize("which", each_library())
def test_the_reference_passes(which: int) -> None:
    judged = ds1000_metric(example(which), dspy.Prediction(code=ROWS[which]["reference_code"]))
    assert (judged.score, judged.feedback) == (1.0, PASSES)


@pytest.mark.parametrize(
    ("which", "answer", "score", "said"),
    [
        # written differently
        (PANDAS, f"```python\n{PAID}\n```", 1, PASSES),
        (PANDAS, f"Multiply both:\n\n```python\n{PAID}\n```\n\nThat is all.", 1, PASSES),
        (PANDAS, f"```\n{PAID}", 1, PASSES),
        (PANDAS, f"{PAID}\n</code>\nEND SOLUTION\nThen print(1/0)", 1, PASSES),
        (PANDAS, f"BEGIN SOLUTION\n<code>\n{PAID}\n</code>", 1, PASSES),
        (PANDAS, f"{PAID}\n### END SOLUTION", 1, PASSES),
        (PANDAS, "```py\ncups = df['cups']\n```\nand\n```py\ndf['paid'] = cups.mul(df.price)\n```", 1, PASSES),
        (PANDAS, "df = df.assign(paid=df.cups * df.price)", 1, PASSES),
        (PANDAS, "df['paid'] = df.eval('cups * price')", 1, PASSES),
        (PANDAS, "df['paid'] = [c * p for c, p in zip(df.cups, df.price)]  # slow", 1, PASSES),
        (PANDAS, f"import warnings\nwarnings.warn('aside')\nprint(df)\n{PAID}", 1, PASSES),
        (PANDAS, "def paid(row):\n    return row.cups * row.price\ndf['paid'] = df.apply(paid, axis=1)", 1, PASSES),
        (NUMPY, "result = a - np.mean(a, 0, keepdims=True)", 1, PASSES),
        (NUMPY, "result = np.apply_along_axis(lambda column: column - column.mean(), 0, a)", 1, PASSES),
        (NUMPY, "# not for ever\nresult = a - a.sum(0) / len(a)", 1, PASSES),
        (SCIPY, f"```python\n{WELCH}\n```", 1, PASSES),
        (SCIPY, f"\n\n{WELCH}\n\n", 1, PASSES),
        # another result
        (PANDAS, "df['paid'] = df['cups'] + df['price']", 0, "AssertionError"),
        (PANDAS, "df['paid'] = [2.0, 6.0, 6.0]", 0, "Length of values (3) does not match length of index (2)"),
        (PANDAS, "df['total'] = df['cups'] * df['price']", 0, "AssertionError"),
        (PANDAS, "df['paid'] = (df['cups'] * df['price']).astype(str)", 0, "AssertionError"),
        (PANDAS, "df = df.sort_values('tea'); df['paid'] = df.cups * df.price", 0, "AssertionError"),
        (NUMPY, "result = a - a.mean(axis=1, keepdims=True)", 0, "Not equal to tolerance"),
        (NUMPY, "result = a - a.mean()", 0, "Mismatched elements"),
        (NUMPY, "a = a - a.mean(axis=0)", 0, "KeyError: 'result'"),
        (SCIPY, "    return scipy.stats.ttest_ind(a, b).pvalue", 0, "AssertionError"),
        pytest.param(TORCH, "result = torch.softmax(x, dim=0)", 0, "AssertionError", marks=pytest.mark.slow),
        # what the row forbids
        (NUMPY, "result = a.copy()\nfor i in range(a.shape[1]):\n    result[:, i] -= a[:, i].mean()", 0, "test_string"),
        # no code, or none that runs
        (PANDAS, "", 0, "but the answer has none"),
        (PANDAS, None, 0, "but the answer has none"),
        (PANDAS, "```python\n```", 0, "but the answer has none"),
        (PANDAS, "Multiply the columns.", 0, "SyntaxError: invalid syntax"),
        (PANDAS, "df['paid'] = df['cup'] * df['price']", 0, "KeyError: 'cup'"),
        (PANDAS, f"    {PAID}", 0, "IndentationError: unexpected indent"),
        (SCIPY, WELCH.strip(), 0, "IndentationError: expected an indented block"),
        (PANDAS, "import no_such_module", 0, "No module named 'no_such_module'"),
        (PANDAS, "df = df[", 0, "SyntaxError"),
        # leaving before the tests
        (PANDAS, "import sys; sys.exit(0)", 0, "SystemExit: 0"),
        (PANDAS, "import os; os._exit(0)", 0, "ended with status 0 before the program did"),
        (PANDAS, "raise KeyboardInterrupt", 0, "KeyboardInterrupt"),
        (PANDAS, "import ctypes; ctypes.string_at(0)", 0, "SIGSEGV"),
        (PANDAS, "open('/etc/passwd').read()", 0, "Error"),
    ],
)  # fmt: skip
def test_an_answer_is_scored_as_by_hand(which: int, answer: str | None, score: float, said: str) -> None:
    judged = ds1000_metric(example(which), dspy.Prediction(code=answer))
    assert judged.score == score, judged.feedback
    assert said in judged.feedback


def test_code_that_never_ends_or_takes_all_memory_is_stopped() -> None:
    metric = DS1000Metric(limits=Limits(seconds=1.5, memory_bytes=2 << 30), workers=1)
    began = time.monotonic()
    endless = metric(example(PANDAS), dspy.Prediction(code="while True: pass"))
    large = metric(example(PANDAS), dspy.Prediction(code="df = bytearray(10**11)"))
    assert (endless.score, large.score) == (0.0, 0.0)
    assert endless.feedback.startswith("Expected the tests to pass, but the time ran out\nCode that passes:\ndf[")
    assert large.feedback.startswith("Expected the tests to pass, but it exceeded its memory")
    assert time.monotonic() - began < 30


def test_the_feedback_shows_what_went_wrong_and_what_passes() -> None:
    judged = ds1000_metric(example(NUMPY), dspy.Prediction(code="result = a - a.mean()"))
    assert judged.feedback.startswith("Expected the tests to pass, but it ended with\n")
    assert judged.feedback.endswith(f"Code that passes:\n{CENTERED}")


def test_a_row_without_tests_is_the_datas_fault() -> None:
    with pytest.raises(MetricError, match="Expected code_context to define test_execution"):
        ds1000_metric(dspy.Example(code_context="x = 1"), dspy.Prediction(code="1"))


def test_the_surface_test_is_called_where_the_row_has_one() -> None:
    assert build_test_script(ROWS[NUMPY]["code_context"], "a = '\\n'").endswith(
        "code = \"a = '\\\\n'\"\ntest_execution(code)\ntest_string(code)\n"
    )
    assert "test_string" not in build_test_script(ROWS[PANDAS]["code_context"], "a")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("a = 1", "a = 1"),
        ("\n\n    a = 1\n", "    a = 1"),
        ("```python\n\ta = 1\n```", "\ta = 1"),
        ("```Python3 \na = 1\n```", "a = 1"),
        ("a = '</code>'", "a = '"),
        ("a = 1\n```\nIt works.", "a = 1"),
        ("<code>\na = 1\n</code>", "a = 1"),
    ],
)
def test_the_code_is_found_in_an_answer(answer: str, code: str) -> None:
    assert extract_code(answer) == code
