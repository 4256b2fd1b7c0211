"""Text in a figure, measured and placed in inches, so that no line is cut off however long a name is."""
# pyright: reportUnknownMemberType=false

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_DATA, INK, SOFT = "#ececec", "#1a1a1a", "#555555"
MARKS: dict[str, dict[str, Any]] = {
    "empty": {"facecolor": NO_DATA, "edgecolor": "#bdbdbd", "hatch": "////"},
    "lost": {"facecolor": "white", "edgecolor": "#333333", "hatch": "/////////"},
    "missing": {"facecolor": "white", "edgecolor": "#333333"},
}
UNSURE = "#e9e9ef"
"""Of the part of a cell that its interval takes away from the colour."""
_SHOWN_WIDTHS = (0.1, 0.4, 0.8)
SEPARATOR = " · "
LINE = 1.3 / 72
"""Inches that a line of text takes for each point of its size."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text; `swatch` is a mark to explain in front of it, "sizes" for cells of three widths, or "indent" for its place."""

    text: str
    size: float
    weight: str = "normal"
    swatch: str = ""


def coloured(low: float | None, high: float | None) -> float:
    """The part of a cell's width and height that is coloured: all of it where nothing is unsure, half where anything may be true."""
    return 1 - 0.5 * min(1.0, (high or 0.0) - (low or 0.0))


def wrapped(blocks: Sequence[tuple[str, float, str]], width: float) -> list[Line]:
    return [Line(line, size, weight) for text, size, weight in blocks if text for line in wrap(text, size, weight, width)]


def height_of(lines: Sequence[Line]) -> float:
    return sum(line.size * LINE for line in lines)


def write_lines(picture: "Figure", lines: Sequence[Line], x: float, top: float) -> None:
    from matplotlib.patches import Polygon

    for line in lines:
        middle = top - line.size * LINE / 2
        if line.swatch in MARKS:
            style: dict[str, Any] = {"transform": picture.dpi_scale_trans, "linewidth": 0.5, **MARKS[line.swatch]}
            corner = [(x, middle - 0.05), (x, middle + 0.05), (x + 0.2, middle + 0.05), (x + 0.2, middle - 0.05)]
            if line.swatch != "empty":
                corner.pop(0 if line.swatch == "lost" else 1)
            picture.add_artist(Polygon(corner, **style))
        if line.swatch == "sizes":
            _write_sizes(picture, x, middle)
        picture.text(
            x + (0.6 if line.swatch == "sizes" else 0.3 if line.swatch else 0),
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


def _write_sizes(picture: "Figure", x: float, middle: float) -> None:
    """Three cells whose intervals have the shown widths."""
    from matplotlib.patches import Rectangle

    for number, width in enumerate(_SHOWN_WIDTHS):
        for part, colour in ((1.0, UNSURE), (coloured(0, width), "#77778a")):
            side = 0.13 * part
            corner = (x + 0.16 * number + (0.13 - side) / 2, middle - side / 2)
            picture.add_artist(Rectangle(corner, side, side, facecolor=colour, edgecolor="none", transform=picture.dpi_scale_trans))


def wrap(text: str, size: float, weight: str, width: float) -> list[str]:
    """Lines no wider than `width` inches, broken where it hurts least."""

    def fits(line: str) -> bool:
        return width_of(line.strip(), size, weight) <= width

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
def width_of(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a text takes, with room for another font: SVG viewers take their own where DejaVu Sans is not installed."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        width, _, _ = RendererAgg(1, 1, 720).get_text_width_height_descent(text, FontProperties(size=size, weight=weight), ismath=False)
    return float(width) / 720 * 1.03
