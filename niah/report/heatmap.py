"""Draws recall over depth x length as people know it: one panel a series, side by side, on one colour scale from 0 to 1.

What a cell shows is never louder than what is known. Only scored trials have a colour; a cell without any is grey and
hatched; lost trials (errors, refusals, cut answers, truncated prompts, overflows) are a hatched corner with their number, planned
trials that are still missing a white one. Everything is placed in inches, so no title, however long, is cut off, and
nothing of the user's matplotlib settings enters: equal results give equal files (up to the version of matplotlib).
"""
# matplotlib ships types, but leaves keyword arguments without any, which makes most of its methods "partially unknown".
# pyright: reportUnknownMemberType=false

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from niah.report.labels import depth_labels, length_labels, lost_labels, printable, recall_label
from niah.report.lettering import INK, LINE, MARKS, NO_DATA, SEPARATOR, Line, height_of, width_of, wrap, wrapped, write_lines
from niah.report.stats import LOST, Cell, Lost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "viridis"
"""Readable with every kind of colour blindness and in grey print; cividis has a grey middle, which would look like missing data."""
LIMIT = 5_000
"""Panels with more cells than this go into the SVG as a picture: as shapes they would make a file that no viewer opens."""
DPI = 150

Detail: TypeAlias = Literal["full", "number", "none"]
MARGIN, GAP, BAR = 0.2, 0.35, 0.8
FRAME = 0.5 / 72
"""Inches of white around a cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One heatmap: its title, lines of text under the title, and its cells in any order."""

    title: str
    cells: Sequence[Cell]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of every cell of a figure: width and height in inches, and what is written into it."""

    width: float
    height: float
    detail: Detail


def draw(panels: Sequence[Panel], path_stem: Path, *, title: str = "", facts: Sequence[str] = ()) -> list[Path]:
    """Writes `path_stem`.png and .svg and returns their paths. The title of a single panel is that of the figure."""
    with drawn_alike():
        picture = figure(panels, title=title, facts=facts)
        paths = [path_stem.with_name(f"{path_stem.name}.{kind}") for kind in ("png", "svg")]
        picture.savefig(paths[0], dpi=DPI, metadata={"Software": None})
        picture.savefig(paths[1], dpi=DPI, metadata={"Date": None, "Creator": "niah"})
    return paths


def figure(panels: Sequence[Panel], *, title: str = "", facts: Sequence[str] = ()) -> "Figure":
    """The figure of `draw`, not yet written."""
    from matplotlib.figure import Figure

    with drawn_alike():
        panels, facts = [_clean(panel) for panel in panels], [printable(fact) for fact in facts]
        notes: Sequence[str] = ()
        if len(panels) == 1:
            title, notes, panels = panels[0].title, panels[0].notes, [Panel(title="", cells=panels[0].cells)]
        grids = [_Grid(panel.cells) for panel in panels]
        page = _Page(grids)
        lines = [(title, 12.5, "bold"), *((line, 8.5, "normal") for line in (*notes, SEPARATOR.join(facts)))]
        header = wrapped(lines, page.total - 2 * MARGIN)
        heads = [
            wrapped([(panel.title, 10, "bold"), *((note, 8, "normal") for note in panel.notes)], page.slots[i % page.columns])
            for i, panel in enumerate(panels)
        ]
        legend = _legend(panels, page.sizes.detail, page.total - 2 * MARGIN)
        head_heights = [max(height_of(heads[i]) for i in row) + 0.08 for row in page.rows]
        below = 0.27 + max(_ticks_height(grid, page.sizes) for grid in grids)
        text_height = height_of(header) + 0.1 + sum(head_heights) + height_of(legend)
        height = 2 * MARGIN + text_height + sum(page.heights) + len(page.rows) * (below + 0.1)

        picture = Figure(figsize=(page.total, height))
        top = height - MARGIN
        write_lines(picture, header, MARGIN, top)
        top -= height_of(header) + 0.1
        for row, head_height, row_height in zip(page.rows, head_heights, page.heights, strict=True):
            for column, i in enumerate(row):
                x, (width, tall) = page.lefts[column], page.size(grids[i])
                write_lines(picture, heads[i], x, top)
                box = (x / page.total, (top - head_height - tall) / height, width / page.total, tall / height)
                axes = picture.add_axes(box, label=f"panel-{i}")
                _draw_panel(axes, grids[i], page.sizes, labelled=page.labelled[i])
            if row.start == 0:
                x = page.lefts[-1] + page.slots[-1] + 0.1
                _draw_bar(picture, (x / page.total, (top - head_height - row_height) / height, 0.16 / page.total, row_height / height))
            top -= head_height + row_height + below + 0.1
        write_lines(picture, legend, MARGIN, top)
        return picture


class _Grid:
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


class _Page:
    """Where the panels of a figure stand: in rows of at most three. All lengths in inches."""

    def __init__(self, grids: Sequence[_Grid]):
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

    def size(self, grid: _Grid) -> tuple[float, float]:
        """Width and height of a panel's cells."""
        return len(grid.lengths) * self.sizes.width, len(grid.depths) * self.sizes.height


