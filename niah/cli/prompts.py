"""niah prompt."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from niah.cli.options import Config, Corpora, CueMode, Depths, Format, Lengths, Needles, Seed, Tokenizer
from niah.cli.sweeps import experiment_of, terminal

if TYPE_CHECKING:
    from niah.trial import Prompt


def prompt(
    config: Config = None,
    lengths: Lengths = None,
    depths: Depths = None,
    corpora: Corpora = None,
    needles: Needles = None,
    cue: CueMode = None,
    seed: Seed = None,
    tokenizer: Tokenizer = None,
    reshuffle: Annotated[int, typer.Option(min=0, help="Which reshuffle.")] = 0,
    needle: Annotated[str | None, typer.Option(help="A needle's id.", show_default="the one that the sweep would use")] = None,
    format: Annotated[Format, typer.Option(help="text for people, json for programs.")] = Format.text,
) -> None:
    """Show the prompt of one trial.

    It is the one at the first length and depth, with the needle highlighted.
    """
    from niah.run.overview import one_prompt

    experiment = experiment_of(
        config, lengths=lengths, depths=depths, corpora=corpora, needles=needles, cue=cue, seed=seed, tokenizer=tokenizer
    )
    rendered, sentence, note = one_prompt(experiment, reshuffle=reshuffle, needle=needle)
    if note:
        typer.echo(f"note: {note}", err=True)
    if format is Format.json:
        typer.echo(json.dumps(_prompt_json(rendered), indent=2, ensure_ascii=False))
    else:
        _show(rendered, sentence)


def _prompt_json(prompt: "Prompt") -> dict[str, Any]:
    from dataclasses import asdict

    fields = {name: getattr(prompt, name) for name in ("system", "context", "question", "cue")}
    placements = [asdict(placement) for placement in prompt.placements]
    return {**fields, "messages": prompt.messages(), "tokens": prompt.tokens, "placements": placements}


def _show(prompt: "Prompt", sentences: list[str]) -> None:
    """The messages, with the needles highlighted where the terminal has colours."""
    from rich.text import Text

    console = terminal()
    for message in prompt.messages():
        console.print(Text(f"[{message['role']}]", style="dim"), soft_wrap=True)
        text = Text(message["content"])
        for sentence in sentences:
            text.highlight_words([sentence], style="bold black on yellow")
        console.print(text, soft_wrap=True)
    where = "; ".join(f"{p.needle} at depth {p.actual:.1%} (asked {p.asked:.0%}), token {p.token:,}" for p in prompt.placements)
    console.print(Text(f"[{prompt.tokens:,} tokens; {where}]", style="dim"), soft_wrap=True)
