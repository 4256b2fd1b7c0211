"""niah report, niah rescore."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

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
    show(written.results, written.files, Console(highlight=False))


def rescore(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    scorers: Scorers,
    judge: Annotated[str | None, typer.Option("--judge", help="The model that judges, never the one that was tested.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Where a server/ judge answers.")] = None,
) -> None:
    """Score the stored answers of a run anew.

    The scorers named come first, so that reports show them; older scores are kept behind.
    """
    from rich.console import Console

    from niah.run.rescore import rescore_run

    written = rescore_run(run, scorers, judge=judge, base_url=base_url)
    show(written.results, written.files, Console(highlight=False))


def show(results: "Results", files: Sequence[Path], console: "Console") -> None:
    """Tables of recall, and where the files are."""
    from niah.report import write

    for grid in write.grids(results):
        console.print(grid)
    console.print(write.table(results))
    for file in files:
        console.print(str(file), markup=False, soft_wrap=True)
