"""From records to numbers: recall with its interval for each cell of depth x length, and for each series as a whole.

A failed call, a refusal, an answer cut at the cap and a prompt that the server cut are missing data: they are counted
beside the recall and never inside it. Records are read once and forgotten, so a run may hold far more of them than memory.

Intervals are Wilson's at 95% and take trials as independent. Score values in between 0 and 1 enter as their rounded sum:
partial credit varies less than all-or-nothing with the same mean, so the interval is then on the wide side.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, TypeAlias, cast

from niah.errors import UsageError, did_you_mean
from niah.trial import SCORED, Cue, Outcome, Record, Score, Trial, outcome

EFFECTIVE_RECALL = 0.85
"""A length counts as effective when the lower bound of its recall, pooled over depths, reaches this."""

Where: TypeAlias = tuple[str, Cue, int, float]
"""Model, cue, length and depth: the cell of a trial. A trial with several needles stands at the depth of its first."""

Lost: TypeAlias = Literal["errors", "cut", "refused", "truncated", "overflow"]
LOST: Mapping[Outcome, Lost] = {"error": "errors", "cut": "cut", "refused": "refused", "truncated": "truncated", "overflow": "overflow"}
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
    """A series, or a model over all its cues, in one line. `effective_length` is None where no length is good enough."""

    recall: float | None
    low: float | None
    high: float | None
    trials: int
    errors: int
    refused: int
    cut: int
    truncated: int
    overflow: int
    missing: int | None
    effective_length: int | None


@dataclass(slots=True, kw_only=True)
class Facts:
    """What the trials of all records share or vary in: the material of a title."""

    needles: set[str] = field(default_factory=set[str])
    corpora: set[str] = field(default_factory=set[str])
    tokenizers: set[str] = field(default_factory=set[str])
    cues: set[str] = field(default_factory=set[str])
    haystacks: set[str] = field(default_factory=set[str])
    needles_a_prompt: set[int] = field(default_factory=set[int])
    distractors: set[int] = field(default_factory=set[int])

    def add(self, trial: Trial) -> None:
        self.needles.update(trial.needles)
        self.corpora.add(trial.corpus)
        self.tokenizers.add(trial.tokenizer)
        self.cues.add(trial.cue)
        self.haystacks.add(trial.haystack)
        self.needles_a_prompt.add(len(trial.needles))
        self.distractors.add(trial.distractors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a report shows: cells in the order of length and depth, series in the order of their names.

    `records` counts each (model, trial) once.
    """

    cells: Mapping[Series, Sequence[Cell]]
    facts: Facts
    records: int

    @property
    def summaries(self) -> dict[Series, Summary]:
        return {series: summarise(cells) for series, cells in self.cells.items()}


def aggregate(records: Iterable[Record], *, scorer: str | None = None, planned: Mapping[Where, int] | None = None) -> Results:
    """The results of records, each (model, trial) once: its last record with a reply, or else its last one.

    `scorer` names the scores to use instead of the first ones; a reply that it has not scored counts as missing.
    """
    facts = Facts()
    latest: dict[tuple[str, str], tuple[bool, Where, Outcome | None, float]] = {}
    scorers: set[str] = set()
    for record in records:
        identity, answered = (record.model, record.trial.key), record.reply is not None
        if answered or identity not in latest or not latest[identity][0]:
            facts.add(record.trial)
            scorers.update(score.scorer for score in record.scores)
            latest[identity] = (answered, where(record.model, record.trial), *_value(record, scorer))
    if scorer is not None and scorers and scorer not in scorers:
        raise UsageError(f"no record is scored by {scorer!r}; {did_you_mean(scorer, scorers)}")

    values: dict[Where, list[float]] = {}
    lost: Counter[tuple[Where, Lost]] = Counter()
    plan: dict[Where, int] = dict(planned or {})
    seen: Counter[Where] = Counter()
    unscored: set[Where] = set()
    for _, place, result, value in latest.values():
        seen[place] += 1
        if result is None:
            unscored.add(place)
        elif result in SCORED:
            values.setdefault(place, []).append(value)
        else:
            lost[place, LOST[result]] += 1
    for place in unscored:  # so that they show as missing even where no plan is known
        plan[place] = max(plan.get(place, 0), seen[place])

    places = sorted({*seen, *plan})
    named_cue = len({cue for _, cue, _, _ in places}) > 1
    cells: dict[Series, list[Cell]] = {}
    for place in places:
        model, cue, length, depth = place
        points = values.get(place, [])
        cell = _cell(length, depth, points, {name: lost[place, name] for name in LOST.values()}, plan.get(place))
        cells.setdefault(Series(model, cue, named_cue), []).append(cell)
    return Results(cells=cells, facts=facts, records=len(latest))


