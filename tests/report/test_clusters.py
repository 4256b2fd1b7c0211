"""Intervals and tests for trials that share texts and needles: held against published numbers, brute force and simulation."""

import math
from itertools import product

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from niah.report.clusters import (
    Estimate,
    detectable,
    difference,
    exact_mcnemar,
    flip_test,
    holm,
    pairs_to_show,
    recall,
    tango,
    variance,
    wilson,
)

Z = 1.959963984540054
RECALLS = [round(0.5 + 0.01 * step, 2) for step in range(50)]  # 0.50 ... 0.99


@pytest.mark.parametrize(("trials", "worst"), [(5, 0.858), (20, 0.924), (200, 0.932)])
def test_wilson_covers_on_average_what_it_says(trials: int, worst: float) -> None:
    """Exactly, by the binomial distribution: 93% to 97% on average over recalls 0.5 to 0.99; `worst` is the least at a single one."""
    ends = [wilson(hits, trials) for hits in range(trials + 1)]
    chances = stats.binom.pmf(numpy.arange(trials + 1)[:, None], trials, RECALLS)
    covered = [sum(chances[k, i] for k, (low, high) in enumerate(ends) if low <= p <= high) for i, p in enumerate(RECALLS)]
    assert 0.93 <= numpy.mean(covered) <= 0.97
    assert min(covered) >= worst
    if trials == 5:  # one miss of five already puts 0.97 outside, and has a chance of 14%: no interval from five trials can do better
        assert covered[RECALLS.index(0.97)] < 0.87 and covered[RECALLS.index(0.99)] > 0.95


def sweep(draw: numpy.random.Generator, cells: int, texts: int = 20, needles: int = 30) -> tuple[list[int], list[int]]:
    """Text and needle of each trial: every cell has all texts, with different needles."""
    return list(range(texts)) * cells, [int(n) for _ in range(cells) for n in draw.permutation(needles)[:texts]]


def middle_for(target: float, spread: float) -> float:
    nodes, weights = numpy.polynomial.hermite_e.hermegauss(40)
    return optimize.brentq(lambda m: (weights / (1 + numpy.exp(-(m + spread * nodes)))).sum() / weights.sum() - target, -20, 20)


@pytest.mark.parametrize("spread", [0.0, 0.7, 1.2])
def test_the_clustered_interval_of_a_recall_covers_what_it_says(spread: float) -> None:
    """440 trials of 20 texts and 30 needles, of recalls 0.5 to 0.97; texts and needles each add noise of `spread` to the log-odds."""
    draw, repetitions = numpy.random.default_rng(7), 120
    clustered = independent = 0
    for target in (0.5, 0.8, 0.9, 0.97):
        middle = middle_for(target, math.hypot(spread, spread))
        for _ in range(repetitions):
            texts, needles = sweep(draw, 22)
            odds = middle + draw.normal(0, spread, 20)[texts] + draw.normal(0, spread, 30)[needles]
            values = (draw.random(len(odds)) < 1 / (1 + numpy.exp(-odds))).astype(float).tolist()
            found = recall(values, texts, needles)
            assert found is not None
            clustered += found.low <= target <= found.high
            low, high = wilson(round(sum(values)), len(values))
            independent += low <= target <= high
    assert 0.93 <= clustered / (4 * repetitions) <= 0.995
    assert (independent / (4 * repetitions) < 0.85) == (spread > 0), "which is why trials are not taken as independent"


@pytest.mark.parametrize("own", [0.0, 0.8])
def test_the_interval_of_a_difference_covers_what_it_says(own: float) -> None:
    """Two models on 200 shared trials; `own` noise of each model makes the differences within texts and needles alike."""
    draw, repetitions, covered = numpy.random.default_rng(3), 150, 0
    for base, drop in ((0.9, 0.0), (0.9, 0.05), (0.6, 0.1)):
        middles = [middle_for(target, math.sqrt(2 * 0.5 + 2 * own**2)) for target in (base, base - drop)]
        for _ in range(repetitions):
            texts, needles = sweep(draw, 10)
            shared = draw.normal(0, math.sqrt(0.5), 20)[texts] + draw.normal(0, math.sqrt(0.5), 30)[needles]
            odds = [m + shared + draw.normal(0, own, 20)[texts] + draw.normal(0, own, 30)[needles] for m in middles]
            hits = [draw.random(len(each)) < 1 / (1 + numpy.exp(-each)) for each in odds]
            found = difference((hits[1].astype(float) - hits[0]).tolist(), texts, needles)
            assert found is not None
            covered += found.low <= -drop <= found.high
    assert 0.93 <= covered / (3 * repetitions) <= 0.995


