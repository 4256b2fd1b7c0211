"""niah distkv simulate."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

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
    seed: Annotated[int, typer.Option(help="Draws the requests and where they go.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison, a PNG.")] = None,
) -> None:
    """Compare ways to use the memory of many instances, on a virtual clock.

    No model is asked, and every number is simulated.
    """
    from niah.config import parse_length
    from niah.engines.distkv.performance import LINKS
    from niah.engines.distkv.scenario import Scenario
    from niah.engines.distkv.simulate import simulate as play
    from niah.engines.distkv.trace import Traffic
    from niah.errors import UsageError

    try:
        longest_tokens = parse_length(longest)
    except ValueError as error:
        raise UsageError(f"--longest: {error}") from None
    traffic = Traffic(requests=requests * instances, requests_per_second=rate * instances, longest_tokens=longest_tokens)
    scenarios = [
        Scenario(instances=instances, traffic=traffic, policy=name.value, seed=seed, far=LINKS[link.value]) for name in policy or PolicyName
    ]
    rows: list[dict[str, Any]] = []
    for scenario in scenarios:
        typer.echo(f"simulating {scenario.policy}", err=True)
        rows.append(play(scenario).row())
    what = f"{instances:,} instances, {traffic.requests:,} requests, prompts to {longest_tokens:,} tokens, {link.value}, seed {seed}"
    _show(rows, what, scenarios[0].performance.kind, scenarios[0].performance.source)
    if plot is not None:
        from niah.report.simulation import draw_simulation

        typer.echo(str(draw_simulation(rows, plot, title=f"simulated: {what}")))


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
