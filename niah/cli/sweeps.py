"""niah sweep, niah plan, niah prompt."""

import json
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from niah.config import Experiment
    from niah.run.sweep import Swept
    from niah.trial import Prompt


class Format(StrEnum):
    text = "text"
    json = "json"


Config = Annotated[
    str | None,
    typer.Argument(help="A config's name (quickstart, anthropic, classic, cue-ablation) or a TOML file.", show_default="quickstart"),
]
Model = Annotated[list[str] | None, typer.Option("--model", help="backend/model, as in server/llama or baseline/bm25. May be given again.")]
BaseUrl = Annotated[str | None, typer.Option(help="Where server/ models answer, as in http://127.0.0.1:8000/v1.")]
KeyVariable = Annotated[str | None, typer.Option(help="Environment variable with the key, instead of the usual one.")]
Raw = Annotated[bool | None, typer.Option("--raw", help="server/ models are base models: completions without a chat template.")]
Lengths = Annotated[str | None, typer.Option(help="Prompt lengths in tokens, as in 1k,16k,128000.")]
Depths = Annotated[str | None, typer.Option(help="Depths as fractions, as in 0,0.5,1.")]
Reshuffles = Annotated[int | None, typer.Option(help="Trials a cell, spread over the corpora.")]
Corpora = Annotated[list[str] | None, typer.Option("--corpus", help="builtin/NAME, a prepared corpus, or a path. May be given again.")]
Needles = Annotated[str | None, typer.Option(help="A needle set's name or file, or words, numbers, uuids.")]
CueMode = Annotated[str | None, typer.Option(help="off, user, prefill or auto; several separated by commas.")]
Seed = Annotated[int | None, typer.Option(help="Draws the reshuffles and deals the needles.")]
Tokenizer = Annotated[str | None, typer.Option(help="niah-8k, a tiktoken encoding, or a tokenizer.json.")]
Concurrency = Annotated[int | None, typer.Option(help="Requests in flight.", show_default="64 for servers, 1 for local readers")]


def _experiment(config: str | None, **options: Any) -> "Experiment":
    from niah.config import load_experiment

    for name in ("lengths", "depths", "cue"):
        if isinstance(options.get(name), str):
            options[name] = [part.strip() for part in options[name].split(",") if part.strip()]
    return load_experiment(config, {name: value for name, value in options.items() if value is not None})


