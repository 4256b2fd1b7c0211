"""The log of a training: one JSON object a line, appended; what a broken-off line or a resumed training leaves behind is dropped."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""`step`, `tokens`, `stage`, and either a step's measures (`loss`, `exact`, ...) or `held_out` with its `mean`."""


def append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """The rows, in order; a line that is no row (torn by a crash) is passed over. Empty where there is no file."""
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def cut(path: Path, step: int) -> None:
    """Takes out what was logged after `step`: a training that resumes there tells it again."""
    kept = [row for row in read(path) if row["step"] <= step]
    new = path.with_name(path.name + ".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    new.replace(path)
