"""From records to numbers: recall with its interval for each cell of depth x length, and for each series as a whole.

A failed call, a refusal, an answer cut at the cap and a prompt that the server cut are missing data: they are counted
beside the recall and never inside it. Records are read once and forgotten, so a run may hold far more of them than memory.

The interval of a cell is Wilson's at 95%: its trials have different texts and, as a rule, needles. Score values in between 0 and 1
enter it as their rounded sum: partial credit varies less than all-or-nothing with the same mean, so the interval is then on the wide
side. Whatever pools cells has the interval of niah/report/clusters.py.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from niah.report.clusters import Interval, estimate
from niah.report.clusters import recall as clustered_recall
from niah.report.measures import Measure, measure
from niah.report.points import Facts, Latest, Point, by_needle, by_text
from niah.trial import Cue, Record, Trial

EFFECTIVE_RECALL, STRICT_RECALL = 0.85, 0.95
"""A length counts as effective, or strictly so, when the lower bound of its recall and of that at all shorter lengths reaches this."""

Where: TypeAlias = tuple[str, Cue, int, float]
"""Model, cue, length and depth: the cell of a trial. A trial with several needles stands at the depth of its first."""

Lost: TypeAlias = Literal["errors", "cut", "refused", "truncated", "overflow"]
LOST: Mapping[str, Lost] = {"error": "errors", "cut": "cut", "refused": "refused", "truncated": "truncated", "overflow": "overflow"}
"""The outcomes that are not scored, and the name under which a cell counts each."""


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """One heatmap: a model with a cue mode. The cue is part of the name only where records hold more than one mode."""

    model: str
    cue: Cue
    named_cue: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.model} [cue {self.cue}]" if self.named_cue else self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is known at one length and depth. `trials` are the scored ones and `points` the sum of their scores."""

    length: int
    depth: float
    trials: int
    points: float
    recall: float | None
    low: float | None
    high: float | None
    errors: int = 0
    cut: int = 0
    refused: int = 0
    truncated: int = 0
    overflow: int = 0
    planned: int | None = None

    @property
    def lost(self) -> dict[Lost, int]:
        """The outcomes that are not scored, with their counts where there are any."""
        counts: dict[Lost, int] = {name: getattr(self, name) for name in LOST.values()}
        return {name: count for name, count in counts.items() if count}

    @property
    def missing(self) -> int | None:
        """Planned trials that have no usable record yet; None where no plan is known."""
        return None if self.planned is None else max(0, self.planned - self.trials - sum(self.lost.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A series, or a model over all its cues, in one line. Intervals are clustered by `texts` and `needles`, which are counted here.

    An effective length is the largest such that its recall and that at all shorter lengths has a lower bound of at least
    EFFECTIVE_RECALL, or STRICT_RECALL (`_95`): pooled over depths, or for every depth by itself (`_worst_depth`). None where none has.
    """

    recall: float | None
    low: float | None
    high: float | None
    trials: int
    texts: int
    needles: int
    errors: int
    refused: int
    cut: int
    truncated: int
    overflow: int
    missing: int | None
    effective_length: int | None
    effective_length_95: int | None
    effective_length_worst_depth: int | None
    effective_length_worst_depth_95: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Trials that share a corpus, a needle, a depth, a length or a cue: their recall and clustered interval, and what is not scored."""

    name: str
    trials: int
    recall: float | None
    low: float | None
    high: float | None
    lost: Mapping[Lost, int]


BY: Mapping[str, Callable[[Point], str | int | float]] = {
    "corpus": lambda point: point.corpus,
    "needle": lambda point: point.needle,
    "depth": lambda point: point.depth,
    "length": lambda point: point.length,
    "cue": lambda point: point.cue,
}
"""What trials can be put into groups by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a report shows: cells in the order of length and depth, series in the order of their names.

    `records` counts each (model, trial) once; `points` are those trials, and `measures` what their answers took.
    """

    cells: Mapping[Series, Sequence[Cell]]
    points: Mapping[Series, Sequence[Point]]
    facts: Facts
    records: int
    measures: Mapping[Series, Sequence[Measure]] = field(default_factory=dict[Series, Sequence[Measure]])
    _summaries: dict[Series, Summary] = field(default_factory=dict[Series, Summary], init=False, repr=False, compare=False)
    _groups: dict[tuple[Series, str], Sequence[Group]] = field(
        default_factory=dict[tuple[Series, str], Sequence[Group]], init=False, repr=False, compare=False
    )

    @property
    def summaries(self) -> Mapping[Series, Summary]:
        for series, cells in () if self._summaries else self.cells.items():
            self._summaries[series] = summarise(cells, self.points.get(series, ()))
        return self._summaries

    def groups(self, series: Series, by: str) -> Sequence[Group]:
        """`breakdown` of a series' points. Pictures, tables, summary.json and the page all ask for it: it is worked out once."""
        if (series, by) not in self._groups:
            self._groups[series, by] = breakdown(self.points[series], by)
        return self._groups[series, by]


class Gathering:
    """Takes records one by one, each (model, trial) once: its last record with a reply, or else its last one.

    `scorer` names the scores to use instead of the first ones; a reply that it has not scored counts as missing.
    """

    def __init__(self, scorer: str | None = None):
        self._facts, self._latest = Facts(), Latest(scorer)
        self._measures: dict[tuple[str, str], Measure] = {}

    def add(self, record: Record, dollars: float | None = None) -> None:
        """`dollars` is what the answer cost, as far as that is known."""
        if self._latest.add(record):
            self._facts.add(record.trial)
            if taken := measure(record, dollars):
                self._measures[record.model, record.trial.key] = taken

    def results(self, planned: Mapping[Where, int] | None = None) -> Results:
        """`planned` (trials of the plan a cell) makes missing trials known."""
        made = _results(self._latest.points(), self._facts, dict(planned or {}))
        by_series: dict[tuple[str, Cue], list[Measure]] = {}
        for one in self._measures.values():
            by_series.setdefault((one.model, one.cue), []).append(one)
        return replace(made, measures={series: by_series.get((series.model, series.cue), []) for series in made.cells})


def aggregate(records: Iterable[Record], *, scorer: str | None = None, planned: Mapping[Where, int] | None = None) -> Results:
    """The results of records: see `Gathering`."""
    gathering = Gathering(scorer)
    for record in records:
        gathering.add(record)
    return gathering.results(planned)


def cells_of(points: Iterable[Point]) -> list[Cell]:
    """The cells of one model's points."""
    return [cell for row in _results((("", point) for point in points), Facts(), {}).cells.values() for cell in row]


def _results(points_of: Iterable[tuple[str, Point]], facts: Facts, plan: Mapping[Where, int]) -> Results:
    there: dict[Where, list[Point]] = {place: [] for place in plan}
    for model, point in points_of:
        there.setdefault((model, point.cue, point.length, point.depth), []).append(point)
    named_cue = len({cue for _, cue, _, _ in there}) > 1
    cells: dict[Series, list[Cell]] = {}
    points: dict[Series, list[Point]] = {}
    for place in sorted(there):
        model, cue, length, depth = place
        count = plan.get(place)
        if any(point.outcome is None for point in there[place]):  # so that they show as missing even where no plan is known
            count = max(count or 0, len(there[place]))
        series = Series(model, cue, named_cue)
        cells.setdefault(series, []).append(_cell(length, depth, there[place], count))
        points.setdefault(series, []).extend(there[place])
    return Results(cells=cells, points=points, facts=facts, records=sum(map(len, there.values())))


def cells(
    records: Iterable[Record], *, scorer: str | None = None, planned: Mapping[Where, int] | None = None
) -> Mapping[Series, Sequence[Cell]]:
    """The cells of each series: see `aggregate`."""
    return aggregate(records, scorer=scorer, planned=planned).cells


def summaries(
    records: Iterable[Record], *, scorer: str | None = None, planned: Mapping[Where, int] | None = None
) -> Mapping[Series, Summary]:
    """The summary of each series: see `aggregate`."""
    return aggregate(records, scorer=scorer, planned=planned).summaries


def where(model: str, trial: Trial) -> Where:
    """The cell of a model's trial."""
    return model, trial.cue, trial.length, trial.depths[0]


def summarise(cells: Sequence[Cell], points: Sequence[Point]) -> Summary:
    """Cells, and the points in them, pooled: every trial weighs the same, whatever its cell."""
    scored = [point for point in points if point.scored]
    pooled = clustered_recall([point.value for point in scored], by_text(scored), by_needle(scored))
    known = [cell.missing for cell in cells if cell.missing is not None]
    return Summary(
        recall=pooled.mean if pooled else None,
        low=pooled.low if pooled else None,
        high=pooled.high if pooled else None,
        trials=len(scored),
        texts=pooled.texts if pooled else 0,
        needles=pooled.needles if pooled else 0,
        errors=sum(cell.errors for cell in cells),
        refused=sum(cell.refused for cell in cells),
        cut=sum(cell.cut for cell in cells),
        truncated=sum(cell.truncated for cell in cells),
        overflow=sum(cell.overflow for cell in cells),
        missing=sum(known) if known else None,
        effective_length=effective_length(cells, EFFECTIVE_RECALL),
        effective_length_95=effective_length(cells, STRICT_RECALL),
        effective_length_worst_depth=effective_length(cells, EFFECTIVE_RECALL, worst_depth=True),
        effective_length_worst_depth_95=effective_length(cells, STRICT_RECALL, worst_depth=True),
    )


def effective_length(cells: Sequence[Cell], enough: float, *, worst_depth: bool = False) -> int | None:
    """The largest length such that it and all shorter ones have a recall whose lower bound is at least `enough`; None if none has.

    The recall of a length is pooled over depths, or that of its worst depth. Its interval is Wilson's: all lengths have the same texts
    and needles, so how much others would change says nothing of length.
    """
    reached: int | None = None
    for length, (_, low, _) in by_length(cells, worst_depth=worst_depth).items():
        if low is None or low < enough:
            break
        reached = length
    return reached


def by_length(cells: Sequence[Cell], *, worst_depth: bool = False) -> dict[int, Interval]:
    """Recall and interval at each length, in their order: pooled over depths, or of the depth with the smallest lower bound."""
    made: dict[int, Interval] = {}
    for length in sorted({cell.length for cell in cells}):
        there = [cell for cell in cells if cell.length == length]
        each = [(cell.recall, cell.low, cell.high) for cell in there]
        made[length] = min(each, key=lambda one: one[1] or 0.0) if worst_depth else estimate(*_pool(there))
    return made


def breakdown(points: Iterable[Point], by: str) -> list[Group]:
    """Points in groups, in the order of what they share: `by` is one of BY."""
    members: dict[str | int | float, list[Point]] = {}
    for point in points:
        members.setdefault(BY[by](point), []).append(point)
    groups: list[Group] = []
    for name in sorted(members):
        scored = [point for point in members[name] if point.scored]
        pooled = clustered_recall([point.value for point in scored], by_text(scored), by_needle(scored))
        groups.append(
            Group(
                name=str(name),
                trials=len(scored),
                recall=pooled.mean if pooled else None,
                low=pooled.low if pooled else None,
                high=pooled.high if pooled else None,
                lost=_lost(members[name]),
            )
        )
    return groups


def _lost(points: Iterable[Point]) -> dict[Lost, int]:
    counts = Counter(LOST[point.outcome] for point in points if point.outcome is not None and point.outcome in LOST)
    return {name: counts[name] for name in LOST.values() if counts[name]}


def _cell(length: int, depth: float, points: Sequence[Point], planned: int | None) -> Cell:
    values = [point.value for point in points if point.scored]
    total = math.fsum(values)
    recall, low, high = estimate(total, len(values))
    return Cell(
        length=length,
        depth=depth,
        trials=len(values),
        points=total,
        recall=recall,
        low=low,
        high=high,
        planned=planned,
        **_lost(points),
    )


def _pool(cells: Sequence[Cell]) -> tuple[float, int]:
    return math.fsum(cell.points for cell in cells), sum(cell.trials for cell in cells)
