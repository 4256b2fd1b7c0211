"""What the HTML page holds of some runs: trials as compact columns, answers and excerpts of prompts once each, and the tables.

Everything is numbers and text in one JSON value; `niah/report/web` makes a page of it and has no other source. Equal results make
equal values: trials stand in the order of their cells, whatever the order in which they were answered.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar, get_args

from niah.report.labels import depth_labels, length_labels
from niah.report.points import Point
from niah.report.spending import Spent, cue_note
from niah.report.stats import BY, EFFECTIVE_RECALL, STRICT_RECALL, Group, Results, Series, Summary
from niah.trial import Outcome, Record, Score, Trial

FORMAT = 1
OUTCOMES: Sequence[Outcome] = get_args(Outcome)
HEAD_CHARACTERS, TAIL_CHARACTERS = 1_500, 500
"""Of an answer that is longer than both together, so much is kept of its beginning and of its end."""
ANSWER_CHARACTERS = 1_500_000
"""Of all different answers together. Beyond it the page has none, first none of trials that are hits."""
MOST_EXCERPTS = 2_000
"""Prompts of so many trials are shown, those of trials that are no hits first."""
KEY_DIGITS = 8
"""Of a trial's key, enough to find its line."""
_DECIMALS = 6

T = TypeVar("T")


class Excerpt(NamedTuple):
    """The prompt in front of a needle and behind it."""

    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A key fact as it is told, and the forms in which a scorer looks for it in a text that was normalised alike."""

    name: str
    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleText:
    """A needle as the page shows it."""

    id: str
    text: str
    question: str
    facts: tuple[Fact, ...]


class _Row(NamedTuple):
    """What a trial's record says beyond its point."""

    answered: bool
    needles: str
    text: str | tuple[str, int, str]
    why: str
    found: str
    stop: str
    served: str
    tokens: int
    actual: float
    seconds: float | None
    input: int | None
    cached: int | None
    output: int | None
    cost: float | None


class Details:
    """Takes records one by one and keeps what the page tells of each (model, trial): its last record with a reply, or else its last one."""

    def __init__(self, scorer: str | None = None):
        self._scorer = scorer
        self._rows: dict[tuple[str, str], _Row] = {}
        self._texts: dict[str | tuple[str, int, str], str | tuple[str, int, str]] = {}
        self._trials: dict[bool, dict[str, Trial]] = {True: {}, False: {}}

    def add(self, record: Record, dollars: float | None) -> None:
        """`dollars` is what the answer cost, None where that is not known."""
        identity, answered = (record.model, record.trial.key), record.reply is not None
        if not answered and identity in self._rows and self._rows[identity].answered:
            return
        self._rows[identity] = self._row(record, dollars)
        hit = bool(record.scores) and record.scores[0].value >= 1
        kept = self._trials[hit]
        if len(kept) < MOST_EXCERPTS:
            kept.setdefault(record.trial.key, record.trial)

    def row(self, model: str, key: str) -> _Row:
        return self._rows[model, key]

    def shown_trials(self) -> list[Trial]:
        """The trials whose prompts are to be shown, in the order in which prompts are made fastest."""
        chosen = list({**self._trials[False], **self._trials[True]}.values())[:MOST_EXCERPTS]
        return sorted(chosen, key=lambda trial: (trial.corpus, trial.seed, trial.reshuffle, trial.length, trial.depths, trial.key))

    def _row(self, record: Record, dollars: float | None) -> _Row:
        reply, score = record.reply, self._score(record)
        told = reply.text if reply else record.error.message if record.error else ""
        short = shortened(told)
        usage = reply.usage if reply else None
        return _Row(
            answered=reply is not None,
            needles=record.trial.fingerprints.needles,
            text=self._texts.setdefault(short, short),
            why=record.error.kind if record.error else score.why if score else "",
            found=_found(score.found) if score else "",
            stop=reply.stop if reply else "",
            served=reply.model if reply else "",
            tokens=record.tokens,
            actual=round(record.placements[0].actual, 4) if record.placements else record.trial.depths[0],
            seconds=round(reply.seconds, 3) if reply else None,
            input=usage.input if usage else None,
            cached=usage.cached if usage else None,
            output=usage.output if usage else None,
            cost=dollars,
        )

    def _score(self, record: Record) -> Score | None:
        wanted = (score for score in record.scores if self._scorer in (None, score.scorer))
        return next(wanted, None)


