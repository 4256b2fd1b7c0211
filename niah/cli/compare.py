"""niah compare, niah baseline."""

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


class Undecided(StrEnum):
    fail = "fail"
    pass_ = "pass"


Scorer = Annotated[str | None, typer.Option(help="Use the scores of this scorer.", show_default="each record's first")]


def compare(
    base: Annotated[str, typer.Argument(help="A run's folder, RUN:MODEL, or a baseline file.")],
    candidate: Annotated[str, typer.Argument(help="The same, for what is to be judged.")],
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
) -> None:
    """Compare two models trial by trial, and say whether the second may replace the first.

    Exit code 0: no worse by more than the margin. 1: regressed, or below a floor. 3: these trials cannot tell. 4: nothing to measure.
    """
    from niah.config import parse_length
    from niah.errors import UsageError
    from niah.report.verdict import Gate
    from niah.run.sides import compare_sides

    try:
        least = parse_length(min_effective_length) if min_effective_length is not None else None
    except ValueError as error:
        raise UsageError(f"--min-effective-length: {error}") from None
    gate = Gate(
        margin=margin,
        alpha=alpha,
        min_recall=min_recall,
        min_effective_length=least,
        inconclusive=inconclusive.value if inconclusive else None,  # pyright: ignore[reportArgumentType]  # an enum's values are plain str
        max_lost=max_lost,
    )
    verdict = compare_sides(base, candidate, gate, force=force, scorer=scorer)
    _tell(verdict, format_, out)
    raise typer.Exit(verdict.exit_code)


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


def _tell(verdict: "Verdict", shape: Shape, out: Path | None) -> None:
    """On the standard output what was asked for; with --out that goes into the file, and the table to people."""
    from rich.console import Console

    from niah.errors import UsageError
    from niah.report import told
    from niah.report.junit import junit

    if out is None and shape is Shape.table:
        told.show(verdict, Console(highlight=False))
        return
    tell = {Shape.table: told.plain, Shape.md: told.markdown, Shape.json: told.as_json, Shape.junit: junit}[shape]
    if out is None:
        typer.echo(tell(verdict), nl=False)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(tell(verdict), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from None
    told.show(verdict, Console(highlight=False))
