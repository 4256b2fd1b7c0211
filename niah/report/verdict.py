"""What a comparison means for a gate that was declared beforehand. Text, Markdown, JSON, JUnit and the exit code all come from a Verdict.

The gate asks for non-inferiority: the candidate may be worse by at most a margin. With the interval of the paired difference (candidate
minus base) it passes if the lower end is above -margin; it has regressed if the upper end is below -margin, or below 0 with a
permutation test that agrees; else these trials cannot tell. Of a candidate that is asked until a verdict is certain the test of
sequential.py says so earlier; once all its trials are asked, the interval decides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from niah.errors import IncompleteError, ProviderError, UsageError
from niah.report.clusters import Estimate, pairs_to_show
from niah.report.compare import Comparison, alone, compare
from niah.report.labels import length_label, lost_labels, recall_label
from niah.report.points import Point
from niah.report.sequential import Looks, Reached, place_of
from niah.report.side import Side
from niah.report.stats import EFFECTIVE_RECALL, by_length, cells_of

State: TypeAlias = Literal["pass", "fail", "inconclusive", "unmeasured"]
Status: TypeAlias = Literal["pass", "regressed", "below the floor", "inconclusive", "unmeasured"]
Inconclusive: TypeAlias = Literal["fail", "pass"]

GATE_FAILED = 1
_WORST_FIRST: Sequence[State] = ("fail", "unmeasured", "inconclusive", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What is asked of a candidate. Recalls and shares are fractions, the effective length is in tokens.

    `inconclusive` says what counts where the trials cannot tell; by default that has an exit code of its own. A candidate of which
    more than `max_lost` is not scored, or not asked yet, cannot pass.
    """

    margin: float = 0.02
    alpha: float = 0.05
    min_recall: float | None = None
    min_effective_length: int | None = None
    inconclusive: Inconclusive | None = None
    max_lost: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that the gate asks for, and how it came out. `further` trials would settle it, where that can be said."""

    name: str
    state: State
    told: str
    further: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The whole answer of a gate. The first check is the comparison with the base, if there is one."""

    gate: Gate
    checks: Sequence[Check]
    comparison: Comparison

    @property
    def worst(self) -> State:
        """What the checks come to together."""
        return _worst(check.state for check in self.checks)

    @property
    def status(self) -> Status:
        if self.worst == "fail":
            return "regressed" if self.checks[0].state == "fail" and not self.comparison.alone else "below the floor"
        return self.worst

    def counts_as(self, check: Check) -> State:
        """How a check came out, with what the gate says of those that could not be decided."""
        return self.gate.inconclusive or check.state if check.state == "inconclusive" else check.state

    @property
    def exit_code(self) -> int:
        """As in niah/errors.py: 0 pass, 1 gate failed, 3 inconclusive, 4 the candidate's provider gave nothing to measure."""
        codes = {"pass": 0, "fail": GATE_FAILED, "inconclusive": IncompleteError.exit_code, "unmeasured": ProviderError.exit_code}
        return codes[_worst(map(self.counts_as, self.checks))]

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be asked for this verdict."""
        reached = self.comparison.reached
        return reached is None or reached.state is not None or reached.complete

    @property
    def headline(self) -> str:
        """The verdict and its reason in one sentence."""
        deciding = [check.told for check in self.checks if check.state == self.worst]
        told = deciding[0] if self.worst == "pass" else "; ".join(deciding)
        counted = f" (counts as a {self.gate.inconclusive})" if self.status == "inconclusive" and self.gate.inconclusive else ""
        return f"{self.status.upper()}{counted}: {told}"


def _worst(states: Iterable[State]) -> State:
    there = set(states)
    return next(state for state in _WORST_FIRST if state in there)


def worst_exit_code(verdicts: Iterable[Verdict]) -> int:
    """That of several models together."""
    codes = {verdict.exit_code for verdict in verdicts}
    worst_first = (GATE_FAILED, ProviderError.exit_code, IncompleteError.exit_code)
    return next((code for code in worst_first if code in codes), 0)


def judge(base: Side, candidate: Side, gate: Gate, *, force: bool = False) -> Verdict:
    """The verdict over two sides; UsageError where they cannot be compared."""
    comparison = compare(base, candidate, level=1 - gate.alpha, force=force)
    if candidate.agenda is not None:
        comparison = _until_settled(comparison, base, candidate, gate)
    return decide(comparison, candidate.points, gate)


def judge_alone(side: Side, gate: Gate) -> Verdict:
    """The verdict of a gate that has only floors; UsageError where it has none."""
    if gate.min_recall is None and gate.min_effective_length is None:
        raise UsageError("without a base to compare with there is nothing to judge by: give --min-recall or --min-effective-length")
    return decide(alone(side, level=1 - gate.alpha), side.points, gate)


def decide(comparison: Comparison, points: Sequence[Point], gate: Gate) -> Verdict:
    """The verdict over a comparison; `points` are all of the candidate's, for the floors."""
    checks = [] if comparison.alone else [_non_inferiority(comparison, gate)]
    if comparison.reached is not None:
        checks = [_settled(checks[0], comparison.reached, gate.margin)]
    checks.append(_completeness(comparison, gate))
    if gate.min_recall is not None:
        checks.append(_recall_floor(comparison, gate.min_recall))
    if gate.min_effective_length is not None:
        checks.append(_length_floor(points, gate.min_effective_length))
    return Verdict(gate=gate, checks=tuple(checks), comparison=comparison)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """ "-0.012 (95%: -0.030 to +0.006)", without the level."""
    number = signed_label if signed else _plain
    return f"{number(estimate.low)} to {number(estimate.high)}"


