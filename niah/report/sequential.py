"""When a sweep may stop: a test of paired differences that may be looked at again and again while trials are asked.

A look takes Tango's interval of the difference at a quantile that is larger than that of a single test: C * I ** -0.1 standard errors,
where I is the part of all information that is there (Wang and Tsiatis, Biometrics 43, 1987, with their shape 0.4). C is worked out such
that a Brownian motion, looked at from I = 0.05 on whenever I has grown by 2% and judged at I = 1 as `niah compare` does, crosses with
the error rate that was asked for. No sweep is looked at more often, so it does not matter when one looks.

The base has answered all trials beforehand. A look uses that: pairs so far, corrected by how the base did on them and on all its trials,

    mean(c - k * b) over the pairs - (1 - k) * mean(b) over all trials of the base,

with k the slope of c on b within texts and needles (a control variate with a known mean: Deng, Xu, Kohavi and Walker, WSDM 2013). Models
that fail independently of each other (k near 0) need so a third fewer trials for the same information; with k = 1, or once all is
asked, it is the paired difference.

Pairs that share texts and needles are no fresh ones: the variance is clustered both ways as in clusters.py, Student's t takes the place
of the normal distribution, and I is what these pairs would have of all information with the clusters' part left. Trials are asked in an
order in which all texts, needles and cells come at once: estimates then have independent increments in units of their information
(Scharfstein, Tsiatis and Robins, JASA 92, 1997). The error rates are asymptotic, and held by simulation: benchmarks/sequential.py.

A look also ends a sweep when the rest would hardly settle it (predictive probability below HOPELESS; Spiegelhalter, Freedman and
Blackburn, Controlled Clinical Trials 7, 1986). That never makes an error more likely.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from niah.report.clusters import degrees_of_freedom, numbered, student, tango, variances
from niah.report.points import Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place: TypeAlias = tuple[int, int, float]
"""Reshuffle, length and depth: names a trial of a sweep with one cue."""

FIRST_PAIRS = 60
"""No look before so many pairs: their variance is not known better than that."""
HOPELESS = 0.2
_STEP = 1.02
"""The next look has at least so many times the pairs of the last one, so that very long sweeps are not looked at for each round."""
_SHAPE = -0.1
_FIRST_INFORMATION = 0.05
_SPENT_ON_PASS, _SPENT_ON_FAIL = 0.8, 1.0
"""Of alpha. A pass has a reserve for what is estimated: in simulations it is the verdict that comes nearer to its rate."""
_GRID, _WIDTH = 0.01, 6.0
"""In what steps and within what bounds a Brownian motion is followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What was declared before the first trial: the margin as a share of recall, and the error rate of either verdict.

    A candidate of which more than `max_lost` is not scored cannot pass.
    """

    margin: float
    alpha: float
    max_lost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agenda:
    """In which order a sweep that stops early asks, and by which rule it stops. `round_trials` come between two looks."""

    rule: Rule
    places: Sequence[Place]
    round_trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a sweep has come, in trials of its order. `state` is None while it is open; `hopeless`: the rest would hardly settle it.

    `mean`, `low` and `high` are the difference and its interval at the last look, and `chance` the probability that the rest settles it.
    """

    state: Literal["pass", "fail", "hopeless"] | None
    asked: int
    planned: int
    lost: int
    mean: float
    low: float
    high: float
    chance: float

    @property
    def complete(self) -> bool:
        return self.asked == self.planned


@dataclass(frozen=True, slots=True)
class Look:
    """What one look sees: the difference, an interval that may be looked at any time, and the chance that the rest settles it."""

    mean: float
    low: float
    high: float
    chance: float


NOTHING = Look(0.0, -1.0, 1.0, 1.0)


