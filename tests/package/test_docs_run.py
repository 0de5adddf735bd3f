"""Every Python block of the README and of the documentation runs, is run by a test of its page, or says why it is not.

A block is known by its page and by words that stand in it and in no other block of that page.
"""

from __future__ import annotations

import ast
import importlib
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import dspy
import pytest
from places import ROOT
from run_folders import run_folder, validated
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply

from optimizers import SGTTeleprompter
from optimizers.tasks.sandbox import isolation
from sgt_modules import fitting_state, supplement
from sgt_modules.embedded import embedded_generator
from sgt_modules.kinds import Supplement

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
_FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|jsonl|svg))`")
"""A file in the text, from the root or from a package."""

_BLOCK = re.compile(r"^```(?:python|py|python3)\b[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of Python code, and the page it stands on."""

    page: str
    code: str


Names = dict[str, object]


def _alone() -> Names:
    return {}


def _compiling() -> Names:
    """What the first blocks of the start page leave behind."""
    return {"dspy": dspy, "SGTTeleprompter": SGTTeleprompter, "metric": _exact}


def _wrapping() -> Names:
    agent = dspy.ReAct("question -> answer", tools=[_add_one])
    return {"agent": agent, "program": dspy.ChainOfThought("question -> answer")}


def _saved() -> Names:
    """A program that was saved with another generator."""
    saved = supplement(dspy.ChainOfThought("question -> answer"), generator=embedded_generator())
    saved.save("better.json")
    return {"dspy": dspy, "supplement": supplement, "program": saved}


def _plain_state() -> Names:
    plain = dspy.ChainOfThought("question -> answer")
    plain.save("plain.json")
    wrapped = supplement(plain, generator=embedded_generator())
    return {"wrapped": wrapped, "fitting_state": fitting_state, "json": importlib.import_module("json"), "Path": Path}


def _estimating() -> Names:
    """A teleprompter and data over a scripted actor and a scripted generator."""
    program = dspy.Predict("question -> answer")
    program.set_lm(ScriptedEngine(lambda text: reply(answer="1")).lm())
    sgt = SGTTeleprompter(
        _exact,
        ScriptedGenerator(lambda prompt: Supplement("cot", "Add.")),
        trainer=ScriptedTrainer(),
        log_dir="run",
        display_progress=False,
    )
    sums = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(5)]
    return {"sgt": sgt, "program": program, "trainset": sums[:3], "valset": sums[3:]}


def _viewing() -> Names:
    """What a compile over scripted models takes."""
    found = _estimating()
    sgt = found.pop("sgt")
    return {**found, "metric": _exact, "generator": sgt.settings.generator, "trainer": sgt.settings.trainer}


def _finished_run() -> Names:
    run_folder(Path("runs/demo"), validated())
    return {}


def _pets() -> Names:
    """The database that the sandbox's page asks; its Python needs a kernel that keeps it in."""
    if not isolation().is_enough:
        pytest.skip(f"this kernel has {isolation()}")
    home = Path("database/pets_1")
    home.mkdir(parents=True)
    with closing(sqlite3.connect(home / "pets_1.sqlite")) as database:
        database.execute("CREATE TABLE pets (name TEXT)")
    return {}


def _exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def _add_one(number: int) -> int:
    """The number after this one."""
    return number + 1


RUN: dict[tuple[str, str], Callable[[], Names]] = {
    ("docs/agents.md", "dspy.ReAct("): _alone,
    ("docs/beyond.md", "examples_of(rows)"): _alone,
    ("docs/beyond.md", "Recipe(draft=True)"): _alone,
    ("docs/beyond.md", "Recipe(cost=Cost("): _alone,
    ("docs/beyond.md", "sgt.settings.actors"): _alone,
    ("docs/cli.md", "def metric("): _alone,
    ("docs/errors.md", "except SetupError"): _alone,
    ("docs/faq.md", "unsupplement(wrapped)"): _alone,
    ("docs/faults.md", "RolloutStore("): _finished_run,
    ("docs/generators.md", "embedded_generator()"): _alone,
    ("docs/generators.md", "brief.write("): _alone,
    ("docs/generators.md", "closed=True"): _alone,
    ("docs/generators.md", "LoRASettings(rank=8)"): _alone,
    ("docs/generators.md", "Endpoint(lm)"): _alone,
    ("docs/generators.md", "tokenizer=folder"): _alone,
    ("docs/index.md", "sgt.estimate("): _estimating,
    ("docs/index.md", "LoggedOutcome("): _estimating,
    ("docs/index.md", "VLLMLoRA(lm)"): _compiling,
    ("docs/index.md", 'runner="ray"'): _compiling,
    ("docs/index.md", "unsupplement(wrapped)"): _wrapping,
    ("docs/index.md", 'program.load("better.json")'): _saved,
    ("README.md", "better.load("): _saved,
    ("docs/index.md", "save_program("): _saved,
    ("docs/index.md", "fitting_state("): _plain_state,
    ("docs/events.md", "class ScoreLog"): _viewing,
    ("docs/live.md", "def tell("): _viewing,
    ("docs/method.md", "preference_pairs("): _alone,
    ("docs/report.md", "read_run("): _finished_run,
    ("docs/sandbox.md", "PythonSandbox("): _pets,
    ("docs/rl-stacks.md", "load_environment("): _alone,
    ("docs/safety.md", "harmless(forged"): _alone,
    ("docs/safety.md", "Gate.of("): _alone,
    ("docs/several-predictors.md", "class Lookup"): _alone,
    ("docs/tracking.md", 'report_to=["mlflow"'): _compiling,
    ("docs/tracking.md", "class Printed"): _compiling,
    ("docs/tracking.md", "class Supplements"): _alone,
    ("docs/local.md", "acting_as(actor)"): _alone,
}
"""Blocks that run here, each with the names that it finds."""

CONTINUED = {("docs/several-predictors.md", "sgt.estimate("): ("docs/several-predictors.md", "class Lookup")}
"""Blocks that run behind another one of their page, in its names."""

WALK = "package/test_new_user.py::test_a_program_is_trained_saved_loaded_served_and_called"

ELSEWHERE = {
    ("docs/index.md", "class Desk"): WALK,
    ("docs/index.md", "sgt = SGTTeleprompter(\n    metric,"): WALK,
    ("docs/index.md", 'desk.load("desk.json")'): WALK,
    ("docs/index.md", "OpenAI("): WALK,
    ("docs/comparing.md", "class TellIt"): "comparison/test_compare.py::test_the_example_in_the_documentation_runs",
    ("docs/tasks.md", "# capitals.py"): "tasks/test_tasks.py::test_the_tasks_of_the_documentation_run",
    ("docs/tasks.md", "# trivia.py"): "tasks/test_tasks.py::test_the_tasks_of_the_documentation_run",
}
"""Blocks that a test of their page runs."""

NOT_RUN = {
    (
        "docs/beyond.md",
        "NearestWinner(",
    ): "needs a key; tests/sgt/test_nearest_winner_teleprompter.py has a scripted generator",
    ("README.md", "SGTTeleprompter("): "needs a key and a model of the hub; tests/demos/test_demo.py runs the like",
    (
        "README.md",
        "compare(",
    ): "needs a model of the hub; tests/comparison/test_compare.py compares with scripted models",
    (
        "docs/cli.md",
        "OpenAI(",
    ): "needs a server; tests/sgt_modules/service/test_service.py asks one with the same client",
    ("docs/comparing.md", "reflection_lm="): "needs a key and a model of the hub",
    (
        "docs/comparing.md",
        "controls(",
    ): "needs a run that was compiled with a key; tests/comparison/test_controls.py has others",
    ("docs/index.md", 'better.save("better.json")'): "needs a key and the hub; examples/quickstart.py is the like",
    (
        "docs/rl-stacks.md",
        "adopt(\n",
    ): "needs a finished run and an adapter; tests/integrations/test_adopting.py has both",
    ("docs/spt.md", "SupervisoryPromptTeleprompter("): "needs a key; tests/spt/test_spt.py has a scripted corrector",
    (
        "docs/tracking.md",
        "mlflow.dspy.autolog()",
    ): "changes DSPy's classes; tests/doubles/tracked_alone.py does, by itself",
    ("docs/tasks.md", 'task("gsm8k")'): "needs the hub's rows; tests/tasks/test_tasks.py loads rows of its own",
}
"""Blocks that are not run, with the reason. Their syntax and what they import of ours are still looked at."""


def blocks_of(page: str, text: str) -> list[Block]:
    """The Python blocks of a page, in its order."""
    return [Block(page, found[1]) for found in _BLOCK.finditer(text)]


BLOCKS = [block for page in PAGES for block in blocks_of(page, (ROOT / page).read_text(encoding="utf-8"))]
KNOWN = [*RUN, *CONTINUED, *ELSEWHERE, *NOT_RUN]


def named(key: tuple[str, str]) -> list[Block]:
    """The blocks that a page and words of it name."""
    page, words = key
    return [block for block in BLOCKS if block.page == page and words in block.code]


def run(block: Block, names: Names) -> Names:
    exec(compile(block.code, block.page, "exec"), names)
    return names


def test_a_block_is_found_whatever_stands_around_it() -> None:
    page = "Text\n```python\nx = 1\n```\n```\nls\n```\n```py title='a'\ny = 2\n```\n"
    assert [block.code for block in blocks_of("page", page)] == ["x = 1\n", "y = 2\n"]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/api.md"])
def test_no_page_is_without_an_example(page: str) -> None:
    """The reference's examples are those of the docstrings: `tests/package/test_public_names.py`."""
    assert re.search(r"^```\w*\n.+?^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    files = set(_FILE.findall((ROOT / page).read_text(encoding="utf-8")))
    places = (ROOT, ROOT / "optimizers", ROOT / "sgt_modules")
    assert [file for file in sorted(files) if not any((place / file).is_file() for place in places)] == []


def test_each_block_is_known_by_one_name_and_each_name_knows_one_block() -> None:
    """A new block belongs into one of the four tables above."""
    assert {key: len(named(key)) for key in KNOWN if len(named(key)) != 1} == {}
    unknown = [block for block in BLOCKS if [block] not in [named(key) for key in KNOWN]]
    assert unknown == []
    assert len(KNOWN) == len(set(KNOWN)) == len(BLOCKS)


@pytest.mark.parametrize("key", RUN, ids=" ".join)
def test_a_block_runs(key: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [block] = named(key)
    run(block, {"__name__": "page", **RUN[key]()})


@pytest.mark.parametrize("key", CONTINUED, ids=" ".join)
def test_a_block_runs_behind_another(key: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [first], [block] = named(CONTINUED[key]), named(key)
    run(block, run(first, {"__name__": "page", **RUN[CONTINUED[key]]()}))


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_a_test_that_is_said_to_run_a_block_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("key", NOT_RUN, ids=" ".join)
def test_a_block_that_is_not_run_parses_and_imports_what_is_there(key: tuple[str, str]) -> None:
    [block] = named(key)
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("optimizers", "sgt_modules")):
            module = importlib.import_module(node.module)
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []
    for file in re.findall(r"(?:tests|examples)/[\w/]+\.py", NOT_RUN[key]):
        assert (ROOT / file).is_file()
