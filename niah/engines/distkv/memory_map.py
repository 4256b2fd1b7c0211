"""Who holds what, as a picture for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import StringIO
from itertools import accumulate

from rich.console import Console
from rich.table import Table
from rich.text import Text

from niah.engines.distkv.gmanager import LedgerRow
from niah.engines.memory import size

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_OWN, _LENT, _FREE = "█", "▒", "·"


def memory_map(ledger: Sequence[LedgerRow], block_bytes: int, *, cells: int = 40) -> Table:
    """A row for each instance of a `GManager`'s ledger: a bar of `cells`, and the same in numbers.

    What an instance uses itself is solid and in its colour, what it lends is shaded and in the debtor's; free blocks are dots.
    """
    borrowed = Counter[str]()
    for row in ledger:
        borrowed.update(row.debtors)
    colours = {row.instance: _COLOURS[number % len(_COLOURS)] for number, row in enumerate(ledger)}
    table = Table("instance", f"{_OWN} own  {_LENT} lent  {_FREE} free", "blocks", box=None, pad_edge=False)
    for row in ledger:
        lent = sum(row.debtors.values())
        own = row.total_slots - row.free_slots - lent
        parts = [
            (_OWN, colours[row.instance], own),
            *((_LENT, colours.get(debtor, "white"), blocks) for debtor, blocks in sorted(row.debtors.items())),
            (_FREE, "dim", row.free_slots),
        ]
        told = [
            f"{own:,} own",
            *([f"{borrowed[row.instance]:,} borrowed"] if borrowed[row.instance] else []),
            *(f"{blocks:,} lent to {debtor}" for debtor, blocks in sorted(row.debtors.items())),
        ]
        told.append(f"{row.free_slots:,} of {row.total_slots:,} free ({size(row.free_slots * block_bytes)})")
        table.add_row(Text(row.instance, colours[row.instance]), _bar(parts, cells), Text(", ".join(told)))
    return table


def map_text(ledger: Sequence[LedgerRow], block_bytes: int, *, width: int = 120, colours: bool = False) -> str:
    """The same as lines of text."""
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=colours, no_color=not colours, legacy_windows=False, highlight=False)
    console.print(memory_map(ledger, block_bytes, cells=max(10, min(40, width - 80))))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _bar(parts: Sequence[tuple[str, str, int]], cells: int) -> Text:
    """Parts (character, style, blocks): a cell of each that is there, and the other cells in proportion."""
    there = [part for part in parts if part[2]]
    spare, total = max(0, cells - len(there)), sum(blocks for *_, blocks in there) or 1
    ends = [round(end * spare / total) for end in accumulate((blocks for *_, blocks in there), initial=0)]
    text = Text()
    for (character, style, _), start, end in zip(there, ends, ends[1:], strict=False):
        text.append(character * (1 + end - start), style)
    return text
