"""From records to points: one for each trial that a model was asked, with what the statistics need of it and no text."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from niah.errors import UsageError, did_you_mean
from niah.trial import SCORED, Cue, Outcome, Record, Trial, outcome


class Point(NamedTuple):
    """A trial and what came of it. `outcome` is None for a reply that the wanted scorer has not scored; `value` is in [0, 1], and 0 for
    what is not scored.

    Several needles of one trial are joined by "+"; it stands at the depth of its first.
    """

    key: str
    corpus: str
    seed: int
    reshuffle: int
    haystack: str
    needle: str
    length: int
    depth: float
    cue: Cue
    outcome: Outcome | None
    value: float

    @property
    def text(self) -> Hashable:
        """What trials that read the same text share."""
        text = (self.corpus, self.seed, self.reshuffle)
        return (*text, self.length, self.depth) if self.haystack == "independent" else text

    @property
    def scored(self) -> bool:
        return self.outcome in SCORED

    @property
    def place(self) -> tuple[Hashable, ...]:
        """The trial by its numbers and names, whatever stands behind them: see `niah compare --force`."""
        return self.corpus, self.reshuffle, self.needle, self.length, self.depth


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


class Latest:
    """Takes records one by one and keeps a point of each (model, trial): its last record with a reply, or else its last one.

    `scorer` names the scores to use instead of the first ones.
    """

    def __init__(self, scorer: str | None = None):
        self._scorer = scorer
        self._scorers: set[str] = set()
        self._points: dict[tuple[str, str], tuple[bool, Point]] = {}

    def add(self, record: Record) -> bool:
        """Whether the record now stands for its trial."""
        identity, answered = (record.model, record.trial.key), record.reply is not None
        if not answered and identity in self._points and self._points[identity][0]:
            return False
        self._scorers.update(score.scorer for score in record.scores)
        self._points[identity] = (answered, point(record.trial, *_value(record, self._scorer)))
        return True

    def points(self) -> Iterator[tuple[str, Point]]:
        """(model, point) of each trial; UsageError for a scorer that no record has."""
        if self._scorer is not None and self._scorers and self._scorer not in self._scorers:
            raise UsageError(f"no record is scored by {self._scorer!r}; {did_you_mean(self._scorer, self._scorers)}")
        return ((model, point) for (model, _), (_, point) in self._points.items())


def point(trial: Trial, result: Outcome | None, value: float) -> Point:
    """The point of a trial."""
    return Point(
        key=trial.key,
        corpus=trial.corpus,
        seed=trial.seed,
        reshuffle=trial.reshuffle,
        haystack=trial.haystack,
        needle="+".join(trial.needles),
        length=trial.length,
        depth=trial.depths[0],
        cue=trial.cue,
        outcome=result,
        value=value,
    )


def by_text(points: Iterable[Point]) -> list[Hashable]:
    return [each.text for each in points]


def by_needle(points: Iterable[Point]) -> list[Hashable]:
    return [each.needle for each in points]


def counted(points: Iterable[Point]) -> Mapping[str, int]:
    """How often each outcome stands among points, "unscored" for None; only what there is."""
    return {result or "unscored": count for result, count in Counter(each.outcome for each in points).items()}


def _value(record: Record, scorer: str | None) -> tuple[Outcome | None, float]:
    """What a record counts as and its score; None where `scorer` has not scored a reply that others have."""
    score = record.scores[0] if record.scores else None
    if scorer is not None and score is not None:
        score = next((each for each in record.scores if each.scorer == scorer), None)
        record = replace(record, scores=(score,) if score else ())
        if score is None and outcome(record) == "truncated":
            return None, 0.0
    result = outcome(record)
    return result, score.value if score and result in SCORED else 0.0
