"""niah distkv simulate, niah distkv status."""

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from niah.engines.distkv.performance import Fitted

app = typer.Typer(help="Exact attention over a KV cache that several instances hold.", no_args_is_help=True)


class PolicyName(StrEnum):
    isolated = "isolated"
    single = "single"
    borrow = "borrow"
    dgfm = "borrow+dgfm"
    greedy = "greedy"


class LinkName(StrEnum):
    ethernet = "ethernet"
    nvlink = "nvlink"


@app.callback()
def distkv() -> None:
    """Exact attention over a KV cache that several instances hold."""


@app.command()
def simulate(
    instances: Annotated[int, typer.Option(min=1, help="How many instances.")] = 32,
    policy: Annotated[list[PolicyName] | None, typer.Option(help="May be given again.", show_default="all")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests for each instance.")] = 8,
    rate: Annotated[float, typer.Option(min=1e-6, help="Requests a second for each instance.")] = 0.05,
    longest: Annotated[str, typer.Option(help="The longest prompt's tokens, as in 60k or 2M.")] = "200k",
    link: Annotated[LinkName, typer.Option(help="Between nodes of 8 instances: 125 MB/s or 600 GB/s.")] = LinkName.ethernet,
    fitted: Annotated[Path | None, typer.Option(help="Measured speeds and link, by benchmarks/distkv_simulator.py.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the requests and where they go.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison, a PNG.")] = None,
) -> None:
    """Compare ways to use the memory of many instances, on a virtual clock.

    No model is asked, and every number is simulated.
    """
    from niah.config import parse_length
    from niah.engines.distkv.performance import ASSUMED, LINKS
    from niah.engines.distkv.scenario import Scenario
    from niah.engines.distkv.simulate import simulate as play
    from niah.engines.distkv.trace import Traffic
    from niah.errors import UsageError

    try:
        longest_tokens = parse_length(longest)
    except ValueError as error:
        raise UsageError(f"--longest: {error}") from None
    traffic = Traffic(requests=requests * instances, requests_per_second=rate * instances, longest_tokens=longest_tokens)
    measured = _fitted(fitted) if fitted is not None else None
    speed = measured.performance if measured else ASSUMED
    near, far = (measured.link, measured.link) if measured else (LINKS["nvlink"], LINKS[link.value])
    rows: list[dict[str, Any]] = []
    for name in policy or PolicyName:
        typer.echo(f"simulating {name.value}", err=True)
        scenario = Scenario(
            instances=instances, traffic=traffic, policy=name.value, seed=seed, near=near, far=far, performance=speed
        )  # fmt: skip
        rows.append(play(scenario).row())
    link_name = "link as measured" if measured else link.value
    what = f"{instances:,} instances, {traffic.requests:,} requests, prompts to {longest_tokens:,} tokens, {link_name}, seed {seed}"
    _show(rows, what, speed.kind, speed.source)
    if plot is not None:
        from niah.report.simulation import draw_simulation

        typer.echo(str(draw_simulation(rows, plot, title=f"simulated: {what}")))


@app.command()
def status(
    cluster: Annotated[str, typer.Option(help="auto, HOST:PORT or ray://HOST:PORT.")] = "auto",
) -> None:
    """Show who holds what of the KV caches on a running Ray cluster.

    Each sweep with --cluster has its own instances there. Asks their gManagers and changes nothing.
    """
    from rich.console import Console
    from rich.text import Text

    from niah.engines import EngineError
    from niah.engines.distkv.cluster import map_of, services, told
    from niah.errors import MissingExtra, UsageError

    try:
        found = services(cluster)
    except ImportError as error:
        raise MissingExtra(str(error.name), "ray", "niah distkv status") from None
    except EngineError as error:
        raise UsageError(str(error)) from None
    console = Console(highlight=False)
    for state in found:
        for line in told(state):
            console.print(line, markup=False, soft_wrap=True)
        console.print(Text.from_ansi(map_of(state, console.width, colours=console.is_terminal)), soft_wrap=True)
    if not found:
        console.print("no distkv/ model is served on this cluster")


def _fitted(path: Path) -> "Fitted":
    """UsageError where the file holds no measurement."""
    from niah.engines.distkv.performance import Fitted
    from niah.errors import UsageError

    try:
        return Fitted.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"--fitted: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no JSON, no text, or not what benchmarks/distkv_simulator.py writes
        raise UsageError(f"--fitted: {path} holds no measured speeds ({error}): benchmarks/distkv_simulator.py writes such files") from None


def _show(rows: Sequence[Mapping[str, Any]], what: str, kind: str, source: str) -> None:
    from rich.console import Console

    from niah.cli.tables import table

    console = Console(highlight=False)
    console.print(f"simulated: {what}")
    console.print(f"speeds {kind}: {source}")
    console.print(table(("simulated", *(str(row["policy"]) for row in rows)), _cells(rows), right=range(1, len(rows) + 1)))


def _cells(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A line for each measure."""
    for name in rows[0]:
        if name != "policy":
            yield (name, *(_told(row[name]) for row in rows))


def _told(value: float) -> str:
    return f"{value:,.3g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"
