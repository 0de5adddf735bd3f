"""`sgt export RUN --to verifiers`: a package that `vf-eval` runs, without a word to the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import dspy
import pytest
from runtime_fixtures import tiny_adapter
from scripted import ScriptedEngine, ScriptedTrainer
from scripted_server import ScriptedServer, serving
from small_compile import WORLD, helped, teleprompter, writer
from typer.testing import CliRunner

from optimizers.cli import app
from optimizers.commands.recorded import inputs_of
from optimizers.core.fingerprints import generator_settings
from optimizers.integrations.environment_package import SETTINGS_FILE, EnvironmentSettings, package_name, write_package
from sgt_modules.embedded import embedded_generator, program
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.errors import RunFolderError, SetupError
from sgt_modules.generator_prompt import COMPACT

ROOT = Path(__file__).parents[2]

USERS_MODULE = """
import dspy
from scripted import ScriptedEngine
from small_compile import WORLD, helped
from sgt_modules.embedded import program

metric = WORLD.metric
dspy.configure(lm=ScriptedEngine(helped).lm())
"""

EVALUATE = """
import json, sys
places = set()

def note(event, arguments):
    if event == "socket.connect":
        places.add(str(arguments[1][0] if isinstance(arguments[1], tuple) else arguments[1]))
    elif event == "socket.getaddrinfo":
        places.add(str(arguments[0]))

sys.addaudithook(note)
from verifiers.v1.cli.eval.main import main
main(sys.argv[1:])
print("places", json.dumps(sorted(places)))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run's folder, whose recorded command is one of `sgt compile`, next to the user's module and rows."""
    (tmp_path / "users_world.py").write_text(USERS_MODULE)
    for name, split in (("train", WORLD.train), ("val", WORLD.val)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(each.toDict())}\n" for each in split))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_world", raising=False)
    words = "compile users_world:program --train train.jsonl --val val.jsonl --metric users_world:metric --lm openai/x"
    monkeypatch.setattr(sys, "argv", ["sgt", *words.split(), "--generator", "embedded"])
    with dspy.context(lm=ScriptedEngine(helped).lm()):
        sgt = teleprompter(tmp_path / "run", generator=writer(), trainer=ScriptedTrainer())
        sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val)
    return tmp_path / "run"


def exported(run: Path, output: Path, *words: str) -> Any:
    """What `sgt export --to verifiers` prints, and its exit code's error."""
    with dspy.context():  # the user's module sets an LM
        return CliRunner().invoke(app, ["export", str(run), "--to", "verifiers", "--output", str(output), *words])


