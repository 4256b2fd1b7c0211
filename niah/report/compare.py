"""Two sides, trial by trial: the paired difference, how sure it is, and where it comes from. What it means is said in verdict.py.

Trials are pairs when they have the same key, which is to say the same prompt. What is not scored on one side is no pair.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from niah.errors import UsageError
from niah.report.clusters import (
    ENOUGH_CLUSTERS,
    Clusters,
    Estimate,
    detectable,
    difference,
    exact_mcnemar,
    flip_test,
    holm,
    numbered,
    recall,
)
from niah.report.labels import length_label, lost_labels
from niah.report.points import Point, by_needle, by_text, counted
from niah.report.sequential import Reached
from niah.report.side import OF_SCORING, Costs, Side, differences
from niah.report.stats import LOST
from niah.trial import SCORED

KEY_DIGITS = 16
"""So many digits of a key tell trials apart: with a million trials, two agree with a chance of 1 in 37 million."""

Pair: TypeAlias = tuple[Point, Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One side in numbers. `recall` is that of its pairs and `alone` that of all its scored trials; `lost` counts what is not scored."""

    name: str
    model: str
    recall: Estimate | None
    alone: Estimate | None
    lost: Mapping[str, int]
    missing: int
    costs: Costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A cell with its pairs and recalls on both sides. `p` is McNemar's exact p after Holm over all cells."""

    length: int
    depth: float
    pairs: int
    base: float
    candidate: float
    worse: int
    better: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All numbers of a comparison at one level (0.95, say). Differences are candidate minus base.

    `permutation_p` is the larger of the two p-values of a sign-flip test over texts and over needles, if there are enough of both; None
    where there is one of both. `lost_share` is the part of the candidate's trials to be compared that is not scored or not asked yet.
    `reached` says how far a candidate has come that is asked until a verdict is certain.
    """

    base: Half
    candidate: Half
    level: float
    difference: Estimate | None
    worse: int
    better: int
    mcnemar_p: float
    permutation_p: float | None
    detectable: float | None
    cells: Sequence[Drop]
    dropped: Mapping[str, int]
    lost_share: float
    differences: Sequence[str]
    reached: Reached | None = None

    @property
    def alone(self) -> bool:
        """Whether there is no base: then only floors are looked at."""
        return self.base is self.candidate


def compare(base: Side, candidate: Side, *, level: float = 0.95, force: bool = False) -> Comparison:
    """Raises UsageError where the sides cannot be compared: different conditions (unless forced), nothing in common, nothing scored."""
    different = differences(base, candidate)
    if different and not force:
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise UsageError(
            f"these cannot be compared ({'; '.join(different[:4])}{more}): make them alike, or --force to compare all the same"
        )
    for side in (base, candidate):
        if not side.points:
            raise UsageError(f"{side.name} holds no records of {side.model}")
    if not any(point.scored for point in base.points):
        raise UsageError(
            f"{base.name} has no scored trial ({', '.join(lost_labels(_lost(base.points)))}): there is nothing to compare with"
        )
    matched = matched_trials(base, candidate, different)
    pairs = [(b, c) for b, c in matched if b.scored and c.scored]
    dropped = {
        **{f"{name} in the base": count for name, count in _lost(b for b, _ in matched).items()},
        **{f"{name} in the candidate": count for name, count in _lost(c for b, c in matched if b.scored).items()},
        "only in the base": len(base.points) - len(matched),
        "only in the candidate": len(candidate.points) - len(matched),
    }
    unscored = sum(not c.scored for _, c in matched)
    clusters = _clusters(pairs)
    found = difference([c.value - b.value for b, c in pairs], *clusters, level=level)
    worse, better = _discordant(pairs)
    return Comparison(
        base=_half(base, recall([b.value for b, _ in pairs], *clusters, level=level), level),
        candidate=_half(candidate, recall([c.value for _, c in pairs], *clusters, level=level), level),
        level=level,
        difference=found,
        worse=worse,
        better=better,
        mcnemar_p=exact_mcnemar(worse, better),
        permutation_p=_permutation(pairs, clusters, found),
        detectable=detectable(found) if found else None,
        cells=_drops(pairs),
        dropped={name: count for name, count in dropped.items() if count},
        lost_share=(unscored + candidate.missing) / (len(matched) + candidate.missing),
        differences=different,
    )


def alone(side: Side, *, level: float = 0.95) -> Comparison:
    """A side by itself, for a gate that has only floors. Raises UsageError where it has no records."""
    if not side.points:
        raise UsageError(f"{side.name} holds no records of {side.model}")
    half, unscored = _half(side, None, level), sum(not point.scored for point in side.points)
    return Comparison(
        base=half,
        candidate=half,
        level=level,
        difference=None,
        worse=0,
        better=0,
        mcnemar_p=1.0,
        permutation_p=None,
        detectable=None,
        cells=_drops([(point, point) for point in side.points if point.scored]),
        dropped={},
        lost_share=(unscored + side.missing) / (len(side.points) + side.missing),
        differences=(),
    )


def matched_trials(base: Side, candidate: Side, different: Sequence[str]) -> list[Pair]:
    """Trials that stand on both sides, scored or not: by key, or by their names and numbers where what stands behind these differs."""
    behind = [each for each in different if each.partition(":")[0] not in OF_SCORING]
    with_cue = not any(each.startswith("cue:") for each in different)

    def identity(point: Point) -> Hashable:
        return (*point.place, point.cue if with_cue else "") if behind else point.key[:KEY_DIGITS]

    theirs, ours = ({identity(point): point for point in side.points} for side in (base, candidate))
    for side, there in ((base, theirs), (candidate, ours)):
        if len(there) < len(side.points):
            raise UsageError(f"{side.name} has several trials in one place, so that it is not clear which belong together")
    matched = [(point, ours[name]) for name, point in theirs.items() if name in ours]
    if not matched:
        raise UsageError(f"{base.name} ({_grid(base.points)}) and {candidate.name} ({_grid(candidate.points)}) have no trial in common")
    return matched


def _grid(points: Sequence[Point]) -> str:
    lengths, depths = sorted({point.length for point in points}), {point.depth for point in points}
    return f"{', '.join(map(length_label, lengths[:8]))}{' ...' if len(lengths) > 8 else ''} tokens, {len(depths)} depths"


def _half(side: Side, paired: Estimate | None, level: float) -> Half:
    scored = [point for point in side.points if point.scored]
    return Half(
        name=side.name,
        model=side.model,
        recall=paired,
        alone=paired if paired and paired.trials == len(scored) else _alone(scored, level),
        lost=_lost(side.points),
        missing=side.missing,
        costs=side.costs,
    )


def _alone(scored: Sequence[Point], level: float) -> Estimate | None:
    return recall([point.value for point in scored], by_text(scored), by_needle(scored), level=level)


def _lost(points: Iterable[Point]) -> dict[str, int]:
    """How many points are not scored, by the names that cells count them under."""
    return {LOST.get(name, name): count for name, count in counted(points).items() if name not in SCORED}


def _clusters(pairs: Sequence[Pair]) -> tuple[Clusters, Clusters]:
    """The texts and the needles of the pairs."""
    bases = [base for base, _ in pairs]
    return numbered(by_text(bases)), numbered(by_needle(bases))


def _discordant(pairs: Iterable[Pair]) -> tuple[int, int]:
    """In how many pairs the candidate is worse, and better."""
    signs = Counter((c.value > b.value) - (c.value < b.value) for b, c in pairs)
    return signs[-1], signs[1]


def _permutation(pairs: Sequence[Pair], kinds: tuple[Clusters, Clusters], found: Estimate | None) -> float | None:
    if found is None or max(found.texts, found.needles) < 2:
        return None
    values = [c.value - b.value for b, c in pairs]
    by_count = sorted(zip((found.texts, found.needles), kinds, strict=True), key=lambda kind: -kind[0])
    enough = [labels for count, labels in by_count if count >= ENOUGH_CLUSTERS] or [by_count[0][1]]
    return max(flip_test(values, labels) for labels in enough)


def _drops(pairs: Sequence[Pair]) -> list[Drop]:
    """All cells, those with the clearest drop first."""
    cells: dict[tuple[int, float], list[Pair]] = {}
    for pair in pairs:
        cells.setdefault((pair[0].length, pair[0].depth), []).append(pair)
    counts = {place: _discordant(members) for place, members in cells.items()}
    adjusted = dict(zip(counts, holm([exact_mcnemar(*each) for each in counts.values()]), strict=True))
    drops = [
        Drop(
            length=length,
            depth=depth,
            pairs=len(members),
            base=math.fsum(b.value for b, _ in members) / len(members),
            candidate=math.fsum(c.value for _, c in members) / len(members),
            worse=counts[length, depth][0],
            better=counts[length, depth][1],
            p=adjusted[length, depth],
        )
        for (length, depth), members in cells.items()
    ]
    return sorted(drops, key=lambda drop: (drop.candidate - drop.base >= 0, drop.p, drop.candidate - drop.base, drop.length, drop.depth))
