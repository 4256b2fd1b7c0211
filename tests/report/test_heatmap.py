"""What the heatmap shows: the numbers handed to the plot, the text around it, and files that others can open."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from niah.report.clusters import wilson
from niah.report.heatmap import DPI, KINDS, Panel, draw, figure
from niah.report.labels import depth_labels, length_label, length_labels, recall_label
from niah.report.stats import aggregate
from niah.trial import Record
from tests.report.records import grid, plan_counts, record, trial

LENGTHS, DEPTHS = [4_000, 32_000, 1_000_000], [0.0, 0.5, 1.0]
HITS = {(4_000, 0.5): 10, (32_000, 0.0): 5, (1_000_000, 1.0): 0}


def panels(records: Sequence[Record], **options: dict) -> list[Panel]:
    return [Panel(title=series.name, cells=row) for series, row in aggregate(records, **options).cells.items()]


def known() -> list[Record]:
    return list(grid(LENGTHS, DEPTHS, lambda length, depth: HITS.get((length, depth), 20)))


def shapes(picture: Figure, gid: str, panel: int = 0) -> PolyCollection | None:
    axes = next(axes for axes in picture.axes if axes.get_label() == f"panel-{panel}")
    return next((one for one in axes.collections if one.get_gid() == gid), None)


def plotted(picture: Figure, panel: int = 0) -> numpy.ma.MaskedArray:
    """The recalls handed to the plot: one row a depth, one column a length."""
    axes = next(axes for axes in picture.axes if axes.get_label() == f"panel-{panel}")
    rows, columns = round(axes.get_ylim()[0]), round(axes.get_xlim()[1])
    found = numpy.ma.masked_all((rows, columns))
    coloured_cells = shapes(picture, "value", panel)
    if coloured_cells is not None:
        assert (coloured_cells.norm.vmin, coloured_cells.norm.vmax, coloured_cells.get_cmap().name) == (0, 1, "viridis")
        for path, value in zip(coloured_cells.get_paths(), coloured_cells.get_array(), strict=True):
            x, y = path.vertices[:4].mean(axis=0)
            found[int(y), int(x)] = value
    return found


def marks(picture: Figure, panel: int = 0) -> dict[str, int]:
    axes = next(axes for axes in picture.axes if axes.get_label() == f"panel-{panel}")
    return {str(one.get_gid()): len(one.get_paths()) for one in axes.collections if one.get_gid() not in ("value", "unsure")}


def words(picture: Figure) -> list[str]:
    """All text of the figure and its axes, tick labels included."""
    ticks = [
        label for axes in picture.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label)
    ]
    return [
        text.get_text() for text in (*picture.texts, *(text for axes in picture.axes for text in axes.texts), *ticks) if text.get_text()
    ]


def svg_text(path: Path) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_numbers_in_the_plot_are_those_of_the_records() -> None:
    picture = figure(panels(known()))
    assert plotted(picture).tolist() == [[1.0, 0.25, 1.0], [0.5, 1.0, 1.0], [1.0, 1.0, 0.0]]
    assert marks(picture) == {}
    axes = picture.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4k", "32k", "1M"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0%", "50%", "100%"]
    top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]
    assert (top, bottom) == (0, 3), "depth 0% is the upper row"
    assert words(picture).count("n=20") == 9 and {"1.00", "0.25", "0.50", "0.00", "recall"} <= set(words(picture))


def test_what_was_not_measured_never_looks_like_a_miss() -> None:
    records = [one for one in known() if (one.trial.length, one.trial.depths[0]) != (4_000, 0.0)]  # a hole in the grid
    records = [
        record(of=one.trial, error="timeout") if one.trial.length == 1_000_000 and one.trial.depths[0] == 1 else one for one in records
    ]
    picture = figure(panels(records))
    assert plotted(picture).mask.tolist() == [[True, False, False], [False, False, False], [False, False, True]]
    assert marks(picture) == {"empty": 2}
    assert {"no data", "20 errors", "no scored trial"} <= set(words(picture))
    colour_of_a_miss = matplotlib.colormaps["viridis"](0.0)
    grey = next(one for one in picture.axes[0].collections if one.get_gid() == "empty")
    assert grey.get_facecolor()[0].tolist() != pytest.approx(list(colour_of_a_miss)) and grey.get_hatch()


def test_lost_and_missing_trials_are_marked_and_counted() -> None:
    asked = [trial(reshuffle=i) for i in range(6)]
    records = [
        record(of=asked[0]),
        record(of=asked[1], error="timeout"),
        record(of=asked[2], error="server"),
        record(0, of=asked[3], stop="refusal"),
    ]
    planned = plan_counts(("server/test", one) for one in asked)
    picture = figure(panels(records, planned=planned))
    assert plotted(picture).tolist() == [[1.0]]
    assert marks(picture) == {"lost": 1, "missing": 1}
    text = " ".join(words(picture))
    for expected in ("n=1/6", "3 not scored", "not counted as misses: 2 errors, 1 refused", "planned trials still missing: 2"):
        assert expected in text
    assert "2 errors" in words(figure(panels(records[:3])))


@pytest.mark.parametrize(("hits", "trials"), [(3, 3), (2, 3), (20, 20), (10, 20), (200, 200), (100, 200), (0, 1)])
def test_the_wider_an_interval_the_smaller_the_colour(hits: int, trials: int) -> None:
    """Half the width of the interval is missing from both sides together; the whole of the cell is never coloured, nor less than half."""
    picture = figure(panels(list(grid([4_000], [0.5], lambda *_: hits, reshuffles=trials))))
    part, whole = shapes(picture, "value"), shapes(picture, "unsure")
    assert part is not None and whole is not None
    sides = [numpy.ptp(one.get_paths()[0].vertices, axis=0) for one in (part, whole)]
    low, high = wilson(hits, trials)
    assert (sides[0] / sides[1]).tolist() == pytest.approx([1 - (high - low) / 2] * 2)
    assert 0.5 <= (sides[0] / sides[1])[0] < 1
    assert any("the less of a cell is coloured, the wider its 95% interval" in text for text in words(picture))


@pytest.mark.parametrize("reshuffles", [1, 3, 20, 200])
@pytest.mark.parametrize("size", [3, 12, 15])
def test_text_stays_on_its_colour(size: int, reshuffles: int) -> None:
    records = list(
        grid([1000 * (i + 1) for i in range(size)], [i / (size - 1) for i in range(size)], lambda length, depth: 1, reshuffles=reshuffles)
    )
    records += [record(of=trial(1000, 0.0, reshuffle=500 + i), error="timeout") for i in range(12)]
    picture = figure(panels(records))
    FigureCanvasAgg(picture).draw()
    axes, coloured_cells = picture.axes[0], shapes(picture, "value")
    assert coloured_cells is not None
    boxes = [path.get_extents(axes.transData) for path in coloured_cells.get_paths()]
    for text in axes.texts:
        box = text.get_window_extent()
        x, y = axes.transData.transform(text.get_position())
        under = next(cell for cell in boxes if cell.x0 <= x <= cell.x1 and cell.y0 <= y <= cell.y1)
        assert under.x0 <= box.x0 and box.x1 <= under.x1, text.get_text()


def test_nothing_scored_at_all_still_draws() -> None:
    picture = figure(panels([record(of=trial(4000, depth), error="timeout") for depth in DEPTHS]))
    assert plotted(picture).mask.all() and words(picture).count("1 error") == 3


@pytest.mark.parametrize(("size", "texts"), [(3, 2), (12, 2), (15, 1), (30, 0)])
def test_text_in_cells_shrinks_and_goes_as_the_grid_grows(size: int, texts: int) -> None:
    records = list(
        grid([1000 * (i + 1) for i in range(size)], [i / (size - 1) for i in range(size)], lambda length, depth: 1, reshuffles=1)
    )
    picture = figure(panels(records))
    assert len(picture.axes[0].texts) == texts * size * size
    assert ("n = 1 in every cell" in words(picture)) == (texts < 2), "what the cells do not say stands below"


def test_several_series_share_one_scale_and_wrap_after_three() -> None:
    records = list(chain(*(grid(LENGTHS[: i + 1], DEPTHS, lambda length, depth: 20, model=f"server/{i}") for i in range(5))))
    picture = figure(panels(records), title="five")
    found = [axes for axes in picture.axes if str(axes.get_label()).startswith("panel")]
    tops = [round(axes.get_position().y1, 6) for axes in found]
    assert len(found) == 5 and len(set(tops[:3])) == 1 and len(set(tops[3:])) == 1 and tops[3] < tops[0]
    assert sum(axes.get_label() == "bar" for axes in picture.axes) == 1
    assert [plotted(picture, i).shape for i in range(5)] == [(3, 1), (3, 2), (3, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize(
    "name",
    [
        "server/" + "W" * 100,
        "server/organisation/A-Very-Long-Model-Name-70B-Instruct-v0.3-AWQ-int4-1M-context " * 3,
        "a b " * 60,
        "模型" * 40,
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_no_text_leaves_the_page(name: str, count: int, recwarn: pytest.WarningsRecorder) -> None:
    records = [record(of=one.trial, model=name + "!" * i, error="x" if i else None) for i in range(count) for one in known()[::20]]
    picture = figure(panels(records), title="title " * 60, facts=["fact " * 20, "corpora " + "x" * 200])
    FigureCanvasAgg(picture).draw()
    width, height = picture.bbox.size
    for text in (
        *picture.texts,
        *(
            text
            for axes in picture.axes
            for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label)
        ),
    ):
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    if count == 1:
        title = "".join(text.get_text() for text in picture.texts if text.get_fontweight() == "bold")
        assert title.replace(" ", "") == name.replace(" ", "")


def test_a_single_cell_leaves_room_for_its_axis_and_the_colour_bar() -> None:
    picture = figure(panels([record(1.0), record(of=trial(reshuffle=1), error="timeout")]))
    FigureCanvasAgg(picture).draw()
    panel, bar = picture.axes
    legend = next(text for text in picture.texts if "not counted as misses" in text.get_text()).get_window_extent()
    assert panel.xaxis.label.get_window_extent().x1 < bar.get_window_extent().x0
    assert panel.xaxis.label.get_window_extent().y0 > legend.y1 and bar.get_window_extent().y0 > legend.y1


def test_files_open_and_hold_what_was_drawn(tmp_path: Path) -> None:
    paths = draw(panels(known()), tmp_path / "heatmap.v1", facts=["30 needles", "corpora builtin/legal"])
    assert [path.name for path in paths] == ["heatmap.v1.png", "heatmap.v1.svg"]
    with Image.open(paths[0]) as image:
        image.load()
        assert image.format == "PNG" and [round(side) for side in image.info["dpi"]] == [DPI, DPI]
        inches = figure(panels(known()), facts=["30 needles", "corpora builtin/legal"]).get_size_inches()
        assert image.size == pytest.approx(tuple(inches * DPI), abs=1)
        assert image.size[0] > 600 and image.size[1] > 300
    text = svg_text(paths[1])
    assert {"server/test", "30 needles · corpora builtin/legal", "4k", "32k", "1M", "0%", "100%", "0.25", "n=20", "recall"} <= set(text)


@pytest.mark.parametrize(
    "name", ['a/"quoted" <&> it\'s', "$x^2$ \\frac", "模型/é-ß", "--> ]]> \x00\x1b[1m\n\ttail\ufffe", "lone \udce9 surrogate"]
)
def test_any_name_makes_a_valid_svg(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    _, svg = draw(panels([record(model=name)]), tmp_path / "heatmap")
    shown = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(name.split()))
    assert shown in svg_text(svg)
    assert not recwarn.list


def test_equal_results_make_equal_files_whatever_the_users_settings(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in draw(panels(known()), tmp_path / "one", kinds=KINDS)]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path", "savefig.bbox": "tight"}):
        second = [path.read_bytes() for path in draw(panels(known()), tmp_path / "two", kinds=KINDS)]
    assert first == second
    assert first[2].startswith(b"%PDF") and b"CreationDate" not in first[2]
    assert b"<dc:date>" not in first[1]


@pytest.mark.parametrize(
    ("length", "label"),
    [
        *((200, "200"), (1_000, "1k"), (1_500, "1.5k"), (4_096, "4.1k"), (32_000, "32k"), (128_000, "128k"), (131_072, "131k")),
        *((999_900, "1M"), (1_000_000, "1M"), (1_048_576, "1.05M"), (2_500_000, "2.5M")),
    ],
)
def test_lengths_read_as_people_write_them(length: int, label: str) -> None:
    assert length_label(length) == label


@given(st.lists(st.integers(1, 3_000_000), unique=True, max_size=20))
def test_labels_of_lengths_differ(lengths: list[int]) -> None:
    assert len(set(length_labels(lengths))) == len(lengths)


@given(st.lists(st.floats(0, 1).map(lambda depth: round(depth, 6)), unique=True, max_size=20))
def test_labels_of_depths_differ_and_are_right(depths: list[float]) -> None:
    labels = depth_labels(depths)
    assert len(set(labels)) == len(depths)
    assert [float(label.rstrip("%")) for label in labels] == pytest.approx([100 * depth for depth in depths], abs=0.0501)


def test_depths_are_percent_with_as_few_decimals_as_will_do() -> None:
    assert depth_labels([0, 0.1, 0.5, 1]) == ["0%", "10%", "50%", "100%"]
    assert depth_labels([0, 1 / 3, 1]) == ["0%", "33.3%", "100%"]
    assert depth_labels([0.125, 0.12504]) == ["12.5%", "12.504%"]


@given(st.floats(0, 1))
def test_only_a_perfect_recall_reads_one_and_only_none_zero(recall: float) -> None:
    assert (recall_label(recall) == "1.00") == (recall == 1)
    assert (recall_label(recall) == "0.00") == (recall == 0)
    assert float(recall_label(recall).strip("<>")) == pytest.approx(recall, abs=0.011)


def test_a_recall_is_never_rounded_to_perfect() -> None:
    assert [recall_label(one) for one in (0.0, 0.002, 0.954, 0.996, 1.0)] == ["0.00", "<0.01", "0.95", ">0.99", "1.00"]
    assert recall_label(0.9997, 3) == ">0.999"
