"""Where the cells and panels of a heatmap stand on its page. Everything is in inches, so that no label is cut off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from niah.report.labels import depth_labels, length_labels
from niah.report.lettering import LINE, width_of
from niah.report.stats import Cell

Detail: TypeAlias = Literal["full", "number", "none"]
MARGIN, GAP, BAR = 0.2, 0.35, 0.8
FRAME = 0.5 / 72
"""White around a cell."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of every cell of a figure: width and height, and what is written into it."""

    width: float
    height: float
    detail: Detail


class Grid:
    """The cells of a panel by row (depth) and column (length)."""

    def __init__(self, cells: Sequence[Cell]):
        self.lengths = sorted({cell.length for cell in cells})
        self.depths = sorted({cell.depth for cell in cells})
        self.length_labels = length_labels(self.lengths)
        self.depth_labels = depth_labels(self.depths)
        column = {length: i for i, length in enumerate(self.lengths)}
        row = {depth: i for i, depth in enumerate(self.depths)}
        self.at = {(row[cell.depth], column[cell.length]): cell for cell in cells}

    def places(self) -> Iterator[tuple[int, int, Cell | None]]:
        for row in range(len(self.depths)):
            for column in range(len(self.lengths)):
                yield row, column, self.at.get((row, column))

    def upright(self, sizes: Sizes) -> bool:
        """Whether the labels of lengths have to stand on end."""
        return max(width_of(label, 8) for label in self.length_labels) > 0.95 * sizes.width

    def ticks_height(self, sizes: Sizes) -> float:
        return max(width_of(label, 8) for label in self.length_labels) if self.upright(sizes) else 8 * LINE


class Page:
    """Where the panels of a figure stand: in rows of at most three."""

    def __init__(self, grids: Sequence[Grid]):
        self.columns = len(grids) if len(grids) <= 3 else 2 if len(grids) == 4 else 3
        self.sizes = _sizes(max(len(grid.lengths) for grid in grids), max(len(grid.depths) for grid in grids), self.columns)
        self.rows = [range(start, min(start + self.columns, len(grids))) for start in range(0, len(grids), self.columns)]
        self.heights = [max(0.8, *(self.size(grids[i])[1] for i in row)) for row in self.rows]
        self.labelled = [i % self.columns == 0 or grid.depths != grids[i - 1].depths for i, grid in enumerate(grids)]
        self.slots: list[float] = []
        self.lefts: list[float] = []
        x = MARGIN
        for column in range(self.columns):
            members = range(column, len(grids), self.columns)
            axis = max((0.14 + max(width_of(label, 8) for label in grids[i].depth_labels) for i in members if self.labelled[i]), default=0)
            x += axis + (0.22 if column == 0 else 0)
            self.lefts.append(x)
            self.slots.append(max(2.3 if len(grids) > 1 else 1.6, *(self.size(grids[i])[0] for i in members)))
            x += self.slots[-1] + GAP
        self.total = max(x - GAP + MARGIN + BAR, 5.2)

    def size(self, grid: Grid) -> tuple[float, float]:
        """Width and height of a panel's cells."""
        return len(grid.lengths) * self.sizes.width, len(grid.depths) * self.sizes.height


def every(cell: float, across: bool) -> int:
    """Label each cell, or each n-th where the lines of text would touch."""
    return 1 if not across or cell >= 8 * LINE else -int(-8 * LINE // cell)


def _sizes(columns: int, rows: int, panels: int) -> Sizes:
    """Cells are as large as a page wants them; their text shrinks and then goes as the grid grows."""
    wide = {1: 6.6, 2: 5.2, 3: 4.3}[panels]
    if columns <= 12 and rows <= 12:
        return Sizes(min(max(wide / columns, 0.53), 1.05), min(max(4.4 / rows, 0.45), 0.6), "full")
    if columns <= 20 and rows <= 20:
        return Sizes(min(max(wide / columns, 0.36), 0.6), min(max(4.8 / rows, 0.26), 0.4), "number")
    return Sizes(min(max(wide / columns, 8 / max(columns, 40)), 0.4), min(max(4.8 / rows, 5.6 / max(rows, 35)), 0.3), "none")