class Looks:
    """Takes the points of trials in any order, and looks at them in the order in which they were to be asked.

    Trials that the base has not scored tell nothing and are not asked. What a look has seen never changes: later points only add later
    looks, so that the order of answers does not matter. Whoever goes on after a hopeless look may still see a verdict.
    """

    def __init__(self, agenda: Agenda, base: Mapping[Place, Point]):
        self._rule, self._round = agenda.rule, agenda.round_trials
        self.places = [place for place in agenda.places if place in base and base[place].scored]
        self._base = [base[place] for place in self.places]
        self._there: dict[Place, Point] = {}
        self._pairs: list[int] = []
        self._scores: list[float] = []
        self._asked = self._lost = 0
        self._last_look = FIRST_PAIRS / _STEP
        self._stop: Reached | None = None
        self._hopeless: Reached | None = None
        self._look = NOTHING

    @property
    def reached(self) -> Reached:
        """Where it stopped, or how far it is."""
        if self._stop is None and self._asked == len(self.places):
            return self._now(None)
        return self._stop or self._hopeless or self._now(None)

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be asked."""
        return self.reached.state is not None or self.reached.complete

    def add(self, point: Point) -> None:
        self._there[place_of(point)] = point
        while self._stop is None and self._asked < len(self.places) and (at := self.places[self._asked]) in self._there:
            self._take(self._there[at])

    def _take(self, candidate: Point) -> None:
        if candidate.scored:
            self._pairs.append(self._asked)
            self._scores.append(candidate.value)
        else:
            self._lost += 1
        self._asked += 1
        if self._asked % self._round == 0 and self._asked < len(self.places) and len(self._pairs) >= self._last_look * _STEP:
            self._last_look = len(self._pairs)
            # of trials that are not scored the base's score tells nothing either
            self._look = look([*(self._base[number] for number in self._pairs), *self._base[self._asked :]], self._scores, self._rule)
            self._decide(self._look)

    def _decide(self, seen: Look) -> None:
        if seen.high < 0:
            self._stop = self._now("fail")
        elif seen.low > -self._rule.margin and self._lost <= self._rule.max_lost * self._asked:
            self._stop = self._now("pass")
        elif seen.chance < HOPELESS:
            self._hopeless = self._hopeless or self._now("hopeless")

    def _now(self, state: Literal["pass", "fail", "hopeless"] | None) -> Reached:
        return Reached(
            state=state,
            asked=self._asked,
            planned=len(self.places),
            lost=self._lost,
            mean=self._look.mean,
            low=self._look.low,
            high=self._look.high,
            chance=self._look.chance,
        )


def place_of(point: Point) -> Place:
    return point.reshuffle, point.length, point.depth


def look(base: Sequence[Point], scores: Sequence[float], rule: Rule) -> Look:
    """What the candidate's scores say, which pair with the first points of the base. With one text and one needle nothing: that is one
    sample."""
    import numpy
    from scipy.special import ndtr

    asked, planned = len(scores), len(base)
    texts, needles = numbered([point.text for point in base]), numbered([point.needle for point in base])
    degrees = degrees_of_freedom(int(texts[:asked].max()) + 1, int(needles[:asked].max()) + 1)
    if degrees is None:
        return NOTHING
    before, after = numpy.asarray([point.value for point in base], dtype=float), numpy.asarray(scores, dtype=float)
    differences = after - before[:asked]
    up, down = float(numpy.maximum(differences, 0).mean()), float(numpy.maximum(-differences, 0).mean())
    spread = max(up + down - (up - down) ** 2, 1 / asked)
    mean, influence = _estimated(before, after, _slope(before[:asked], after, texts[:asked], needles[:asked]))
    own = float(numpy.square(influence).sum())
    paired = float(numpy.square(differences - differences.mean()).sum()) / asked**2
    alone = spread / asked * max(asked / planned, min(1.0, own / paired) if paired > 0 else 1.0)
    shared, likely = (max(0.0, each - own) for each in variances(list(influence * planned), texts, needles))
    now, then = shared + alone, shared + spread / planned
    worth, shift = spread / now, mean - (up - down)

    def end(spent: float) -> tuple[float, float]:
        errors = bound(spent * rule.alpha, rule.alpha) * min(1.0, then / now) ** _SHAPE
        return tango(up * worth, down * worth, worth, student(float(ndtr(errors)), degrees))

    low, high = max(-1.0, end(_SPENT_ON_PASS)[0] + shift), min(1.0, end(_SPENT_ON_FAIL)[1] + shift)
    chance = _chance(mean, likely + alone, likely + spread / planned, rule.margin, student(1 - rule.alpha / 2, degrees))
    return Look(mean, low, high, chance)


def _estimated(before: "NDArray[Any]", after: "NDArray[Any]", slope: float) -> "tuple[float, NDArray[Any]]":
    """The difference as the module's docstring has it, and what each trial of the base adds to its error."""
    asked, rest = len(after), after - slope * before[: len(after)]
    influence = (slope - 1) * (before - before.mean()) / len(before)
    influence[:asked] += (rest - rest.mean()) / asked
    return float(rest.mean() - (1 - slope) * before.mean()), influence


