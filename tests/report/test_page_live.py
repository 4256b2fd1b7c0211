"""The page that follows a running sweep, in headless Chromium."""

import threading
import urllib.request
from pathlib import Path
from typing import Any

from niah.config import load_experiment
from niah.run.serve import open_server
from tests.browser import SECONDS, Watched, cell, needs_browser
from tests.run.command import write_config
from tests.run.made import begin, lines, records

pytestmark = needs_browser


def until(tab: Any, condition: str) -> None:
    """Wait for an expression to be true, asked from outside: the page's policy forbids code in strings."""
    for _ in range(SECONDS * 10):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(100)
    raise AssertionError(condition)


def test_a_running_sweep_is_followed_without_losing_the_place(watched: Watched, folder: Path) -> None:
    """From before the first record, with a torn last line, to the end; what the reader opened stays open, and focus and text stay."""
    config = write_config(folder, models=["server/m", "server/n"])
    plan = begin(load_experiment(str(config), {}), folder / "run")
    every = list(records(plan, lambda model, asked, needle: needle.text if asked.reshuffle else "</script>nothing"))
    with open_server([folder / "run"]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        try:
            tab = watched.open(address)
            assert "Waiting for the first answer" in tab.locator("#news").inner_text()
            assert set(tab.evaluate("[...document.querySelectorAll('td[role=gridcell]')].map((cell) => cell.className)")) == {"empty"}
            text = lines(every)
            half = text[: text.index("\n", len(text) // 2) + 200]
            (folder / "run/trials.jsonl").write_text(half, encoding="utf-8")
            until(tab, f"document.getElementById('news').textContent.startsWith('{half.count(chr(10))} trials')")
            cell(tab, "server/m", 300, 0.5).click()
            tab.locator("#list tbody button").first.click()
            tab.wait_for_function(
                "document.querySelector('.text mark.needle') && document.querySelector('.text').parentElement.id === 'trial'"
            )
            before = tab.evaluate("(window.kept = document.querySelector('.answer')).innerText")
            tab.locator("#filter-corpus, #theme").first.focus()
            (folder / "run/trials.jsonl").write_text(text, encoding="utf-8")
            until(tab, "document.getElementById('news').textContent.includes('none is missing')")
            assert tab.evaluate("window.kept.isConnected && window.kept.innerText") == before
            assert tab.evaluate("document.activeElement.id") in ("filter-corpus", "theme")
            assert cell(tab, "server/n", 500, 1).get_attribute("aria-label").startswith("length 500, depth 100%, recall 0.67")
            assert {request.split("?")[0] for request in watched.requests} <= {address, f"{address}data"}
            assert watched.complaints == []
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        finally:
            server.shutdown()
            thread.join()
