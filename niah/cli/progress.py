"""How a sweep shows itself: a live grid of cells on a terminal, plain lines in CI and in files."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from niah.report.labels import depth_labels, length_labels
from niah.trial import SCORED, Record, outcome

_GRID_COLUMNS = 12
_PLAIN_SECONDS = 10.0


@dataclass(slots=True)
class Tally:
    """What has been recorded of one model in this session."""

    model: str
    total: int
    done: int
    started: float = field(default_factory=time.monotonic)
    asked: int = 0
    tokens: int = 0
    points: float = 0.0
    scored: int = 0
    failed: int = 0
    cells: dict[tuple[float, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Record) -> None:
        self.asked += 1
        self.done += 1
        self.tokens += record.tokens
        if outcome(record) in SCORED or outcome(record) == "hit":
            value = record.scores[0].value
            self.points += value
            self.scored += 1
            self.cells[record.trial.depths[0], record.trial.length].append(value)
        else:
            self.failed += 1

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-6)

    def status(self, told: str) -> str:
        """Recall so far, speed and time left, and what the run tells: money, and what it waits for."""
        recall = f"recall {self.points / self.scored:.2f}" if self.scored else "no scores yet"
        left = (self.total - self.done) * self.seconds / self.asked if self.asked else 0
        failed = f", {self.failed:,} without score" if self.failed else ""
        return f"{recall}{failed}, {self.tokens / self.seconds:,.0f} tokens/s, {_clock(left)} left" + (f", {told}" if told else "")


class PlainProgress:
    """A line every ten seconds. A model that is begun again goes on where it was."""

    def __init__(self, console: Console):
        self._console = console
        self._tally = Tally("", 0, 0)
        self._tallies: dict[str, Tally] = {}
        self._said = 0.0
        self._spending: Callable[[], str] = lambda: ""

    def watch(self, spending: Callable[[], str]) -> None:
        self._spending = spending

    def begin(self, model: str, total: int, done: int) -> None:
        known = model in self._tallies
        self._tally = self._tallies.setdefault(model, Tally(model, total, done))
        if known:
            return
        self._said = time.monotonic()
        already = f", {done:,} of them already answered" if done else ""
        self.note(f"{model}: {total:,} trials{already}")

    def recorded(self, record: Record) -> None:
        self._tally.add(record)
        finished = self._tally.done == self._tally.total
        if finished or time.monotonic() - self._said >= _PLAIN_SECONDS:
            self._said = time.monotonic()
            self.note(f"{self._tally.model}: {self._tally.done:,}/{self._tally.total:,}, {self._tally.status(self._spending())}")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Nothing is open."""


class LiveProgress:
    """A bar with speed and time left, and above it the grid of cells as it fills. A model that is begun again goes on where it was."""

    def __init__(self, console: Console):
        self._console = console
        self._tally = Tally("", 0, 0)
        self._tallies: dict[str, tuple[Tally, TaskID]] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._live: Live | None = None
        self._spending: Callable[[], str] = lambda: ""

    def watch(self, spending: Callable[[], str]) -> None:
        self._spending = spending

    def begin(self, model: str, total: int, done: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, visible=False)
        if model not in self._tallies:
            self._tallies[model] = Tally(model, total, done), self._bar.add_task(model, total=total, completed=done, status="")
        self._tally, self._task = self._tallies[model]
        self._bar.update(self._task, visible=True)
        if self._live is None:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)
            self._live.start()

    def recorded(self, record: Record) -> None:
        self._tally.add(record)
        if self._task is not None:
            self._bar.update(self._task, completed=self._tally.done)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Group | Progress:
        if self._task is not None:
            self._bar.update(self._task, status=self._tally.status(self._spending()))
        cells = dict(self._tally.cells)
        depths, lengths = sorted({depth for depth, _ in cells}), sorted({length for _, length in cells})
        if not cells or len(lengths) > _GRID_COLUMNS or len(depths) > self._console.height - 8:
            return self._bar
        grid = Table(box=None, padding=(0, 1))
        grid.add_column("depth", justify="right", style="dim")
        for label in length_labels(lengths):
            grid.add_column(label, justify="right")
        for depth, label in zip(depths, depth_labels(depths), strict=True):
            grid.add_row(label, *(_cell(cells.get((depth, length), [])) for length in lengths))
        return Group(grid, self._bar)


def _cell(values: list[float]) -> Text:
    if not values:
        return Text("·", style="dim")
    recall = sum(values) / len(values)
    return Text(f"{recall:.2f}", style="green" if recall >= 0.95 else "yellow" if recall >= 0.5 else "red")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
