"""niah report, niah rescore."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niah.cli.options import KeyVariable

if TYPE_CHECKING:
    from rich.console import Console

    from niah.report.spending import Spent
    from niah.report.stats import Results

Scorers = Annotated[list[str], typer.Option("--scorer", help="contains, exact, all-of-many, fuzzy or judge. May be given again.")]


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the files go.", show_default="the run's folder; report/ beside the first of several")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Report this scorer.", show_default="each run's first")] = None,
) -> None:
    """Draw and print the results of runs.

    Writes heatmaps, cells.csv and summary.json, and prints recall with 95% intervals.
    """
    from rich.console import Console

    from niah.run.rescore import report_runs

    written = report_runs(runs, out or (runs[0] if len(runs) == 1 else runs[0].parent / "report"), scorer=scorer)
    show(written.results, written.files, written.spent, Console(highlight=False))


def rescore(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    scorers: Scorers,
    judge: Annotated[str | None, typer.Option("--judge", help="The model that judges, never the one that was tested.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Where a server/ judge answers.")] = None,
    key_variable: KeyVariable = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Stop before the judge could have cost more dollars than this.")] = None,
) -> None:
    """Score the stored answers of a run anew.

    The scorers named come first, so that reports show them; older scores are kept behind.
    """
    from rich.console import Console

    from niah.backends import Connection
    from niah.run.rescore import Judge, rescore_run

    judging = Judge(model=judge, connection=Connection(base_url=base_url, key_variable=key_variable), max_cost=max_cost) if judge else None
    written = rescore_run(run, scorers, judge=judging)
    show(written.results, written.files, written.spent, Console(highlight=False))


def show(results: "Results", files: Sequence[Path], spent: "Spent | None", console: "Console") -> None:
    """Tables of recall and of money, and where the files are."""
    from niah.report import spending, write

    for grid in write.grids(results):
        console.print(grid)
    console.print(write.table(results))
    if spent is not None and not spent.free:
        console.print(spending.table(spent))
        for note in spending.notes(spent):
            console.print(note, markup=False, soft_wrap=True)
    for file in files:
        console.print(str(file), markup=False, soft_wrap=True)
