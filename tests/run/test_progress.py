"""What stands in the progress lines: money, what is waited for, and models that are begun more than once. Tables in narrow terminals."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from niah.cli.progress import LiveProgress, PlainProgress
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.hurry import hurry
from tests.report.records import record, trial
from tests.run.command import found, here, write_config


def console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=40)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


@pytest.mark.parametrize("kind", [PlainProgress, LiveProgress])
def test_a_model_that_is_begun_again_goes_on_where_it_was(kind: Callable[[Console], PlainProgress | LiveProgress]) -> None:
    """Batches of two models come in turn: each model's recall and count are those of all its answers."""
    shown = console()
    progress = kind(shown)
    progress.begin("a/one", 4, 0)
    progress.begin("b/two", 4, 1)
    for model, value in (("a/one", 1.0), ("b/two", 0.0), ("a/one", 0.0), ("a/one", 0.0), ("a/one", 0.0)):
        progress.begin(model, 4, 9)
        progress.recorded(record(value, model=model, of=trial()))
    if isinstance(progress, LiveProgress):
        shown.print(progress._render())  # pyright: ignore[reportPrivateUsage]
    progress.end()
    told = text(shown)
    assert "4/4" in told
    assert "recall 0.25" in told
    if isinstance(progress, PlainProgress):
        assert told.count("4 trials") == 2


def test_the_line_says_what_a_sweep_waits_for() -> None:
    shown = console(200)
    progress = LiveProgress(shown)
    progress.watch(lambda: "$0.12 spent, waiting 12 s: rate limit")
    progress.begin("a/one", 4, 0)
    progress.recorded(record(1.0, model="a/one"))
    shown.print(progress._render())  # pyright: ignore[reportPrivateUsage]
    progress.end()
    assert "$0.12 spent, waiting 12 s: rate limit" in text(shown)


def test_a_long_pause_is_told_in_plain_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 429 that asks for 40 s; a pause of a second is not worth a line."""
    hurry(monkeypatch, 40)
    config = write_config(folder, reshuffles=2)

    def answer(asked: Asked) -> Answer:
        asks = {4: "40", 9: "1"}.get(asked.number)
        return failure(429, retry_after=asks) if asks else completion(found(asked), delay=0.02)

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run")
    assert done.returncode == 0, done.stderr
    waits = [line for line in done.stdout.splitlines() if "waiting" in line]
    assert len(waits) == 1
    assert waits[0].startswith("server/m: waiting ")
    assert waits[0].endswith(" s: rate limit")


@pytest.mark.parametrize("backend", ["anthropic", "openai", "gemini"])
def test_the_models_fit_a_narrow_terminal(backend: str) -> None:
    """80 columns: no line is longer, and no number, date or usual name is broken in two."""
    lines = here("models", backend, COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line[:1].strip() for line in lines)
    whole = [line.split()[0] for line in lines[2:] if len(line.split()) > 2]
    assert len(whole) >= 0.75 * (len(lines) - 2)
    assert lines[0].split() == ["model", "window", "prefill", "thinking", "$/M", "in", "$/M", "out", "retires"]
