"""Draws what the DistKV simulator compares: for each policy the longest prompt served, waits, speed and the share that lay elsewhere."""
# pyright: reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niah.report.heatmap import DPI, drawn_alike
from niah.report.labels import printable
from niah.report.lettering import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = (
    ("longest served tokens", "longest prompt served, tokens", "linear"),
    ("unserved", "requests that fit nowhere", "linear"),
    ("wait seconds, median", "wait for the first token, median, s", "log"),
    ("answer tokens per second", "answer tokens per second, all instances", "linear"),
)
_COLOUR = "#0072b2"


def draw_simulation(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> Path:
    """Writes a PNG of rows as `Outcome.row` gives them, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with drawn_alike():
        simulation_figure(rows, title=title).savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    return path


def simulation_figure(rows: Sequence[Mapping[str, Any]], *, title: str) -> "Figure":
    """The figure of `draw_simulation`."""
    from matplotlib.figure import Figure

    with drawn_alike():
        picture = Figure(figsize=(9.0, 5.5), layout="constrained")
        picture.suptitle(printable(title), fontsize=9.5, fontweight="bold", color=INK, parse_math=False)
        names = [str(row["policy"]) for row in rows]
        for axes, (key, label, scale) in zip(picture.subplots(2, 2).flat, _PANELS, strict=True):
            values = [float(row[key]) for row in rows]
            if scale == "log" and min(values) > 0 and max(values) > 10 * min(values):  # with less there is no power of ten to be labelled
                axes.set_xscale("log")
            bars = axes.barh(names, values, color=_COLOUR, height=0.6)
            axes.bar_label(bars, labels=[f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values], fontsize=8, padding=3)
            axes.margins(x=0.2)
            if not any(values):
                axes.set_xlim(0, 1)
            axes.invert_yaxis()
            axes.set_title(f"{label} (simulated)", fontsize=9, loc="left", color=INK)
            axes.tick_params(length=0, labelsize=8, colors=INK)
            axes.spines[["top", "right"]].set_visible(False)
        return picture
