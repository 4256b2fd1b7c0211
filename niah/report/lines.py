"""Draws recall by length and by depth, and what answers took by length: a line a series, with bands, on one page.

Bands of recall are 95% intervals, clustered by text and needle; those of cost, seconds, speed and memory hold the middle 80% of the
answers. Where nothing is scored a line has a gap: what is lost is told in words and is never a recall of 0.
"""
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niah.report import heatmap
from niah.report.curves import LINE_COLOURS
from niah.report.labels import depth_labels, length_labels, lost_labels, printable
from niah.report.lettering import INK, SEPARATOR, SOFT, Line, height_of, width_of, wrap, wrapped, write_lines
from niah.report.measures import KINDS, Spread, spreads
from niah.report.stats import LOST, Results, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _AXIS, _BELOW, _HEAD = 3.5, 2.2, 0.75, 0.55, 0.3
"""Inches of a panel: its plot, the room left of it, below it and above it."""
_MARGIN = 0.2
_DASHES = ("-", "--", ":", "-.")
_ALPHA = 0.18


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """One panel: for each series, by x, the ends of its band and its line; NaN where nothing is known."""

    title: str
    unit: str
    across: str
    lines: Mapping[Series, Mapping[float, Spread]]
    log: bool = True
    top: float | None = None
    labels: Callable[[Sequence[Any]], Sequence[str]] = length_labels