def test_tango_gives_the_published_interval() -> None:
    # Bentur et al. 2009 as in Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for paired binomial
    # proportions", Statistics in Medicine 33, 2014: 1 and 7 discordant of 21 children, interval -0.517 to -0.026, exact p 0.0703
    assert tango(1, 7, 21, Z) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert exact_mcnemar(7, 1) == pytest.approx(0.0703, abs=5e-5)


@given(st.integers(1, 2000))
def test_tango_of_equal_answers_has_a_width(pairs: int) -> None:
    """By hand: z^2 / (n + z^2) on both sides, where Wald's interval would be nothing."""
    end = Z**2 / (pairs + Z**2)
    assert tango(0, 0, pairs, Z) == pytest.approx((-end, end), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n // 2), st.integers(1, n // 2))))
def test_tango_is_where_the_score_test_stops_to_reject(case: tuple[int, int, int]) -> None:
    """The score statistic with the constrained maximum likelihood found by a general optimiser."""
    pairs, up, down = case

    def statistic(delta: float) -> float:
        def surprise(worse: float) -> float:
            chances = (worse + delta, worse, 1 - 2 * worse - delta)
            return -sum(n * math.log(max(p, 1e-300)) for n, p in zip((up, down, pairs - up - down), chances, strict=True))

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        worse = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return (up - down - pairs * delta) / math.sqrt(pairs * (2 * worse + delta - delta**2))

    low, high = tango(up, down, pairs, Z)
    for end, value in ((low, Z), (high, -Z)):
        if abs(end) < 0.999:
            assert statistic(end) == pytest.approx(value, abs=2e-3)


DIFFERENCES = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(DIFFERENCES, st.randoms())
def test_intervals_hold_their_mean_have_a_width_and_know_no_order(rows: list[tuple[float, int, int]], chance: object) -> None:
    for estimator, lowest in ((difference, -1.0), (recall, 0.0)):
        values = [abs(value) if estimator is recall else value for value, _, _ in rows]
        found = estimator(values, [t for _, t, _ in rows], [n for _, _, n in rows])
        assert found is not None
        assert lowest <= found.low <= found.mean + 1e-12 and found.mean - 1e-12 <= found.high <= 1
        assert found.high - found.low > 1 / (4 * len(rows) + 4), "also where all are equal"
        assert 0 < found.worth <= found.trials == len(rows)
        order = list(range(len(rows)))
        chance.shuffle(order)  # type: ignore[attr-defined]
        again = estimator([values[i] for i in order], [rows[i][1] for i in order], [rows[i][2] for i in order])
        assert again is not None
        assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=1e-9)
        wider = estimator(values, [t for _, t, _ in rows], [n for _, _, n in rows], level=0.99)
        assert wider is not None and wider.low <= found.low + 1e-9 and wider.high >= found.high - 1e-9


@given(DIFFERENCES.filter(lambda rows: len({t for _, t, _ in rows}) > 1 and len({n for _, _, n in rows}) > 1))
def test_the_variance_is_the_sum_over_all_pairs_of_trials_that_share_something(rows: list[tuple[float, int, int]]) -> None:
    def shared(label: int) -> float:
        keys = [(t, n, (t, n))[label] for _, t, n in rows]
        clusters = len(set(keys))
        total = sum(a * b for (a, ka), (b, kb) in product(list(zip((v for v, _, _ in rows), keys, strict=True)), repeat=2) if ka == kb)
        return total / len(rows) ** 2 * clusters / (clusters - 1)

    by_text, by_needle, both = shared(0), shared(1), shared(2)
    expected = max(by_text + by_needle - both, by_text, by_needle)
    assert variance([v for v, _, _ in rows], [t for _, t, _ in rows], [n for _, _, n in rows]) == pytest.approx(expected, abs=1e-12)


