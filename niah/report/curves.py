"""Draws how a training went: the loss, and how many needles were recalled word for word, over the tokens it has seen."""
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niah.report.heatmap import DPI, drawn_alike
from niah.report.labels import printable
from niah.report.lettering import INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#332288", "#882255")
"""Told apart with every kind of colour blindness (after Okabe and Ito)."""
_SMOOTHED_OVER = 10
"""Rows of the log in a mean."""

Points = tuple[list[float], list[float]]
"""Tokens, and what was measured there."""


def draw_curves(rows: Iterable[Mapping[str, Any]], path: Path, *, title: str = "") -> Path:
    """Writes the picture of a training's log, a PNG, and returns its path."""
    with drawn_alike():
        curves_figure(rows, title=title).savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    return path


def curves_figure(rows: Iterable[Mapping[str, Any]], *, title: str = "") -> "Figure":
    """The figure of `draw_curves`. Rows as niah/training/log.py tells them."""
    from matplotlib.figure import Figure

    loss, recalls, held_out = series(rows)
    with drawn_alike():
        picture = Figure(figsize=(7.5, 6.0), layout="constrained")
        above, below = picture.subplots(2, 1, sharex=True)
        if title:
            picture.suptitle(printable(title), fontsize=12.5, fontweight="bold", color=INK, parse_math=False)
        _line(above, loss, LINE_COLOURS[0], "loss")
        above.set_ylabel("loss (answers)", fontsize=9)
        above.set_ylim(bottom=0)
        _line(below, recalls, "#999999", "in training")
        for number, (name, points) in enumerate(held_out.items()):
            colour = LINE_COLOURS[number % len(LINE_COLOURS)]
            below.plot(*points, color=colour, marker="o", markersize=3, linewidth=1.2, label=_examination(name))
        below.set_ylabel("recalled word for word", fontsize=9)
        below.set_xlabel("tokens seen", fontsize=9)
        below.set_ylim(0, 1)
        below.legend(fontsize=8, frameon=False, loc="best")
        for axes in (above, below):
            axes.tick_params(length=0, labelsize=8, colors=INK)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
            axes.xaxis.set_major_formatter(_millions)
        return picture


def series(rows: Iterable[Mapping[str, Any]]) -> tuple[Points, Points, dict[str, Points]]:
    """Loss and recall of the training's steps, and recall of held-out needles by examination."""
    loss: Points = ([], [])
    recall: Points = ([], [])
    held_out: dict[str, Points] = {}
    for row in rows:
        tokens = float(row["tokens"])
        for points, name in ((loss, "loss"), (recall, "exact")):
            if name in row:
                points[0].append(tokens)
                points[1].append(float(row[name]))
        for name, value in row.get("held_out", {}).items():
            points = held_out.setdefault(name, ([], []))
            points[0].append(tokens)
            points[1].append(float(value))
    return loss, recall, held_out


def smoothed(values: Sequence[float], over: int = _SMOOTHED_OVER) -> list[float]:
    """The mean of each value and of those before it, `over` together."""
    return [sum(part := values[max(0, i + 1 - over) : i + 1]) / len(part) for i in range(len(values))]


def _examination(name: str) -> str:
    """ "last 512" for people."""
    place, _, tokens = name.partition(" ")
    return f"held out, question {place}, {tokens} tokens"


def _millions(tokens: float, _: object) -> str:
    return f"{tokens / 1e6:g}M"


def _line(axes: "Axes", points: Points, colour: str, label: str) -> None:
    """What was measured, faint, and its running mean."""
    axes.plot(*points, color=colour, linewidth=0.5, alpha=0.35)
    axes.plot(points[0], smoothed(points[1]), color=colour, linewidth=1.4, label=label)
    axes.yaxis.label.set_color(SOFT)
