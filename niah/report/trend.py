"""How the odds of finding a needle change with length and depth: a logistic regression over all trials of a series.

Firth's penalised likelihood (Biometrika 80, 1993, 27-38) keeps the estimates finite where length or depth separates hits from misses
altogether, which plain maximum likelihood does not. Intervals are Wald's with errors clustered by text and by needle, and never
narrower than those of independent trials.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from niah.report.clusters import Clusters, degrees_of_freedom, student, variance
from niah.report.points import Point, by_needle, by_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS, _ENOUGH = 100, 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What multiplies the odds of a hit, with its 95% interval. `clear` says that the interval leaves out 1, no effect."""

    odds_ratio: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        return self.low > 1 or self.high < 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What happens to the odds of a hit for each doubling of the length, from depth 0 to depth 1, and from both ends to the middle.

    None for what the trials do not vary in; the middle takes at least three depths.
    """

    doubling: Effect | None
    depth: Effect | None
    middle: Effect | None


def trend(points: Iterable[Point]) -> Trend | None:
    """The trend over scored points; None where all or none are hits, or neither length nor depth varies."""
    import numpy

    scored = [point for point in points if point.scored]
    values = numpy.array([point.value for point in scored])
    lengths, depths = numpy.array([point.length for point in scored]), numpy.array([point.depth for point in scored])
    columns: dict[str, Any] = {}
    if len(set(lengths.tolist())) > 1:
        columns["doubling"] = numpy.log2(lengths) - numpy.log2(lengths).mean()
    if len(set(depths.tolist())) > 1:
        columns["depth"] = depths - 0.5
    if len(set(depths.tolist())) > 2:
        columns["middle"] = 4 * depths * (1 - depths)
    if not columns or values.min() == values.max() or len(scored) <= len(columns) + 1:
        return None
    design = numpy.column_stack([numpy.ones(len(scored)), *columns.values()])
    if numpy.linalg.matrix_rank(design) < design.shape[1]:
        return None
    effects = dict(zip(columns, _effects(design, values, by_text(scored), by_needle(scored))[1:], strict=True))
    return Trend(doubling=effects.get("doubling"), depth=effects.get("depth"), middle=effects.get("middle"))


def firth(design: "NDArray[Any]", values: "NDArray[Any]") -> tuple["NDArray[Any]", "NDArray[Any]"]:
    """Coefficients of the penalised logistic regression, and the inverse of its information.

    `design` has a row a trial and a column a coefficient, `values` lie in [0, 1].
    """
    import numpy

    beta = numpy.zeros(design.shape[1])
    here = _likelihood(design, values, beta)
    for _ in range(_STEPS):
        chance, weight, inverse = _information(design, beta)
        leverage = weight * numpy.einsum("ij,jk,ik->i", design, inverse, design)
        step = inverse @ (design.T @ (values - chance + leverage * (0.5 - chance)))
        while (there := _likelihood(design, values, beta + step)) < here and float(numpy.abs(step).max()) > _ENOUGH:
            step = step / 2
        beta, here = beta + step, there
        if float(numpy.abs(step).max()) < _ENOUGH:
            break
    return beta, _information(design, beta)[2]


def _likelihood(design: "NDArray[Any]", values: "NDArray[Any]", beta: "NDArray[Any]") -> float:
    """The logarithm of the likelihood, with Firth's penalty: half the logarithm of the information's determinant."""
    import numpy

    odds = design @ beta
    weight = numpy.exp(-numpy.logaddexp(0, odds) - numpy.logaddexp(0, -odds))
    information = design.T @ (weight[:, None] * design)
    return float(values @ odds - numpy.logaddexp(0, odds).sum() + numpy.linalg.slogdet(information)[1] / 2)


def _information(design: "NDArray[Any]", beta: "NDArray[Any]") -> tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]:
    """The chance of a hit and its variance for each trial, and the inverse of the information."""
    import numpy
    from scipy.special import expit

    chance = expit(numpy.clip(design @ beta, -30, 30))
    weight = chance * (1 - chance)
    return chance, weight, numpy.linalg.pinv(design.T @ (weight[:, None] * design))


def _effects(design: "NDArray[Any]", values: "NDArray[Any]", texts: Clusters, needles: Clusters) -> list[Effect]:
    """One for each column of the design. A coefficient's error is that of the sum of the trials' influences on it."""
    beta, inverse = firth(design, values)
    chance = _information(design, beta)[0]
    influences = ((values - chance)[:, None] * (design @ inverse)) * len(values)
    quantile = student(0.975, degrees_of_freedom(len(set(texts)), len(set(needles))))
    effects: list[Effect] = []
    for column in range(design.shape[1]):
        clustered = variance(influences[:, column].tolist(), texts, needles)
        error = quantile * math.sqrt(max(clustered, float(inverse[column, column])))
        low, middle, high = (math.exp(min(700.0, max(-700.0, float(beta[column]) + off))) for off in (-error, 0.0, error))
        effects.append(Effect(odds_ratio=middle, low=low, high=high))
    return effects
