"""Draws recall over depth x length as people know it: one panel a series, side by side, on one colour scale from 0 to 1.

What a cell shows is never louder than what is known. Only scored trials have a colour; a cell without any is grey and
hatched; lost trials (errors, refusals, cut answers, truncated prompts) are a hatched corner with their number, planned
trials that are still missing a white one. Everything is placed in inches, so no title, however long, is cut off, and
nothing of the user's matplotlib settings enters: equal results give equal files (up to the version of matplotlib).
"""
# matplotlib ships types, but leaves keyword arguments without any, which makes most of its methods "partially unknown".
# pyright: reportUnknownMemberType=false

import re
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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
NO_DATA, INK, SOFT = "#ececec", "#1a1a1a", "#555555"
MARKS: dict[str, dict[str, Any]] = {
    "empty": {"facecolor": NO_DATA, "edgecolor": "#bdbdbd", "hatch": "////"},
    "lost": {"facecolor": "white", "edgecolor": "#333333", "hatch": "/////////"},
    "missing": {"facecolor": "white", "edgecolor": "#333333"},
}
MARGIN, GAP, BAR = 0.2, 0.35, 0.8
FRAME = 0.5 / 72
"""Inches of white around a cell."""
SEPARATOR = " · "
LINE = 1.3 / 72
"""Inches that a line of text takes for each point of its size."""


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
    with _style():
        picture = figure(panels, title=title, facts=facts)
        paths = [path_stem.with_name(f"{path_stem.name}.{kind}") for kind in ("png", "svg")]
        picture.savefig(paths[0], dpi=DPI, metadata={"Software": None})
        picture.savefig(paths[1], dpi=DPI, metadata={"Date": None, "Creator": "niah"})
    return paths


def length_label(length: int, digits: int = 3) -> str:
    """4000 as "4k", 1500 as "1.5k", 1000000 as "1M"."""
    rounded = float(f"{length:.{digits}g}")
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if rounded >= unit:
            return f"{rounded / unit:.{digits}g}{name}"
    return f"{rounded:.{digits}g}"


def length_labels(lengths: Sequence[int]) -> list[str]:
    """Labels of different lengths, with as many digits as it takes to tell them apart."""
    return next(labels for digits in range(3, 20) if len(set(labels := [length_label(n, digits) for n in lengths])) == len(lengths))


def depth_labels(depths: Sequence[float]) -> list[str]:
    """Fractions as percent, with as many decimals as it takes to tell them apart and to be right to 0.05 percent."""
    decimals = 0
    while decimals < 12 and (
        len({round(100 * depth, decimals) for depth in depths}) < len(depths)
        or any(abs(round(100 * depth, decimals) - 100 * depth) > 0.05 for depth in depths)
    ):
        decimals += 1
    return [f"{round(100 * depth, decimals):.12g}%" for depth in depths]


def recall_label(recall: float, decimals: int = 2) -> str:
    """A recall for people; 1.00 means that nothing was missed, and 0.00 that all was: what only rounds to them is ">0.99", "<0.01"."""
    step = 10**-decimals
    label = f"{recall:.{decimals}f}"
    if recall < 1 and float(label) == 1:
        return f">{1 - step:.{decimals}f}"
    if recall > 0 and float(label) == 0:
        return f"<{step:.{decimals}f}"
    return label


def lost_labels(lost: Mapping[Lost, int]) -> list[str]:
    """ "1 error", "3 refused" ..."""
    return [f"{count:,} {'error' if name == 'errors' and count == 1 else name}" for name, count in lost.items()]


