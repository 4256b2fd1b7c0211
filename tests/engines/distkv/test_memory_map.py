"""The picture of who holds what shows what the ledger says."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from niah.engines.distkv.gmanager import LedgerRow
from niah.engines.distkv.memory_map import memory_map


def row(name: str, total: int, free: int, debtors: dict[str, int]) -> LedgerRow:
    return LedgerRow(instance=name, epoch=0, total_slots=total, free_slots=free, lendable_slots=free, debtors=debtors, waiting=())


def shown(ledger: list[LedgerRow], *, colours: bool = False) -> list[str]:
    out = StringIO()
    console = Console(file=out, width=140, force_terminal=colours, color_system="standard" if colours else None, legacy_windows=False)
    console.print(memory_map(ledger, 1_000_000))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_map_of_three_instances():
    lines = shown([row("0", 20, 0, {}), row("1", 20, 5, {"0": 10, "2": 1}), row("2", 20, 20, {})])
    assert lines[0].split() == ["instance", "█", "own", "▒", "lent", "·", "free", "blocks"]
    assert lines[1].split(maxsplit=2) == ["0", "█" * 40, "20 own, 10 borrowed, 0 of 20 free (0.0 MB)"]
    assert lines[2].split(maxsplit=2)[1:] == [
        "█" * 8 + "▒" * 22 + "·" * 10,
        "4 own, 10 lent to 0, 1 lent to 2, 5 of 20 free (5.0 MB)",
    ]
    assert lines[3].split(maxsplit=2) == ["2", "·" * 40, "0 own, 1 borrowed, 20 of 20 free (20.0 MB)"]


def test_lent_blocks_have_the_debtors_colour():
    lines = shown([row("0", 4, 0, {}), row("1", 4, 0, {"0": 4})], colours=True)
    assert "\x1b[36m" + "█" * 40 in lines[1]
    assert "\x1b[36m" + "▒" * 40 in lines[2]


@given(
    own=st.integers(0, 10_000), free=st.integers(0, 10_000), lent=st.lists(st.integers(1, 10_000), max_size=4), cells=st.integers(10, 80)
)
def test_a_bar_is_full_and_shows_all_that_is_there(own: int, free: int, lent: list[int], cells: int):
    total = own + free + sum(lent)
    table = memory_map([row("a", total, free, {str(number): blocks for number, blocks in enumerate(lent)})], 1, cells=cells)
    bar = str(next(iter(table.columns[1].cells)))
    assert len(bar) == (cells if total else 0)
    for character, blocks, parts in (("█", own, 1), ("▒", sum(lent), len(lent)), ("·", free, 1)):
        assert (character in bar) == bool(blocks)
        if total:
            assert bar.count(character) == pytest.approx(blocks / total * cells, abs=1 + parts + len(lent))