def sweep(
    config: Config = None,
    models: Model = None,
    base_url: BaseUrl = None,
    key_variable: KeyVariable = None,
    raw: Raw = None,
    lengths: Lengths = None,
    depths: Depths = None,
    reshuffles: Reshuffles = None,
    corpora: Corpora = None,
    needles: Needles = None,
    cue: CueMode = None,
    seed: Seed = None,
    tokenizer: Tokenizer = None,
    concurrency: Concurrency = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="a dated one under results/")] = None,
) -> None:
    """Sweep models over lengths and depths.

    Asks for needles in every cell, keeps each answer, and draws the heatmaps at the end.
    The same command again resumes: only what is missing is asked.
    """
    from niah.run.sweep import choose_folder
    from niah.run.sweep import sweep as run

    experiment = _experiment(
        config, models=models, base_url=base_url, key_variable=key_variable, raw=raw, lengths=lengths, depths=depths,
        reshuffles=reshuffles, corpora=corpora,
        needles=needles, cue=cue, seed=seed, tokenizer=tokenizer, concurrency=concurrency,
    )  # fmt: skip
    console = _console()
    folder = out or choose_folder(experiment, Path("results"))
    resume = _resume_line(folder, given=out is not None)
    try:
        swept = run(experiment, folder, _progress(console))
    except KeyboardInterrupt:  # before the first request, or while the report is drawn; in between the runner takes it
        console.print(f"interrupted; everything answered is kept. To go on:\n  {resume}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    raise typer.Exit(_tell(swept, console, resume=resume))


def plan(
    config: Config = None,
    models: Model = None,
    base_url: BaseUrl = None,
    key_variable: KeyVariable = None,
    raw: Raw = None,
    lengths: Lengths = None,
    depths: Depths = None,
    reshuffles: Reshuffles = None,
    corpora: Corpora = None,
    needles: Needles = None,
    cue: CueMode = None,
    seed: Seed = None,
    tokenizer: Tokenizer = None,
    concurrency: Annotated[int | None, typer.Option(hidden=True, help="Taken and not used, so that a sweep's line becomes a plan.")] = None,
    out: Annotated[Path | None, typer.Option(hidden=True, help="Taken and not used.")] = None,
    format: Annotated[Format, typer.Option(help="text for people, json for programs.")] = Format.text,
) -> None:
    """Say what a sweep would ask, and ask nothing.

    Prints trials, requests and tokens, documents that give needles away, and what is not known.
    """
    from niah.run.overview import overview

    experiment = _experiment(
        config, models=models, base_url=base_url, key_variable=key_variable, raw=raw, lengths=lengths, depths=depths,
        reshuffles=reshuffles, corpora=corpora,
        needles=needles, cue=cue, seed=seed, tokenizer=tokenizer, concurrency=concurrency,
    )  # fmt: skip
    facts = overview(experiment)
    if format is Format.json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _show_plan(facts)


def _show_plan(facts: dict[str, Any]) -> None:
    from niah.cli.tables import table
    from niah.report.labels import length_labels

    console = _console()
    lengths, corpora = ", ".join(length_labels(facts["lengths"])), ", ".join(facts["corpora"])
    grid = f"{len(facts['lengths'])} lengths ({lengths}) x {len(facts['depths'])} depths x {facts['reshuffles']} reshuffles"
    console.print(f"{facts['experiment']}: {grid} of {corpora}; {facts['needles']} needles; tokens of {facts['tokenizer']}", markup=False)
    rows = [(model, ", ".join(entry["cues"]), *_numbers(entry), entry["cost"]) for model, entry in facts["models"].items()]
    if len(rows) > 1:
        rows.append(("all", "", *_numbers(facts["total"]), "unknown"))
    console.print(table(("model", "cue", "trials", "requests", "input tokens", "output tokens at most", "cost"), rows, right=range(2, 7)))
    for line in [*(f"warning: {warning}" for warning in facts["warnings"]), *(f"not known: {line}" for line in facts["unknown"])]:
        console.print(line, markup=False, soft_wrap=True)


def _numbers(entry: dict[str, Any]) -> list[str]:
    return [f"{entry[name]:,}" for name in ("trials", "requests", "input_tokens", "output_tokens_at_most")]


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

    experiment = _experiment(
        config, lengths=lengths, depths=depths, corpora=corpora, needles=needles, cue=cue, seed=seed, tokenizer=tokenizer
    )
    rendered, sentence = one_prompt(experiment, reshuffle=reshuffle, needle=needle)
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

    console = _console()
    for message in prompt.messages():
        console.print(Text(f"[{message['role']}]", style="dim"), soft_wrap=True)
        text = Text(message["content"])
        for sentence in sentences:
            text.highlight_words([sentence], style="bold black on yellow")
        console.print(text, soft_wrap=True)
    where = "; ".join(f"{p.needle} at depth {p.actual:.1%} (asked {p.asked:.0%}), token {p.token:,}" for p in prompt.placements)
    console.print(Text(f"[{prompt.tokens:,} tokens; {where}]", style="dim"), soft_wrap=True)


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _progress(console: "Console") -> Any:
    from niah.cli.progress import LiveProgress, PlainProgress

    return LiveProgress(console) if console.is_terminal and not os.environ.get("CI") else PlainProgress(console)


def _resume_line(folder: Path, *, given: bool) -> str:
    """The command that goes on with this run: what was typed, and the folder if it was not named."""
    words = ["niah", *sys.argv[1:]] + ([] if given else ["--out", str(folder)])
    return shlex.join(words)


def _measured(swept: "Swept") -> int:
    """0, or 3 for a complete sweep in which a model has no trial that could be scored."""
    assert swept.results is not None, "a complete sweep has records"
    empty = [series.name for series, summary in swept.results.summaries.items() if not summary.trials]
    for name in empty:
        print(
            f"error: no answer of {name} could be scored: see why in the table, for example a cap on the answer that is too low",
            file=sys.stderr,
        )
    return 3 if empty else 0


def _tell(swept: "Swept", console: "Console", *, resume: str) -> int:
    """Print how a sweep ended; the exit code."""
    from niah.cli.reports import show

    if swept.results is not None:
        show(swept.results, swept.files, console)
    problem = swept.stopped is not None or swept.interrupted or swept.missing or swept.failed
    if not problem:
        return _measured(swept)
    if swept.stopped is not None:
        print(f"error: {swept.stopped}", file=sys.stderr)
    left = (
        f"{swept.missing + swept.failed:,} trials are left"
        if not swept.failed
        else f"{swept.missing:,} trials are missing, {swept.failed:,} failed"
    )
    if swept.why and swept.stopped is None:
        print(f"error: {swept.why}", file=sys.stderr)
    console.print(f"{left}; everything answered is kept. To go on:\n  {resume}", markup=False, soft_wrap=True)
    if swept.interrupted:
        return 130
    return swept.stopped.exit_code if swept.stopped is not None else 3
