"""Plain tables for the terminal."""

from collections.abc import Container, Iterable, Sequence

from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Container[int] = ()) -> Table:
    """A table of text; `right` numbers the columns that are aligned to the right."""
    made = Table()
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
