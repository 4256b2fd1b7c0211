"""Draws numbers over depth x length as people know it: one panel a series, side by side, on one colour scale.

What a cell shows is never louder than what is known. Only scored trials have a colour, and the wider a cell's interval, the smaller
the part of the cell that is coloured; a cell without any is grey and hatched; lost trials (errors, refusals, cut answers, truncated
prompts, overflows) are a hatched corner with their number, planned trials that are still missing a white one. Everything is placed in
inches, so no title, however long, is cut off, and nothing of the user's matplotlib settings enters: equal results give equal files (up
to the version of matplotlib).
"""
# matplotlib ships types, but leaves keyword arguments without any, which makes most of its methods "partially unknown".
# pyright: reportUnknownMemberType=false

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niah.report.labels import lost_labels, printable, recall_label
from niah.report.layout import FRAME, MARGIN, Detail, Grid, Page, Sizes, every
from niah.report.lettering import INK, MARKS, NO_DATA, SEPARATOR, UNSURE, Line, coloured, height_of, width_of, wrap, wrapped, write_lines
from niah.report.stats import LOST, Cell, Lost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "viridis"
"""Readable with every kind of colour blindness and in grey print; cividis has a grey middle, which would look like missing data."""
LIMIT = 5_000
"""Panels with more cells than this go into the SVG as a picture: as shapes they would make a file that no viewer opens."""
DPI = 150
KINDS = ("png", "svg", "pdf")
"""Of files that a picture can be written as."""
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": "niah"},
    "pdf": {"CreationDate": None, "Creator": "niah"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a number is shown. `colours` go from `low` to `high`; `empty`, `lost` and `missing` are what the legend says of such cells."""

    name: str
    colours: str
    low: float
    high: float
    ticks: Sequence[str]
    label: Callable[[float], str]
    outlined: bool = False
    empty: str = "no scored trial"
    lost: str = "trials without a score, which are not counted as misses"
    missing: str = "planned trials still missing"

    def part(self, value: float) -> float:
        """Where a value stands between the ends of the colours, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


RECALL = Look(name="recall", colours=COLOURS, low=0, high=1, ticks=("0", "0.2", "0.4", "0.6", "0.8", "1"), label=recall_label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One heatmap: its title, lines of text under the title, and its cells in any order."""

    title: str
    cells: Sequence[Cell]
    notes: Sequence[str] = ()


def draw(  # noqa: PLR0913
    panels: Sequence[Panel],
    path_stem: Path,
    *,
    title: str = "",
    facts: Sequence[str] = (),
    look: Look = RECALL,
    kinds: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Writes `path_stem`.png and so on, a file for each of `kinds`, and returns their paths. A single panel's title is the figure's."""
    return save(figure(panels, title=title, facts=facts, look=look), path_stem, kinds)


def save(picture: "Figure", path_stem: Path, kinds: Sequence[str]) -> list[Path]:
    """Writes a figure as files of these kinds. Equal figures give equal bytes."""
    paths = [path_stem.with_name(f"{path_stem.name}.{kind}") for kind in kinds]
    with drawn_alike():
        for kind, path in zip(kinds, paths, strict=True):
            picture.savefig(path, format=kind, dpi=DPI, metadata=_METADATA[kind])
    return paths


def figure(panels: Sequence[Panel], *, title: str = "", facts: Sequence[str] = (), look: Look = RECALL) -> "Figure":
    """The figure of `draw`, not yet written."""
    from matplotlib.figure import Figure

    with drawn_alike():
        panels, facts = [_clean(panel) for panel in panels], [printable(fact) for fact in facts]
        notes: Sequence[str] = ()
        if len(panels) == 1:
            title, notes, panels = panels[0].title, panels[0].notes, [Panel(title="", cells=panels[0].cells)]
        grids = [Grid(panel.cells) for panel in panels]
        page = Page(grids)
        lines = [(printable(title), 12.5, "bold"), *((line, 8.5, "normal") for line in (*notes, SEPARATOR.join(facts)))]
        header = wrapped(lines, page.total - 2 * MARGIN)
        heads = [
            wrapped([(panel.title, 10, "bold"), *((note, 8, "normal") for note in panel.notes)], page.slots[i % page.columns])
            for i, panel in enumerate(panels)
        ]
        legend = _legend(panels, page.sizes.detail, page.total - 2 * MARGIN, look)
        head_heights = [max(height_of(heads[i]) for i in row) + 0.08 for row in page.rows]
        below = 0.27 + max(grid.ticks_height(page.sizes) for grid in grids)
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
                _draw_panel(axes, grids[i], page.sizes, look, labelled=page.labelled[i])
            if row.start == 0:
                x = page.lefts[-1] + page.slots[-1] + 0.1
                _draw_bar(
                    picture, (x / page.total, (top - head_height - row_height) / height, 0.16 / page.total, row_height / height), look
                )
            top -= head_height + row_height + below + 0.1
        write_lines(picture, legend, MARGIN, top)
        return picture


def _draw_panel(axes: "Axes", grid: Grid, sizes: Sizes, look: Look, *, labelled: bool) -> None:
    _draw_cells(axes, grid, sizes, look)
    _draw_marks(axes, grid, sizes)
    if sizes.detail != "none":
        _draw_text(axes, grid, sizes, look)

    axes.set_xlim(0, len(grid.lengths))
    axes.set_ylim(len(grid.depths), 0)
    axes.tick_params(length=0, pad=4, labelsize=8, colors=INK)
    upright = grid.upright(sizes)
    step = every(sizes.width, upright)
    axes.set_xticks(
        [i + 0.5 for i in range(0, len(grid.lengths), step)],
        grid.length_labels[::step],
        rotation=90 if upright else 0,
        parse_math=False,
    )
    step = every(sizes.height, True)
    axes.set_yticks([i + 0.5 for i in range(0, len(grid.depths), step)], grid.depth_labels[::step], parse_math=False)
    axes.tick_params(labelleft=labelled)
    axes.set_ylabel("depth" if labelled else "", fontsize=9)
    axes.set_xlabel("context length (tokens)", fontsize=9, labelpad=4)
    axes.spines[:].set_visible(False)


def _draw_cells(axes: "Axes", grid: Grid, sizes: Sizes, look: Look) -> None:
    """The colours, each on as much of its cell as its interval leaves."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    known = [(row, column, cell) for row, column, cell in grid.places() if cell is not None and cell.recall is not None]
    large = len(grid.lengths) * len(grid.depths) > LIMIT
    outline: dict[str, Any] = {"edgecolors": "#8c8c8c", "linewidths": 0.5} if look.outlined else {"linewidths": 0}
    whole = PolyCollection([_box(row, column, sizes, 1) for row, column, _ in known], facecolors=UNSURE, linewidths=0, rasterized=large)
    part = PolyCollection(
        [_box(row, column, sizes, coloured(cell.low, cell.high)) for row, column, cell in known],
        array=[cell.recall for _, _, cell in known],
        cmap=look.colours,
        norm=Normalize(look.low, look.high),
        rasterized=large,
        **outline,
    )
    for shapes, gid in ((whole, "unsure"), (part, "value")):
        shapes.set_gid(gid)
        if known:
            axes.add_collection(shapes, autolim=False)


def _box(row: int, column: int, sizes: Sizes, part: float) -> list[tuple[float, float]]:
    """The corners of the middle of a cell, `part` of its width and height."""
    frame_x, frame_y = (FRAME / sizes.width, FRAME / sizes.height) if sizes.detail != "none" else (0.0, 0.0)
    x, y = part * (0.5 - frame_x), part * (0.5 - frame_y)
    left, right, top, bottom = column + 0.5 - x, column + 0.5 + x, row + 0.5 - y, row + 0.5 + y
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _draw_marks(axes: "Axes", grid: Grid, sizes: Sizes) -> None:
    """Grey for cells without a scored trial, and the two corners."""
    from matplotlib.collections import PolyCollection

    side = min(0.16, 0.36 * min(sizes.width, sizes.height))
    x, y = side / sizes.width, side / sizes.height
    shapes: dict[str, list[list[tuple[float, float]]]] = {"empty": [], "lost": [], "missing": []}
    for i, j, cell in grid.places():
        box = _box(i, j, sizes, 1)
        if cell is None or cell.recall is None:
            shapes["empty"].append(box)
            continue
        _, (right, top), (_, bottom), _ = box
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


def _draw_text(axes: "Axes", grid: Grid, sizes: Sizes, look: Look) -> None:
    from matplotlib import colormaps

    colour_of = colormaps[look.colours]
    full = sizes.detail == "full"
    size = min(10.0, 15.5 * sizes.width) if full else min(8.0, 16 * sizes.width)
    small = max(0.62 * size, 5.2)
    for i, j, cell in grid.places():
        lines = _cell_lines(cell, look) if full else ([look.label(cell.recall)] if cell and cell.recall is not None else [])
        scored = cell is not None and cell.recall is not None
        sizes_of = [size if scored and k == 0 else small for k in range(len(lines))]
        ink, room = INK, 1.0
        if cell is not None and cell.recall is not None:
            room = coloured(cell.low, cell.high)
            red, green, blue, _ = colour_of(look.part(cell.recall))
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
        squeezed = min(1.0, 0.96 * room * sizes.height * 72 / (1.2 * sum(sizes_of))) if lines else 1.0
        sizes_of = [squeezed * points for points in sizes_of]
        heights = [points * 1.2 / 72 / sizes.height for points in sizes_of]
        y = i + 0.5 - sum(heights) / 2
        for line, points, height in zip(lines, sizes_of, heights, strict=True):
            fitting = min(points, points * 0.94 * room * sizes.width / width_of(line, points))
            box = None if scored else {"facecolor": NO_DATA, "edgecolor": "none", "pad": 0.6}
            axes.text(
                j + 0.5, y + height / 2, line, fontsize=fitting, color=ink, ha="center", va="center_baseline", bbox=box, parse_math=False
            )
            y += height


def _cell_lines(cell: Cell | None, look: Look) -> list[str]:
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
    return [look.label(cell.recall), trials, *lost]


def _draw_bar(picture: "Figure", box: tuple[float, float, float, float], look: Look) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = picture.add_axes(box, label="bar")
    places = [look.low + (look.high - look.low) * i / (len(look.ticks) - 1) for i in range(len(look.ticks))]
    bar = picture.colorbar(ScalarMappable(norm=Normalize(look.low, look.high), cmap=look.colours), cax=axes, ticks=places)
    bar.outline.set_visible(False)
    bar.set_label(look.name, fontsize=9, labelpad=4)
    axes.tick_params(length=0, pad=4, labelsize=8, colors=INK)
    axes.set_yticks(places, look.ticks)


def _legend(panels: Sequence[Panel], detail: Detail, width: float, look: Look) -> list[Line]:
    """Explains the marks that the panels hold, with the totals of the whole figure."""
    cells = [cell for panel in panels for cell in panel.cells]
    scored = [cell for cell in cells if cell.trials]
    lost: dict[Lost, int] = {name: count for name in LOST.values() if (count := sum(cell.lost.get(name, 0) for cell in cells))}
    missing = sum(cell.missing or 0 for cell in cells)
    entries: list[tuple[str, str]] = []
    if scored:
        entries.append(("sizes", "the less of a cell is coloured, the wider its 95% interval: 0.1, 0.4 and 0.8 wide in these"))
    if any(cell is None or cell.recall is None for panel in panels for _, _, cell in Grid(panel.cells).places()):
        entries.append(("empty", look.empty))
    if lost:
        text = f"{look.lost}: {', '.join(lost_labels(lost))}"
        entries.append(("lost" if any(cell.lost for cell in scored) else "indent", text))
    if missing:
        entries.append(("missing" if any(cell.missing for cell in scored) else "indent", f"{look.missing}: {missing:,}"))
    if detail != "full" and scored:
        low, high = min(cell.trials for cell in cells), max(cell.trials for cell in cells)
        entries.append(("", f"n = {low} in every cell" if low == high else f"n = {low} to {high} in a cell"))
    lines: list[Line] = []
    for swatch, text in entries:
        wrapped = wrap(text, 8, "normal", width - (0.6 if swatch == "sizes" else 0.3))
        lines += [Line(line, 8, "normal", (swatch if k == 0 else "indent") if swatch else "") for k, line in enumerate(wrapped)]
    return lines


def _clean(panel: Panel) -> Panel:
    """The panel with text that can be drawn."""
    return replace(panel, title=printable(panel.title), notes=[printable(note) for note in panel.notes])


@contextmanager
def drawn_alike() -> Generator[None, None, None]:
    """matplotlib's own defaults, text kept as text in SVG, names in it that are the same each time."""
    from matplotlib import style

    ours = {"svg.fonttype": "none", "svg.hashsalt": "niah", "pdf.fonttype": 42, "hatch.linewidth": 0.6, "font.family": ["DejaVu Sans"]}
    with style.context(["default", ours]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
