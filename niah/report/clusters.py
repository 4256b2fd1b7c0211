"""Intervals and tests for trials that share texts and needles.

Trials of one reshuffle read the same text and trials of one needle ask for the same fact, so neither is a fresh sample. The
variance of a mean is therefore taken over texts and over needles, V(texts) + V(needles) - V(both), each with the factor G / (G - 1)
for G clusters (Cameron, Gelbach and Miller, "Robust Inference With Multiway Clustering", JBES 29, 2011), and never below one of the
two or below that of as many independent trials. It says how many independent trials these are worth. That number goes into a score
interval (Wilson's for a recall, Tango's for a paired difference), with the quantile of Student's t with one degree of freedom less
than the fewer clusters. Unlike mean +- t standard errors it has a width also where nothing was missed or nothing differs.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

Clusters: TypeAlias = "Sequence[Hashable] | NDArray[Any]"
"""For each trial, what it shares with others; or the numbers that `numbered` gives to that, to be made once only."""

Interval: TypeAlias = tuple[float | None, float | None, float | None]
"""A recall and the two ends of its interval; all None without a trial."""

_Interval: TypeAlias = Callable[[float, float], tuple[float, float]]

ENOUGH_CLUSTERS = 6
"""With fewer, no permutation of signs reaches p = 0.05."""
EXACT_CLUSTERS = 14
"""Up to so many clusters all signs are tried; beyond, FLIPS random ones."""
FLIPS = 9_999
POWER = 0.8
_BISECTIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its interval. `worth` is how many independent trials the `trials` are worth; `texts` and `needles` count clusters.

    `error` is half the interval's width in units of the quantile: the standard error, where nothing is at its end. `quantile` is t's.
    """

    mean: float
    low: float
    high: float
    error: float
    trials: int
    worth: float
    texts: int
    needles: int
    quantile: float

    @property
    def too_few(self) -> dict[str, int]:
        """The kinds of clusters of which there are too few, with their number."""
        return {kind: count for kind, count in (("text", self.texts), ("needle", self.needles)) if count < ENOUGH_CLUSTERS}


def recall(values: Sequence[float], texts: Clusters, needles: Clusters, *, level: float = 0.95) -> Estimate | None:
    """The mean of scores in [0, 1] with its interval; None without a trial."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    return _estimate(values, mean * (1 - mean), (texts, needles), level, lambda n, t: _wilson(mean, n, t))


def estimate(points: float, trials: int) -> Interval:
    """Recall and the two ends of its Wilson interval; all None without a trial."""
    if trials == 0:
        return None, None, None
    return (points / trials, *wilson(round(points), trials))


@lru_cache(maxsize=4096)
def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The Wilson 95% interval of `hits` out of `trials` (at least one)."""
    from scipy.stats import binomtest  # pyright: ignore[reportUnknownVariableType]

    low, high = cast(tuple[float, float], binomtest(hits, trials).proportion_ci(confidence_level=0.95, method="wilson"))
    return float(low), float(high)


def difference(differences: Sequence[float], texts: Clusters, needles: Clusters, *, level: float = 0.95) -> Estimate | None:
    """The mean of paired differences in [-1, 1] with its interval; None without a pair.

    A partial difference enters Tango's interval as that part of a discordant pair, which is on the wide side.
    """
    if not differences:
        return None
    n = len(differences)
    up = math.fsum(each for each in differences if each > 0) / n
    down = math.fsum(-each for each in differences if each < 0) / n
    spread = up + down - (up - down) ** 2
    return _estimate(differences, spread, (texts, needles), level, lambda n, t: tango(up * n, down * n, n, t))


def numbered(labels: Clusters) -> "NDArray[Any]":
    """The labels as numbers, in the order in which they come first."""
    import numpy

    if isinstance(labels, numpy.ndarray):
        return labels
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return numpy.fromiter(map(numbers.__getitem__, labels), dtype=numpy.int64, count=len(labels))


def flip_test(differences: Sequence[float], clusters: Clusters) -> float:
    """Two-sided p of the hypothesis that the sign of each cluster's sum of differences is a coin's: a permutation of the two sides.

    With G clusters p cannot be below 2 / 2**G; 1 where nothing differs. Random signs come from a fixed seed.
    """
    import numpy

    if not differences:
        return 1.0
    sums = numpy.bincount(numbered(clusters), weights=numpy.asarray(differences, dtype=float))
    sums = sums[numpy.abs(sums) > 1e-12]
    if not len(sums):
        return 1.0
    if len(sums) <= EXACT_CLUSTERS:
        bits = numpy.arange(2 ** len(sums))[:, None] >> numpy.arange(len(sums)) & 1
    else:
        bits = numpy.random.default_rng(0).integers(0, 2, size=(FLIPS, len(sums)))
        bits = numpy.vstack([bits, numpy.zeros(len(sums), dtype=bits.dtype)])
    flipped = numpy.abs((1 - 2 * bits) @ sums)
    return float(numpy.mean(flipped >= abs(sums.sum()) - 1e-9))