def _sizes(columns: int, rows: int, panels: int) -> _Sizes:
    """Cells are as large as a page wants them; their text shrinks and then goes as the grid grows."""
    wide = {1: 6.6, 2: 5.2, 3: 4.3}[panels]
    if columns <= 12 and rows <= 12:
        return _Sizes(min(max(wide / columns, 0.53), 1.05), min(max(4.4 / rows, 0.45), 0.6), "full")
    if columns <= 20 and rows <= 20:
        return _Sizes(min(max(wide / columns, 0.36), 0.6), min(max(4.8 / rows, 0.26), 0.4), "number")
    return _Sizes(min(max(wide / columns, 8 / max(columns, 40)), 0.4), min(max(4.8 / rows, 5.6 / max(rows, 35)), 0.3), "none")


def _draw_panel(axes: "Axes", grid: _Grid, sizes: _Sizes, *, labelled: bool) -> None:
    import numpy
    from matplotlib.colors import Normalize

    recalls = numpy.full((len(grid.depths), len(grid.lengths)), numpy.nan)
    for row, column, cell in grid.places():
        if cell is not None and cell.recall is not None:
            recalls[row, column] = cell.recall
    framed = sizes.detail != "none"
    axes.pcolormesh(
        recalls,
        cmap=COLOURS,
        norm=Normalize(0, 1),
        edgecolors="white" if framed else "none",
        linewidth=2 * FRAME * 72 if framed else 0,
        rasterized=recalls.size > LIMIT,
    ).set_gid("recall")
    _draw_marks(axes, grid, sizes)
    if framed:
        _draw_text(axes, grid, sizes)

    axes.set_xlim(0, len(grid.lengths))
    axes.set_ylim(len(grid.depths), 0)
    axes.tick_params(length=0, pad=4, labelsize=8, colors=INK)
    every = _every(sizes.width, _upright(grid, sizes))
    axes.set_xticks(
        [i + 0.5 for i in range(0, len(grid.lengths), every)],
        grid.length_labels[::every],
        rotation=90 if _upright(grid, sizes) else 0,
        parse_math=False,
    )
    every = _every(sizes.height, True)
    axes.set_yticks([i + 0.5 for i in range(0, len(grid.depths), every)], grid.depth_labels[::every], parse_math=False)
    axes.tick_params(labelleft=labelled)
    axes.set_ylabel("depth" if labelled else "", fontsize=9)
    axes.set_xlabel("context length (tokens)", fontsize=9, labelpad=4)
    axes.spines[:].set_visible(False)


def _draw_marks(axes: "Axes", grid: _Grid, sizes: _Sizes) -> None:
    """Grey for cells without a scored trial, and the two corners."""
    from matplotlib.collections import PolyCollection

    side = min(0.16, 0.36 * min(sizes.width, sizes.height))
    x, y = side / sizes.width, side / sizes.height
    frame_x, frame_y = (FRAME / sizes.width, FRAME / sizes.height) if sizes.detail != "none" else (0.0, 0.0)
    shapes: dict[str, list[list[tuple[float, float]]]] = {"empty": [], "lost": [], "missing": []}
    for i, j, cell in grid.places():
        left, right, top, bottom = j + frame_x, j + 1 - frame_x, i + frame_y, i + 1 - frame_y
        if cell is None or cell.recall is None:
            shapes["empty"].append([(left, top), (right, top), (right, bottom), (left, bottom)])
            continue
        if cell.lost:
            shapes["lost"].append([(right - x, top), (right, top), (right, top + y)])
        if cell.missing:
            shapes["missing"].append([(right - x, bottom), (right, bottom), (right, bottom - y)])
    large = len(grid.lengths) * len(grid.depths) > LIMIT
    for gid, outlines in shapes.items():
        if outlines:
            marks = PolyCollection(outlines, linewidths=0.5, rasterized=large, **MARKS[gid])
            marks.set_gid(gid)
            axes.add_collection(marks, autolim=False)


