"""Recall, intervals and what is not counted: held against hand-computed and published numbers."""

import math
import random
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.errors import UsageError
from niah.report.clusters import estimate, wilson
from niah.report.stats import Cell, Series, aggregate, cells, effective_length, summaries
from niah.trial import SCORED, Outcome, Record, Score, outcome
from tests.report.records import grid, plan_counts, record, trial

ONE = Series("server/test", "off")


def only(records: list[Record], **options: str) -> Cell:
    """The one cell of records that share it."""
    ((cell,),) = cells(records, scorer=options.get("scorer")).values()
    return cell


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (the score interval without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # by hand: z^2 / (1 + z^2) with z = 1.959964, and its mirror image
        (0, 1, 0.0000, 0.7935),
        (1, 1, 0.2065, 1.0000),
    ],
)
def test_wilson_gives_the_published_intervals(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_textbook_formula(case: tuple[int, int]) -> None:
    hits, trials = case
    z, p = 1.959963984540054, hits / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    assert wilson(hits, trials) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_interval_holds_the_recall_with_partial_credit_too(values: list[float]) -> None:
    recall, low, high = estimate(math.fsum(values), len(values))
    assert recall is not None and low is not None and high is not None
    assert 0 <= low <= recall + 1e-12 and recall - 1e-12 <= high <= 1


def test_no_trial_is_no_recall() -> None:
    assert estimate(0.0, 0) == (None, None, None)


def test_a_cell_counts_what_has_a_score_and_what_has_not() -> None:
    asked = [trial(reshuffle=i) for i in range(10)]
    cell = only(
        [
            record(1.0, of=asked[0]),
            record(0.5, of=asked[1]),
            record(0.0, of=asked[2]),
            record(1.0, of=asked[3], stop="length"),  # cut, but every fact is there: a hit
            record(0.5, of=asked[4], stop="length"),
            record(None, of=asked[5]),
            record(0.0, of=asked[6], stop="refusal"),
            record(0.0, of=asked[7], stop="filter"),
            record(of=asked[8], error="timeout"),
            record(of=asked[9], error="context_overflow"),
        ]
    )
    assert (cell.trials, cell.points, cell.recall) == (4, 2.5, 0.625)
    assert (cell.errors, cell.cut, cell.refused, cell.truncated) == (1, 1, 2, 1)
    assert cell.lost == {"errors": 1, "cut": 1, "refused": 2, "truncated": 1, "overflow": 1}
    assert (cell.low, cell.high) == wilson(2, 4)
    assert cell.missing is None


def test_all_errors_are_missing_data_and_not_misses() -> None:
    cell = only([record(of=trial(reshuffle=i), error="server") for i in range(3)])
    assert (cell.trials, cell.errors, cell.recall, cell.low, cell.high) == (0, 3, None, None, None)


KINDS = {
    "hit": lambda asked: record(1.0, of=asked),
    "partial": lambda asked: record(0.25, of=asked),
    "miss": lambda asked: record(0.0, of=asked),
    "cut": lambda asked: record(0.0, of=asked, stop="length"),
    "refused": lambda asked: record(1.0, of=asked, stop="refusal"),
    "truncated": lambda asked: record(None, of=asked),
    "overflow": lambda asked: record(of=asked, error="context_overflow"),
    "error": lambda asked: record(of=asked, error="timeout"),
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from([1000, 4000]), st.sampled_from([0.0, 0.5, 1.0])), max_size=40),
    st.randoms(),
)
def test_every_trial_is_counted_once_in_its_cell_whatever_the_order(kinds: list[tuple[Outcome, int, float]], chance: random.Random) -> None:
    records = [KINDS[kind](trial(length, depth, reshuffle=i)) for i, (kind, length, depth) in enumerate(kinds)]
    expected = Counter((r.trial.length, r.trial.depths[0]) for r in records)
    found = cells(records).get(ONE, [])
    assert {(c.length, c.depth): c.trials + sum(c.lost.values()) for c in found} == expected
    for cell in found:
        scored = [r for r in records if (r.trial.length, r.trial.depths[0]) == (cell.length, cell.depth) and outcome(r) in SCORED]
        assert cell.trials == len(scored)
        assert cell.recall == (pytest.approx(sum(r.scores[0].value for r in scored) / len(scored)) if scored else None)
    chance.shuffle(records)
    assert cells(records).get(ONE, []) == found


def test_asked_again_the_last_reply_wins_and_a_later_failure_does_not_undo_it() -> None:
    asked = trial()
    failed, first, second = record(of=asked, error="timeout"), record(0.0, of=asked), record(1.0, of=asked)
    assert only([failed, second]).recall == 1
    assert only([first, second]).recall == 1
    assert only([second, first]).recall == 0
    assert only([second, failed]).recall == 1
    assert (only([failed, failed]).errors, only([failed, failed]).trials) == (1, 0)


def test_equal_keys_of_two_models_are_two_trials() -> None:
    found = cells([record(1.0, model="a/x"), record(0.0, model="b/x")])
    assert {series.name: [c.recall for c in row] for series, row in found.items()} == {"a/x": [1], "b/x": [0]}


