"""A page in headless Chromium: what it says on its console, what it asks of the network, and axe's findings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@dataclass
class Opened:
    """A page that is open. `took`: seconds until it could be used."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    took: float = 0.0

    def faults(self) -> list[str]:
        """Serious and critical faults of accessibility that axe-core finds, as `rule: element`."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['nodes'][0]['html'][:120]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]


@contextmanager
def chromium() -> Iterator[Any]:
    """Inside, a browser; skips where Chromium or Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, file: Path, *, width: int = 1280, dark: bool = False) -> Iterator[Opened]:
    """Inside, the page is open and ready."""
    scheme = "dark" if dark else "light"
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        tab = Opened(context.new_page())
        tab.page.on("console", lambda message: tab.said.append(message.text))
        tab.page.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.page.on("request", lambda request: tab.asked.append(request.url))
        began = perf_counter()
        tab.page.goto(file.resolve().as_uri())
        tab.page.wait_for_selector("html[data-ready=yes]")
        tab.took = perf_counter() - began
        yield tab
