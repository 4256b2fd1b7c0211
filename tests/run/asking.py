"""One model's trials of a small plan, asked by a runner of their own."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from niah.backends import Backend
from niah.run.limits import Patience
from niah.run.plan import Plan, gather
from niah.run.runner import Runner
from niah.run.store import Store, read
from niah.task.score import scorer
from niah.trial import Prompt, Record, Trial
from tests.run.command import experiment, write_config

AT_ONCE = Patience(jitter=lambda: 0.0)


class Notes:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def begin(self, model: str, total: int, done: int) -> None: ...
    def watch(self, spending: object) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...
    def recorded(self, record: Record) -> None:
        self.records.append(record)


@pytest.fixture
def plan(folder: Path) -> Plan:
    made = experiment(write_config(folder, reshuffles=6))
    return Plan(made, gather(made))


def ask(
    plan: Plan,
    backend: Backend,
    folder: Path,
    *,
    concurrency: int = 4,
    make: Callable[[Trial], Prompt] | None = None,
    trials: Iterator[Trial] | None = None,
    patience: Patience = AT_ONCE,
) -> list[Record]:
    """The records after one runner was let loose on an empty folder; its error goes through."""

    async def go() -> None:
        runner = Runner(
            "server/m",
            backend,
            make=make or plan.materials.maker.make,
            needles=plan.materials.needles.by_id(),
            scorers=[scorer("contains")],
            store=store,
            progress=Notes(),
            stop=asyncio.Event(),
            patience=patience,
        )
        try:
            await runner.run(trials or plan.trials(("user",)), concurrency)
        finally:
            await store.flush()
            await backend.close()

    with Store(folder) as store:
        asyncio.run(go())
    return list(read(folder))


def recorded(folder: Path) -> list[Record]:
    return list(read(folder))
