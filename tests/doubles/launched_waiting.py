"""A script whose processes wait for the main one, which is killed meanwhile: `python FILE OUTPUT`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from optimizers.training.processes import join_team


def main(output: Path) -> None:
    """Note who waits; the main process dies once it knows of it."""
    team = join_team()
    if not team.is_main:
        (output / "waits").touch()
        team.receive()
    while not (output / "waits").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
