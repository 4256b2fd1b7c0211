"""niah report, niah rescore."""

from collections.abc import Sequence
from functools import partial
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
    by: Annotated[str | None, typer.Option(help="Print recall by corpus, needle, depth, length or cue in full.")] = None,
    format_: Annotated[str, typer.Option("--format", help="Kinds of the pictures' files: png, svg, pdf.")] = "png,svg",
    html: Annotated[bool, typer.Option("--html", help="Write report.html too: everything in one file, with the single trials.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve that page on this machine and follow the runs; writes nothing.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve.", show_default="a free one")] = 0,
) -> None:
    """Draw and print the results of runs.

    Writes heatmaps, curves, cells.csv and summary.json, and prints recall with 95% intervals.
    """
    from rich.console import Console

    from niah.report.breakdowns import check_by
    from niah.report.pictures import kinds_of
    from niah.run.rescore import report_runs
    from niah.run.sides import no_collection

    if serve:
        from niah.run.serve import serve as serve_page

        serve_page(runs, port=port, scorer=scorer, tell=partial(print, flush=True))
        return

    folder = out or (runs[0] if len(runs) == 1 else runs[0].parent / "report")
    kinds = kinds_of(format_)
    if by:
        check_by(by)
    with no_collection():
        written = report_runs(runs, folder, scorer=scorer, html=html, kinds=kinds, all_pictures=True)
        show(written.results, written.files, written.spent, Console(highlight=False), broken_down=True, by=by)
        del written


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


def show(
    results: "Results",
    files: Sequence[Path],
    spent: "Spent | None",
    console: "Console",
    *,
    broken_down: bool = False,
    by: str | None = None,
) -> None:
    """Tables of recall and of money, and where the files are; `by` in place of the grids, or else short breakdowns if wanted."""
    from niah.report import breakdowns, spending, write

    for grid in [breakdowns.full_table(results, by)] if by else write.grids(results):
        console.print(grid)
    for table in breakdowns.short_tables(results, console.width) if broken_down and not by else ():
        console.print(table)
    console.print(write.table(results))
    if spent is not None and not spent.free:
        console.print(spending.table(spent))
        for note in spending.notes(spent):
            console.print(note, markup=False, soft_wrap=True)
    for file in files:
        console.print(str(file), markup=False, soft_wrap=True)
