"""DSPy's own tests of modules and optimizers on supplemented programs: `python tests/peers.py CHECKOUT [FILE ...]`.

    git clone https://github.com/stanfordnlp/dspy && git -C dspy checkout VERSION    # the dspy that is installed
    .venv/bin/python -m pip install pytest-asyncio pytest-mock
    .venv/bin/python tests/peers.py dspy [tests/predict/test_react.py ...]

Runs `tests/predict` and `tests/teleprompt` of a checkout, or the files named, against the installed dspy: bare, and
once for each of `WAYS`. Names the tests that pass bare and fail in another way, and ends with exit code 1 if one of
them is not in `INHERENT`, or if one in there passes. Not in CI: it needs the checkout, and some minutes.

With `--supplemented` this file is also the pytest plugin that supplements what those tests make: `pytest -p peers
--supplemented predictors-note`, with this folder on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, Usage

from sgt_modules import SupplementGenerator, supplement
from sgt_modules.errors import NoPredictorError, SetupError
from sgt_modules.predictor import SupplementedPredictor

FOLDERS = ("tests/predict", "tests/teleprompt")

REPLIES = {"silent": "[none]", "note": "[hint] Read it twice."}
"""What the generator says, whatever it reads."""

COPIES = "copies"
PREDICTORS = tuple(f"predictors-{reply}" for reply in REPLIES)
PROGRAMS = tuple(f"programs-{reply}" for reply in REPLIES)
WAYS = (COPIES, *PREDICTORS, *PROGRAMS)
"""What becomes of that which a test makes, but not of what an optimizer or a module makes for itself while it runs.

`predictors`: each `dspy.Predict` becomes supplemented where it is made. `programs`: `supplement()` takes each whole
program as soon as it is made. `copies` is their control: each program becomes DSPy's own `deepcopy()` of it, and
nothing is supplemented."""


@dataclass(frozen=True)
class Inherent:
    """A test that passes bare and cannot pass on supplemented programs, in which `WAYS` and why."""

    test: str
    ways: tuple[str, ...]
    reason: str


NOTES = (PREDICTORS[1], PROGRAMS[1])
COPIED = (COPIES, *PROGRAMS)
THE_COPY = "It looks at what the interpreter factory that it passed has made; a copy of a program has its own factory."

INHERENT = (
    Inherent(
        "tests/teleprompt/test_gepa.py::test_workflow_with_custom_instruction_proposer_and_component_selector",
        NOTES,
        "Its LM knows the recorded replies by the exact text of the prompts, and a prompt with a note is none of them.",
    ),
    Inherent(
        "tests/predict/test_rlm.py::TestRLMInitialization::test_optional_parameters",
        (COPIES,),
        "DSPy's deepcopy() copies the RLM's own LM, which supplement() shares.",
    ),
    *(
        Inherent(f"tests/predict/{name}", COPIED, THE_COPY)
        for name in (
            "test_program_of_thought.py::test_pot_factory_creates_fresh_interpreter_per_sequential_call",
            "test_program_of_thought.py::test_pot_propagates_terminal_interpreter_failure_and_shuts_down",
            "test_program_of_thought.py::test_pot_shuts_down_factory_interpreter_when_execution_raises",
            "test_rlm.py::TestRLMInterpreterLifecycle::test_factory_creates_and_shuts_down_one_interpreter_per_call",
            "test_rlm.py::TestRLMInterpreterLifecycle::test_factory_interpreter_is_shutdown_when_prediction_raises",
            "test_rlm.py::TestRLMInterpreterLifecycle::test_interpreter_remains_available_as_signature_input",
        )
    ),
)


class Fixed:
    """An engine that always says the same, and can be saved."""

    def __init__(self, reply: str) -> None:
        self._reply = reply

    def complete(self, request: Request) -> Response:
        read, wrote = len((request.messages[-1].text or "").split()), len(self._reply.split())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(self._reply),
            finish_reason="stop",
            usage=Usage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote),
        )

    def dump_state(self) -> dict[str, str]:
        return {"reply": self._reply}

    @classmethod
    def load_state(cls, state: Mapping[str, str]) -> Fixed:
        return cls(state["reply"])


class FixedLater(Fixed):
    """The same for coroutines."""

    async def complete(self, request: Request) -> Response:  # pyright: ignore[reportIncompatibleMethodOverride] - a coroutine
        return super().complete(request)


_OURS: ContextVar[bool | None] = ContextVar("_OURS", default=None)
"""Within the constructor of a module: whether a test called the outermost one. None outside of any."""


def supplementing(way: str, counts: Counter[str]) -> Callable[..., Any]:
    """A constructor of modules, for their metaclass, that supplements what a test makes; `counts` says how many."""
    where, _, said = way.partition("-")
    reply = REPLIES.get(said, "")
    lm = dspy.LM(f"fixed/{said or where}", engine=Fixed(reply), async_engine=FixedLater(reply), cache=False)
    generator = SupplementGenerator(lm)
    plain: Callable[..., Any] = type(dspy.Module).__call__

    def predictor(made: Any) -> Any:
        return SupplementedPredictor.wrap(made, generator, "peer") if type(made) is dspy.Predict else made

    def program(made: Any) -> Any:
        return supplement(made, generator=generator)

    def copied(made: Any) -> Any:
        return made.deepcopy() if made.predictors() else made

    become = {"predictors": predictor, "programs": program, COPIES: copied}[where]

    def build(cls: type, *args: Any, **kwargs: Any) -> Any:
        known = _OURS.get()
        outermost = known is None
        ours = _OURS.set(not _within_dspy(sys._getframe(1).f_globals) if outermost else known)
        try:
            made = plain(cls, *args, **kwargs)
            wanted = _OURS.get() and (where == "predictors" or outermost)
        finally:
            _OURS.reset(ours)
        if not wanted:
            return made
        try:
            new = become(made)
        except (NoPredictorError, SetupError):  # nothing to supplement
            return made
        counts["made"] += new is not made
        return new

    return build


def _within_dspy(module: Mapping[str, Any]) -> bool:
    return str(module.get("__name__")).partition(".")[0] == "dspy"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--supplemented", choices=WAYS, help="supplement what tests make")
    parser.addoption("--outcomes", type=Path, help="write there how each test ended, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Peers(config.getoption("--supplemented"), config.getoption("--outcomes")))


class _Peers:
    """Supplements while a test runs, and notes how it ends."""

    def __init__(self, way: str | None, path: Path | None) -> None:
        self._path, self._counts = path, Counter[str]()
        self._build = supplementing(way, self._counts) if way else None
        self._ended: dict[str, str] = {}
        self._reached: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        before = self._counts["made"]
        meta: Any = type(dspy.Module)
        kept = meta.__call__
        meta.__call__ = self._build or kept
        try:
            return (yield)
        finally:
            meta.__call__ = kept
            if self._counts["made"] > before:
                self._reached.append(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._ended[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        if self._path:
            self._path.write_text(json.dumps({"ended": self._ended, "reached": self._reached}), encoding="utf-8")


@dataclass(frozen=True)
class Outcomes:
    """How each test ended in one run, in pytest's words, and how many of them made something that was supplemented."""

    ended: Mapping[str, str]
    reached: int

    def ending(self, outcome: str) -> set[str]:
        return {test for test, ended in self.ended.items() if ended == outcome}

    @property
    def counts(self) -> str:
        return ", ".join(f"{len(self.ending(each))} {each}" for each in ("passed", "failed", "skipped"))