def test_trials_that_only_repeat_each_other_are_worth_their_clusters() -> None:
    texts = [number % 10 for number in range(1000)]
    values = [float(text < 5) for text in texts]
    found = recall(values, texts, texts)
    assert found is not None and found.trials == 1000
    assert found.worth == pytest.approx(9)  # 10 texts, with the factor 10 / 9
    apart = recall([float(i % 2) for i in range(1000)], range(1000), range(1000))
    assert apart is not None and apart.worth == pytest.approx(999)


def test_few_clusters_of_one_kind_leave_the_other_to_decide() -> None:
    quantiles = {}
    for texts, needles in ((20, 30), (20, 5), (3, 30), (4, 3), (1, 2), (1, 1)):
        found = recall([float(i % 7 > 0) for i in range(600)], [i % texts for i in range(600)], [i // 20 % needles for i in range(600)])
        assert found is not None
        quantiles[texts, needles] = found.quantile
        assert found.too_few == {kind: n for kind, n in (("text", texts), ("needle", needles)) if n < 6}
    degrees = {(20, 30): 19, (20, 5): 19, (3, 30): 29, (4, 3): 3, (1, 2): 1}
    assert {case: quantiles[case] for case in degrees} == {case: pytest.approx(stats.t.ppf(0.975, n)) for case, n in degrees.items()}
    assert quantiles[1, 1] == pytest.approx(Z)


def test_one_cluster_is_told_and_taken_as_independent() -> None:
    found = recall([1.0] * 19 + [0.0], ["text"] * 20, ["needle"] * 20)
    assert found is not None and (found.texts, found.needles, found.worth) == (1, 1, 20)
    assert (found.low, found.high) == pytest.approx(wilson(19, 20), abs=1e-9)
    assert recall([], [], []) is None and difference([], [], []) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_flip_test_is_the_exact_permutation_test_of_scipy(rows: list[tuple[int, int]]) -> None:
    sums = [sum(value for value, cluster in rows if cluster == wanted) for wanted in sorted({cluster for _, cluster in rows})]
    mine = flip_test([float(value) for value, _ in rows], [cluster for _, cluster in rows])
    if len(sums) == 1:
        assert mine == 1
        return
    theirs = stats.permutation_test(
        (numpy.array(sums, dtype=float),), lambda x, axis: numpy.abs(x.sum(axis=axis)), permutation_type="samples",
        alternative="greater", n_resamples=numpy.inf, vectorized=True,
    )  # fmt: skip
    assert mine == pytest.approx(theirs.pvalue, abs=1e-12)


def test_few_clusters_cannot_give_a_small_p() -> None:
    for clusters in (1, 2, 4, 8):
        assert flip_test([-1.0] * 10 * clusters, [i % clusters for i in range(10 * clusters)]) == 2 / 2**clusters
    many = flip_test([-1.0] * 400, [i % 40 for i in range(400)])
    assert many == 1 / 10_000 and many == flip_test([-1.0] * 400, [i % 40 for i in range(400)]), "random signs are the same each time"
    assert flip_test([0.0] * 5, range(5)) == 1


def test_random_flips_agree_with_the_normal_limit() -> None:
    """30 clusters of sums +-1 with total -12: the total is 2B - 30 for a binomial B."""
    sums = [-1.0] * 21 + [1.0] * 9
    assert flip_test(sums, range(30)) == pytest.approx(stats.binomtest(9, 30).pvalue, abs=0.01)


def test_holm_gives_the_published_example() -> None:
    # the example of R's p.adjust and of many textbooks
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_keeps_the_order_and_never_makes_a_p_smaller(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
    assert not p_values or min(adjusted) == min(1.0, len(p_values) * min(p_values))


def test_millers_rule_of_thumb() -> None:
    """arXiv 2411.00640, section 5: 969 questions, differing with a variance of 1/9, show 3 points with 80% power at 95%."""
    one = Estimate(mean=0, low=0, high=0, error=math.sqrt(1 / 9 / 969), trials=969, worth=969, texts=900, needles=900, quantile=Z)
    assert detectable(one) == pytest.approx(0.03, abs=1e-5)
    assert pairs_to_show(one, 0.03) == pytest.approx(969, abs=1)
    assert pairs_to_show(one, 0.015) == pytest.approx(4 * 969, abs=4)
