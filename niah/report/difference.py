"""The difference of two series as a heatmap: candidate minus base in each cell, over the trials that both were asked.

The interval of a cell is Tango's at 95%, with its pairs as independent, as a cell's trials are in a heatmap of recall. Colours are
centred at 0: red is worse and blue better, told apart with every kind of colour blindness. A cell without a pair has no colour.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from niah.report.clusters import student, tango
from niah.report.heatmap import Look, Panel, draw
from niah.report.points import Point
from niah.report.stats import LOST, Cell

Pair: TypeAlias = tuple[Point, Point]
LEAST = 0.1
"""The colours reach at least so far, so that one trial in a hundred does not look like a disaster."""
_STEPS = 4


def draw_difference(  # noqa: PLR0913
    base: Sequence[Point],
    candidate: Sequence[Point],
    pairs: Iterable[Pair],
    path_stem: Path,
    *,
    names: tuple[str, str],
    note: str = "",
    facts: Sequence[str] = (),
    kinds: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Writes the picture and returns its paths. `pairs` are those of `base` and `candidate` that belong together, scored or not."""
    cells = difference_cells(base, candidate, pairs)
    notes = [f"base: {names[0]}", f"candidate: {names[1]}", *filter(None, [note])]
    panel = Panel(title="Difference in recall: candidate minus base", cells=cells, notes=notes)
    return draw([panel], path_stem, facts=facts, look=look(cells), kinds=kinds)


def same_trials(base: Iterable[Point], candidate: Iterable[Point]) -> list[Pair]:
    """Points of two series that are the same trial: by key, or, where none is, the same but for the cue."""
    base, candidate = list(base), list(candidate)
    ours = {point.key: point for point in candidate}
    places = {point.place: point for point in candidate}
    return [(point, ours[point.key]) for point in base if point.key in ours] or [
        (point, places[point.place]) for point in base if point.place in places
    ]


def difference_cells(base: Iterable[Point], candidate: Iterable[Point], pairs: Iterable[Pair]) -> list[Cell]:
    """A cell for each that either side has: `recall` is the mean paired difference in [-1, 1], `trials` are pairs scored on both sides.

    What is lost on either side is a lost pair; trials that one side alone was asked are missing ones.
    """
    asked = [Counter((point.length, point.depth) for point in side) for side in (base, candidate)]
    matched: dict[tuple[int, float], list[Pair]] = {}
    for pair in pairs:
        matched.setdefault((pair[0].length, pair[0].depth), []).append(pair)
    return [_cell(place, matched.get(place, []), max(side[place] for side in asked)) for place in sorted(asked[0] | asked[1])]


def look(cells: Iterable[Cell]) -> Look:
    """Colours from -x to x, the same for better and worse."""
    most = max((abs(cell.recall) for cell in cells if cell.recall is not None), default=0.0)
    end = max(LEAST, math.ceil(most * 10 - 1e-9) / 10)
    return Look(
        name="difference in recall",
        colours="RdBu",
        low=-end,
        high=end,
        ticks=[_signed(end * step / _STEPS * 2 - end) for step in range(_STEPS + 1)],
        label=_signed,
        outlined=True,
        empty="no trial is scored on both sides",
        lost="pairs without a score on one side, which are no difference",
        missing="trials that only one side has",
    )


def _cell(place: tuple[int, float], pairs: Sequence[Pair], asked: int) -> Cell:
    values = [candidate.value - base.value for base, candidate in pairs if base.scored and candidate.scored]
    unscored = [next((str(point.outcome) for point in pair if not point.scored), "") for pair in pairs]
    lost = Counter(LOST[outcome] for outcome in unscored if outcome in LOST)
    trials, total = len(values), math.fsum(values)
    up, down = math.fsum(value for value in values if value > 0), -math.fsum(value for value in values if value < 0)
    low, high = tango(up, down, trials, student(0.975, None)) if trials else (None, None)
    return Cell(
        length=place[0],
        depth=place[1],
        trials=trials,
        points=total,
        recall=total / trials if trials else None,
        low=low,
        high=high,
        planned=asked,
        **lost,
    )


def _signed(value: float) -> str:
    """With a true minus, and no sign where it rounds to nothing."""
    label = f"{value:+.2f}".replace("-", "−")
    return label if abs(value) >= 0.005 else "0.00"
