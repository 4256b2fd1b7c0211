"""What summary.json holds: each model over all its cues, by corpus, needle, depth and length, its trend, and what its answers cost."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from niah.report.points import Point
from niah.report.spending import Spent
from niah.report.stats import BY, Group, Results, Series, breakdown, summarise
from niah.report.trend import trend

DECIMALS = 6
INTERVAL = ("recall", "low", "high")


def summary(results: Results, spent: Spent | None = None) -> dict[str, dict[str, Any]]:
    """Each model over all its cues, and by cue where it has several. None where nothing is known.

    The cost stands with each model, and the sum of all under "total".
    """
    models: dict[str, list[Series]] = {}
    for series in results.cells:
        models.setdefault(series.model, []).append(series)
    entries: dict[str, dict[str, Any]] = {}
    for model, members in models.items():
        entries[model] = _entry(results, members)
        if len(members) > 1:
            entries[model]["cues"] = {series.cue: _entry(results, [series]) for series in members}
    for model, cost in spent.to_json().items() if spent is not None else ():
        entries.setdefault(model, {})["cost"] = cost
    return entries


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)


def _entry(results: Results, members: Sequence[Series]) -> dict[str, Any]:
    """One series, or several of one model together."""
    points = [point for series in members for point in results.points[series]]
    if len(members) == 1:
        one, groups = results.summaries[members[0]], {by: results.groups(members[0], by) for by in BY}
    else:
        one = summarise([cell for series in members for cell in results.cells[series]], points)
        groups = {by: breakdown(points, by) for by in BY}
    return {
        **asdict(one),
        **{name: rounded(getattr(one, name)) for name in INTERVAL},
        "by": {by: {group.name: _group(group) for group in there} for by, there in groups.items()},
        "trend": _trend(points),
    }


def _group(group: Group) -> dict[str, Any]:
    return {**{name: rounded(getattr(group, name)) for name in INTERVAL}, "trials": group.trials, **group.lost}


def _trend(points: Sequence[Point]) -> dict[str, Any] | None:
    found = trend(points)
    if found is None:
        return None
    return {name: effect and {part: float(f"{value:.4g}") for part, value in effect.items()} for name, effect in asdict(found).items()}
