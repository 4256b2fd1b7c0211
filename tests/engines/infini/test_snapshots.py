"""Which states are kept for the next prompt."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.engines.infini.memory import Memory
from niah.engines.infini.model import States
from niah.engines.infini.snapshots import Snapshots
from niah.engines.infini.state import InfiniState

NOTHING, SIZE = torch.zeros(0), 48


def states(mark: int) -> States:
    """Of `SIZE` bytes: an odd number of values in bfloat16 stands between others."""
    memory = Memory(torch.full((4,), float(mark), dtype=torch.float64), torch.full((5,), mark, dtype=torch.bfloat16))
    pair = NOTHING, NOTHING
    state = InfiniState(memory=memory, tail=NOTHING, keys=NOTHING, values=NOTHING, strengths=None, sinks=pair, recent=pair, tokens=mark)
    return (state,)


def positions(snapshots: Snapshots) -> list[int]:
    """All, from the first on; going back to them drops them."""
    found, at = list[int](), 10**9
    while at := snapshots.back_to(at - 1)[0]:
        found.insert(0, at)
    return found


@settings(max_examples=100)
@given(room=st.integers(1, 12), count=st.integers(1, 80), back=st.integers(0, 90))
def test_never_more_than_there_is_room_for_and_always_the_last(room: int, count: int, back: int):
    snapshots = Snapshots(room * SIZE + 20)
    for position in range(1, count + 1):
        snapshots.keep(position, states(position))
    at, kept = snapshots.back_to(back)
    assert at <= back and (kept is None) == (at == 0)
    if kept is not None:
        assert kept[0].tokens == at
        assert kept[0].memory.matrix.tolist() == [at] * 4 and kept[0].memory.normaliser.tolist() == [at] * 5
    if back >= count:
        assert at == count
    refilled = Snapshots(room * SIZE)
    for position in range(1, count + 1):
        refilled.keep(position, states(position))
    assert len(positions(refilled)) == min(room, count)


def test_they_are_spread_over_the_whole_prompt_denser_at_its_beginning():
    snapshots = Snapshots(16 * SIZE)
    for position in range(1, 1025):
        snapshots.keep(position, states(position))
    kept = [0, *positions(snapshots)]
    gaps = [behind - before for before, behind in pairwise(kept)]
    assert len(gaps) == 16 and kept[-1] == 1024
    assert max(gaps) <= 3 * 1024 / 16
    assert sum(gaps[:5]) * 2 < sum(gaps[-6:-1])


def test_one_that_is_too_large_is_not_kept():
    snapshots = Snapshots(SIZE - 1)
    snapshots.keep(5, states(5))
    assert snapshots.back_to(10) == (0, None)


def test_clear():
    snapshots = Snapshots(1000)
    snapshots.keep(5, states(5))
    snapshots.clear()
    assert snapshots.back_to(10) == (0, None)
