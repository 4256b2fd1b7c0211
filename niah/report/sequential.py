"""When a sweep may stop: an anytime-valid test of paired differences, looked at again and again while trials are asked.

The capital of a gambler who bets a share on each difference d that the true mean is on one side of m,

    K(m) = prod over pairs of (1 + share * (d - m)),

is at most 1 in the mean where he is wrong, whenever one looks, so that it ever reaches 1/a with a probability of at most a (Ville's
inequality; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024, section 4: the
capital process). Here two bet: one that the candidate is better than base - margin, one that it is worse than the base, each the mean
of gamblers with fixed shares.

Pairs that share texts and needles are no fresh bets. log K is therefore divided by the design effect of the pairs so far (their
two-way clustered variance over that of as many independent pairs, as in clusters.py; Rao and Scott, JASA 76, 1981, divide a
likelihood ratio so). What the clusters add to the variance is enlarged for their small number, as Student's t would. Trials are
asked in an order in which all texts, needles and cells come at once: estimates then have independent increments in units of their
information (Scharfstein, Tsiatis and Robins, JASA 92, 1997), and log K grows with that information and not with the number of pairs.
With clusters the error rates are therefore asymptotic, and held by simulation: benchmarks/sequential.py.

Half of alpha goes into these looks. When all trials are asked, the gate of `niah compare` decides, whose one-sided rates are the other
half. A look also ends a sweep when the rest would hardly settle it (predictive probability below HOPELESS; Spiegelhalter, Freedman and
Blackburn, Controlled Clinical Trials 7, 1986). That never makes an error more likely.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from niah.report.clusters import degrees_of_freedom, numbered, student, variance
from niah.report.points import Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place: TypeAlias = tuple[int, int, float]
"""Reshuffle, length and depth: names a trial of a sweep with one cue."""

FIRST_PAIRS = 80
"""No look before so many pairs: their variance is not known better than that."""
HOPELESS = 0.02
_STEP = 1.02
"""The next look has at least so many times the pairs of the last one, so that very long sweeps are not looked at for each round."""
_FOR_PASS = (0.12, 0.4, 0.95)
_FOR_FAIL = (0.25, 0.6)
"""Shares that grow fastest for margins of one to ten points and for drops of three to twenty, with few or many discordant pairs."""


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

    `evidence` is the capital behind a pass or a failure; `chance` the probability that the rest settles it, at the last look.
    """

    state: Literal["pass", "fail", "hopeless"] | None
    asked: int
    planned: int
    lost: int
    evidence: float
    chance: float

    @property
    def complete(self) -> bool:
        return self.asked == self.planned


@dataclass(frozen=True, slots=True)
class Look:
    """What one look sees: log capital on a pass and on a failure, and the chance that all planned pairs settle it."""

    for_pass: float
    for_fail: float
    chance: float


