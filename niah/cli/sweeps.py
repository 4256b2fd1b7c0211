"""niah sweep, niah plan."""

import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from niah.cli.options import (
    Alpha,
    Baseline,
    BaseUrl,
    Batch,
    Cluster,
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
    Margin,
    MaxCost,
    MaxTokens,
    Model,
    Needles,
    Rate,
    Raw,
    Reshuffles,
    Seed,
    Tokenizer,
    UntilSettled,
)

if TYPE_CHECKING:
    from rich.console import Console

    from niah.config import Experiment
    from niah.report.verdict import Verdict
    from niah.run.session import Batches
    from niah.run.settling import Aim
    from niah.run.sweep import Swept


def experiment_of(config: str | None, **options: Any) -> "Experiment":
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
    cluster: Cluster = None,
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
    until_settled: UntilSettled = False,
    baseline: Baseline = None,
    margin: Margin = 0.02,
    alpha: Alpha = 0.05,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a sweep that may cost more than $5.")] = False,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="a dated one under results/")] = None,
) -> None:
    """Sweep models over lengths and depths.

    Asks for needles in every cell, keeps each answer, and draws the heatmaps at the end.
    The same command again resumes: only what is missing is asked.
    """
    experiment = experiment_of(
        config, models=models, base_url=base_url, key_variable=key_variable, raw=raw, instances=instances, kv_memory=kv_memory,
        cluster=cluster, lengths=lengths, depths=depths, reshuffles=reshuffles, corpora=corpora,
        needles=needles, cue=cue, seed=seed, tokenizer=tokenizer, concurrency=concurrency, max_cost=max_cost, max_tokens=max_tokens,
    )  # fmt: skip
    aim = _aim(baseline, margin, alpha, wanted=until_settled)
    raise typer.Exit(_sweep(experiment, out, _batches(batch, no_wait), aim, yes=yes))


def _sweep(experiment: "Experiment", out: Path | None, batches: "Batches", aim: "Aim | None", *, yes: bool) -> int:
    """Sweep and tell how it ended; the exit code."""
    from niah.run.sweep import choose_folder
    from niah.run.sweep import sweep as run
    from niah.run.until_settled import sweep_until_settled

    folder, console = out or choose_folder(experiment, Path("results"), aim), terminal()
    resume, agree = _resume_line(folder, given=out is not None), partial(_agree, yes=yes, console=console)
    try:
        if aim is None:
            return _tell(run(experiment, folder, _progress(console), agree, batches), console, resume=resume)
        return _tell_settled(*sweep_until_settled(experiment, folder, _progress(console), agree, aim), console, resume=resume)
    except KeyboardInterrupt:  # before the first request, or while the report is drawn; in between the runner takes it
        console.print(f"interrupted; everything answered is kept. To go on:\n  {resume}", markup=False, soft_wrap=True)
        return 130


def _aim(baseline: str | None, margin: float, alpha: float, *, wanted: bool) -> "Aim | None":
    from niah.errors import UsageError
    from niah.report.verdict import Gate
    from niah.run.until_settled import aim_at

    if not wanted and baseline is not None:
        raise UsageError("--baseline belongs to --until-settled; niah compare holds a finished sweep against a baseline")
    if not wanted:
        return None
    if baseline is None:
        raise UsageError("--until-settled compares with what there is: give --baseline FILE too (niah baseline save makes one)")
    return aim_at(baseline, Gate(margin=margin, alpha=alpha))


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
    cluster: Cluster = None,
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
    until_settled: Annotated[bool, typer.Option("--until-settled", hidden=True, help="Taken and not used.")] = False,
    baseline: Annotated[str | None, typer.Option(hidden=True, help="Taken and not used.")] = None,
    margin: Annotated[float, typer.Option(hidden=True, help="Taken and not used.")] = 0.02,
    alpha: Annotated[float, typer.Option(hidden=True, help="Taken and not used.")] = 0.05,
    yes: Annotated[bool, typer.Option("--yes", hidden=True, help="Taken and not used.")] = False,
    out: Annotated[Path | None, typer.Option(hidden=True, help="Taken and not used.")] = None,
    rate: Rate = None,
    format: Annotated[Format, typer.Option(help="text for people, json for programs.")] = Format.text,
) -> None:
    """Say what a sweep would ask, and ask nothing.

    Prints trials, requests and tokens, documents that give needles away, and what is not known.
    """
    experiment = experiment_of(
        config, models=models, base_url=base_url, key_variable=key_variable, raw=raw, instances=instances, kv_memory=kv_memory,
        cluster=cluster, lengths=lengths, depths=depths, reshuffles=reshuffles, corpora=corpora,
        needles=needles, cue=cue, seed=seed, tokenizer=tokenizer, concurrency=concurrency, max_cost=max_cost, max_tokens=max_tokens,
    )  # fmt: skip
    _plan(experiment, batch, rate, format)


def _plan(experiment: "Experiment", batch: bool, rate: str | None, format: Format) -> None:
    from niah.run.overview import overview

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

    console = terminal()
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


def terminal() -> "Console":
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


def _tell_settled(swept: "Swept", verdicts: "list[Verdict]", console: "Console", *, resume: str) -> int:
    """Print the verdicts, and how the sweep ended; the exit code."""
    from niah.cli.reports import show
    from niah.report import told
    from niah.report.verdict import worst_exit_code

    for verdict in verdicts:
        told.show(verdict, console)
    if swept.results is not None:
        show(swept.results, swept.files, swept.spent, console)
    if swept.stopped is not None or (swept.why and not all(verdict.settled for verdict in verdicts)):
        print(f"error: {swept.stopped or swept.why}", file=sys.stderr)
    if swept.stopped is not None or swept.interrupted or not all(verdict.settled for verdict in verdicts):
        console.print(f"not settled yet; everything answered is kept. To go on:\n  {resume}", markup=False, soft_wrap=True)
    if swept.interrupted:
        return 130
    return swept.stopped.exit_code if swept.stopped is not None else worst_exit_code(verdicts)


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
    trials = "1 trial is" if swept.missing == 1 else f"{swept.missing:,} trials are"
    left = f"{trials} missing, {swept.failed:,} failed" if swept.failed else f"{trials} left"
    if swept.why and swept.stopped is None:
        print(f"error: {swept.why}", file=sys.stderr)
    console.print(f"{left}; everything answered is kept. To go on:\n  {resume}", markup=False, soft_wrap=True)
    if swept.interrupted:
        return 130
    return swept.stopped.exit_code if swept.stopped is not None else 3
