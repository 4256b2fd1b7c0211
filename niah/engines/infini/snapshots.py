"""What the next prompt may begin with alike: states of the last one, kept at some of its segment borders."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from niah.engines.infini.model import States


class Snapshots:
    """States by position in the last prompt, all of one size; as many as `most_bytes` hold.

    When there are too many, the one goes that leaves the narrowest gap, as measured by the square root of its position. With gaps in that
    proportion fewest tokens are read again where prompts part at a position p as often as 1 / p, as in sweeps whose lengths double.
    """

    def __init__(self, most_bytes: int):
        self._most_bytes = most_bytes
        self._kept: dict[int, States] = {}
        # One block of memory for all: kept one by one, among what every step takes and gives back, they would leave holes between them.
        self._pool: Tensor | None = None
        self._free: list[int] = []
        self._slots: dict[int, int] = {}

    def back_to(self, tokens: int) -> tuple[int, States | None]:
        """The last state within the first `tokens` tokens and its position, or (0, None); later ones are dropped."""
        for position in [each for each in self._kept if each > tokens]:
            self._drop(position)
        last = max(self._kept, default=0)
        return last, self._kept.get(last)

    def keep(self, position: int, states: States) -> None:
        """Keep the state behind `position` tokens, which come after all that is kept."""
        if self._pool is None:
            size = _size(states)
            self._pool = torch.empty(self._most_bytes // size, size, dtype=torch.uint8, device=states[0].tail.device)
            self._free = [*range(len(self._pool))]
        if not len(self._pool):
            return
        if not self._free:
            self._drop(self._least_missed())
        self._slots[position] = self._free.pop()
        self._kept[position] = _copied(states, self._pool[self._slots[position]])

    def clear(self) -> None:
        """Keep nothing, and give the memory back."""
        self.__init__(self._most_bytes)

    def _drop(self, position: int) -> None:
        del self._kept[position]
        self._free.append(self._slots.pop(position))

    def _least_missed(self) -> int:
        """Never the newest, unless it is alone."""
        positions = [0, *self._kept]
        gaps = [(behind - before) / sqrt(at) for before, at, behind in zip(positions, positions[1:], positions[2:], strict=False)]
        return positions[1 + gaps.index(min(gaps))] if gaps else positions[-1]


def _size(states: States) -> int:
    sizes: list[int] = []
    for state in states:
        state.each(lambda tensor: sizes.append(_padded(tensor)) or tensor)
    return sum(sizes)


def _copied(states: States, room: Tensor) -> States:
    """The same states, kept in `room` [bytes]."""
    taken = 0

    def copied(tensor: Tensor) -> Tensor:
        nonlocal taken
        begin, taken = taken, taken + _padded(tensor)
        return room[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)

    return tuple(state.each(copied) for state in states)


def _padded(tensor: Tensor) -> int:
    """A tensor's bytes, up to where any other may begin."""
    return -(-tensor.nbytes // 16) * 16
