"""Recall by corpus, needle, depth, length and cue, as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from niah.errors import UsageError, did_you_mean
from niah.report.labels import depth_labels, length_labels, printable, recall_label
from niah.report.stats import BY, LOST, Group, Lost, Results, Series

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WORST = 5
"""So many needles are shown of each series, those with the lowest recall."""
MOST = 8
"""A short table has no more rows than this for what is shared; the rest is a matter of --by."""
_NAMES, _NUMBERS = 36, 37
"""Characters that a short table takes for names, and for the numbers of a series."""


def check_by(by: str) -> str:
    """UsageError for what trials cannot be put into groups by."""
    if by not in BY:
        raise UsageError(f"--by {by!r} is nothing that trials share; {did_you_mean(by, BY)}")
    return by


def short_tables(results: Results, width: int = 120) -> "list[Table]":
    """The breakdowns in short: only what has several values, and of needles the worst few. As many series side by side as `width`
    characters hold.
    """
    series, beside = list(results.cells), max(1, (width - _NAMES) // _NUMBERS)
    made = [_short(results, series[start : start + beside]) for start in range(0, len(series), beside)]
    return [each for each in made if each.row_count]


def full_table(results: Results, by: str) -> "Table":
    """One breakdown with all of its values, and every outcome that is not scored."""
    from rich.table import Table
    from rich.text import Text

    check_by(by)
    groups = {series: results.groups(series, by) for series in results.points}
    lost: list[Lost] = [name for name in LOST.values() if any(name in one.lost for there in groups.values() for one in there)]
    made = Table(title=f"By {by}", title_justify="left")
    for column in ([] if len(groups) == 1 else ["model"]) + [by]:
        made.add_column(column, overflow="fold", justify="right" if column in ("depth", "length") else "left")
    for column in ("recall", "95% interval", "trials", *lost):
        made.add_column(column, justify="right")
    for series, there in groups.items():
        for number, (label, one) in enumerate(zip(_labels(by, there), there, strict=True)):
            names = [] if len(groups) == 1 else [Text(printable(series.name) if number == 0 else "")]
            made.add_row(
                *names, Text(label), *_numbers(one), f"{one.trials:,}", *(f"{one.lost.get(name, 0):,}" for name in lost),
                end_section=number == len(there) - 1,
            )  # fmt: skip
    return made


def _short(results: Results, series: Sequence[Series]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    made = Table(title="Where the needles are found", title_justify="left")
    made.add_column("by")
    made.add_column("", overflow="fold")
    for one in series:
        made.add_column(Text(printable(one.name)), justify="right", overflow="fold")
    for by in BY:
        groups = {one: {group.name: group for group in results.groups(one, by)} for one in series}
        names = list(dict.fromkeys(name for there in groups.values() for name in there))
        if max(map(len, groups.values())) < 2:
            continue
        chosen = (
            _worst(names, list(groups.values())) if by == "needle" else sorted(names, key=float) if by in ("depth", "length") else names
        )
        labels = dict(zip(chosen, _labels(by, chosen), strict=True))
        shown = _few(chosen)
        for number, name in enumerate(shown):
            told = [_told(groups[one].get(name)) for one in series]
            made.add_row(_head(by, number, len(shown), len(names)), Text(labels[name]), *told, end_section=number == len(shown) - 1)
    return made


def _head(by: str, number: int, shown: int, there: int) -> str:
    """What stands in the first column: the name once, and below it how many are not shown."""
    if number == 0:
        return f"worst {by}s" if by == "needle" and shown < there else by
    return f"({shown} of {there})" if number == 1 and shown < there else ""


def _few(names: Sequence[str]) -> Sequence[str]:
    """At most MOST of them, the first and the last among these."""
    if len(names) <= MOST:
        return names
    return [names[round(i * (len(names) - 1) / (MOST - 1))] for i in range(MOST)]


def _worst(names: Sequence[str], groups: Sequence[dict[str, Group]]) -> list[str]:
    """The names with the lowest recall in any of the series, as far as anything was missed."""

    def lowest(name: str) -> float:
        return min((recall for there in groups if name in there and (recall := there[name].recall) is not None), default=2.0)

    return sorted((name for name in names if lowest(name) < 1), key=lambda name: (lowest(name), name))[:WORST]


def _labels(by: str, names: Sequence[str] | Sequence[Group]) -> Sequence[str]:
    words = [name if isinstance(name, str) else name.name for name in names]
    if by == "length":
        return length_labels([int(word) for word in words])
    return depth_labels([float(word) for word in words]) if by == "depth" else [printable(word) for word in words]


def _numbers(one: Group) -> tuple[str, str]:
    """Recall and interval."""
    if one.recall is None or one.low is None or one.high is None:
        return "-", "-"
    return recall_label(one.recall, 3), f"{recall_label(one.low)} to {recall_label(one.high)}"


def _told(one: Group | None) -> "Text":
    from rich.text import Text

    if one is None:
        return Text("not asked", style="dim")
    lost = f" +{sum(one.lost.values()):,} lost" if one.lost else ""
    if one.recall is None:
        return Text(f"no data{lost}", style="dim")
    recall, interval = _numbers(one)
    return Text(f"{recall} ({interval}) n={one.trials:,}{lost}")