def degrees_of_freedom(texts: int, needles: int) -> int | None:
    """Of the clustered variance, by the numbers of clusters; None where there is one of both."""
    enough = [count for count in (texts, needles) if count >= ENOUGH_CLUSTERS]
    return (min(enough) if enough else max(texts, needles)) - 1 or None


def exact_mcnemar(worse: int, better: int) -> float:
    """Two-sided p of McNemar's exact test on discordant pairs, which takes pairs as independent; 1 without any."""
    from scipy.stats import binomtest  # pyright: ignore[reportUnknownVariableType]

    return float(binomtest(worse, worse + better).pvalue) if worse + better else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in their order (Holm, Scand. J. Statistics 6, 1979)."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def tango(up: float, down: float, pairs: float, quantile: float) -> tuple[float, float]:
    """Tango's score interval for a difference of paired proportions (Statistics in Medicine 17, 1998, 891-908).

    `up` of the `pairs` are better and `down` worse; they need not be whole numbers.
    """

    def distance(delta: float) -> float:
        """How many standard errors the measured difference lies from `delta`, were that the true one."""
        b = -up - down + (2 * pairs - up + down) * delta
        c = -down * delta * (1 - delta)
        worse = (math.sqrt(max(0.0, b * b - 8 * pairs * c)) - b) / (4 * pairs)
        variance = pairs * (2 * worse + delta * (1 - delta))
        gap = up - down - pairs * delta
        return 0.0 if abs(gap) < 1e-12 else math.copysign(math.inf, gap) if variance <= 0 else gap / math.sqrt(variance)

    mean = (up - down) / pairs
    ends: list[float] = []
    for outer, sign in ((-1.0, 1), (1.0, -1)):
        inside, outside = mean, outer
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if sign * distance(middle) < quantile else (inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def detectable(estimate: Estimate) -> float:
    """The smallest true difference that these pairs would show in four of five repetitions (Miller, arXiv 2411.00640, section 5)."""
    return (estimate.quantile + student(POWER, None)) * estimate.error


def pairs_to_show(estimate: Estimate, gap: float) -> int:
    """So many pairs would show a distance of `gap` between truth and bound in four of five repetitions, if errors fall as 1/sqrt(n)."""
    return math.ceil(estimate.trials * (detectable(estimate) / gap) ** 2)


def variance(deviations: Sequence[float], texts: Clusters, needles: Clusters) -> float:
    """The variance of the mean of `deviations` from their mean, clustered both ways; 0 where nothing is known of it."""
    return variances(deviations, texts, needles)[0]


def variances(deviations: Sequence[float], texts: Clusters, needles: Clusters) -> tuple[float, float]:
    """`variance`, and the same without its care: right in the mean, and often too small."""
    import numpy

    values = numpy.asarray(deviations, dtype=float)
    by_text, by_needle = numbered(texts), numbered(needles)
    both = by_text * (int(by_needle.max()) + 1) + by_needle
    parts = [_one_way(values, codes) for codes in (by_text, by_needle, numpy.unique(both, return_inverse=True)[1])]
    plain = parts[0] + parts[1] - parts[2]
    return max(plain, parts[0], parts[1]), plain


def _estimate(values: Sequence[float], spread: float, clusters: tuple[Clusters, Clusters], level: float, interval: _Interval) -> Estimate:
    """`spread` is the variance that one independent trial would have, and `interval` a function of the trials' worth and of t."""
    trials, mean = len(values), math.fsum(values) / len(values)
    codes = (numbered(clusters[0]), numbered(clusters[1]))
    counts = (int(codes[0].max()) + 1, int(codes[1].max()) + 1)
    degrees = degrees_of_freedom(*counts)
    quantile = student((1 + level) / 2, degrees)
    clustered = variance([value - mean for value in values], *codes) if degrees and spread > 1e-12 else 0.0
    worth = trials / max(1.0, clustered * trials / spread if spread > 1e-12 else 1.0)
    low, high = interval(worth, quantile)
    return Estimate(
        mean=mean,
        low=min(low, mean),
        high=max(high, mean),
        error=(high - low) / (2 * quantile),
        trials=trials,
        worth=worth,
        texts=counts[0],
        needles=counts[1],
        quantile=quantile,
    )


def _wilson(mean: float, trials: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval for a number of trials that is not whole, which scipy's does not take."""
    shrunk = quantile**2 / trials
    centre = (mean + shrunk / 2) / (1 + shrunk)
    half = math.sqrt(shrunk * (mean * (1 - mean) + shrunk / 4)) / (1 + shrunk)
    return max(0.0, centre - half), min(1.0, centre + half)


def _one_way(values: "NDArray[Any]", codes: "NDArray[Any]") -> float:
    import numpy

    sums = numpy.bincount(codes, weights=values)
    return float(len(sums) / (len(sums) - 1) * numpy.square(sums).sum() / len(values) ** 2) if len(sums) > 1 else 0.0


@lru_cache(maxsize=512)
def student(probability: float, degrees: int | None) -> float:
    """The quantile of Student's t; of the normal distribution for None."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if degrees is None else stdtrit(degrees, probability))