def percent(level: float) -> str:
    """A level for people."""
    return f"{100 * level:.6g}%"


def signed_label(value: float) -> str:
    """A difference for people, with its sign."""
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}"


def _plain(value: float) -> str:
    return recall_label(value, 3)


def _non_inferiority(comparison: Comparison, gate: Gate) -> Check:
    found, name = comparison.difference, "no worse than the base"
    if found is None:
        state: State = "inconclusive" if comparison.candidate.alone else "unmeasured"
        return Check(name=name, state=state, told=f"no trial is scored on both sides ({_why(comparison)})")
    told = (
        f"recall differs from the base by {signed_label(found.mean)} "
        f"({percent(comparison.level)} interval {interval(found, signed=True)}, margin {gate.margin:g}, {found.trials:,} pairs)"
    )
    if max(found.texts, found.needles) < 2:
        return Check(name=name, state="inconclusive", told=f"{told}: one text and one needle are one sample, however many trials")
    if found.low > -gate.margin:
        return Check(name=name, state="pass", told=told)
    p = comparison.permutation_p
    if found.high < -gate.margin or (found.high < 0 and p is not None and p < gate.alpha):
        return Check(name=name, state="fail", told=told)
    gaps = [gap for gap in (found.mean + gate.margin, -found.mean) if gap > 1e-9]
    further = min((max(1, pairs_to_show(found, gap) - found.trials) for gap in gaps), default=None)
    more = "" if further is None else f"; about {further:,} further pairs would settle it if the difference stays"
    return Check(name=name, state="inconclusive", told=told + more, further=further)


def _until_settled(comparison: Comparison, base: Side, candidate: Side, gate: Gate) -> Comparison:
    """With what the looks of the sweep saw; UsageError where it was declared for another gate. What was not to be asked is not missing."""
    assert candidate.agenda is not None
    rule = candidate.agenda.rule
    if (rule.margin, rule.alpha) != (gate.margin, gate.alpha):
        declared = f"--margin {rule.margin:g} --alpha {rule.alpha:g}"
        raise UsageError(f"{candidate.name} was swept --until-settled with {declared}: a gate is declared before, so compare with these")
    looks = Looks(candidate.agenda, {place_of(point): point for point in base.points})
    for point in candidate.points:
        looks.add(point)
    reached, dropped = looks.reached, {name: count for name, count in comparison.dropped.items() if name != "only in the base"}
    return replace(comparison, reached=reached, dropped=dropped, lost_share=reached.lost / max(1, reached.asked))


def _settled(fixed: Check, reached: Reached, margin: float) -> Check:
    """The comparison with the base of a sweep that stops as soon as it is settled; `fixed` is how all its pairs would come out."""
    so_far = f"{reached.asked:,} of {reached.planned:,} trials"
    told = fixed.told.partition("; about ")[0]
    if reached.state in ("pass", "fail"):
        told = (
            f"recall differs from the base by {signed_label(reached.mean)} "
            f"({signed_label(reached.low)} to {signed_label(reached.high)} whenever one looks, margin {margin:g})"
        )
        return replace(fixed, state=reached.state, told=f"stopped after {so_far}, certain enough: {told}", further=None)
    if reached.complete or fixed.state == "unmeasured":
        return replace(fixed, told=f"all {so_far} asked: {fixed.told}" if reached.complete else fixed.told)
    if reached.state == "hopeless":
        why = f"the rest would hardly settle it (probability {reached.chance:.2f})"
        return replace(fixed, state="inconclusive", told=f"stopped after {so_far}, as {why}: {told}", further=None)
    return replace(fixed, state="inconclusive", told=f"open after {so_far}: {told}", further=reached.planned - reached.asked)