def draw_lines(results: Results, path_stem: Path, *, facts: Sequence[str] = (), kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Writes the page as `path_stem`.png and so on and returns the paths."""
    return heatmap.save(lines_figure(results, facts=facts), path_stem, kinds)


def lines_figure(results: Results, *, facts: Sequence[str] = ()) -> "Figure":
    """The figure of `draw_lines`, not yet written. Only panels with data are on it."""
    from matplotlib.figure import Figure

    with heatmap.drawn_alike():
        plots = _plots(results)
        columns = min(2, len(plots))
        rows = -(-len(plots) // columns)
        total = 2 * _MARGIN + columns * (_AXIS + _WIDTH) + 0.1
        header = wrapped(
            [
                ("By length and depth" if len(results.cells) != 1 else printable(next(iter(results.cells)).name), 12.5, "bold"),
                (SEPARATOR.join(map(printable, facts)), 8.5, "normal"),
                *((note, 8.5, "normal") for note in _notes(results)),
            ],
            total - 2 * _MARGIN,
        )
        legend = _legend(list(results.cells), total - 2 * _MARGIN) if len(results.cells) > 1 else []
        height = 2 * _MARGIN + height_of(header) + 0.1 + height_of([line for line, _ in legend]) + rows * (_HEAD + _HEIGHT + _BELOW)
        picture = Figure(figsize=(total, height))
        top = height - _MARGIN
        write_lines(picture, header, _MARGIN, top)
        top = _write_legend(picture, legend, top - height_of(header) - 0.05)
        for number, plot in enumerate(plots):
            x = _MARGIN + number % columns * (_AXIS + _WIDTH) + _AXIS
            y = top - (number // columns) * (_HEAD + _HEIGHT + _BELOW) - _HEAD - _HEIGHT
            axes = picture.add_axes((x / total, y / height, _WIDTH / total, _HEIGHT / height), label=plot.title)
            _draw(axes, plot, list(results.cells))
        return picture


def style_of(number: int) -> dict[str, Any]:
    """Colour and dashes of a series: the first eight by colour alone."""
    return {"color": LINE_COLOURS[number % len(LINE_COLOURS)], "linestyle": _DASHES[number // len(LINE_COLOURS) % len(_DASHES)]}


def _plots(results: Results) -> list[_Plot]:
    lengths = _Plot(title="recall by length", unit="recall", across="context length (tokens)", lines=_recalls(results, "length"), top=1.0)
    depths = _Plot(
        title="recall by depth", unit="recall", across="depth", lines=_recalls(results, "depth"), log=False, top=1.0, labels=depth_labels
    )
    made = [lengths, depths]
    for kind in KINDS:
        found = {series: spreads(measures, kind) for series, measures in results.measures.items()}
        if any(found.values()):
            made.append(_Plot(title=f"{kind.title} by length", unit=kind.unit, across="context length (tokens)", lines=found))
    return made


def _recalls(results: Results, by: str) -> dict[Series, dict[float, Spread]]:
    """By length or depth; NaN where trials were asked and none is scored, so that the line has a gap."""
    made: dict[Series, dict[float, Spread]] = {}
    for series in results.points:
        groups = results.groups(series, by)
        made[series] = {float(one.name): Spread(*(math.nan if x is None else x for x in (one.low, one.recall, one.high))) for one in groups}
    return made


def _notes(results: Results) -> list[str]:
    """What the bands are, and what is not in the lines."""
    notes = ["bands: 95% intervals of recall, clustered by text and needle; of the rest the middle 80% of the answers"]
    for series, cells in results.cells.items():
        lost = {name: count for name in LOST.values() if (count := sum(cell.lost.get(name, 0) for cell in cells))}
        missing = sum(cell.missing or 0 for cell in cells)
        told = [*lost_labels(lost), *([f"{missing:,} missing"] if missing else [])]
        if told:
            notes.append(f"not scored, and no misses{f' ({printable(series.name)})' if len(results.cells) > 1 else ''}: {', '.join(told)}")
    return notes


def _legend(series: Sequence[Series], width: float) -> list[tuple[Line, int]]:
    """A line of text each, with the number of the series whose colour stands in front of it; -1 in front of what goes on."""
    return [
        (Line(text, 8.5, swatch="indent"), number if k == 0 else -1)
        for number, one in enumerate(series)
        for k, text in enumerate(wrap(printable(one.name), 8.5, "normal", width - 0.3))
    ]


def _write_legend(picture: "Figure", legend: Sequence[tuple[Line, int]], top: float) -> float:
    """The height at which it ends."""
    from matplotlib.lines import Line2D

    for line, number in legend:
        middle = top - height_of([line]) / 2
        write_lines(picture, [line], _MARGIN, top)
        if number >= 0:
            picture.add_artist(
                Line2D([_MARGIN, _MARGIN + 0.22], [middle, middle], linewidth=1.6, transform=picture.dpi_scale_trans, **style_of(number))
            )
        top -= height_of([line])
    return top - 0.05


def _draw(axes: "Axes", plot: _Plot, order: Sequence[Series]) -> None:
    every = sorted({x for line in plot.lines.values() for x in line})
    for series, line in plot.lines.items():
        style, xs = style_of(order.index(series)), sorted(line)
        low, middle, high = ([line[x][part] for x in xs] for part in range(3))
        axes.plot(xs, middle, marker="o", markersize=3.2, linewidth=1.4, **style)
        axes.fill_between(xs, low, high, color=style["color"], alpha=_ALPHA, linewidth=0)
        axes.vlines(xs, low, high, color=style["color"], linewidth=0.6, alpha=0.6)
    if plot.log:
        axes.set_xscale("log")
        if every[-1] == every[0]:
            axes.set_xlim(every[0] / 2, every[0] * 2)
    else:
        axes.set_xlim(-0.05, 1.05)
    shown = _apart(every, plot)
    axes.set_xticks([], minor=True)
    axes.set_xticks([x for x, _ in shown], [label for _, label in shown], parse_math=False)
    axes.set_ylim(0, None if plot.top is None else plot.top * 1.03)
    axes.set_title(plot.title, fontsize=9.5, fontweight="bold", color=INK, loc="left")
    axes.set_ylabel(plot.unit, fontsize=8.5, color=SOFT)
    axes.set_xlabel(plot.across, fontsize=8.5, color=SOFT)
    axes.tick_params(which="both", length=0, labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _apart(xs: Sequence[float], plot: _Plot) -> list[tuple[float, str]]:
    """The values to label: those whose labels do not touch the one before."""
    labels = plot.labels([int(x) for x in xs] if plot.log else list(xs))
    place = math.log if plot.log else float
    span = (place(xs[-1]) - place(xs[0])) or 1.0
    shown: list[tuple[float, str]] = []
    end = -math.inf
    for x, label in zip(xs, labels, strict=True):
        middle, half = (place(x) - place(xs[0])) / span * _WIDTH * 0.9, width_of(label, 8) / 2 + 0.04
        if middle - half >= end:
            shown.append((x, label))
            end = middle + half
    return shown
