"""Makes sides of a comparison from synthetic records."""

from collections.abc import Callable, Iterable

from niah.report.side import Collector, Costs, Side
from niah.trial import Record
from tests.report.records import grid

FREE = Costs(answers=0, dollars=0.0, input_tokens=0, output_tokens=0, median_seconds=None, slow_seconds=None)


def side(records: Iterable[Record], name: str = "runs/one", *, missing: int = 0, scorer: str | None = None, costs: Costs = FREE) -> Side:
    collector, models = Collector(scorer), list[str]()
    for record in records:
        models.append(record.model)
        collector.add(record)
    return Side(
        name=name,
        model=models[0] if models else "server/none",
        points=collector.points(),
        conditions=collector.conditions(raw=False),
        costs=costs,
        missing=missing,
        origin={"niah": "0.1.0", "created": "2026-11-23"},
    )


def wide(hits: Callable[[int, float], int], model: str = "server/test", lengths: Iterable[int] = (4_000, 8_000)) -> list[Record]:
    """Records of 20 texts in a grid of two lengths and five depths: 200 trials."""
    return list(grid(lengths, [0.0, 0.25, 0.5, 0.75, 1.0], hits, model=model))
