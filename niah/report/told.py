"""A verdict as tables for the terminal, as Markdown and as JSON: the same words and numbers in each."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from niah.report.clusters import Estimate, recall
from niah.report.compare import Comparison, Drop, Half
from niah.report.labels import depth_labels, length_label, lost_labels, printable, recall_label
from niah.report.points import by_needle, by_text, counted
from niah.report.side import Side
from niah.report.spending import dollars
from niah.report.verdict import Verdict, interval, percent, signed_label

if TYPE_CHECKING:
    from rich.console import Console

WORST_CELLS = 5
FORMAT = 1
"""Version of the JSON."""
_DECIMALS = 6
_PLAIN_WIDTH = 140
_SMALL_P = 0.0001


class Table(NamedTuple):
    """A table of text, its first column aligned to the left."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    side: str = "---:"
    """How the other columns are aligned, in Markdown's words."""


def show(verdict: Verdict, console: "Console") -> None:
    """Print the verdict, its tables and its notes."""
    from rich.table import Table as RichTable
    from rich.text import Text

    colour = {"pass": "green", "fail": "red"}.get(verdict.worst, "yellow")
    console.print(Text(printable(verdict.headline), style=f"bold {colour}"), soft_wrap=True)
    for table in tables(verdict):
        made = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            made.add_column(Text(printable(column)), justify="right" if number and table.side == "---:" else "left", overflow="fold")
        for row in table.rows:
            made.add_row(*(Text(printable(cell)) for cell in row))
        console.print(made)
    for note in notes(verdict.comparison):
        console.print(printable(note), markup=False, soft_wrap=True)