def outcomes(checkout: Path, files: Sequence[str], way: str | None) -> Outcomes:
    """Runs the files of a checkout, in a process of their own. Raises `SystemExit` if pytest could not run them."""
    own = Path(__file__).parent
    paths = os.pathsep.join(
        [str(own), str(own / "doubles"), str(own.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    with tempfile.TemporaryDirectory() as folder:
        noted = Path(folder) / "outcomes.json"
        options = ["-q", "-p", "peers", "-p", "no:cacheprovider", "--outcomes", str(noted)]
        options += ["--supplemented", way] if way else []
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "pytest", *options, *files],  # the installed dspy, not the checkout's
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not noted.exists():
            raise SystemExit(f"Expected pytest to run {' '.join(files)} in {checkout}, got:\n{ran.stdout}{ran.stderr}")
        found = json.loads(noted.read_text(encoding="utf-8"))
    return Outcomes(found["ended"], len(found["reached"]))


def faults(bare: Outcomes, other: Outcomes, way: str, inherent: Sequence[Inherent] = INHERENT) -> list[str]:
    """A line on each test that fails in a way without being known to, or is known to fail and passes."""
    known = {each.test for each in inherent if way in each.ways}
    lost = bare.ending("passed") - other.ending("passed")
    stale = known & bare.ending("passed") & other.ending("passed")
    return [
        *(f"{test} passes bare and fails with {way}." for test in sorted(lost - known)),
        *(f"{test} passes with {way}: take it out of INHERENT." for test in sorted(stale)),
    ]


def main(arguments: Sequence[str]) -> int:
    """Runs all of it, and prints what came of it; 1 if there is a fault."""
    if not arguments or not Path(arguments[0]).is_dir():
        raise SystemExit(f"Expected the folder of a checkout of DSPy, got {arguments[:1] or 'none'}.\n\n{__doc__}")
    checkout, files = Path(arguments[0]), arguments[1:] or FOLDERS
    bare = outcomes(checkout, files, None)
    print(f"dspy {dspy.__version__}, bare: {bare.counts}", flush=True)
    found: list[str] = []
    for way in WAYS:
        other = outcomes(checkout, files, way)
        lost = bare.ending("passed") - other.ending("passed")
        known = [
            f"{each.test} cannot pass: {each.reason}" for each in INHERENT if each.test in lost and way in each.ways
        ]
        new = faults(bare, other, way)
        print(f"{way}: {other.counts}; {other.reached} tests made what became another", flush=True)
        print("".join(f"  {line}\n" for line in [*known, *new]), end="", flush=True)
        found += new
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