def _draw_text(axes: "Axes", grid: _Grid, sizes: _Sizes) -> None:
    from matplotlib import colormaps

    colour_of = colormaps[COLOURS]
    full = sizes.detail == "full"
    size = min(10.0, 15.5 * sizes.width) if full else min(8.0, 16 * sizes.width)
    small = max(0.62 * size, 5.2)
    for i, j, cell in grid.places():
        lines = _cell_lines(cell) if full else ([recall_label(cell.recall)] if cell and cell.recall is not None else [])
        scored = cell is not None and cell.recall is not None
        sizes_of = [size if scored and k == 0 else small for k in range(len(lines))]
        ink = INK
        if cell is not None and cell.recall is not None:
            red, green, blue, _ = colour_of(cell.recall)
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
        heights = [points * 1.2 / 72 / sizes.height for points in sizes_of]
        y = i + 0.5 - sum(heights) / 2
        for line, points, height in zip(lines, sizes_of, heights, strict=True):
            fitting = min(points, points * 0.94 * sizes.width / width_of(line, points))
            box = None if scored else {"facecolor": NO_DATA, "edgecolor": "none", "pad": 0.6}
            axes.text(
                j + 0.5, y + height / 2, line, fontsize=fitting, color=ink, ha="center", va="center_baseline", bbox=box, parse_math=False
            )
            y += height


def _cell_lines(cell: Cell | None) -> list[str]:
    """What is written in a cell: recall, trials behind it (of how many planned), and what was lost."""
    if cell is None:
        return ["no data"]
    lost = lost_labels(cell.lost)
    if cell.recall is None:
        rest = [f"{cell.missing} missing"] if cell.missing and lost else []
        return [*lost, *rest] or ["no data"]
    trials = f"n={cell.trials}/{cell.planned}" if cell.missing else f"n={cell.trials}"
    if len(lost) > 1:
        lost = [f"{sum(cell.lost.values())} not scored"]
    return [recall_label(cell.recall), trials, *lost]


def _draw_bar(picture: "Figure", box: tuple[float, float, float, float]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = picture.add_axes(box, label="bar")
    bar = picture.colorbar(ScalarMappable(norm=Normalize(0, 1), cmap=COLOURS), cax=axes, ticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    bar.outline.set_visible(False)
    bar.set_label("recall", fontsize=9, labelpad=4)
    axes.tick_params(length=0, pad=4, labelsize=8, colors=INK)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "0.2", "0.4", "0.6", "0.8", "1"])


def _legend(panels: Sequence[Panel], detail: Detail, width: float) -> list[Line]:
    """Explains the marks that the panels hold, with the totals of the whole figure."""
    cells = [cell for panel in panels for cell in panel.cells]
    scored = [cell for cell in cells if cell.trials]
    lost: dict[Lost, int] = {name: count for name in LOST.values() if (count := sum(cell.lost.get(name, 0) for cell in cells))}
    missing = sum(cell.missing or 0 for cell in cells)
    entries: list[tuple[str, str]] = []
    if any(cell is None or cell.recall is None for panel in panels for _, _, cell in _Grid(panel.cells).places()):
        entries.append(("empty", "no scored trial"))
    if lost:
        text = f"trials without a score, which are not counted as misses: {', '.join(lost_labels(lost))}"
        entries.append(("lost" if any(cell.lost for cell in scored) else "indent", text))
    if missing:
        entries.append(("missing" if any(cell.missing for cell in scored) else "indent", f"planned trials still missing: {missing:,}"))
    if detail != "full" and scored:
        low, high = min(cell.trials for cell in cells), max(cell.trials for cell in cells)
        entries.append(("", f"n = {low} in every cell" if low == high else f"n = {low} to {high} in a cell"))
    lines: list[Line] = []
    for swatch, text in entries:
        wrapped = wrap(text, 8, "normal", width - 0.3)
        lines += [Line(line, 8, "normal", (swatch if k == 0 else "indent") if swatch else "") for k, line in enumerate(wrapped)]
    return lines


def _upright(grid: _Grid, sizes: _Sizes) -> bool:
    return max(width_of(label, 8) for label in grid.length_labels) > 0.95 * sizes.width


def _every(cell: float, across: bool) -> int:
    """Label each cell, or each n-th where the lines of text would touch."""
    return 1 if not across or cell >= 8 * LINE else -int(-8 * LINE // cell)


def _ticks_height(grid: _Grid, sizes: _Sizes) -> float:
    return max(width_of(label, 8) for label in grid.length_labels) if _upright(grid, sizes) else 8 * LINE


def _clean(panel: Panel) -> Panel:
    """The panel with text that can be drawn."""
    return Panel(title=printable(panel.title), cells=panel.cells, notes=[printable(note) for note in panel.notes])


@contextmanager
def drawn_alike() -> Generator[None, None, None]:
    """matplotlib's own defaults, text kept as text in SVG, names in it that are the same each time."""
    from matplotlib import style

    ours = {"svg.fonttype": "none", "svg.hashsalt": "niah", "hatch.linewidth": 0.6, "font.family": ["DejaVu Sans"]}
    with style.context(["default", ours]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
