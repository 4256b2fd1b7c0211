"""niah export."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class As(StrEnum):
    parquet = "parquet"
    csv = "csv"
    inspect = "inspect"


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    format_: Annotated[As, typer.Option("--format", help="A table with a line a trial, or logs that inspect_ai opens.")],
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="trials.parquet, .csv or .eval in the run's folder")] = None,
) -> None:
    """Write a run's trials for other programs.

    Everything that a record holds, and what its answer cost. For inspect_ai one log a model.
    """
    from niah.run.exporting import export_run

    for path in export_run(run, format_.value, out):
        typer.echo(str(path))
