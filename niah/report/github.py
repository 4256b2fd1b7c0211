"""Verdicts for GitHub Actions: annotations as workflow commands, and a step summary with heatmaps as tables.

GitHub takes every line of a step's output that begins with "::" for a command. What is not ours is therefore printed on one line, and
escaped as the runner's own toolkit does it.
"""

from collections.abc import Sequence

from niah.report.compare import Drop
from niah.report.labels import depth_labels, length_labels, printable, recall_label
from niah.report.told import markdown
from niah.report.verdict import Verdict, signed_label

CELLS = 3
"""At most so many cells are annotated: GitHub shows ten annotations of a step, and a long list is not read."""
SUMMARY_BYTES = 1_000_000
"""GitHub takes 1 MiB a step."""
_COLOURS = ((0.9, "🟩"), (0.75, "🟨"), (0.5, "🟧"), (0.0, "🟥"))
_NO_DATA = "⬜ -"


def annotations(verdicts: Sequence[Verdict]) -> str:
    """A line for each verdict, and one for each of the cells that lost most where a comparison failed."""
    lines: list[str] = []
    cells = 0
    for verdict in verdicts:
        level = "error" if verdict.exit_code else "warning" if verdict.status == "inconclusive" else "notice"
        model = verdict.comparison.candidate.model
        lines.append(_command(level, f"niah: {model}", verdict.headline))
        drops = [cell for cell in verdict.comparison.cells if cell.candidate < cell.base] if verdict.status == "regressed" else []
        for cell in drops[: CELLS - cells]:
            cells += 1
            lines.append(_command("error", f"niah: {model}, {_where(cell)}", _told(cell)))
    return "".join(f"{line}\n" for line in lines)


def summary(verdict: Verdict) -> str:
    """The verdict as Markdown with its heatmap as a table; without that, or cut, where GitHub would not take it."""
    told = markdown(verdict)
    whole = told.replace("\n\n", f"\n\n{heatmap(verdict)}\n\n", 1)  # behind the headline
    if len(whole.encode()) <= SUMMARY_BYTES:
        return whole
    return told.encode()[:SUMMARY_BYTES].decode(errors="ignore")


def heatmap(verdict: Verdict) -> str:
    """Depth by length: the candidate's recall, and what it has more or less than the base. Empty without a scored trial."""
    made = verdict.comparison
    there = {(cell.length, cell.depth): cell for cell in made.cells}
    if not there:
        return "No trial was scored on both sides: there is no heatmap."
    lengths, depths = sorted({length for length, _ in there}), sorted({depth for _, depth in there})
    rows = [f"| depth | {' | '.join(length_labels(lengths))} |", f"| ---: |{' ---: |' * len(lengths)}"]
    for depth, label in zip(depths, depth_labels(depths), strict=True):
        rows.append(f"| {label} | {' | '.join(_cell(there.get((length, depth)), alone=made.alone) for length in lengths)} |")
    legend = "Recall by length and depth" if made.alone else "Recall of the candidate by length and depth, and its difference from the base"
    colours = ", ".join(f"{colour} from {least:g}" for least, colour in _COLOURS)
    return "\n".join([*rows, "", f"{legend} ({colours}; {_NO_DATA[0]} nothing scored)."])


def _cell(cell: Drop | None, *, alone: bool) -> str:
    if cell is None:
        return _NO_DATA
    colour = next(colour for least, colour in _COLOURS if cell.candidate >= least)
    return f"{colour} {recall_label(cell.candidate)}{'' if alone else f' ({signed_label(cell.candidate - cell.base)})'}"


def _where(cell: Drop) -> str:
    return f"{length_labels([cell.length])[0]} tokens at depth {depth_labels([cell.depth])[0]}"


def _told(cell: Drop) -> str:
    recalls = f"recall {recall_label(cell.candidate)}, base {recall_label(cell.base)}"
    return f"{recalls} ({cell.pairs:,} pairs, {cell.worse:,} worse, {cell.better:,} better); the gate looks at all cells together"


def _command(level: str, title: str, message: str) -> str:
    """A workflow command. In its properties ":" and "," have a meaning too."""
    title = _escaped(printable(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_escaped(printable(message))}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
