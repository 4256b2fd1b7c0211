"""Writes the reports of a run beside its records, and makes the tables for the terminal.

`write` finishes every file before it puts the first one in place, each by a rename: who opens a report while it is made
anew sees the old one or the new one. pandas, scipy and matplotlib are imported when a report is made, not before.
"""
# pandas' own types leave parameters without any, which makes its methods "partially unknown".
# pyright: reportUnknownMemberType=false

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from niah.errors import IncompleteError, UsageError
from niah.report import heatmap, pictures
from niah.report.labels import depth_labels, length_label, length_labels, lost_labels, printable, recall_label
from niah.report.points import Facts
from niah.report.spending import Spent, cue_note
from niah.report.stats import EFFECTIVE_RECALL, STRICT_RECALL, Cell, Results, Series, Summary, Where, aggregate
from niah.report.summary import rounded, summary
from niah.trial import Record

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLUMNS = (
    "model",
    "cue",
    "length",
    "depth",
    "trials",
    "recall",
    "low",
    "high",
    "errors",
    "cut",
    "refused",
    "truncated",
    "overflow",
    "missing",
)
"""Of cells.csv, one line a cell. Recalls are rounded to six decimals; `missing` is empty where the plan is not known."""
WIDEST = 10
"""A grid with more lengths than this has no table in the terminal."""
MOST_COLUMNS = 3
"""With more kinds of outcomes that are not scored, these share a column: a terminal of 80 characters holds no more."""
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""The colours of the heatmap at 0, 1/8, ... 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What `write` made: the files in the order in which a user wants to hear of them, and the numbers in them."""

    files: Sequence[Path]
    results: Results
    spent: Spent | None = None


def write(  # noqa: PLR0913
    records: Iterable[Record],
    folder: Path,
    *,
    scorer: str | None = None,
    planned: Mapping[Where, int] | None = None,
    about: Mapping[str, str] | None = None,
    spent: Spent | None = None,
) -> Written:
    """Writes the reports of records: see `write_results`. `planned` (trials of the plan a cell) makes missing trials known."""
    return write_results(aggregate(records, scorer=scorer, planned=planned), folder, about=about, spent=spent)


def write_results(  # noqa: PLR0913
    results: Results,
    folder: Path,
    *,
    about: Mapping[str, str] | None = None,
    spent: Spent | None = None,
    kinds: Sequence[str] = pictures.KINDS,
    all_pictures: bool = False,
) -> Written:
    """Writes heatmaps, cells.csv and summary.json into `folder`; with `all_pictures`, or where they stand there already, the others too.

    `about` holds facts for the title which the records do not know: "needles" is the name of the needle set, "corpora" and "tokenizer"
    replace what the trials say, and any other pair is added as it is. `spent` is what the answers cost. `kinds` are those of the
    pictures' files.
    """
    if not results.records:
        raise UsageError(f"{folder} holds no records: there is nothing to report before `niah sweep` has asked a model")
    facts = _title_facts(results.facts, about or {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as unfinished:
            made = [
                *pictures.heatmaps(results, Path(unfinished), facts, kinds),
                *(pictures.others(results, Path(unfinished), facts, kinds) if all_pictures or _drawn_before(folder) else ()),
                _write_cells(results, Path(unfinished) / "cells.csv"),
                _write_summary(results, spent, Path(unfinished) / "summary.json"),
            ]
            for path in made:
                path.replace(folder / path.name)
    except OSError as error:
        raise IncompleteError(f"the report cannot be written to {folder}: {error.strerror or error}") from error
    return Written(files=[folder / path.name for path in made], results=results, spent=spent)


def _drawn_before(folder: Path) -> bool:
    """So that no picture in a folder is older than the others."""
    return any((folder / f"{pictures.CURVES}.{kind}").exists() for kind in heatmap.KINDS)


def table(results: Results) -> "Table":
    """One row a series. Columns for errors and the like only where there are any."""
    from rich.table import Table
    from rich.text import Text

    summaries = results.summaries
    lost = [
        name
        for name in ("errors", "refused", "cut", "truncated", "overflow", "missing")
        if any(getattr(one, name) for one in summaries.values())
    ]
    cues: dict[str, list[str]] = {}
    for series in summaries:
        cues.setdefault(series.model, []).append(series.cue)
    note = cue_note(cues)
    caption = (
        "95% interval: clustered by text and needle\n"
        f"effective length: the largest up to which the lower bound, pooled over depths, reaches {EFFECTIVE_RECALL}, and {STRICT_RECALL}"
    )
    made = Table(caption=Text(caption + (f"\n{printable(note)}" if note else "")))
    made.add_column("model", overflow="fold")
    together = len(lost) > MOST_COLUMNS
    for name in ("recall", "95% interval", "trials", *(["not scored"] if together else lost), "effective length", f"at {STRICT_RECALL}"):
        made.add_column(name, justify="right")
    for series, one in summaries.items():
        counts = [f"{getattr(one, name) or 0:,}" for name in lost]
        if together:
            counts = ["\n".join(f"{count} {name}" for count, name in zip(counts, lost, strict=True) if count != "0")]
        cells = [_recall(one.recall), _interval(one) or "-", f"{one.trials:,}", *counts]
        cells += [_effective(one.effective_length), _effective(one.effective_length_95)]
        made.add_row(Text(printable(series.name)), *cells)
    return made


def grids(results: Results) -> "list[Table]":
    """A table of depth x length for each series that has few enough lengths."""
    return [_grid(series, cells) for series, cells in results.cells.items() if len({cell.length for cell in cells}) <= WIDEST]


def _grid(series: Series, cells: Sequence[Cell]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    lengths, depths = sorted({cell.length for cell in cells}), sorted({cell.depth for cell in cells})
    at = {(cell.depth, cell.length): cell for cell in cells}
    usual, _ = Counter(cell.trials for cell in cells).most_common(1)[0]
    caption = f"n={usual} unless said otherwise"
    if any(cell.lost for cell in cells):
        caption += "\n+1: one more without a score"
    made = Table(title=Text(printable(series.name)), caption=caption)
    made.add_column("depth", justify="right")
    for label in length_labels(lengths):
        made.add_column(label, justify="right")
    for depth, label in zip(depths, depth_labels(depths), strict=True):
        made.add_row(label, *(_cell(at.get((depth, length)), usual) for length in lengths))
    return made


def _cell(cell: Cell | None, usual: int) -> "Text":
    from rich.text import Text

    if cell is None or cell.recall is None:
        return Text(", ".join(lost_labels(cell.lost)) if cell and cell.lost else "no data", style="dim")
    words = [recall_label(cell.recall)]
    if cell.missing:
        words.append(f"n={cell.trials}/{cell.planned}")
    elif cell.trials != usual:
        words.append(f"n={cell.trials}")
    if cell.lost:
        words.append(f"+{sum(cell.lost.values())}")
    return Text(" ".join(words), style=_colours(cell.recall))


def _colours(recall: float) -> str:
    """Ink and background of a recall, as in the heatmap."""
    ground = VIRIDIS[round(recall * (len(VIRIDIS) - 1))]
    return f"{'#ffffff' if recall < 0.5 else '#000000'} on {ground}"


def _write_cells(results: Results, path: Path) -> Path:
    import pandas

    rows = [
        (
            *(
                series.model.encode("utf-8", "backslashreplace").decode(),
                series.cue,
                cell.length,
                cell.depth,
                cell.trials,
                *map(rounded, (cell.recall, cell.low, cell.high)),
            ),
            *(cell.errors, cell.cut, cell.refused, cell.truncated, cell.overflow, cell.missing),
        )
        for series, cells in results.cells.items()
        for cell in cells
    ]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS)).astype({"missing": "Int64"})
    frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")
    return path


def _write_summary(results: Results, spent: Spent | None, path: Path) -> Path:
    text = json.dumps(summary(results, spent), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))
    return path


def _title_facts(facts: Facts, about: Mapping[str, str]) -> list[str]:
    """The title's facts: needles, corpora, tokenizer always; cue and unusual ways of asking only where they apply."""
    rest = dict(about)
    needles = f"needle {next(iter(facts.needles))}" if len(facts.needles) == 1 else f"{len(facts.needles)} needles"
    made = [f"{needles} ({rest.pop('needles')})" if "needles" in rest else needles]
    if facts.needles_a_prompt != {1}:
        made.append(f"{_listed(map(str, sorted(facts.needles_a_prompt)))} needles a prompt")
    made.append(f"{'corpus' if len(facts.corpora) == 1 else 'corpora'} {rest.pop('corpora', _listed(sorted(facts.corpora)))}")
    made.append(f"tokenizer {rest.pop('tokenizer', _listed(sorted(facts.tokenizers)))}")
    if len(facts.cues) == 1 and facts.cues != {"off"}:
        made.append(f"cue {next(iter(facts.cues))}")
    if facts.haystacks != {"shared"}:
        made.append(f"{_listed(sorted(facts.haystacks))} haystacks")
    if facts.distractors != {0}:
        made.append(f"{_listed(map(str, sorted(facts.distractors)))} distractors")
    return [*made, *(f"{name} {value}" for name, value in rest.items())]


def _listed(names: Iterable[str], most: int = 6) -> str:
    every = list(names)
    return ", ".join(every) if len(every) <= most else f"{', '.join(every[: most - 1])} and {len(every) - most + 1} more"


def _recall(recall: float | None) -> str:
    return "-" if recall is None else recall_label(recall, 3)


def _interval(one: Summary) -> str | None:
    return None if one.low is None or one.high is None else f"{recall_label(one.low, 3)} to {recall_label(one.high, 3)}"


def _effective(length: int | None) -> str:
    return "none" if length is None else length_label(length)