def figure(panels: Sequence[Panel], *, title: str = "", facts: Sequence[str] = ()) -> "Figure":
    """The figure of `draw`, not yet written."""
    from matplotlib.figure import Figure

    with _style():
        panels, facts = [_clean(panel) for panel in panels], [printable(fact) for fact in facts]
        notes: Sequence[str] = ()
        if len(panels) == 1:
            title, notes, panels = panels[0].title, panels[0].notes, [Panel(title="", cells=panels[0].cells)]
        grids = [_Grid(panel.cells) for panel in panels]
        page = _Page(grids)
        lines = [(title, 12.5, "bold"), *((line, 8.5, "normal") for line in (*notes, SEPARATOR.join(facts)))]
        header = _wrapped(lines, page.total - 2 * MARGIN)
        heads = [
            _wrapped([(panel.title, 10, "bold"), *((note, 8, "normal") for note in panel.notes)], page.slots[i % page.columns])
            for i, panel in enumerate(panels)
        ]
        legend = _legend(panels, page.sizes.detail, page.total - 2 * MARGIN)
        head_heights = [max(_height(heads[i]) for i in row) + 0.08 for row in page.rows]
        below = 0.27 + max(_ticks_height(grid, page.sizes) for grid in grids)
        height = (
            2 * MARGIN + _height(header) + 0.1 + sum(head_heights) + sum(page.heights) + len(page.rows) * (below + 0.1) + _height(legend)
        )

        picture = Figure(figsize=(page.total, height))
        top = height - MARGIN
        _write_lines(picture, header, MARGIN, top)
        top -= _height(header) + 0.1
        for row, head_height, row_height in zip(page.rows, head_heights, page.heights, strict=True):
            for column, i in enumerate(row):
                x, (width, tall) = page.lefts[column], page.size(grids[i])
                _write_lines(picture, heads[i], x, top)
                box = (x / page.total, (top - head_height - tall) / height, width / page.total, tall / height)
                axes = picture.add_axes(box, label=f"panel-{i}")
                _draw_panel(axes, grids[i], page.sizes, labelled=page.labelled[i])
            if row.start == 0:
                x = page.lefts[-1] + page.slots[-1] + 0.1
                _draw_bar(picture, (x / page.total, (top - head_height - row_height) / height, 0.16 / page.total, row_height / height))
            top -= head_height + row_height + below + 0.1
        _write_lines(picture, legend, MARGIN, top)
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
            axis = max((0.14 + max(_width(label, 8) for label in grids[i].depth_labels) for i in members if self.labelled[i]), default=0)
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
            fitting = min(points, points * 0.94 * sizes.width / _width(line, points))
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


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of text; `swatch` is a mark to explain in front of it, or "indent" for its place."""

    text: str
    size: float
    weight: str = "normal"
    swatch: str = ""


def _legend(panels: Sequence[Panel], detail: Detail, width: float) -> list[_Line]:
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
    lines: list[_Line] = []
    for swatch, text in entries:
        wrapped = _wrap(text, 8, "normal", width - 0.3)
        lines += [_Line(line, 8, "normal", (swatch if k == 0 else "indent") if swatch else "") for k, line in enumerate(wrapped)]
    return lines


def _wrapped(blocks: Sequence[tuple[str, float, str]], width: float) -> list[_Line]:
    return [_Line(line, size, weight) for text, size, weight in blocks if text for line in _wrap(text, size, weight, width)]


def _height(lines: Sequence[_Line]) -> float:
    return sum(line.size * LINE for line in lines)


def _write_lines(picture: "Figure", lines: Sequence[_Line], x: float, top: float) -> None:
    from matplotlib.patches import Polygon

    for line in lines:
        middle = top - line.size * LINE / 2
        if line.swatch in MARKS:
            style: dict[str, Any] = {"transform": picture.dpi_scale_trans, "linewidth": 0.5, **MARKS[line.swatch]}
            corner = [(x, middle - 0.05), (x, middle + 0.05), (x + 0.2, middle + 0.05), (x + 0.2, middle - 0.05)]
            if line.swatch != "empty":
                corner.pop(0 if line.swatch == "lost" else 1)
            picture.add_artist(Polygon(corner, **style))
        picture.text(
            x + (0.3 if line.swatch else 0),
            middle,
            line.text,
            fontsize=line.size,
            fontweight=line.weight,
            color=INK if line.weight == "bold" else SOFT,
            va="center",
            transform=picture.dpi_scale_trans,
            parse_math=False,
        )
        top -= line.size * LINE


def _wrap(text: str, size: float, weight: str, width: float) -> list[str]:
    """Lines no wider than `width` inches, broken where it hurts least."""

    def fits(line: str) -> bool:
        return _width(line.strip(), size, weight) <= width

    lines = [""]
    for piece in _pieces(text, fits):
        if lines[-1] and not fits(lines[-1] + piece):
            lines.append("")
        lines[-1] += piece
    return [line.strip().removesuffix(SEPARATOR.rstrip()) for line in lines]


def _pieces(text: str, fits: Callable[[str], bool], breaks: Sequence[str] = ("·", r"\s", "-/_,")) -> Iterator[str]:
    """The text in pieces that fit: between facts if that will do, or else words, parts of words, characters."""
    if not breaks:
        yield from text
        return
    for piece in re.findall(f"[^{breaks[0]}]*[{breaks[0]}]+\\s*|[^{breaks[0]}]+", text):
        if fits(piece):
            yield piece
        else:
            yield from _pieces(piece, fits, breaks[1:])


@lru_cache(maxsize=4096)
def _width(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a text takes, with room for another font: SVG viewers take their own where DejaVu Sans is not installed."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        width, _, _ = RendererAgg(1, 1, 720).get_text_width_height_descent(text, FontProperties(size=size, weight=weight), ismath=False)
    return float(width) / 720 * 1.03


def _upright(grid: _Grid, sizes: _Sizes) -> bool:
    return max(_width(label, 8) for label in grid.length_labels) > 0.95 * sizes.width


def _every(cell: float, across: bool) -> int:
    """Label each cell, or each n-th where the lines of text would touch."""
    return 1 if not across or cell >= 8 * LINE else -int(-8 * LINE // cell)


def _ticks_height(grid: _Grid, sizes: _Sizes) -> float:
    return max(_width(label, 8) for label in grid.length_labels) if _upright(grid, sizes) else 8 * LINE


def _clean(panel: Panel) -> Panel:
    """The panel with text that can be drawn."""
    return Panel(title=printable(panel.title), cells=panel.cells, notes=[printable(note) for note in panel.notes])


def printable(text: str) -> str:
    """One line without what a terminal would obey, XML cannot hold or UTF-8 cannot write."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


@contextmanager
def _style() -> Generator[None, None, None]:
    """matplotlib's own defaults, text kept as text in SVG, names in it that are the same each time."""
    from matplotlib import style

    ours = {"svg.fonttype": "none", "svg.hashsalt": "niah", "hatch.linewidth": 0.6, "font.family": ["DejaVu Sans"]}
    with style.context(["default", ours]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