@lru_cache(maxsize=1024)
def _found(facts: tuple[bool, ...]) -> str:
    return "".join("1" if each else "0" for each in facts)


def shortened(text: str) -> str | tuple[str, int, str]:
    """A text as it is shown: whole, or its beginning, the number of characters that are left out, and its end."""
    left_out = len(text) - HEAD_CHARACTERS - TAIL_CHARACTERS
    return text if left_out <= 0 else (text[:HEAD_CHARACTERS], left_out, text[-TAIL_CHARACTERS:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What no record holds: needle sets by fingerprint, and the excerpts of prompts by the key of their trial, one for each needle.

    `absent` says by corpus why there are no excerpts of its trials.
    """

    needles: Mapping[str, Sequence[NeedleText]]
    excerpts: Mapping[str, Sequence[Excerpt]] = field(default_factory=dict[str, Sequence[Excerpt]])
    absent: Mapping[str, str] = field(default_factory=dict[str, str])


def page_data(
    results: Results, details: Details, texts: Texts, *, spent: Spent | None = None, title: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """The page's JSON value. `title` are pairs of names and values."""
    columns = _Columns(results, details, texts)
    lengths, depths = list(columns.length), list(columns.depth)
    return {
        "format": FORMAT,
        "title": list(title),
        "thresholds": [EFFECTIVE_RECALL, STRICT_RECALL],
        "lengths": lengths,
        "length_labels": length_labels(lengths) if lengths else [],
        "depths": depths,
        "depth_labels": depth_labels(depths),
        "outcomes": list(OUTCOMES),
        "warnings": _warnings(results),
        "series": [_series(series, summary) for series, summary in results.summaries.items()],
        "plan": [
            [number, columns.length[cell.length], columns.depth[cell.depth], cell.planned]
            for number, cells in enumerate(results.cells.values())
            for cell in cells
        ],
        "tables": _tables(results),
        "costs": spent.to_json() if spent is not None and not spent.free else None,
        **columns.to_json(),
    }


class _Listed(Generic[T]):
    """Values once each, by number."""

    def __init__(self, values: Iterable[T] = ()):
        self._numbers: dict[T, int] = {}
        for value in values:
            self.number(value)

    def number(self, value: T) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    def __iter__(self):
        return iter(self._numbers)


class _Columns:
    """The trials of all series, a list a column; text stands in lists of its own and is named by number, -1 for none."""

    def __init__(self, results: Results, details: Details, texts: Texts):
        every = [cell for cells in results.cells.values() for cell in cells]
        self.length = {length: number for number, length in enumerate(sorted({cell.length for cell in every}))}
        self.depth = {depth: number for number, depth in enumerate(sorted({cell.depth for cell in every}))}
        self._texts = texts
        self._known = _Listed[NeedleText]()
        self._needles = {set_: {one.id: self._known.number(one) for one in some} for set_, some in sorted(texts.needles.items())}
        self._corpora = _Listed[str](sorted(results.facts.corpora))
        self._asked = _Listed[tuple[str, tuple[int, ...]]]()
        self._whys, self._served, self._stops, self._found = (_Listed[str]() for _ in range(4))
        self._excerpts: dict[str, int] = {}
        rows = [
            (number, series, point, details.row(series.model, point.key))
            for number, series in enumerate(results.cells)
            for point in sorted(results.points[series], key=_place)
        ]
        self._answers = self._answers_within(rows)
        self._left_out = sum(row.text not in self._answers for *_, row in rows)
        self._columns = [self._trial(number, point, row) for number, _, point, row in rows]

    @staticmethod
    def _answers_within(rows: Sequence[tuple[int, Series, Point, _Row]]) -> dict[str | tuple[str, int, str], int]:
        """Numbers of the answers that the page has, in the order of trials, within ANSWER_CHARACTERS."""
        chosen: set[str | tuple[str, int, str]] = set()
        left = ANSWER_CHARACTERS
        for hits in (False, True):
            for _, _, point, row in rows:
                if (point.outcome == "hit") is hits and row.text not in chosen:
                    size = len(row.text) if isinstance(row.text, str) else HEAD_CHARACTERS + TAIL_CHARACTERS
                    if size <= left:
                        chosen.add(row.text)
                        left -= size
        return {text: number for number, text in enumerate(dict.fromkeys(row.text for *_, row in rows if row.text in chosen))}

    def _trial(self, series: int, point: Point, row: _Row) -> tuple[Any, ...]:
        of_set = self._needles.get(row.needles, {})
        asked = (point.needle, tuple(of_set[id_] for id_ in _ids(point.needle, of_set)))
        shown = point.key in self._texts.excerpts
        return (
            series,
            self._corpora.number(point.corpus),
            self._asked.number(asked),
            self.length[point.length],
            self.depth[point.depth],
            point.reshuffle,
            -1 if point.outcome is None else OUTCOMES.index(point.outcome),
            _round(point.value),
            point.key[:KEY_DIGITS],
            row.tokens,
            row.actual,
            row.seconds,
            row.input,
            row.cached,
            row.output,
            _significant(row.cost),
            self._stops.number(row.stop),
            self._served.number(row.served),
            self._whys.number(row.why),
            self._found.number(row.found),
            self._answers.get(row.text, -1),
            self._excerpts.setdefault(point.key, len(self._excerpts)) if shown else -1,
        )

    NAMES = ("series", "corpus", "asked", "length", "depth", "reshuffle", "outcome", "value", "key", "tokens", "actual", "seconds", "input",
             "cached", "output", "cost", "stop", "served", "why", "found", "answer", "prompt")  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        columns = [list(column) for column in zip(*self._columns, strict=True)] or [[] for _ in self.NAMES]
        return {
            "corpora": list(self._corpora),
            "asked": [{"label": label, "needles": list(numbers)} for label, numbers in self._asked],
            "stops": list(self._stops),
            "served": list(self._served),
            "whys": list(self._whys),
            "found": list(self._found),
            "answers": [text if isinstance(text, str) else list(text) for text in self._answers],
            "answers_left_out": self._left_out,
            "prompts": [[list(excerpt) for excerpt in self._texts.excerpts[key]] for key in self._excerpts],
            "prompts_absent": dict(sorted(self._texts.absent.items())),
            "needles": [
                {"id": one.id, "text": one.text, "question": one.question, "facts": [[fact.name, *fact.forms] for fact in one.facts]}
                for one in self._known
            ],
            "trials": dict(zip(self.NAMES, columns, strict=True)),
        }


def _ids(label: str, known: Mapping[str, int]) -> list[str]:
    """The needles of a trial from their joined names; a needle's own name may hold a "+"."""
    return [label] if label in known else [part for part in label.split("+") if part in known]


def _place(point: Point) -> tuple[Any, ...]:
    return point.length, point.depth, point.corpus, point.reshuffle, point.key


def _series(series: Series, summary: Summary) -> dict[str, Any]:
    return {
        "name": series.name,
        "model": series.model,
        "cue": series.cue,
        "summary": {name: _round(value) for name, value in asdict(summary).items()},
    }


def _warnings(results: Results) -> list[str]:
    cues: dict[str, list[str]] = {}
    for series in results.cells:
        cues.setdefault(series.model, []).append(series.cue)
    return list(filter(None, [cue_note(cues)]))


def _tables(results: Results) -> dict[str, Any]:
    """By what trials can be put into several groups, and by corpus: the groups' names in their order, and for each series their numbers."""
    made: dict[str, Any] = {}
    for by, value_of in BY.items():
        values = sorted({value_of(point) for points in results.points.values() for point in points})
        if len(values) < 2 and by != "corpus":
            continue
        each = [{group.name: group for group in results.groups(series, by)} for series in results.points]
        made[by] = {"groups": _labels(by, values), "series": [[_group(groups.get(str(value))) for value in values] for groups in each]}
    return made


def _labels(by: str, values: Sequence[Any]) -> list[str]:
    return {"length": length_labels, "depth": depth_labels}[by](values) if values and by in ("length", "depth") else list(map(str, values))


def _group(group: Group | None) -> list[Any] | None:
    """Scored trials, recall, the two ends of its interval, and trials that are not scored."""
    return group and [group.trials, *map(_round, (group.recall, group.low, group.high)), sum(group.lost.values())]


def _round(value: Any) -> Any:
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
