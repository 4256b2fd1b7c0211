"""A headless Chromium for tests: Debian's, driven by Playwright. Where one of them is absent, tests skip and say so.

    apt-get install -y chromium        (make browser)

Nothing may leave the page: `Watched` notes every request, every line of the console and every error of a script.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--force-color-profile=srgb",
)  # fmt: skip
SECONDS = 60
"""How long a page may take for a step: the machines that run tests are slow and busy."""


def missing() -> str:
    """What keeps the tests from a browser, "" if nothing does."""
    if not shutil.which("chromium"):
        return "no chromium here (make browser installs Debian's)"
    try:
        import playwright.sync_api  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return "no playwright here (it is in the extra niah[test])"
    return ""


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@dataclass
class Watched:
    """A page and what came of it."""

    page: Any
    requests: list[str] = field(default_factory=list[str])
    complaints: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, address: str | Path) -> Any:
        """The page at an address or in a file, when its grids are there."""
        self.page.goto(address.as_uri() if isinstance(address, Path) else address)
        self.page.wait_for_selector("td[role=gridcell]")
        return self.page


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser with a profile of its own, which is gone afterwards."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="niah-browser-", ignore_cleanup_errors=True) as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=shutil.which("chromium"),
            args=list(FLAGS),
            timeout=SECONDS * 2000,
            viewport={"width": 1280, "height": 900},
        )
        try:
            yield context
        finally:
            context.close()


def cell(tab: Any, model: str, length: int, depth: float) -> Any:
    return tab.locator(f"css=td[data-at={json.dumps(f'cell/{model}/{length}/{depth:g}')}]")


def read(tab: Any) -> dict[str, str]:
    """What each cell says to a screen reader, by what it is."""
    found = tab.evaluate(
        "[...document.querySelectorAll('td[role=gridcell]')].map((cell) => [cell.dataset.at, cell.getAttribute('aria-label')])"
    )
    return dict(found)
