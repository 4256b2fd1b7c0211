"""niah compare, niah baseline."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from niah.report.verdict import Verdict

app = typer.Typer(help="Keep a model's outcomes in a small file, for niah compare.", no_args_is_help=True, rich_markup_mode=None)


class Shape(StrEnum):
    table = "table"
    md = "md"
    json = "json"
    junit = "junit"
    github = "github"


class Undecided(StrEnum):
    fail = "fail"
    pass_ = "pass"


Scorer = Annotated[str | None, typer.Option(help="Use the scores of this scorer.", show_default="each record's first")]


def compare(
    base: Annotated[str, typer.Argument(help="A run's folder, RUN:MODEL, or a baseline file.")],
    candidate: Annotated[
        str | None, typer.Argument(help="The same, for what is to be judged.", show_default="BASE itself, by floors only")
    ] = None,
    margin: Annotated[float, typer.Option(help="By how much recall the candidate may be worse.")] = 0.02,
    alpha: Annotated[float, typer.Option(help="Intervals are at 1 - alpha; p-values below it count.")] = 0.05,
    min_recall: Annotated[float | None, typer.Option(help="The least recall of the candidate.")] = None,
    min_effective_length: Annotated[str | None, typer.Option(help="The least effective length of the candidate, as in 32k.")] = None,
    max_lost: Annotated[float, typer.Option(help="With more than this share not scored, the candidate cannot pass.")] = 0.05,
    inconclusive: Annotated[
        Undecided | None, typer.Option(help="What counts when the trials cannot tell.", show_default="exit code 3")
    ] = None,
    scorer: Scorer = None,
    force: Annotated[bool, typer.Option("--force", help="Compare also what is not alike.")] = False,
    format_: Annotated[Shape, typer.Option("--format", help="How the verdict is told.")] = Shape.table,
    out: Annotated[Path | None, typer.Option(help="Write the verdict there, and print the table.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Append the verdict to this file as Markdown, with a heatmap as a table.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdict there as JUnit XML too.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the difference there, as in difference.png (or .svg, .pdf).")] = None,
) -> None:
    """Compare two models trial by trial, and say whether the second may replace the first.

    Exit code 0: no worse by more than the margin. 1: regressed, or below a floor. 3: these trials cannot tell. 4: nothing to measure.
    """
    from niah.report.verdict import Gate, worst_exit_code
    from niah.run.sides import verdicts_of

    gate = Gate(
        margin=margin,
        alpha=alpha,
        min_recall=min_recall,
        min_effective_length=_length(min_effective_length),
        inconclusive=inconclusive.value if inconclusive else None,  # pyright: ignore[reportArgumentType]  # an enum's values are plain str
        max_lost=max_lost,
    )
    sides = (base, candidate) if candidate is not None else (None, base)
    verdicts = verdicts_of(*sides, gate, force=force, scorer=scorer, picture=picture)
    _write(verdicts, summary, junit)
    _tell(verdicts, format_, out)
    raise typer.Exit(worst_exit_code(verdicts))


def _length(text: str | None) -> int | None:
    from niah.config import parse_length
    from niah.errors import UsageError

    try:
        return parse_length(text) if text is not None else None
    except ValueError as error:
        raise UsageError(f"--min-effective-length: {error}") from None


@app.command()
def save(
    run: Annotated[str, typer.Argument(help="A finished run's folder, or RUN:MODEL.")],
    file: Annotated[Path, typer.Argument(help="The baseline, as in baselines/llama.json.")],
    scorer: Scorer = None,
) -> None:
    """Write the outcomes of a run's model into a small file to be committed: keys, outcomes and fingerprints, no text."""
    from niah.run.sides import save_baseline

    side = save_baseline(run, file, scorer=scorer)
    size = file.stat().st_size
    typer.echo(f"{file}: {len(side.points):,} trials of {side.model}, {size:,} bytes ({size / len(side.points):.0f} a trial)")


@app.command()
def show(file: Annotated[str, typer.Argument(help="A baseline file, a run's folder, or RUN:MODEL.")]) -> None:
    """Print what a baseline holds."""
    from rich.console import Console

    from niah.cli.tables import table
    from niah.report.told import side_rows
    from niah.run.sides import open_side

    Console(highlight=False).print(table(("", "what"), side_rows(open_side(file))))


def _write(verdicts: "Sequence[Verdict]", summary: Path | None, junit: Path | None) -> None:
    """The files beside the output."""
    from niah.report import github
    from niah.report.junit import junit as as_junit

    if junit is not None:
        _put(junit, as_junit(*verdicts))
    if summary is not None:
        _put(summary, "\n".join(map(github.summary, verdicts)), add=True)


def _tell(verdicts: "Sequence[Verdict]", shape: Shape, out: Path | None) -> None:
    """On the standard output what was asked for; with --out that goes into the file, and the table to people."""
    from rich.console import Console

    from niah.report import told

    if out is None and shape is not Shape.table:
        typer.echo(_told(verdicts, shape), nl=False)
        return
    if out is not None:
        _put(out, _told(verdicts, shape))
    for verdict in verdicts:
        told.show(verdict, Console(highlight=False))


def _told(verdicts: "Sequence[Verdict]", shape: Shape) -> str:
    from niah.errors import UsageError
    from niah.report import told
    from niah.report.github import annotations
    from niah.report.junit import junit

    if shape is Shape.json and len(verdicts) > 1:
        raise UsageError("--format json is one verdict: name one model of the run, as in RUN:MODEL")
    if shape in (Shape.junit, Shape.github):
        return junit(*verdicts) if shape is Shape.junit else annotations(verdicts)
    one = {Shape.table: told.plain, Shape.md: told.markdown, Shape.json: told.as_json}[shape]
    return "\n".join(one(verdict) for verdict in verdicts)


def _put(path: Path, text: str, *, add: bool = False) -> None:
    from niah.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if add else "w", encoding="utf-8") as file:
            file.write(text + ("\n" if add else ""))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
