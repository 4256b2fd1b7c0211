"""niah models, niah check."""

from typing import Annotated

import typer

from niah.cli.options import BaseUrl, Cluster, Instances, KeyVariable, KvMemory, Raw


def models(
    prefix: Annotated[str | None, typer.Argument(metavar="[BACKEND]", help="List the known models of this backend.")] = None,
) -> None:
    """List backends, or the models of one.

    Models that are not listed work too; what is not known of them is called unknown.
    """
    from rich import box
    from rich.console import Console

    from niah.cli.tables import table
    from niah.run.overview import backends, known_models

    if prefix is None:
        shown = table(("backend", "key", "set", "known models"), backends(), right={3})
    else:
        shown = table(("model", "window", "prefill", "thinking", "$/M in", "$/M out", "retires"), known_models(prefix), right={1, 4, 5})
        shown.box, shown.padding, shown.show_edge = box.SIMPLE_HEAD, (0, 0), False
        for column in shown.columns[1:]:  # what a narrow terminal folds are the names
            column.no_wrap = True
    Console(highlight=False).print(shown)


def check(
    model: Annotated[str, typer.Argument(help="backend/model.")],
    config: Annotated[str, typer.Option("--config", help="The config of the sweep to come.")] = "quickstart",
    base_url: BaseUrl = None,
    key_variable: KeyVariable = None,
    raw: Raw = None,
    instances: Instances = None,
    kv_memory: KvMemory = None,
    cluster: Cluster = None,
) -> None:
    """Send one small trial to a model.

    Prints what it answers, how it counts, its limits, and what would go wrong in a sweep.
    """
    from rich.console import Console

    from niah.cli.tables import table
    from niah.config import load_experiment
    from niah.run.check import check_model

    given = {"models": [model], "base_url": base_url, "key_variable": key_variable, "raw": raw}
    found = check_model(load_experiment(config, given | {"instances": instances, "kv_memory": kv_memory, "cluster": cluster}))
    Console(highlight=False).print(table(("", model), found.facts))
    for warning in found.warnings:
        typer.echo(f"warning: {warning}")
