"""Curves, differences, corpora and breakdowns: what they show is what the statistics say, and only what there is."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from niah.errors import UsageError
from niah.report import heatmap, pictures
from niah.report.breakdowns import check_by, full_table, short_tables
from niah.report.clusters import difference
from niah.report.difference import difference_cells, look, same_trials
from niah.report.lines import lines_figure
from niah.report.measures import KINDS, measure, spreads
from niah.report.points import Point
from niah.report.stats import Gathering, Results, aggregate, breakdown
from niah.report.write import write_results
from niah.trial import Record, Usage
from tests.report.records import grid, plan_counts, record, trial

LENGTHS, DEPTHS = [4_000, 32_000], [0.0, 0.5, 1.0]


def two(**options: object) -> list[Record]:
    """`base` finds all; `weak` loses half at 32k, where an answer at depth 0 is an error and the last depth was not asked at all."""
    weak = [
        record(of=one.trial, model="b/weak", error="timeout") if one.trial.reshuffle == 0 and one.trial.length > 4_000 else one
        for one in grid(LENGTHS, DEPTHS, lambda length, _: 5 if length > 4_000 else 10, reshuffles=10, model="b/weak", **options)
        if (one.trial.length, one.trial.depths[0]) != (32_000, 1.0)
    ]
    return [*grid(LENGTHS, DEPTHS, lambda *_: 10, reshuffles=10, model="a/base", **options), *weak]


def points_of(results: Results) -> list[Sequence[Point]]:
    return list(results.points.values())


def axes_of(picture: Figure) -> dict[str, object]:
    return {str(axes.get_label()): axes for axes in picture.axes}


def shown(*tables: object, width: int = 120) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(*tables)
    return capture.get()


# the difference


def test_a_cell_is_the_paired_difference_and_what_is_lost_is_none() -> None:
    base, weak = points_of(aggregate(two()))
    cells = {(cell.length, cell.depth): cell for cell in difference_cells(base, weak, same_trials(base, weak))}
    assert len(cells) == 6
    assert (cells[4_000, 0.0].recall, cells[4_000, 0.0].trials, cells[4_000, 0.0].lost) == (0.0, 10, {})
    lost = cells[32_000, 0.5]
    assert (lost.trials, lost.lost, lost.missing) == (9, {"errors": 1}, 0)
    assert lost.recall == pytest.approx(-5 / 9), "the errors' pair is no difference"
    alone = cells[32_000, 1.0]
    assert (alone.recall, alone.trials, alone.missing) == (None, 0, 10), "what one side alone was asked has no colour"


def test_pooled_cells_are_the_difference_that_compare_prints() -> None:
    base, weak = points_of(aggregate(two()))
    pairs = same_trials(base, weak)
    scored = [(b, c) for b, c in pairs if b.scored and c.scored]
    found = difference([c.value - b.value for b, c in scored], [b.text for b, _ in scored], [b.needle for b, _ in scored])
    assert found is not None
    cells = difference_cells(base, weak, pairs)
    assert math.fsum(cell.points for cell in cells) / sum(cell.trials for cell in cells) == pytest.approx(found.mean)
    assert f"−{-found.mean:.3f}" in pictures.difference_note(pairs) and f"{found.trials} pairs" in pictures.difference_note(pairs)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=12))
def test_sides_that_change_places_change_the_sign(values: list[tuple[float, float]]) -> None:
    sides = [points_of(aggregate(record(pair[side], of=trial(reshuffle=i)) for i, pair in enumerate(values)))[0] for side in (0, 1)]
    there, back = (difference_cells(*pair, same_trials(*pair))[0] for pair in (sides, sides[::-1]))
    assert there.recall is not None and there.low is not None and there.high is not None and back.low is not None
    assert there.recall == pytest.approx(-(back.recall or 0))
    assert there.low == pytest.approx(-(back.high or 0), abs=1e-9)
    assert -1 <= there.low <= there.recall + 1e-9 and there.recall - 1e-9 <= there.high <= 1


def test_colours_are_centred_at_nothing_and_never_louder_than_a_tenth() -> None:
    base, weak = points_of(aggregate(two()))
    cells = difference_cells(base, weak, same_trials(base, weak))
    assert (look(cells).low, look(cells).high) == (-0.6, 0.6) and look(cells).part(0) == 0.5
    same = difference_cells(base, base, same_trials(base, base))
    assert (look(same).low, look(same).high, look(same).ticks[2]) == (-0.1, 0.1, "0.00")
    picture = heatmap.figure([heatmap.Panel(title="difference", cells=cells)], look=look(cells))
    shapes = {one.get_gid(): one for one in picture.axes[0].collections}
    assert len(shapes["value"].get_paths()) == 5 and len(shapes["empty"].get_paths()) == 1
    assert shapes["value"].get_cmap().name == "RdBu" and len(shapes["lost"].get_paths()) == 2
    told = " ".join(text.get_text() for text in (*picture.texts, *picture.axes[0].texts))
    for words in (
        "−0.56",
        "n=9",
        "1 error",
        "no trial is scored on both sides",
        "which are no difference: 2 errors",
        "only one side has: 10",
    ):
        assert words in told


def test_another_cue_is_paired_by_place_and_says_so(tmp_path: Path) -> None:
    records = [*grid([4_000], DEPTHS, lambda *_: 5, reshuffles=5), *grid([4_000], DEPTHS, lambda *_: 4, reshuffles=5, cue="user")]
    results = aggregate(records)
    assert len(same_trials(*points_of(results))) == 15
    pictures.others(results, tmp_path, [], ["svg"])
    assert "asked with different cues" in (tmp_path / "difference.svg").read_text(encoding="utf-8")


def test_without_a_common_trial_there_is_no_difference_to_draw(tmp_path: Path) -> None:
    records = [record(model="a/a"), record(model="b/b", of=trial(9_000, 0.1, reshuffle=7))]
    assert {path.name for path in pictures.others(aggregate(records), tmp_path, [], ["svg"])} == {"curves.svg"}


# what is drawn


def test_only_pictures_with_something_to_show_are_made(tmp_path: Path) -> None:
    corpora = ("builtin/legal", "builtin/medical")
    made = {path.name for path in write_results(aggregate(two(corpora=corpora)), tmp_path, kinds=["svg"], all_pictures=True).files}
    names = {"heatmap", "heatmap-a-base", "heatmap-b-weak", "corpora-a-base", "corpora-b-weak", "difference", "curves"}
    assert made == {f"{name}.svg" for name in names} | {"cells.csv", "summary.json"}
    alone = {path.name for path in write_results(aggregate([record()]), tmp_path / "one", kinds=["svg"], all_pictures=True).files}
    assert alone == {"heatmap.svg", "curves.svg", "cells.csv", "summary.json"}


def test_pictures_that_are_there_are_drawn_anew_with_the_others(tmp_path: Path) -> None:
    write_results(aggregate([record(0.0)]), tmp_path, kinds=["svg"], all_pictures=True)
    before = (tmp_path / "curves.svg").read_bytes()
    made = write_results(aggregate([record(0.0), record(1.0, of=trial(reshuffle=1))]), tmp_path, kinds=["svg"])
    assert tmp_path / "curves.svg" in made.files and (tmp_path / "curves.svg").read_bytes() != before


def test_every_kind_of_file_is_made_and_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    """Of the curves and the difference; heatmaps are held by tests/report/test_heatmap.py."""
    files: list[list[Path]] = []
    for name, records in (("one", two()), ("two", two()[::-1])):
        (tmp_path / name).mkdir()
        files.append(pictures.others(aggregate(records), tmp_path / name, [], heatmap.KINDS))
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert [path.name for path in files[0]] == [f"{name}{kind}" for name in ("difference", "curves") for kind in starts]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes() and one.read_bytes().startswith(starts[one.suffix]), one.name


def test_kinds_are_names_and_nothing_else() -> None:
    assert pictures.kinds_of("PNG, .svg,png") == ("png", "svg")
    for wrong in ("jpg", "png,htm", "", " , "):
        with pytest.raises(UsageError, match="png"):
            pictures.kinds_of(wrong)


# the curves


def told(one: Record, seconds: float, **measured: float) -> Record:
    assert one.reply is not None
    usage = Usage(input=one.trial.length, cached=1_000, output=30)
    return replace(one, reply=replace(one.reply, seconds=seconds, usage=usage, measured=measured or None))


def test_lines_are_the_breakdowns_with_gaps_where_nothing_is_scored() -> None:
    records = [record(of=one.trial, error="timeout") if one.trial.length == 8_000 else one
               for one in grid([4_000, 8_000, 32_000], DEPTHS, lambda length, _: 4 if length > 8_000 else 10, reshuffles=10)]  # fmt: skip
    results = aggregate(records)
    picture = lines_figure(results)
    lengths, depths = (axes_of(picture)[f"recall by {by}"] for by in ("length", "depth"))
    assert lengths.get_xscale() == "log" and lengths.get_ylim()[0] == 0  # type: ignore[attr-defined]
    line = lengths.lines[0]  # type: ignore[attr-defined]
    assert line.get_xdata().tolist() == [4_000, 8_000, 32_000]
    assert line.get_ydata()[0] == 1 and math.isnan(line.get_ydata()[1]) and line.get_ydata()[2] == pytest.approx(0.4)
    band = lengths.collections[0].get_paths()  # type: ignore[attr-defined]
    groups = breakdown(next(iter(results.points.values())), "length")
    ends = {round(y, 6) for path in band for y in path.vertices[:, 1]}
    assert {round(value, 6) for one in groups for value in (one.low, one.high) if value is not None} <= ends
    assert depths.lines[0].get_xdata().tolist() == DEPTHS  # type: ignore[attr-defined]
    assert "not scored, and no misses: 30 errors" in [text.get_text() for text in picture.texts]


def test_panels_are_those_that_have_data() -> None:
    gathering = Gathering()
    for number, one in enumerate(grid(LENGTHS, [0.5], lambda *_: 3, reshuffles=3, model="hf/x")):
        gathering.add(told(one, 2.0 + number, prefill_seconds=2.0, decode_seconds=1.5, state_bytes=one.trial.length * 1e3), 0.0)
    results = gathering.results()
    panels = axes_of(lines_figure(results))
    assert set(panels) == {f"{name} by length" for name in ("recall", "latency", "reading", "writing", "memory for the text")} | {
        "recall by depth"
    }, "a cost of nothing is nothing to draw"
    measures = next(iter(results.measures.values()))
    found = {kind.title: spreads(measures, kind) for kind in KINDS}
    assert found["latency"][4_000] == pytest.approx((2.2, 3.0, 3.8)) and found["reading"][32_000].median == pytest.approx(15_500)
    assert found["writing"][4_000].median == pytest.approx(20) and found["memory for the text"][32_000].median == pytest.approx(32)


def test_batches_have_no_seconds_and_errors_nothing() -> None:
    assert measure(record(error="timeout"), None) is None
    batch = measure(told(record(), 0.0), 0.25)
    assert batch is not None and (batch.seconds, batch.dollars, batch.read_speed) == (None, 0.25, None)


@pytest.mark.parametrize("name", ["server/" + "W" * 120, "模型/line\nbreak $x^2$ lone \udce9"], ids=["long", "strange"])
def test_any_names_and_many_series_fit_the_page(name: str, recwarn: pytest.WarningsRecorder) -> None:
    records = [
        one for i in range(11) for one in grid([1_000 * (k + 1) for k in range(25)], [0.5], lambda *_: 1, reshuffles=1, model=f"{name}{i}")
    ]
    picture = lines_figure(aggregate(records), facts=["fact " * 60])
    with heatmap.drawn_alike():
        FigureCanvasAgg(picture).draw()
    width, height = picture.bbox.size
    for axes in picture.axes:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert all(one.x1 <= other.x0 for one, other in pairwise(labels)), "labels of lengths touch"
    for text in (
        *picture.texts,
        *(label for axes in picture.axes for label in (axes.yaxis.label, axes.xaxis.label, *axes.get_xticklabels())),
    ):
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    assert not recwarn.list


# the terminal


def test_short_breakdowns_show_what_has_several_values() -> None:
    text = shown(*short_tables(aggregate(two(corpora=("builtin/legal", "builtin/medical")))))
    for words in ("builtin/legal", "worst needles", "(5 of 10)", "32k", "50%", "+1 lost"):
        assert words in text
    assert not re.search(r"│ cue", text), "one cue alone is nothing to break down"
    assert re.search(r"│ 50% +│[^│]*│ +0.737 [^│]* n=19 \+1 lost │", text), "14 of 19 that are scored"
    assert short_tables(aggregate([record()])) == []


def test_breakdowns_fit_a_terminal_of_80_characters() -> None:
    results = aggregate(two(corpora=("builtin/legal", "builtin/medical")))
    text = shown(*short_tables(results, 80), width=80)
    assert "…" not in text and len(text.split("Where the needles are found")) == 3
    assert re.search(r"\d\) n=\d+ ", text)


def test_by_shows_every_value_and_every_outcome() -> None:
    results = aggregate(two())
    text = shown(full_table(results, "needle"))
    assert {f"needle-{i}" for i in range(10)} <= set(re.findall(r"needle-\d+", text)) and "errors" in text
    assert text.count("a/base") == 1
    base, weak = (breakdown(points, "length") for points in results.points.values())
    numbers = shown(full_table(results, "length"))
    for one in (*base, *weak):
        assert f"{one.recall:.3f}" in numbers
    with pytest.raises(UsageError, match="did you mean 'needle'"):
        check_by("needles")


def test_a_run_without_any_score_prints_no_recall() -> None:
    results = aggregate([record(of=trial(length, reshuffle=i), error="timeout") for i in range(3) for length in LENGTHS])
    text = shown(*short_tables(results), full_table(results, "length"))
    assert text.count("no data +3 lost") == 2 and "0.00" not in text
    planned = plan_counts(("server/test", trial(length, reshuffle=i)) for i in range(5) for length in LENGTHS)
    assert all(
        cell.missing == 2
        for cells in aggregate([record(of=trial(n, reshuffle=i)) for i in range(3) for n in LENGTHS], planned=planned).cells.values()
        for cell in cells
    )
