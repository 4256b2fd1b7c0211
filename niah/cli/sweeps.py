"""niah sweep, niah plan, niah prompt."""

import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from niah.cli.options import (
    BaseUrl,
    Batch,
    Concurrency,
    Config,
    Corpora,
    CueMode,
    Depths,
    Format,
    Instances,
    KeyVariable,
    KvMemory,
    Lengths,
    MaxCost,
    MaxTokens,
    Model,
    Needles,
    Raw,
    Reshuffles,
    Seed,
    Tokenizer,
)

if TYPE_CHECKING:
    from rich.console import Console

    from niah.config import Experiment
    from niah.run.session import Batches
    from niah.run.sweep import Swept
    from niah.trial import Prompt


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
    instances: Instances = None,
    kv_memory: KvMemory = None,
    lengths: Lengths = None,
    depths: Depths = None,
    reshuffles: Reshuffles = None,
    corpora: Corpora = None,
    needles: Needles = None,
    cue: CueMode = None,
    seed: Seed = None,
    tokenizer: Tokenizer = None,
    concurrency: Concurrency = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    batch: Batch = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="With --batch: leave the batches at work and end at once.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a sweep that may cost more than $5.")] = False,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="a dated one under results/")] = None,
) -> None:
    """Sweep models over lengths and depths.

    Asks for needles in every cell, keeps each answer, and draws the heatmaps at the end.
    The same command again resumes: only what is missing is asked.
    """
    from niah.run.sweep import choose_folder
    from niah.run.sweep import sweep as run

    experiment = _experiment(
        config, models=models, base_url=base_url, key_variable=key_variable, raw=raw, instances=instances, kv_memory=kv_memory,
        lengths=lengths, depths=depths, reshuffles=reshuffles, corpora=corpora,
        needles=needles, cue=cue, seed=seed, tokenizer=tokenizer, concurrency=concurrency, max_cost=max_cost, max_tokens=max_tokens,
    )  # fmt: skip
    folder, console = out or choose_folder(experiment, Path("results")), _console()
    resume = _resume_line(folder, given=out is not None)
    try:
        swept = run(experiment, folder, _progress(console), partial(_agree, yes=yes, console=console), _batches(batch, no_wait))
    except KeyboardInterrupt:  # before the first request, or while the report is drawn; in between the runner takes it
        console.print(f"interrupted; everything answered is kept. To go on:\n  {resume}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    raise typer.Exit(_tell(swept, console, resume=resume))


def _batches(batch: bool, no_wait: bool) -> "Batches":
    from niah.errors import UsageError

    if no_wait and not batch:
        raise UsageError("--no-wait says how to go on with batches: give --batch too")
    return ("leave" if no_wait else "wait") if batch else "no"


def _agree(dollars: float, yes: bool, console: "Console") -> None:
    """Ask before a sweep that may cost much; where nobody can answer, --yes must have been given."""
    from niah.errors import UsageError
    from niah.run.money import ASK_FROM_DOLLARS

    if dollars <= ASK_FROM_DOLLARS or yes:
        return
    if not console.is_terminal or os.environ.get("CI"):
        raise UsageError(f"this sweep may cost ${dollars:,.2f}: say --yes, or set --max-cost (niah plan shows the bill)")
    typer.confirm(f"This sweep may cost ${dollars:,.2f} (niah plan shows the bill). Go on?", abort=True)


def plan(
    config: Config = None,
    models: Model = None,
    base_url: BaseUrl = None,
    key_variable: KeyVariable = None,
    raw: Raw = None,
    instances: Instances = None,
    kv_memory: KvMemory = None,
    lengths: Lengths = None,
    depths: Depths = None,
    reshuffles: Reshuffles = None,
    corpora: Corpora = None,
    needles: Needles = None,
    cue: CueMode = None,
    seed: Seed = None,
    tokenizer: Tokenizer = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    batch: Batch = False,
    concurrency: Annotated[int | None, typer.Option(hidden=True, help="Taken and not used, so that a sweep's line becomes a plan.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", hidden=True, help="Taken and not used.")] = False,
    yes: Annotated[bool, typer.Option("--yes", hidden=True, help="Taken and not used.")] = False,
    out: Annotated[Path | None, typer.Option(hidden=True, help="Taken and not used.")] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Tokens a minute that your account allows, as in 200k: tells the time.")
    ] = None,
    format: Annotated[Format, typer.Option(help="text for people, json for programs.")] = Format.text,
) -> None:
    """Say what a sweep would ask, and ask nothing.

    Prints trials, requests and tokens, documents that give needles away, and what is not known.
    """
    from niah.run.overview import overview

    experiment = _experiment(
        config, models=models, base_url=base_url, key_variable=key_variable, raw=raw, instances=instances, kv_memory=kv_memory,
        lengths=lengths, depths=depths, reshuffles=reshuffles, corpora=corpora,
        needles=needles, cue=cue, seed=seed, tokenizer=tokenizer, concurrency=concurrency, max_cost=max_cost, max_tokens=max_tokens,
    )  # fmt: skip
    facts = overview(experiment, batch=batch)
    if format is Format.json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _show_plan(facts, _tokens(rate, "--rate") if rate else 0)


def _tokens(text: str, option: str) -> int:
    from niah.config import parse_length
    from niah.errors import UsageError

    try:
        return parse_length(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _show_plan(facts: dict[str, Any], rate: int) -> None:
    from niah.cli.tables import table
    from niah.report.labels import length_labels

    console = _console()
    lengths, corpora = ", ".join(length_labels(facts["lengths"])), ", ".join(facts["corpora"])
    grid = f"{len(facts['lengths'])} lengths ({lengths}) x {len(facts['depths'])} depths x {facts['reshuffles']} reshuffles"
    console.print(f"{facts['experiment']}: {grid} of {corpora}; {facts['needles']} needles; tokens of {facts['tokenizer']}", markup=False)
    entries = facts["models"] | ({"all": facts["total"] | {"cues": []}} if len(facts["models"]) > 1 else {})
    numbers = [_numbers(entry) for entry in entries.values()]
    console.print(table(("", *entries), list(zip(_ROWS, *numbers, strict=True)), right=range(1, len(entries) + 1)))
    if rate:
        minutes = (facts["total"]["input_tokens"] + facts["total"]["output_tokens"]) / rate
        console.print(
            f"at {rate:,} tokens a minute: {minutes:,.0f} minutes; in an hour it needs {minutes / 60 * rate:,.0f} a minute", markup=False
        )
    for line in facts["caps"]:
        console.print(line, markup=False, soft_wrap=True)
    for model, entry in facts["models"].items():
        console.print(f"prices of {model}: {entry['prices']}", markup=False, soft_wrap=True)
    for line in [*(f"warning: {warning}" for warning in facts["warnings"]), *(f"not known: {line}" for line in facts["unknown"])]:
        console.print(line, markup=False, soft_wrap=True)


_ROWS = (
    "cue",
    "trials, a request each",
    "input tokens",
    "of these cacheable",
    "output tokens",
    "live",
    "with prompt caching",
    "in batches",
)


def _numbers(entry: dict[str, Any]) -> list[str]:
    counts = [f"{entry[name]:,}" for name in ("trials", "input_tokens")]
    share = f"{entry['cached_tokens'] / entry['input_tokens']:.0%}"
    dollars = [_dollars(entry[name]) for name in ("live_dollars", "cached_dollars", "batch_dollars")]
    return [", ".join(entry["cues"]), *counts, share, f"{entry['output_tokens']:,}", *dollars]


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:,.2f}"


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
        show(swept.results, swept.files, swept.spent, console)
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
