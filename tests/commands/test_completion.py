"""The shell completes `sgt`: what each shell's script asks, and a real bash with the script that `sgt` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SGT = Path(sys.executable).with_name("sgt")


def asked(**environment: str) -> str:
    """What `sgt` prints to a shell's script."""
    done = subprocess.run([SGT], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(line: str, at: int) -> list[str]:
    return asked(_SGT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(at)).split()


def zsh(line: str, at: int) -> list[str]:
    return asked(_SGT_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line).split('"')[1::4]


def fish(line: str, at: int) -> list[str]:
    told = asked(_SGT_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args")
    return [each.partition("\t")[0] for each in told.splitlines()]


@pytest.mark.parametrize("shell", [bash, zsh, fish])
@pytest.mark.parametrize(
    ("line", "at", "expected"),
    [("sgt de", 1, ["demo"]), ("sgt comp", 1, ["compare", "compile"]), ("sgt demo --qu", 2, ["--quick"])],
)
def test_a_shell_is_told_what_a_word_may_become(shell: object, line: str, at: int, expected: list[str]) -> None:
    assert callable(shell)
    assert sorted(shell(line, at)) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script_that_sgt_prints() -> None:
    lines = ["COMP_WORDS=(sgt ins)", "COMP_CWORD=1", f"_sgt_completion {SGT}", 'printf "%s\\n" "${COMPREPLY[@]}"']
    script = asked(_SGT_COMPLETE="source_bash") + "\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["inspect"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    assert f"complete_{shell}" in asked(_SGT_COMPLETE=f"source_{shell}")
