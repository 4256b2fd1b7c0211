"""The picture of a training. `pytest tests/report/test_curves.py`"""

from pathlib import Path
from typing import Any

import pytest

from niah.report.curves import curves_figure, draw_curves, series, smoothed

ROWS: list[dict[str, Any]] = [
    *({"step": step, "tokens": step * 8192, "stage": 0, "loss": 2 / step, "exact": step / 100} for step in range(5, 60, 5)),
    {"step": 59, "tokens": 59 * 8192, "stage": 1, "held_out": {"last 512": 0.25, "first 1024": 0.5}, "mean": 0.375},
    {"step": 60, "tokens": 60 * 8192, "stage": 1, "held_out": {"last 512": 0.75}, "mean": 0.75},
]


def test_what_is_drawn_is_what_was_logged() -> None:
    loss, recall, held_out = series(ROWS)
    assert loss[0] == recall[0] == [step * 8192 for step in range(5, 60, 5)]
    assert loss[1] == [2 / step for step in range(5, 60, 5)]
    assert held_out == {"last 512": ([59 * 8192, 60 * 8192], [0.25, 0.75]), "first 1024": ([59 * 8192], [0.5])}
    above, below = curves_figure(ROWS, title="a $run$").axes
    assert list(above.lines[0].get_ydata()) == loss[1]
    assert list(below.lines[1].get_ydata()) == smoothed(recall[1])
    assert [list(line.get_ydata()) for line in below.lines[2:]] == [[0.25, 0.75], [0.5]]
    labels = [text.get_text() for text in below.get_legend().get_texts()]
    assert labels == ["in training", "held out, question last, 512 tokens", "held out, question first, 1024 tokens"]
    assert below.get_ylim() == (0, 1)


def test_a_running_mean() -> None:
    assert smoothed([1, 2, 3, 4], over=2) == [1, 1.5, 2.5, 3.5]
    assert smoothed([], over=2) == []


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[-1:]], ids=["all", "one step", "one examination"])
def test_the_picture_is_written_alike_each_time(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    one, two = (draw_curves(rows, tmp_path / f"{number}.png", title="run").read_bytes() for number in range(2))
    assert one == two
    assert one.startswith(b"\x89PNG")