def _completeness(comparison: Comparison, gate: Gate) -> Check:
    share, missing = comparison.lost_share, comparison.candidate.missing
    told = f"{share:.1%} of the candidate's trials are not scored or not asked yet, at most {gate.max_lost:.1%} may be"
    return Check(
        name="complete",
        state="pass" if share <= gate.max_lost else "inconclusive",
        told=f"{told} ({_why(comparison)})" if share else told,
        further=missing or None if share > gate.max_lost else None,
    )


def _recall_floor(comparison: Comparison, floor: float) -> Check:
    name, found = f"recall at least {floor:g}", comparison.candidate.alone
    if found is None:
        return Check(name=name, state="unmeasured", told=f"no recall to hold against the floor {floor:g}")
    told = f"recall {_plain(found.mean)} ({percent(comparison.level)} interval {interval(found)}) against the floor {floor:g}"
    if found.low >= floor or found.high < floor:
        return Check(name=name, state="pass" if found.low >= floor else "fail", told=told)
    gap = abs(found.mean - floor)
    further = max(1, pairs_to_show(found, gap) - found.trials) if gap > 1e-9 else None
    more = "" if further is None else f"; about {further:,} further trials would settle it"
    return Check(name=name, state="inconclusive", told=told + more, further=further)


def _length_floor(points: Sequence[Point], floor: int) -> Check:
    """By the definition of an effective length: every asked length up to the first at or above the floor has to reach it."""
    name = f"effective length at least {length_label(floor)}"
    lengths = by_length(cells_of(points))
    enough = next((length for length in lengths if length >= floor), None)
    if enough is None:
        longest = length_label(max(lengths))
        return Check(
            name=name, state="inconclusive", told=f"no trial is as long as the floor {length_label(floor)} (the longest: {longest})"
        )
    weak = {length: one for length, one in lengths.items() if length <= enough and (one[1] is None or one[1] < EFFECTIVE_RECALL)}
    if not weak:
        return Check(name=name, state="pass", told=f"recall is at least {EFFECTIVE_RECALL} up to {length_label(enough)}")
    bad = {length: one for length, one in weak.items() if one[2] is not None and one[2] < EFFECTIVE_RECALL}
    length, (found, low, high) = next(iter((bad or weak).items()))
    where = f"at {length_label(length)}"
    if found is None or low is None or high is None:
        return Check(name=name, state="inconclusive", told=f"no trial is scored {where}, which the floor {length_label(floor)} needs")
    told = f"recall {where} is {_plain(found)} (95% interval {_plain(low)} to {_plain(high)}), {EFFECTIVE_RECALL} is needed for certain"
    return Check(name=name, state="fail" if bad else "inconclusive", told=told)


def _why(comparison: Comparison) -> str:
    """What is not scored, in words."""
    counts = {**comparison.candidate.lost, "missing": comparison.candidate.missing}
    told = ", ".join(lost_labels({name: count for name, count in counts.items() if count}))
    return f"the candidate: {told}" if told else "the base has no score where the candidate has one"


def check_gate(gate: Gate) -> None:
    """UsageError for a gate that means nothing."""
    if not 0 <= gate.margin < 1:
        raise UsageError(f"--margin {gate.margin:g} is no share of recall: give a number from 0 to 1, as in 0.02")
    if not 0 < gate.alpha < 1:
        raise UsageError(f"--alpha {gate.alpha:g} is no probability: give a number above 0 and below 1, as in 0.05")
    if gate.min_recall is not None and not 0 < gate.min_recall <= 1:
        raise UsageError(f"--min-recall {gate.min_recall:g} is no recall: give a number above 0, at most 1")
    if not 0 <= gate.max_lost <= 1:
        raise UsageError(f"--max-lost {gate.max_lost:g} is no share: give a number from 0 to 1, as in 0.05")
