"""The README's pictures: the live view of a quick demonstration as SVG, and its report as PNG.

    python docs/pictures.py                 # runs `sgt demo --quick` on a new terminal: some minutes
    python docs/pictures.py --run runs/demo # makes only the report's picture, of a finished run

The second picture needs Playwright and Chromium (the dev extra includes Playwright).
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from optimizers.observe.report import write_report

ASSETS = Path(__file__).parent / "assets"
COLUMNS, ROWS = 100, 30
PAGE = {"width": 1200, "height": 800}
DEMO = [sys.executable, "-c", "from optimizers.cli import main; main()", "demo", "--quick"]

_CONTROL = re.compile(r"(\r|\n|\x1b\[\d*[AK]|\x1b\[\?25[lh])")
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class Screen:
    """A terminal's text, with the movements of rich's live displays: up, to a line's start, a line erased.

    >>> screen = Screen()
    >>> screen.feed("one\\r\\n\\x1b[1mtwo\\x1b[0m\\r\\x1b[1A\\x1b[2Kthree")
    >>> screen.text(rows=5).plain
    'three\\ntwo'
    """

    def __init__(self) -> None:
        self._lines, self._row, self._rest = [""], 0, ""

    def feed(self, data: str) -> None:
        """Read a program's output; an incomplete sequence waits for its end."""
        data = self._rest + data
        cut = data.rfind("\x1b")
        whole = cut < 0 or re.match(r"\x1b\[[?\d;]*[A-Za-z]", data[cut:])
        data, self._rest = (data, "") if whole else (data[:cut], data[cut:])
        for part in _CONTROL.split(data):
            self._take(part)

    def _take(self, part: str) -> None:
        if part == "\n":
            self._row += 1
            self._lines += [""] * (self._row + 1 - len(self._lines))
        elif part.endswith("A") and part.startswith("\x1b["):
            self._row = max(0, self._row - int(part[2:-1] or 1))
        elif part.endswith("K") and part.startswith("\x1b["):
            self._lines[self._row] = ""
        elif part and part != "\r" and not part.startswith("\x1b[?"):
            self._lines[self._row] += part

    def text(self, rows: int) -> Text:
        """Return the last rows, with their colours."""
        return Text("\n").join(Text.from_ansi(line) for line in "\n".join(self._lines).rstrip().split("\n")[-rows:])


def played(command: list[str]) -> Iterator[tuple[float, Screen]]:
    """Run a command on a new terminal; yield its screen after each output, and the seconds until then."""
    screen, began = Screen(), time.monotonic()
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, **size}) as process:
        os.close(theirs)
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(ours, 2**16)
            except OSError:  # the other end is closed
                break
            screen.feed(data.decode("utf-8", errors="replace"))
            yield time.monotonic() - began, screen
    os.close(ours)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{screen.text(ROWS).plain}")


def met(words: str, seconds: float, command: list[str]) -> Text:
    """Return a command's screen once it has shown some words for that long; the command runs to its end."""
    first, shown = 0.0, Text()
    for now, screen in played(command):
        if shown or words not in (text := screen.text(ROWS)).plain:
            continue
        first = first or now
        shown = text if now - first >= seconds else shown
    if not shown:
        raise SystemExit(f"Expected a screen with {words!r} for {seconds} s, saw none. Choose others: --words.")
    return shown


def svg(text: Text, title: str) -> str:
    """Return a terminal's text as a picture that loads nothing from the network."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(text, end="\n\n")
    return _FONT.sub("", console.export_svg(title=title))


def photographed(page: Path, picture: Path) -> None:
    """Return the page down to its first table, in its light colours."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        raise SystemExit(f"Expected one of {', '.join(names)}, found none. Install Chromium.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport=PAGE, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        below = tab.get_by_text("On every split", exact=True).bounding_box()
        height = below["y"] - 10 if below else PAGE["height"]
        tab.screenshot(path=picture, clip={"x": 0, "y": 0, "width": PAGE["width"], "height": height})
        browser.close()


def main() -> None:
    """Make both pictures, or only the report's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run's folder")
    parser.add_argument("--words", default="round 2: acting", help="what stands on the screen that is taken")
    parser.add_argument("--seconds", type=float, default=2.0, help="since when")
    wanted = parser.parse_args()
    ASSETS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run = wanted.run or Path(scratch) / "demo"
        if wanted.run is None:
            shown = met(wanted.words, wanted.seconds, [*DEMO, "--log-dir", str(run)])
            (ASSETS / "live.svg").write_text(svg(shown, "sgt demo --quick"), encoding="utf-8")
        page = write_report(run, Path(scratch) / "report.html")
        photographed(page, ASSETS / "report.png")
    for picture in sorted(ASSETS.iterdir()):
        print(f"{picture.name}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