def test_the_cue_is_named_only_where_there_are_several() -> None:
    one = [record(of=trial(cue="user"))]
    assert [series.name for series in cells(one)] == ["server/test"]
    several = cells([*one, record(of=trial(cue="off"))])
    assert [series.name for series in several] == ["server/test [cue off]", "server/test [cue user]"]


def test_several_needles_stand_at_the_depth_of_the_first() -> None:
    assert only([record(0.5, of=trial(depth=(0.25, 0.75)))]).depth == 0.25


def test_cells_come_in_the_order_of_length_and_depth() -> None:
    found = cells(grid([32_000, 4_000], [1.0, 0.0], lambda length, depth: 1, reshuffles=1))[ONE]
    assert [(c.length, c.depth) for c in found] == [(4_000, 0.0), (4_000, 1.0), (32_000, 0.0), (32_000, 1.0)]


def test_a_scorer_is_used_by_its_name() -> None:
    two = (Score(scorer="contains", value=1.0), Score(scorer="judge", value=0.0))
    asked = [trial(reshuffle=i) for i in range(4)]
    records = [
        record(of=asked[0], scores=two),
        record(of=asked[1], scores=two[:1]),
        record(None, of=asked[2]),
        record(0.0, of=asked[3], stop="filter"),
    ]
    assert only(records).recall == 1
    judged = only(records, scorer="judge")
    assert (judged.trials, judged.recall, judged.truncated, judged.refused) == (1, 0, 1, 1)
    assert judged.missing == 1, "scored by another scorer only: neither a miss nor truncated"
    with pytest.raises(UsageError, match="no record is scored by 'juge'; did you mean 'judge'"):
        cells(records, scorer="juge")
    assert only([record(error="timeout")], scorer="anything").errors == 1


def test_a_plan_makes_missing_trials_known() -> None:
    plan = [trial(4000, depth, reshuffle=i) for depth in (0.0, 1.0) for i in range(3)]
    planned = plan_counts(("server/test", asked) for asked in plan)
    asked_twice, untouched = cells([record(of=plan[0]), record(of=plan[1], error="timeout")], planned=planned)[ONE]
    assert (asked_twice.trials, asked_twice.errors, asked_twice.missing) == (1, 1, 1)
    assert (untouched.depth, untouched.trials, untouched.missing, untouched.recall) == (1.0, 0, 3, None)
    (pooled,) = summaries([record(of=plan[0])], planned=planned).values()
    assert pooled.missing == 5
    assert only([record(of=plan[0])]).missing is None


def test_a_summary_weighs_trials_and_not_cells() -> None:
    records = [record(1.0, of=trial(1000, 0.0)), *(record(0.0, of=trial(1000, 1.0, reshuffle=i)) for i in range(3))]
    (pooled,) = summaries([*records, record(of=trial(4000), error="timeout")]).values()
    assert (pooled.recall, pooled.trials, pooled.errors) == (0.25, 4, 1)
    assert (pooled.low, pooled.high) != wilson(1, 4), "trials of one text, or with one needle, are not independent"
    assert (pooled.texts, pooled.needles) == (3, 3)


def row_of(hits: dict[int, int], reshuffles: int = 20) -> list[Cell]:
    return list(cells(grid(hits, [0.0, 1.0], lambda length, depth: hits[length], reshuffles=reshuffles))[ONE])


def test_effective_length_reaches_as_far_as_all_lower_bounds_are_good() -> None:
    # 40 of 40 pooled over two depths: lower bound 0.912; 38 of 40: 0.835; 20 of 20: 0.839
    row = row_of({1_000: 20, 4_000: 20, 16_000: 19, 64_000: 20})
    assert effective_length(row, 0.85) == 4_000, "a longer one that is good again does not count"
    assert effective_length(row, 0.95) is None
    assert effective_length([c for c in row if c.length >= 16_000], 0.85) is None
    assert effective_length([c for c in row if c.depth == 0], 0.85) is None, "twenty trials are too few to know it"
    assert effective_length([], 0.85) is None


def test_the_worst_depth_decides_where_it_is_asked_for() -> None:
    # 30 of 30: lower bound 0.886; 27 of 30: 0.744; pooled 57 of 60: 0.863
    row = list(
        cells(grid([1_000, 4_000], [0.0, 1.0], lambda length, depth: 27 if (length, depth) == (4_000, 1.0) else 30, reshuffles=30))[ONE]
    )
    assert (effective_length(row, 0.85), effective_length(row, 0.85, worst_depth=True)) == (4_000, 1_000)
    row = row_of({1_000: 100}, reshuffles=100)  # 100 of 100: 0.963
    assert effective_length(row, 0.95, worst_depth=True) == 1_000


def test_a_length_without_a_score_ends_the_effective_length() -> None:
    records = [*grid([1_000, 4_000], [0.5], lambda length, depth: 30, reshuffles=30), record(of=trial(2_000), error="timeout")]
    assert effective_length(cells(records)[ONE], 0.85) == 1_000


def test_no_records_are_no_cells() -> None:
    nothing = aggregate([])
    assert (nothing.cells, nothing.summaries, nothing.records) == ({}, {}, 0)


def test_records_are_read_once() -> None:
    stream = chain(grid([1000], [0.5], lambda length, depth: 5, reshuffles=10))
    assert aggregate(stream).records == 10
