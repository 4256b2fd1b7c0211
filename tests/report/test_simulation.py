"""The picture of the simulator: every panel says that it is simulated, and shows each policy's number."""

from pathlib import Path

import pytest

from niah.engines.distkv.scenario import Outcome
from niah.report.simulation import draw_simulation, simulation_figure

ROWS = [
    Outcome(policy="isolated", instances=2, served=3, unserved=4, longest_served_tokens=61_000, seconds=10.0, answer_tokens=70).row(),
    Outcome(policy="borrow", instances=2, served=7, longest_served_tokens=193_000, waits_seconds=[1.0, 2.5, 9.0]).row(),
]


def test_numbers_and_labels():
    figure = simulation_figure(ROWS, title="a $title$")
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["61,000", "193,000"], ["4", "0"], ["0", "2.5"], ["7", "0"]]
    assert all(axes.get_title(loc="left").endswith("(simulated)") for axes in figure.axes)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["isolated", "borrow"]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["two", "one"])
def test_written_twice_alike(rows: list[dict[str, object]], tmp_path: Path):
    one, two = (draw_simulation(rows, tmp_path / name / "s.png", title="t").read_bytes() for name in "ab")
    assert one == two
    assert one.startswith(b"\x89PNG")