def test_the_package_names_what_the_run_is_of(run: Path, tmp_path: Path) -> None:
    done = exported(run, tmp_path / "house-terms", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"package": "house_terms", "output": str(tmp_path / "house-terms"), "rows": 4}
    inner = tmp_path / "house-terms" / "house_terms"
    assert sorted(each.name for each in inner.iterdir()) == ["__init__.py", SETTINGS_FILE, "train.jsonl"]
    settings = EnvironmentSettings.read(inner)
    assert (settings.program, settings.metric, settings.lm) == ("users_world:program", "users_world:metric", "openai/x")
    assert settings.generator == "sgt:generator"
    assert settings.prompt == COMPACT.dump_state()
    project = tomllib.loads((tmp_path / "house-terms" / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == ["dspy-sgt[verifiers]"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [package_name(tmp_path / "house-terms")]


@pytest.mark.slow
def test_vf_eval_runs_it_and_connects_to_this_machine_alone(run: Path, tmp_path: Path) -> None:
    done = exported(run, tmp_path / "house-terms")
    assert done.exit_code == 0, done.output
    settings = tmp_path / "house-terms" / "house_terms" / SETTINGS_FILE
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "lm": ""}))  # the user's module sets one
    paths = [tmp_path / "house-terms", ROOT, ROOT / "tests", ROOT / "tests" / "doubles"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HOME": str(tmp_path)}
    with serving(ScriptedServer(lambda _: "[background] Rules.")) as server:
        options = ["--model", "base", "--client.base-url", server.address, "--client.api-key-var", "NO_KEY"]
        options += ["--no-push", "--no-rich", "--output-dir", "outputs", "--run.dir", "first"]
        options += ["--env.taskset.task.store", str(tmp_path / "r.sqlite"), "--env.taskset.task.max-actor-calls", "50"]
        evaluated = subprocess.run(
            [sys.executable, "-c", EVALUATE, "house_terms", *options],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=300,
            check=False,
        )
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    places = json.loads(evaluated.stdout.rpartition("places ")[2])
    assert set(places) <= {"127.0.0.1", "localhost", "0.0.0.0", "::1"}
    traces = list((tmp_path / "outputs" / "first").rglob("traces.jsonl"))
    [file] = traces
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(episodes) == 4
    assert len(server.requests) == 4
    assert '"score":1.0' in file.read_text().replace(" ", "")


def test_what_is_missing_or_other_is_said(run: Path, tmp_path: Path) -> None:
    other = exported(run, tmp_path / "a", "--train", "val.jsonl", "--val", "train.jsonl")
    assert "Expected the rows that the run learned from, got 4 others" in str(other.exception)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert "holds something already" in str(exported(run, tmp_path / "full").exception)
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "command": "python compile_it.py"}))
    assert "got one without program, metric, generator, train. Pass --program, --metric" in str(
        exported(run, tmp_path / "b").exception
    )
    content["settings"]["recipe"]["closed"] = True
    (run / "run.json").write_text(json.dumps(content))
    assert "closed=True, which chooses among given texts" in str(exported(run, tmp_path / "c").exception)
    assert not any((tmp_path / name).exists() for name in "abc")


def test_the_frozen_model_s_server_is_that_of_the_run(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    address = "http://127.0.0.1:1/v1"
    (run / "run.json").write_text(json.dumps({**content, "command": f"{content['command']} --api-base {address}"}))
    assert exported(run, tmp_path / "package").exit_code == 0
    assert EnvironmentSettings.read(tmp_path / "package" / "package").api_base == address
    assert inputs_of(run, lm="openai/x").api_base == address
    assert inputs_of(run, lm="openai/other").api_base == ""
    assert inputs_of(run, lm="openai/other", api_base="http://127.0.0.1:2/v1").api_base == "http://127.0.0.1:2/v1"


def test_an_adapter_is_scored_with_the_frozen_model_s_server_of_the_run(run: Path, tmp_path: Path) -> None:
    adapter, content = tiny_adapter(embedded_folder("generator"), tmp_path / "trained"), (run / "run.json").read_text()
    with serving(ScriptedServer(lambda _: "no field")) as server:
        recorded = json.loads(content)
        recorded["command"] += f" --api-base {server.address}"
        recorded["free"]["code"] = {}  # the run's own LM was scripted, as its generator
        recorded["settings"] |= generator_settings(embedded_generator())
        (run / "run.json").write_text(json.dumps(recorded))
        done = CliRunner().invoke(app, ["adopt", str(run), str(adapter), "--name", "grpo-cluster", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scores"]["grpo-cluster"] == 0.0
    assert {each["model"] for each in server.requests} == {"x"}


def test_a_package_s_name_is_one_that_python_imports() -> None:
    assert package_name(Path("out/7 terms")) == "environment_7_terms"


def test_a_package_without_rows_is_refused(tmp_path: Path) -> None:
    settings = EnvironmentSettings(
        program="app:program",
        metric="app:metric",
        inputs=["question"],
        generator="sgt:generator",
        prompt={},
        max_new_tokens=64,
    )
    with pytest.raises(SetupError, match="Expected at least one training row"):
        write_package(settings, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_several_actors_is_not_exported_as_one_of_a_single_actor(run: Path) -> None:
    known = json.loads((run / "run.json").read_text())
    known["settings"]["actors"] = {"small": "x", "large": "y"}
    (run / "run.json").write_text(json.dumps(known))
    with pytest.raises(RunFolderError, match="one actor, got one of small, large"):
        EnvironmentSettings.of_run(run, program="a:b", metric="a:c", generator="embedded")