def plain(verdict: Verdict) -> str:
    """What `show` prints, without colours."""
    from rich.console import Console

    console = Console(width=_PLAIN_WIDTH, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        show(verdict, console)
    return capture.get()


def side_rows(side: Side) -> list[tuple[str, str]]:
    """What there is to know of a side before it is compared: (name, value)."""
    scored = [point for point in side.points if point.scored]
    found = recall([point.value for point in scored], by_text(scored), by_needle(scored))
    return [
        ("model", side.model),
        *side.origin.items(),
        ("trials", f"{len(side.points):,}"),
        *((f"  {name}", f"{count:,}") for name, count in counted(side.points).items()),
        ("recall", _recall(found)),
        ("lengths", ", ".join(map(length_label, sorted({point.length for point in side.points})))),
        ("depths", ", ".join(depth_labels(sorted({point.depth for point in side.points})))),
        ("cost", dollars(side.costs.dollars)),
        *((name, ", ".join(values)) for name, values in side.conditions.items() if any(values)),
    ]


def markdown(verdict: Verdict) -> str:
    """The verdict as GitHub's Markdown: for a step summary or a comment."""
    lines = [f"**{_escaped(verdict.headline)}**", ""]
    for table in tables(verdict):
        lines += [
            f"{_escaped(table.title)}:",
            "",
            _row(table.columns),
            _row(["---"] + [table.side] * (len(table.columns) - 1), escape=False),
        ]
        lines += [*(_row(row) for row in table.rows), ""]
    lines += [f"- {_escaped(note)}" for note in notes(verdict.comparison)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(verdict: Verdict) -> str:
    """The verdict as an object: see docs/reference.md."""
    made = verdict.comparison
    data: dict[str, Any] = {
        "format": FORMAT,
        "status": verdict.status,
        "exit_code": verdict.exit_code,
        "headline": verdict.headline,
        "gate": asdict(verdict.gate),
        "checks": [asdict(check) for check in verdict.checks],
        "level": made.level,
        "base": None if made.alone else _half(made.base),
        "candidate": _half(made.candidate),
        "difference": _estimate(made.difference),
        "worse": made.worse,
        "better": made.better,
        "mcnemar_p": made.mcnemar_p,
        "permutation_p": made.permutation_p,
        "detectable": made.detectable,
        "cells": [asdict(cell) for cell in made.cells],
        "dropped": dict(made.dropped),
        "lost_share": made.lost_share,
        "not_alike": list(made.differences),
        "until_settled": asdict(made.reached) if made.reached else None,
        "notes": notes(made),
    }
    return json.dumps(_rounded(data), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def tables(verdict: Verdict) -> list[Table]:
    """What was asked, both sides, the pairs, and the cells that lost most."""
    made = verdict.comparison
    gate = Table("The gate", ("check", "came out", "because"), [(check.name, check.state, check.told) for check in verdict.checks], "---")
    if made.alone:
        return [gate, Table("The model", ("", made.candidate.model), [(row[0], row[2]) for row in _sides(made) if "pairs" not in row[0]])]
    found = [
        gate,
        Table("Both sides", ("", f"base: {made.base.model}", f"candidate: {made.candidate.model}"), _sides(made)),
        Table("The pairs", ("", "candidate against base"), _pairs(made)),
    ]
    drops = [cell for cell in made.cells if cell.candidate < cell.base][:WORST_CELLS]
    if drops:
        columns = ("length", "depth", "pairs", "base", "candidate", "worse", "better", "p (Holm)")
        found.append(Table("Cells that lost most (exploratory: the gate does not look at them)", columns, _cells(drops)))
    return found


def notes(comparison: Comparison) -> list[str]:
    """What limits the comparison, a sentence each."""
    found, said = comparison.difference, list[str]()
    if comparison.differences:
        said.append(f"compared by force although not alike: {'; '.join(comparison.differences)}")
    if comparison.reached is not None and comparison.reached.state is not None:
        said.append("the sweep stopped as soon as it was settled: intervals and p-values do not know that, the verdict does")
    for half in (comparison.candidate,) if comparison.alone else (comparison.base, comparison.candidate):
        if half.missing and (comparison.reached is None or half is comparison.base):
            said.append(f"{half.name} is not finished: {half.missing:,} planned trials are missing")
    for kind, count in found.too_few.items() if found else ():
        only = f"all pairs share one {kind}" if count == 1 else f"there are only {count} {kind}s"
        said.append(f"{only}: the result holds for {'it' if count == 1 else 'them'}, and how much others would change is not known")
    if comparison.dropped:
        said.append(f"no pairs: {', '.join(lost_labels(comparison.dropped))}")
    return said


def _sides(made: Comparison) -> list[tuple[str, str, str]]:
    halves = (made.base, made.candidate)

    def row(name: str, values: Sequence[str]) -> tuple[str, str, str]:
        return name, values[0], values[1]

    return [
        row("from", [half.name for half in halves]),
        row("recall of the pairs", [_recall(half.recall) for half in halves]),
        row("recall of all its trials", [_recall(half.alone) for half in halves]),
        row("scored trials", [f"{half.alone.trials if half.alone else 0:,}" for half in halves]),
        row("not scored", [", ".join(lost_labels(half.lost)) or "0" for half in halves]),
        row("cost", [dollars(half.costs.dollars) for half in halves]),
        row("cost of 1,000 answers", [_thousand(half) for half in halves]),
        row("seconds an answer, median", [_seconds(half.costs.median_seconds) for half in halves]),
        row("seconds, 19 of 20 answers", [_seconds(half.costs.slow_seconds) for half in halves]),
        row("input tokens an answer", [_mean(half.costs.input_tokens, half) for half in halves]),
        row("output tokens an answer", [_mean(half.costs.output_tokens, half) for half in halves]),
    ]


def _pairs(made: Comparison) -> list[tuple[str, str]]:
    found = made.difference
    if found is None:
        return [("pairs", "0")]
    clusters = f"{found.texts:,} texts, {found.needles:,} needles"
    flips = "cannot be told: one cluster" if made.permutation_p is None else f"p = {_p(made.permutation_p)}"
    return [
        ("difference in recall", f"{signed_label(found.mean)} ({percent(made.level)} interval {interval(found, signed=True)})"),
        ("pairs", f"{found.trials:,} ({clusters}; worth {found.worth:,.0f} independent ones)"),
        ("worse, better", f"{made.worse:,}, {made.better:,}"),
        ("exact McNemar test", f"p = {_p(made.mcnemar_p)} (takes pairs as independent)"),
        ("permutation test over clusters", f"{flips} ({clusters})"),
        ("these pairs can show a drop of", "-" if made.detectable is None else f"{made.detectable:.3f} (in 4 of 5 repetitions)"),
    ]


def _cells(drops: Sequence[Drop]) -> list[tuple[str, ...]]:
    depths = depth_labels([drop.depth for drop in drops])
    return [
        (
            *(length_label(drop.length), depth, f"{drop.pairs:,}", recall_label(drop.base), recall_label(drop.candidate)),
            *(f"{drop.worse:,}", f"{drop.better:,}", _p(drop.p)),
        )
        for drop, depth in zip(drops, depths, strict=True)
    ]


def _recall(found: Estimate | None) -> str:
    return "-" if found is None else f"{recall_label(found.mean, 3)} ({interval(found)})"


def _thousand(half: Half) -> str:
    costs = half.costs
    return "-" if costs.dollars is None or not costs.answers else dollars(1000 * costs.dollars / costs.answers)


def _mean(total: int, half: Half) -> str:
    return f"{total / half.costs.answers:,.0f}" if half.costs.answers else "-"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}"


def _p(p: float) -> str:
    return f"<{_SMALL_P}" if p < _SMALL_P else f"{p:.2g}"


def _half(half: Half) -> dict[str, Any]:
    return {**asdict(half), "recall": _estimate(half.recall), "alone": _estimate(half.alone)}


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    names = ("mean", "low", "high", "error", "trials", "worth", "texts", "needles")
    return {name: getattr(found, name) for name in names} if found else None


def _rounded(value: Any) -> Any:
    """Numbers to six decimals, all the way down."""
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]


def _row(cells: Sequence[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(_escaped(cell) if escape else cell for cell in cells)} |"


def _escaped(text: str) -> str:
    """Text of any origin as Markdown that shows it."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