def cells(
    records: Iterable[Record], *, scorer: str | None = None, planned: Mapping[Where, int] | None = None
) -> Mapping[Series, Sequence[Cell]]:
    """The cells of each series: see `aggregate`."""
    return aggregate(records, scorer=scorer, planned=planned).cells


def summaries(records: Iterable[Record], *, scorer: str | None = None, planned: Mapping[Where, int] | None = None) -> dict[Series, Summary]:
    """The summary of each series: see `aggregate`."""
    return aggregate(records, scorer=scorer, planned=planned).summaries


def where(model: str, trial: Trial) -> Where:
    """The cell of a model's trial."""
    return model, trial.cue, trial.length, trial.depths[0]


def summarise(cells: Sequence[Cell]) -> Summary:
    """Cells pooled: every trial weighs the same, whatever its cell."""
    points, trials = _pool(cells)
    recall, low, high = estimate(points, trials)
    known = [cell.missing for cell in cells if cell.missing is not None]
    return Summary(
        recall=recall,
        low=low,
        high=high,
        trials=trials,
        errors=sum(cell.errors for cell in cells),
        refused=sum(cell.refused for cell in cells),
        cut=sum(cell.cut for cell in cells),
        truncated=sum(cell.truncated for cell in cells),
        overflow=sum(cell.overflow for cell in cells),
        missing=sum(known) if known else None,
        effective_length=effective_length(cells),
    )


def effective_length(cells: Sequence[Cell]) -> int | None:
    """The largest length whose recall, pooled over depths, has a lower bound of at least EFFECTIVE_RECALL; None if none has."""
    for length in sorted({cell.length for cell in cells}, reverse=True):
        _, low, _ = estimate(*_pool([cell for cell in cells if cell.length == length]))
        if low is not None and low >= EFFECTIVE_RECALL:
            return length
    return None


def estimate(points: float, trials: int) -> tuple[float | None, float | None, float | None]:
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


def _value(record: Record, scorer: str | None) -> tuple[Outcome | None, float]:
    """What a record counts as and its score; None where `scorer` has not scored a reply that others have."""
    score = record.scores[0] if record.scores else None
    if scorer is not None and score is not None:
        score = _named(record.scores, scorer)
        record = replace(record, scores=(score,) if score else ())
        if score is None and outcome(record) == "truncated":
            return None, 0.0
    return outcome(record), score.value if score else 0.0


def _named(scores: Sequence[Score], scorer: str) -> Score | None:
    return next((score for score in scores if score.scorer == scorer), None)


def _cell(length: int, depth: float, values: Sequence[float], lost: Mapping[Lost, int], planned: int | None) -> Cell:
    points = math.fsum(values)
    recall, low, high = estimate(points, len(values))
    return Cell(
        length=length,
        depth=depth,
        trials=len(values),
        points=points,
        recall=recall,
        low=low,
        high=high,
        planned=planned,
        **lost,
    )


def _pool(cells: Sequence[Cell]) -> tuple[float, int]:
    return math.fsum(cell.points for cell in cells), sum(cell.trials for cell in cells)
