"""niah needles list, check."""

from typing import Annotated

import typer

app = typer.Typer(help="The facts that are hidden.", no_args_is_help=True)


@app.command("list")
def list_(
    set_: Annotated[str | None, typer.Argument(metavar="[SET]", help="Show the needles of this set.")] = None,
) -> None:
    """List the needle sets, or the needles of one."""
    from rich.console import Console

    from niah.cli.tables import table
    from niah.run.overview import needle_sets
    from niah.task.needles import load_needles

    console = Console(highlight=False)
    if set_ is None:
        console.print(table(("set", "what it is"), needle_sets()))
        return
    needles = load_needles(set_).needles
    console.print(table(("id", "needle", "question"), [(needle.id, needle.text, needle.question) for needle in needles]))


@app.command()
def check(
    set_: Annotated[str, typer.Argument(metavar="[SET]", help="A set's name or a file.")] = "default",
    corpora: Annotated[
        list[str] | None, typer.Option("--corpus", help="Look for its key facts in this corpus too. May be given again.")
    ] = None,
) -> None:
    """Check a needle set: by itself, and against the documents of corpora."""
    from niah.run.overview import check_needles

    problems = list(check_needles(set_, corpora or []))
    for problem in problems:
        typer.echo(problem)
    typer.echo(f"{set_}: {len(problems)} problems" if problems else f"{set_}: no problems")
    raise typer.Exit(1 if problems else 0)
