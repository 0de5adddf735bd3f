"""The verdict where a person meets it: result, notes, console, `result.json`, report page, command line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from prompted import TRAIN, VAL, corrector, spt, student
from rich.console import Console
from scripted import UNREADABLE, ScriptedEngine, ScriptedTrainer, reply
from small_compile import WORLD, compiled, gold, helped, teleprompter, writer
from test_report_page import page_of
from typer.testing import CliRunner

from optimizers.cli import app
from optimizers.observe.live.lines import Lines
from optimizers.observe.live.terminal import Live
from optimizers.observe.report import read_run
from sgt_modules.embedded import program


def quickly(folder: Path, script: Any, **changes: object) -> Any:
    """The result of a small compile whose generator and trainer are scripted."""
    better, _ = compiled(script, folder, generator=writer(), trainer=ScriptedTrainer(), **changes)
    return better.detailed_results


@pytest.mark.parametrize("answer", UNREADABLE)
def test_where_no_answer_can_be_read_notes_console_file_and_page_name_it_with_count_and_remedy(
    tmp_path: Path, answer: str
) -> None:
    out, folder = io.StringIO(), tmp_path / "run"
    result = quickly(folder, UNREADABLE[answer], display_progress=Lines(out))
    assert "could not read the answer in 44 of 44 runs (AdapterParseError)" in result.verdict
    assert "Use a signature with fewer and plainer outputs, or a stronger actor." in result.verdict
    assert result.notes[-1] == f"Verdict: {result.verdict}"
    assert out.getvalue().splitlines()[-1] == f"Verdict: {result.verdict}"
    assert json.loads((folder / "result.json").read_text())["verdict"] == result.verdict
    page = page_of(folder).text
    assert f"Verdict {' '.join(result.verdict.split())}" in page
    assert page.index(result.verdict[:60]) < page.index("selected on validation")
    assert not any("easier" in text for text in (*result.notes, out.getvalue(), page))


def test_an_actor_s_answers_that_are_cut_ask_for_a_larger_limit(tmp_path: Path) -> None:
    lm = ScriptedEngine(gold).lm(max_tokens=4)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        sgt = teleprompter(tmp_path / "run", generator=writer(), trainer=ScriptedTrainer())
        said = sgt.compile(program(), trainset=WORLD.train, valset=WORLD.val).detailed_results.verdict
    assert "44 of them end at the actor's limit of 4 tokens: give the actor's dspy.LM a larger max_tokens" in said
    assert "Use dspy.ChatAdapter() in place of JSONAdapter" in said


def test_the_live_view_ends_with_the_verdict(tmp_path: Path) -> None:
    out = io.StringIO()
    view = Live(Console(file=out, force_terminal=True, width=5_000, height=40))
    result = quickly(tmp_path / "run", helped, display_progress=view)
    assert f"Verdict: {result.verdict}" in out.getvalue()
    assert "Stage sft raises the score on validation from 0.000 to 1.000" in result.verdict


def test_the_page_counts_errors_by_type_with_an_example_and_their_stages(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quickly(folder, UNREADABLE["untagged"])
    [found] = read_run(folder).errors()
    assert (found.name, found.count, found.unrewarded, found.example) == (
        "AdapterParseError",
        44,
        0,
        "The answer is four.",
    )
    assert found.stages == ("none/val", "none/train", "warm/train")
    assert (
        "Errors by type How the program's runs ended that met an error, of 44 in all. A run without a reward counts "
        "nowhere; the others count as lost. error runs without a reward stages one example AdapterParseError 44 0 "
        "none/val, none/train, warm/train The answer is four."
    ) in page_of(folder).text


def test_a_run_without_errors_has_no_section_of_them(tmp_path: Path) -> None:
    quickly(tmp_path / "run", helped)
    assert "Errors by type" not in page_of(tmp_path / "run").text


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_the_command_line_says_verdict_and_errors_too(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "run"
    said = quickly(folder, UNREADABLE["rambling"]).verdict
    plain = CliRunner().invoke(app, [command, str(folder)], env={"COLUMNS": "200"})
    assert f"Verdict: {said}" in plain.output
    assert "AdapterParseError" in plain.output.partition("Verdict:")[2].partition("\n")[2]
    content = json.loads(CliRunner().invoke(app, [command, str(folder), "--json"]).output)
    assert content["verdict"] == said
    assert [(each["name"], each["count"]) for each in content["errors"]] == [("AdapterParseError", 44)]


def test_a_run_that_is_stopped_in_its_first_stages_already_names_what_it_met(tmp_path: Path) -> None:
    result = quickly(tmp_path / "run", UNREADABLE["untagged"], max_actor_calls=20)
    assert result.stopped
    assert result.verdict.startswith("The run was stopped before its end, so this is what there is so far.")
    assert "could not read the answer in 10 of 10 runs" in result.verdict


def test_instructions_that_are_rewritten_get_a_verdict_as_well(tmp_path: Path) -> None:
    with dspy.context(lm=ScriptedEngine(lambda _: reply(answer="wrong"), whole=True).lm()):
        better = spt(corrector(["Carry the one."] * 8), tmp_path / "run", rounds=1).compile(
            student(), trainset=TRAIN, valset=VAL
        )
    result = better.detailed_results
    assert "All " in result.verdict
    assert " runs under new instructions lost" in result.verdict
    assert result.notes[-1] == f"Verdict: {result.verdict}"
    assert result.verdict in page_of(tmp_path / "run").text