def _slope(before: "NDArray[Any]", after: "NDArray[Any]", texts: "NDArray[Any]", needles: "NDArray[Any]") -> float:
    """Of the candidate's scores on the base's, from 0 to 1, within texts and needles: all of these come at once, so that their own
    difficulty is the same so far as in the end. 1, which is the plain paired difference, where the base's scores do not vary."""
    import numpy

    def within(values: "NDArray[Any]") -> "NDArray[Any]":
        values = values - values.mean()
        for codes in (texts, needles):
            values = values - (numpy.bincount(codes, weights=values) / numpy.maximum(numpy.bincount(codes), 1))[codes]
        return values

    x, y = within(before), within(after)
    square = float((x * x).sum())
    return min(1.0, max(0.0, float((x * y).sum()) / square)) if square > 1e-9 else 1.0


@lru_cache(maxsize=64)
def bound(rate: float, alpha: float) -> float:
    """The C of the module's docstring: with it a Brownian motion without drift crosses with the probability `rate` (above alpha / 2),
    at a look or at its end, where the interval at 1 - alpha judges."""
    from scipy.special import ndtri

    last = float(ndtri(1 - alpha / 2))
    low, high = 0.0, 2 * last + 4
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if _crosses(middle, last) > rate else (low, middle)
    return high


def _crosses(factor: float, last: float) -> float:
    """The probability that a Brownian motion is above `factor` * time ** _SHAPE errors after each _STEP, or above `last` at 1."""
    import numpy

    times = numpy.geomspace(_FIRST_INFORMATION, 1, round(-math.log(_FIRST_INFORMATION) / math.log(_STEP)) + 1)
    places = numpy.arange(-_WIDTH, _WIDTH + _GRID / 2, _GRID)
    density = numpy.exp(-(places**2) / (2 * times[0])) / math.sqrt(2 * math.pi * times[0])
    for time, following in pairwise(times):
        density[places > factor * time ** (_SHAPE + 0.5)] = 0.0
        wide = int(_WIDTH * math.sqrt(following - time) / _GRID) + 1
        step = numpy.exp(-((numpy.arange(-wide, wide + 1) * _GRID) ** 2) / (2 * (following - time)))
        density = numpy.convolve(density, step / step.sum(), "same")
    density[places > min(factor, last)] = 0.0
    return 1 - float(density.sum()) * _GRID


def _chance(mean: float, now: float, then: float, margin: float, quantile: float) -> float:
    """The probability that the interval of all trials settles it, given the difference so far and its variance now and then."""
    from scipy.special import ndtr

    if now <= then:
        return 1.0
    reach, left = quantile * math.sqrt(then), math.sqrt(now - then)
    return float(ndtr((mean + margin - reach) / left) + ndtr((-mean - reach) / left))
