"""DS-1000's execution pass@1: code is right if the problem's own tests pass with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import dspy

from optimizers.tasks.code_text import extract_code
from optimizers.tasks.sandbox import Limits, Outcome, PythonSandbox
from sgt_modules.errors import MetricError

DS1000_LIMITS = Limits(seconds=120, memory_bytes=4 << 30)
"""The benchmark's own time limit per problem, and memory for any of its libraries."""

PRELOADED_MODULES = ("numpy", "pandas", "scipy.stats", "scipy.optimize", "sklearn.preprocessing", "matplotlib.pyplot")
"""Modules that each worker imports once; torch and tensorflow start threads, so problems import these themselves."""

_MAX_SHOWN = 1500


@lru_cache(maxsize=4)
def _sandbox(limits: Limits, workers: int, _process: int) -> PythonSandbox:
    return PythonSandbox(workers, limits=limits, preload=PRELOADED_MODULES)


def build_test_script(code_context: str, code: str) -> str:
    """Return the script to run: the problem's context, then its tests on the solution.

    Source: test_ds1000.py of the benchmark (Lai et al. 2023, arXiv 2211.11501): `test_execution`, and `test_string` if
    the context has it, are called with the solution as a text.

    >>> print(build_test_script("def test_execution(solution): ...", "a = 1"))
    def test_execution(solution): ...
    code = 'a = 1'
    test_execution(code)
    <BLANKLINE>
    """
    surface = "test_string(code)\n" if "test_string(" in code_context else ""
    return f"{code_context}\ncode = {code!r}\ntest_execution(code)\n{surface}"


@dataclass(frozen=True)
class DS1000Metric:
    """Scores whether the tests of `example.code_context` pass with `prediction.code`.

    Solution and tests share a process, as in the benchmark: a solution that tampers with the tests may pass.

    Args:
        limits: the resources that a solution may use.
        workers: how many solutions run at once.
    """

    limits: Limits = DS1000_LIMITS
    workers: int = 2

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
        """Score 1.0 or 0.0; the feedback names the expectation and the exception.

        Raises:
            MetricError: the example has no tests.
            SandboxError: this system cannot isolate programs.
        """
        context = str(example.get("code_context") or "")
        if "test_execution" not in context:
            raise MetricError("Expected code_context to define test_execution(solution), as DS-1000's rows do.")
        answer = prediction.get("code")
        code = extract_code(answer) if isinstance(answer, str) else ""
        if not code.strip():
            return dspy.Prediction(score=0.0, feedback="Expected Python code, but the answer has none.")
        outcome = _sandbox(self.limits, self.workers, os.getpid()).run(build_test_script(context, code))
        if outcome.ok:
            return dspy.Prediction(score=1.0, feedback="The tests pass.")
        return dspy.Prediction(score=0.0, feedback=_feedback(outcome, str(example.get("reference_code") or "")))


def _feedback(outcome: Outcome, reference: str) -> str:
    failure = {
        "time": "the time ran out",
        "memory": "it exceeded its memory",
        "output": "it printed too much",
        "disk": "it exceeded its disk space",
    }.get(outcome.reason) or f"it ended with\n{outcome.error[-_MAX_SHOWN:]}"
    expected = f"\nCode that passes:\n{reference[:_MAX_SHOWN]}" if reference else ""
    return f"Expected the tests to pass, but {failure}{expected}"


_DEFAULT = DS1000Metric()


def ds1000_metric(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """`DS1000Metric()` as a function.

    >>> tests = "def test_execution(solution):\\n  space = {}\\n  exec(solution, space)\\n  assert space['a'] == 1"
    >>> example = dspy.Example(code_context=tests, reference_code="a = 1", library="Numpy")
    >>> ds1000_metric(example, dspy.Prediction(code="a = 2")).score
    0.0
    """
    return _DEFAULT(example, prediction)
