"""niah train full, infini, export, curves."""

import shlex
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from niah.training.recipe import Recipe

app = typer.Typer(help="Train the readers full and infini, or turn a Llama-family checkpoint into the latter.", no_args_is_help=True)


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Out = Annotated[Path | None, typer.Option(help="The training's folder.", show_default="results/train-READER")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A recipe's file, or its name in configs/.", show_default="the folder's")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes; the same command goes on.")]
Init = Annotated[str | None, typer.Option(help="Begin with the weights of a training's folder or a checkpoint's.")]
Devices = Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads on the CPU.", show_default="torch's own")]
Seed = Annotated[int | None, typer.Option(help="Draws weights and episodes.", show_default="the recipe's")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A training's folder.")]
_SAY_SECONDS = 10.0


@app.command()
def full(
    recipe: RecipeName = None,
    out: Out = None,
    minutes: Minutes = None,
    init: Init = None,
    device: Devices = Device.auto,
    threads: Threads = None,
    seed: Seed = None,
) -> None:
    """Train the reader with full attention.

    The same command again goes on where it stopped. At the recipe's end the best weights are exported.
    """
    _train("full", recipe=recipe, out=out, minutes=minutes, init=init, device=device, threads=threads, seed=seed)


@app.command()
def infini(
    recipe: RecipeName = None,
    out: Out = None,
    minutes: Minutes = None,
    init: Annotated[
        str | None, typer.Option(help="As for full; or a Llama-family checkpoint, a folder or an id on the hub, that is converted.")
    ] = None,
    device: Devices = Device.auto,
    threads: Threads = None,
    seed: Seed = None,
) -> None:
    """Train the reader with Infini-attention, or convert a checkpoint to it.

    The same command again goes on where it stopped. At the recipe's end the best weights are exported.
    """
    _train("infini", recipe=recipe, out=out, minutes=minutes, init=init, device=device, threads=threads, seed=seed)


@app.command()
def export(folder: Folder, out: Annotated[Path, typer.Option(help="The checkpoint's folder.")]) -> None:
    """Write the best weights of a training so far as a checkpoint that models run from."""
    _needs_torch()
    from niah.training.session import export as write

    typer.echo(str(write(folder, out)))


@app.command()
def curves(
    folder: Folder, out: Annotated[Path | None, typer.Option(help="The picture, a PNG.", show_default="curves.png in FOLDER")] = None
) -> None:
    """Draw loss and recall of a training over its tokens."""
    from niah.errors import UsageError
    from niah.report.curves import draw_curves
    from niah.training.log import read

    rows = read(folder / "log.jsonl")
    if not rows:
        raise UsageError(f"{folder} holds no training's log (log.jsonl)")
    typer.echo(str(draw_curves(rows, out or folder / "curves.png", title=folder.resolve().name)))


def _needs_torch() -> None:
    from niah.errors import MissingExtra

    try:
        import niah.training.session  # pyright: ignore[reportUnusedImport]  # only whether it can be imported  # noqa: F401
    except ImportError as error:
        raise MissingExtra(str(error.name or error), "local", "training") from None


def _train(reader: Literal["full", "infini"], *, out: Path | None, device: Device, **wishes: Any) -> None:
    _needs_torch()
    from niah.training.session import Wish, train

    folder = out or Path("results") / f"train-{reader}"
    resume = shlex.join(["niah", *sys.argv[1:]] + ([] if out else ["--out", str(folder)]))
    typer.echo("reading the recipe's corpora", err=True)
    try:
        done = train(Wish(reader=reader, folder=folder, device=device.value, **wishes), typer.echo, _say())
    except KeyboardInterrupt:
        typer.echo(f"broken off; what was saved is kept. To go on:\n  {resume}")
        raise typer.Exit(130) from None
    if done.checkpoint is not None:
        typer.echo(f"the recipe is at its end: best weights (held-out recall {done.best:.2f}) in {done.checkpoint}")
        return
    typer.echo(f"stopped after step {done.step:,}, {done.tokens:,} tokens; everything is kept. To go on:\n  {resume}")
    if done.ended == "interrupted":
        raise typer.Exit(130)


def _say() -> Callable[[dict[str, Any], "Recipe"], None]:
    """Prints measures of held-out recall always, those of steps now and then."""
    said = 0.0

    def say(row: dict[str, Any], recipe: "Recipe") -> None:
        nonlocal said
        if "held_out" not in row and time.monotonic() - said < _SAY_SECONDS:
            return
        said = time.monotonic()
        where = f"step {row['step']:,}, {row['tokens'] / max(recipe.total_tokens, 1):.1%}, stage {row['stage'] + 1}/{len(recipe.stages)}"
        if "held_out" in row:
            recalls = ", ".join(f"question {name}: {recall:.2f}" for name, recall in row["held_out"].items())
            typer.echo(f"{where}: held-out recall {row['mean']:.2f} ({recalls})")
        else:
            speed = f"{row['tokens_per_cpu_second']:,.0f} tokens/CPU-second"
            typer.echo(f"{where}: loss {row['loss']:.3g}, recall {row['exact']:.2f}, {speed}")

    return say
