"""What a run was made of, as its folder's recorded command says: for commands that go on from a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    import dspy


@dataclass(frozen=True, slots=True)
class RunInputs:
    """The arguments of `sgt compile` that name a run's program, data and models; empty where they are not known."""

    program: str = ""
    metric: str = ""
    train: Path | None = None
    val: Path | None = None
    inputs: str = ""
    lm: str = ""
    lm_dtype: str = "auto"
    api_base: str = ""
    generator: str = ""
    seed: int = 0

    def load_splits(self, student: dspy.Module) -> tuple[list[dspy.Example], list[dspy.Example]]:
        """The training and the validation examples, as `sgt compile` made them."""
        from optimizers.core.user_files import input_names, read_examples
        from optimizers.run_options import split_examples

        names = [each.strip() for each in self.inputs.split(",") if each.strip()] or input_names(student)
        if self.train is None:
            return [], [] if self.val is None else read_examples(self.val, names)
        valset = None if self.val is None else read_examples(self.val, names)
        rows, held = split_examples(read_examples(self.train, names), valset, self.seed)
        return list(rows), list(held)


def inputs_of(run: Path, **given: Any) -> RunInputs:
    """The inputs of a run by its recorded command, where it was `sgt compile`; those that are `given` come first.

    The recorded precision and address belong to the recorded LM: another `lm` that is given has neither.

    Raises `SetupError` that names the options to pass, for what neither says.
    """
    from optimizers.core.run_folder import RunFolder

    recorded = _read_command(str((RunFolder(run).read("run.json") or {}).get("command", "")))
    if given.get("lm") not in (None, "", recorded.lm):
        recorded = replace(recorded, lm_dtype="auto", api_base="")
    inputs = replace(recorded, **{name: value for name, value in given.items() if value})
    needed = [name for name in ("program", "metric", "generator") if not getattr(inputs, name)]
    needed += ["train"] if inputs.train is None and inputs.val is None else []
    if needed:
        raise SetupError(
            f"Expected a run that sgt compile began, which records its command, got one without "
            f"{', '.join(needed)}. Pass {', '.join(f'--{name}' for name in needed)}: program and metric as "
            "module:attribute in a file that can be imported, rows as for sgt compile."
        )
    return inputs


def _read_command(command: str) -> RunInputs:
    """The inputs in a recorded command; none if it is another program's."""
    from optimizers.commands.training import compile_program

    words = shlex.split(command)
    if "compile" not in words[:4]:
        return RunInputs()
    app = typer.Typer(add_completion=False)
    app.command()(compile_program)
    parser = typer.main.get_command(app)
    arguments = words[words.index("compile") + 1 :]
    found: dict[str, Any] = parser.make_context("compile", arguments, resilient_parsing=True).params
    known: dict[str, Any] = {
        name: Path(each) if name in ("train", "val") else each
        for name in RunInputs.__dataclass_fields__
        if (each := found.get(name)) is not None
    }
    return RunInputs(**known)
