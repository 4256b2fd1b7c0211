"""niah haystack list, show, key, prepare."""

from typing import Annotated

import typer

app = typer.Typer(help="The corpora that haystacks are made of.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="wikipedia, legal, financial, medical, builtin/NAME, or a path.")]


@app.command("list")
def list_() -> None:
    """List the known corpora, and which of them are on this machine."""
    from rich.console import Console

    from niah.cli.tables import table
    from niah.run.overview import corpora

    Console(highlight=False).print(table(("corpus", "what it is", "licence"), corpora()))


@app.command()
def show(
    name: Name,
    document: Annotated[int, typer.Option(min=0, help="Number of the document to show.")] = 0,
) -> None:
    """Print where a corpus comes from, and one of its documents."""
    from niah.errors import UsageError
    from niah.task.corpus import open_corpus

    corpus = open_corpus(name)
    if corpus.size is not None and document >= corpus.size:
        raise UsageError(f"corpus {name!r} has {corpus.size:,} documents: --document goes from 0 to {corpus.size - 1:,}")
    found = corpus.document(document)
    size = "unlimited" if corpus.size is None else f"{corpus.size:,} documents"
    typer.echo(
        f"{corpus.name}: {size}, fingerprint {corpus.fingerprint}\n{corpus.about}\n\ndocument {document} ({found.id})\n\n{found.text}"
    )


@app.command()
def key(
    config: Annotated[str | None, typer.Argument(help="A config's name or a TOML file.", show_default="quickstart")] = None,
) -> None:
    """Print a name for what a sweep keeps in the cache folder, for a cache in CI: the same where corpora and tokenizer are the same."""
    from niah.config import load_experiment
    from niah.run.overview import cache_key

    typer.echo(cache_key(load_experiment(config, {})))


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="wikipedia, legal, financial or medical.")],
    tokens: Annotated[str, typer.Option(help="How much text, in tokens: 500k, 2M.")] = "2M",
) -> None:
    """Fetch a corpus from the Hugging Face hub once and freeze it on this machine."""
    from rich.console import Console

    from niah.config import parse_length
    from niah.errors import UsageError
    from niah.task import hub

    try:
        characters = parse_length(tokens) * _CHARACTERS_A_TOKEN
    except ValueError as error:
        raise UsageError(f"--tokens: {error}") from None
    console = Console(highlight=False, stderr=True)
    with console.status(f"{name}: asking the hub") as status:
        snapshot = hub.prepare(
            name, characters_wanted=characters, progress=lambda n: status.update(f"{name}: {min(1, n / characters):.0%}")
        )
    for note in snapshot.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    size = f"{snapshot.count:,} documents, {snapshot.characters:,} characters, about {snapshot.characters // _CHARACTERS_A_TOKEN:,} tokens"
    typer.echo(f"{name}: {size}\nfrom {snapshot.dataset} at {snapshot.revision}, licence: {snapshot.licence}")
    typer.echo(f"fingerprint {snapshot.fingerprint} in {snapshot.folder}")


_CHARACTERS_A_TOKEN = 5
"""Generous for English in every common tokenizer, so that at least the asked tokens arrive."""
