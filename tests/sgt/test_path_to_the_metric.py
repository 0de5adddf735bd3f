"""How many files an example passes on its way from `compile` to the metric.

A file is passed where one of its functions is on the call stack when the metric is called: on the metric's own thread,
or on the one that started it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import dspy
from scripted import ScriptedTrainer
from small_compile import WORLD, compiled, helped, writer

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(f"{ROOT / name}/" for name in ("optimizers", "sgt_modules"))
MOST_FILES = 6


def files_on_the_stack(frame: FrameType | None) -> list[str]:
    """The packages' files from the outermost frame to this one, each once."""
    files: list[str] = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGES):
            files.insert(0, Path(frame.f_code.co_filename).relative_to(ROOT).as_posix())
        frame = frame.f_back
    return list(dict.fromkeys(files))


class PathRecorder:
    """A metric that records the files on the way to each of its calls, and the actor of the program that it scores.

    Its trial call, before the actor has answered anything, is left out.
    """

    def __init__(self) -> None:
        self.answered = False
        self.paths: set[tuple[str, ...]] = set()
        self._to_thread: dict[threading.Thread, list[str]] = {}

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction) -> object:
        if self.answered:
            self._note_path(threading.current_thread(), sys._getframe(1))
        return WORLD.metric(example, prediction)

    def answer(self, text: str) -> str:
        """Answer as the actor."""
        self.answered = True
        return helped(text)

    def _note_path(self, thread: threading.Thread, frame: FrameType) -> None:
        before = [] if thread is threading.main_thread() else self._to_thread[thread]
        self.paths.add(tuple(dict.fromkeys([*before, *files_on_the_stack(frame)])))

    @contextmanager
    def watching_threads(self) -> Iterator[None]:
        """Inside, records for each thread that the main one starts the files on the way to its start."""
        sys.setprofile(self._note_start)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _note_start(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is threading.Thread.start.__code__:
            self._to_thread[frame.f_locals["self"]] = files_on_the_stack(frame)


def test_an_example_passes_at_most_six_files_before_its_metric(tmp_path: Path) -> None:
    metric = PathRecorder()
    with metric.watching_threads():
        compiled(metric.answer, tmp_path, metric=metric, generator=writer(), trainer=ScriptedTrainer())
    paths = sorted(metric.paths)
    assert all(path[0] == "optimizers/sgt/teleprompter.py" for path in paths)
    assert {step for path in paths for step in path} >= {
        "optimizers/rollouts/evaluation.py",
        "optimizers/sgt/exploration.py",
    }
    listed = "\n\n".join("\n".join([f"{len(path)} files:", *path]) for path in paths)
    assert max(map(len, paths)) <= MOST_FILES, listed
