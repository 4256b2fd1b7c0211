"""The commands, registered in the order in which --help shows them."""

from typing import Annotated

import typer

from niah import __version__
from niah.cli import compare, distkv, export, haystacks, models, needles, prompts, reports, sweeps, train

app = typer.Typer(
    name="niah",
    help="How well does a language model find one fact in a long text? Needle-in-a-haystack sweeps that can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would take a third of the time that --help may take
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"niah {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Needle-in-a-haystack sweeps that can be trusted."""


app.command()(sweeps.sweep)
app.command()(sweeps.plan)
app.command()(prompts.prompt)
app.command()(models.models)
app.command()(models.check)
app.command()(reports.report)
app.command()(reports.rescore)
app.command()(compare.compare)
app.add_typer(compare.app, name="baseline")
app.command()(export.export)
app.add_typer(haystacks.app, name="haystack")
app.add_typer(needles.app, name="needles")
app.add_typer(train.app, name="train")
app.add_typer(distkv.app, name="distkv")
