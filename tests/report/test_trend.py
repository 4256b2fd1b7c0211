"""The trend over length and depth: held against exact results, a general optimiser and simulated data."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from niah.report.points import Latest, Point
from niah.report.trend import firth, trend
from niah.trial import Record
from tests.report.records import grid, record, trial

COUNTS = st.integers(0, 12)


def points(records: list[Record]) -> list[Point]:
    latest = Latest()
    for each in records:
        latest.add(each)
    return [point for _, point in latest.points()]


@given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda n: n[0] + n[1] > 0 and n[2] + n[3] > 0))
def test_firth_of_a_two_by_two_table_adds_half_to_each_count(counts: tuple[int, int, int, int]) -> None:
    """An exact result of Firth's penalty, with separation (zeros) or without."""
    a, b, c, d = counts
    design = numpy.array([[1.0, 0.0]] * (a + b) + [[1.0, 1.0]] * (c + d))
    beta, _ = firth(design, numpy.array([1.0] * a + [0.0] * b + [1.0] * c + [0.0] * d))
    first = math.log((a + 0.5) / (b + 0.5))
    assert beta.tolist() == pytest.approx([first, math.log((c + 0.5) / (d + 0.5)) - first], abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_firth_is_the_maximum_of_the_penalised_likelihood(seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    design = numpy.column_stack([numpy.ones(40), draw.normal(size=(40, 2))])
    values = (draw.random(40) < 1 / (1 + numpy.exp(-design @ [0.5, 1.0, -1.0]))).astype(float)

    def surprise(beta: numpy.ndarray) -> float:
        odds = design @ beta
        weight = 1 / (2 + numpy.exp(odds) + numpy.exp(-odds))
        determinant = numpy.linalg.slogdet(design.T @ (weight[:, None] * design))[1]
        return float(numpy.logaddexp(0, odds).sum() - values @ odds - determinant / 2)

    best = optimize.minimize(surprise, numpy.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000})
    assert firth(design, values)[0] == pytest.approx(best.x, abs=1e-4)


def drawn(doubling: float, depth: float, middle: float, seed: int, spread: float = 0.0) -> list[Point]:
    """800 trials whose log-odds change so much for each doubling of the length, and with depth; texts add noise of `spread`."""
    draw = numpy.random.default_rng(seed)
    texts = draw.normal(0, spread, 20)
    made: list[Record] = []
    for length in (1000, 2000, 4000, 8000):
        for where in (0.0, 0.25, 0.5, 0.75, 1.0):
            for reshuffle in range(20):
                for copy in range(2):
                    odds = (
                        1
                        + doubling * (math.log2(length / 1000) - 1.5)
                        + depth * where
                        + middle * 4 * where * (1 - where)
                        + texts[reshuffle]
                    )
                    hit = draw.random() < 1 / (1 + math.exp(-odds))
                    of = trial(length, where, reshuffle=reshuffle, needles=[f"n{draw.integers(30)}-{copy}"])
                    made.append(record(float(hit), of=of))
    return points(made)


@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_the_trend_finds_what_was_simulated(spread: float) -> None:
    """The 95% intervals hold the truth in at least 15 of 16 simulations for each effect, and are not so wide that they say nothing."""
    truth = {"doubling": -0.5, "depth": 0.6, "middle": -0.7}
    covered = dict.fromkeys(truth, 0)
    for seed in range(16):
        found = trend(drawn(**truth, seed=seed, spread=spread))
        assert found is not None
        for name, value in truth.items():
            effect = getattr(found, name)
            covered[name] += effect.low <= math.exp(value) <= effect.high
            assert effect.high / effect.low < 12
        assert found.doubling is not None and found.doubling.clear and found.doubling.odds_ratio < 1
    assert min(covered.values()) >= 14 and sum(covered.values()) >= 45


def test_nothing_is_found_where_there_is_nothing() -> None:
    clear = 0
    for seed in range(20):
        found = trend(drawn(0, 0, 0, seed=100 + seed))
        assert found is not None and found.doubling is not None and found.depth is not None
        clear += found.doubling.clear + found.depth.clear
    assert clear <= 5, "of 40, two are expected at 95%"


def test_separation_gives_a_finite_answer() -> None:
    """All found at 4k, nothing at 64k: plain maximum likelihood would go to infinity."""
    found = trend(points(list(grid([4_000, 64_000], [0.5], lambda length, depth: 20 if length == 4_000 else 0))))
    assert found is not None and found.doubling is not None and found.depth is None and found.middle is None
    assert 0 < found.doubling.low < found.doubling.odds_ratio < found.doubling.high < 1
    # by the exact result above: odds ratio (0.5 / 20.5)^2 over four doublings
    assert found.doubling.odds_ratio == pytest.approx((0.5 / 20.5) ** (2 / 4), rel=1e-3)


def test_without_anything_to_explain_there_is_no_trend() -> None:
    assert trend([]) is None
    assert trend(points(list(grid([4_000, 8_000], [0.0, 1.0], lambda length, depth: 20)))) is None
    assert trend(points(list(grid([4_000, 8_000], [0.0, 1.0], lambda length, depth: 0)))) is None
    assert trend(points(list(grid([4_000], [0.5], lambda length, depth: 10)))) is None
    assert trend(points([record(1.0), record(0.0, of=trial(8_000))])) is None
    ends = trend(points(list(grid([4_000], [0.0, 1.0], lambda length, depth: 10))))
    assert ends is not None and ends.middle is None and ends.doubling is None and ends.depth is not None and not ends.depth.clear


def test_what_is_not_scored_has_no_part_in_it() -> None:
    kept = points(list(grid([4_000, 8_000], [0.0, 0.5, 1.0], lambda length, depth: 15)))
    lost = points([record(of=trial(16_000, reshuffle=i), error="timeout") for i in range(9)])
    assert trend([*kept, *lost]) == trend(kept)
