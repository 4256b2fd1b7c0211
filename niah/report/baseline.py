"""A baseline: one model's outcomes in a small file to be committed, so that a gate needs no old run. It holds no text.

JSON with one line a trial, in the order of their keys, so that the same run makes the same bytes and a diff shows what changed.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any, get_args

from niah.errors import UsageError
from niah.report.compare import KEY_DIGITS
from niah.report.points import Point
from niah.report.side import Costs, Side
from niah.trial import Cue, Outcome

FORMAT = 1
KIND = "niah baseline"
OUTCOMES: Sequence[Outcome] = get_args(Outcome)
COLUMNS = ("key", "text", "needle", "length", "depth", "cue", "outcome", "value")
"""Of a trial's line. From `text` to `outcome` they are numbers into the tables; `value` stands only where the outcome is partial."""
_TABLES: Mapping[str, Callable[[Point], Any]] = {
    "text": lambda point: [point.corpus, point.seed, point.reshuffle, point.haystack],
    "needle": lambda point: point.needle,
    "length": lambda point: point.length,
    "depth": lambda point: point.depth,
    "cue": lambda point: point.cue,
}


def dumps(side: Side) -> str:
    """The file's text."""
    scored = [point for point in side.points if point.outcome is not None]
    if len(scored) < len(side.points):
        raise UsageError(f"{side.name}: {len(side.points) - len(scored)} answers are not scored by this scorer: run niah rescore first")
    tables = {name: sorted({_frozen(read(point)) for point in scored}) for name, read in _TABLES.items()}
    numbers = {name: {value: number for number, value in enumerate(values)} for name, values in tables.items()}
    head: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        "model": side.model,
        "origin": dict(side.origin),
        "conditions": {name: list(values) for name, values in side.conditions.items()},
        "costs": asdict(side.costs),
        "tables": {**tables, "outcome": list(OUTCOMES)},
        "columns": list(COLUMNS),
    }
    lines = (
        _line([point.key[:KEY_DIGITS], *(numbers[name][_frozen(read(point))] for name, read in _TABLES.items()), *_came_out(point)])
        for point in scored
    )
    begun = "".join(f"{json.dumps(name)}: {_line(value)},\n" for name, value in head.items())
    return "{\n" + begun + '"trials": [\n' + ",\n".join(lines) + "\n]\n}\n"


def loads(text: str, name: str) -> Side:
    """The side that `text` holds; UsageError for anything else."""
    try:
        data: Any = json.loads(text)
        kind, version = data["kind"], data["format"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{name} is no baseline: make one with niah baseline save RUN {name}") from None
    if kind != KIND or not isinstance(version, int):
        raise UsageError(f"{name} is no baseline: make one with niah baseline save RUN {name}")
    if version > FORMAT:
        raise UsageError(f"{name} was written by a newer niah (format {version}, this one reads up to {FORMAT})")
    try:
        return Side(
            name=name,
            model=data["model"],
            points=list(_points(data["trials"], data["tables"])),
            conditions={condition: tuple(values) for condition, values in data["conditions"].items()},
            costs=Costs(**data["costs"]),
            origin=data["origin"],
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise UsageError(f"{name} is damaged: make it anew with niah baseline save") from None


def _points(trials: Iterable[Sequence[Any]], tables: Mapping[str, Sequence[Any]]) -> Iterable[Point]:
    outcomes: Sequence[Outcome] = tables["outcome"]
    if set(outcomes) - {*OUTCOMES} or set(tables["cue"]) - {*get_args(Cue)}:
        raise ValueError
    for key, text, needle, length, depth, cue, result, *value in trials:
        if min(text, needle, length, depth, cue, result) < 0 or len(key) != KEY_DIGITS:
            raise ValueError
        corpus, seed, reshuffle, haystack = tables["text"][text]
        came_out = outcomes[result]
        yield Point(
            key=key,
            corpus=corpus,
            seed=seed,
            reshuffle=reshuffle,
            haystack=haystack,
            needle=tables["needle"][needle],
            length=tables["length"][length],
            depth=tables["depth"][depth],
            cue=tables["cue"][cue],
            outcome=came_out,
            value=float(value[0]) if value else float(came_out == "hit"),
        )


def _came_out(point: Point) -> list[int | float]:
    assert point.outcome is not None
    number = OUTCOMES.index(point.outcome)
    return [number, round(point.value, 6)] if point.outcome == "partial" else [number]


def _frozen(value: Any) -> Any:
    return tuple(chain(value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