class Looks:
    """Takes the points of trials in any order, and looks at them in the order in which they were to be asked.

    Trials that the base has not scored tell nothing and are not asked. What a look has seen never changes: later points only add later
    looks, so that the order of answers does not matter. Whoever goes on after a hopeless look may still see a verdict.
    """

    def __init__(self, agenda: Agenda, base: Mapping[Place, Point]):
        self._rule, self._round = agenda.rule, agenda.round_trials
        self.places = [place for place in agenda.places if place in base and base[place].scored]
        self._base = base
        self._there: dict[Place, Point] = {}
        self._asked = self._lost = 0
        self._last_look = FIRST_PAIRS / _STEP
        self._differences: list[float] = []
        self._texts: list[Hashable] = []
        self._needles: list[Hashable] = []
        self._stop: Reached | None = None
        self._hopeless: Reached | None = None
        self._look = Look(-math.inf, -math.inf, 1.0)

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
            self._take(self._base[at], self._there[at])

    def _take(self, base: Point, candidate: Point) -> None:
        self._asked += 1
        if candidate.scored:
            self._differences.append(candidate.value - base.value)
            self._texts.append(base.text)
            self._needles.append(base.needle)
        else:
            self._lost += 1
        pairs = len(self._differences)
        if self._asked % self._round == 0 and self._asked < len(self.places) and pairs >= self._last_look * _STEP:
            self._last_look = pairs
            self._look = look(
                self._differences, self._texts, self._needles, rule=self._rule, planned_pairs=len(self.places) * pairs / self._asked
            )
            self._decide(self._look)

    def _decide(self, seen: Look) -> None:
        enough = math.log(2 / self._rule.alpha)
        if seen.for_fail >= enough:
            self._stop = self._now("fail", seen.for_fail)
        elif seen.for_pass >= enough and self._lost <= self._rule.max_lost * self._asked:
            self._stop = self._now("pass", seen.for_pass)
        elif seen.chance < HOPELESS:
            self._hopeless = self._hopeless or self._now("hopeless")

    def _now(self, state: Literal["pass", "fail", "hopeless"] | None, log_evidence: float = 0.0) -> Reached:
        return Reached(
            state=state,
            asked=self._asked,
            planned=len(self.places),
            lost=self._lost,
            evidence=math.exp(min(log_evidence, 700.0)) if state in ("pass", "fail") else 0.0,
            chance=self._look.chance,
        )


def place_of(point: Point) -> Place:
    return point.reshuffle, point.length, point.depth


def look(differences: Sequence[float], texts: Sequence[Hashable], needles: Sequence[Hashable], *, rule: Rule, planned_pairs: float) -> Look:
    """What these pairs say, of `planned_pairs`. With one text and one needle nothing: that is one sample."""
    import numpy

    values = numpy.asarray(differences, dtype=float)
    by_text, by_needle = numbered(texts), numbered(needles)
    degrees = degrees_of_freedom(int(by_text.max()) + 1, int(by_needle.max()) + 1)
    if degrees is None:
        return Look(-math.inf, -math.inf, 1.0)
    pairs, mean = len(values), float(values.mean())
    up, down = float(numpy.maximum(values, 0).mean()), float(numpy.maximum(-values, 0).mean())
    spread = max(up + down - (up - down) ** 2, 1 / pairs)
    effect = max(1.0, variance(list(values - mean), by_text, by_needle) * pairs / spread)
    shrink = 1 / (1 + (effect - 1) * _enlarged(rule.alpha / 2, degrees))
    return Look(
        shrink * _log_capital(values, -rule.margin, 1, _FOR_PASS),
        shrink * _log_capital(values, 0.0, -1, _FOR_FAIL),
        _chance(mean, (spread / pairs, spread / planned_pairs), effect, rule.margin, student(1 - rule.alpha / 2, degrees)),
    )


def _log_capital(values: "NDArray[Any]", mean: float, side: int, shares: Sequence[float]) -> float:
    """Log of the mean capital of gamblers who bet these shares of what they can that the true mean lies on this side of `mean`."""
    import numpy

    gains = side * (values - mean) / (1 + abs(mean))
    logs = [float(numpy.log1p(share * gains).sum()) for share in shares]
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / len(logs))


def _enlarged(alpha: float, degrees: int) -> float:
    """By how much a variance with so many degrees of freedom has to be larger to be as safe as a known one at this error rate."""
    from scipy.special import ndtr

    quantile = math.sqrt(2 * math.log(1 / alpha))
    return (student(float(ndtr(quantile)), degrees) / quantile) ** 2


def _chance(mean: float, variances: tuple[float, float], effect: float, margin: float, quantile: float) -> float:
    """The probability that the interval of all planned pairs settles it, given those so far.

    `variances` are the mean's now and then, were pairs independent: what clusters add to it stays.
    """
    from scipy.special import ndtr

    now, then = variances
    if now <= then:
        return 1.0
    reach, left = quantile * math.sqrt(now * (effect - 1) + then), math.sqrt(now - then)
    passes, fails = (mean + margin - reach) / left, (-mean - reach) / left
    return float(ndtr(passes) + ndtr(fails))
