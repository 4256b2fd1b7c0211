"""One side of a comparison: what one model answered, and under which conditions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from niah.report.points import Latest, Point
from niah.report.sequential import Agenda
from niah.trial import Record, Trial

Conditions: TypeAlias = Mapping[str, tuple[str, ...]]
"""By name: the values that the trials of a side have, sorted. Sides without a value in common cannot be compared."""

_OF_TRIALS: Mapping[str, Callable[[Trial], Any]] = {
    "needles": lambda trial: trial.fingerprints.needles,
    "tokenizer": lambda trial: trial.tokenizer,
    "tokenizer's text": lambda trial: trial.fingerprints.tokenizer,
    "template": lambda trial: trial.template,
    "template's text": lambda trial: trial.fingerprints.template,
    "cue": lambda trial: trial.cue,
    "haystack": lambda trial: trial.haystack,
    "distractors": lambda trial: trial.distractors,
    "seed": lambda trial: trial.seed,
    "max_output_tokens": lambda trial: trial.sampling.max_output_tokens,
    "temperature": lambda trial: trial.sampling.temperature,
    "top_p": lambda trial: trial.sampling.top_p,
    "length in our tokens": lambda trial: "as asked" if trial.fitted_length is None else f"{trial.length} is {trial.fitted_length}",
}
CORPUS = "corpus "
"""Begins the name of the condition that holds a corpus' fingerprint."""
OF_SCORING = ("scorer", "raw")
"""Conditions that are no part of a trial: its key is the same whatever they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a side's answers took. `dollars` is None where a price is unknown; seconds are those of an answer, None without one."""

    answers: int
    dollars: float | None
    input_tokens: int
    output_tokens: int
    median_seconds: float | None
    slow_seconds: float | None
    """19 of 20 answers came within so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """`name` is how the user called it, `missing` counts planned trials without a record, `origin` tells the run and its niah.

    `agenda` is there where trials were asked until a verdict was certain.
    """

    name: str
    model: str
    points: Sequence[Point]
    conditions: Conditions
    costs: Costs
    missing: int = 0
    origin: Mapping[str, str]
    agenda: Agenda | None = None


class Collector:
    """Takes the records of one model, one by one, and knows in the end its points, conditions and seconds."""

    def __init__(self, scorer: str | None = None):
        self._scorer = scorer
        self._latest = Latest(scorer)
        self._seen: dict[tuple[Any, ...], Trial] = {}
        self._last: tuple[Any, ...] = ()
        self._scorers: set[str] = set()
        self._seconds: list[float] = []

    def add(self, record: Record) -> None:
        if not self._latest.add(record):
            return
        kind = _kind(record.trial)
        if kind != self._last:  # most trials are of the kind of the one before
            self._last = kind
            self._seen.setdefault(kind, record.trial)
        if record.scores:
            self._scorers.add(self._scorer or record.scores[0].scorer)
        if record.reply is not None:
            self._seconds.append(record.reply.seconds)

    def points(self) -> list[Point]:
        """Sorted by key."""
        return sorted((point for _, point in self._latest.points()), key=lambda point: point.key)

    def conditions(self, *, raw: bool) -> Conditions:
        seen = self._seen.values()
        made = {name: _listed(read(trial) for trial in seen) for name, read in _OF_TRIALS.items()}
        for corpus in sorted({trial.corpus for trial in seen}):
            made[CORPUS + corpus] = _listed(trial.fingerprints.corpus for trial in seen if trial.corpus == corpus)
        return {**made, "scorer": _listed(self._scorers), "raw": (str(raw).lower(),)}

    def seconds(self) -> tuple[float | None, float | None]:
        """The median, and what 19 of 20 answers stay within."""
        ranked = sorted(self._seconds)
        if not ranked:
            return None, None
        return ranked[(len(ranked) - 1) // 2], ranked[-(-len(ranked) * 19 // 20) - 1]


def differences(base: Side, candidate: Side) -> list[str]:
    """What makes two sides incomparable, a sentence each; empty where they can be compared."""
    return [
        f"{name}: {_short(theirs)} in the base, {_short(ours)} in the candidate"
        for name, theirs in base.conditions.items()
        if (ours := candidate.conditions.get(name)) and theirs and not set(theirs) & set(ours)
    ]


def _kind(trial: Trial) -> tuple[Any, ...]:
    """Everything in a trial that a condition looks at: cheap to make, as it is made for each trial."""
    fitted = None if trial.fitted_length is None else (trial.length, trial.fitted_length)
    names = (trial.corpus, trial.template, trial.cue, trial.tokenizer, trial.haystack)
    return (*names, trial.seed, trial.distractors, fitted, trial.sampling, trial.fingerprints)


def _listed(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted({"the server's" if value is None else str(value) for value in values}))


def _short(values: Sequence[str]) -> str:
    return ", ".join(values) if len(values) <= 3 else f"{values[0]}, {values[1]} and {len(values) - 2} more"
