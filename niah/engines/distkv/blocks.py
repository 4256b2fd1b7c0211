"""Blocks of KV cache, the list of them that a request has, and the slots of an instance that they lie in. Numbers only: no KV is here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass(slots=True, eq=False)
class RBlock:
    """KV of up to `block_tokens` tokens of a request, in all layers (an rBlock of the paper). Two are the same only if they are one object.

    A move changes where it lies, and gives it a new `id`: an id stands for one placement, and its owner's incarnation never uses it again.
    """

    id: int
    owner: str
    """The instance whose request it belongs to, and that one's incarnation."""
    owner_epoch: int
    holder: str
    """The instance in whose memory it lies; `holder_epoch` is its incarnation, whose end is the block's end."""
    holder_epoch: int
    device: str
    slot: int
    """Which of the holder's slots."""
    tokens: int = 0
    """Filled so far. Only a request's last block that holds any is ever written."""
    references: int = 1
    """How many requests of the owner begin with it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where `tokens` new tokens go: into `block`, from its token `start` on."""

    block: RBlock
    start: int
    tokens: int


@dataclass(slots=True, eq=False)
class BlockTable:
    """A request's blocks in the order of its tokens: full ones, at most one that is partly filled, empty ones."""

    blocks: list[RBlock] = field(default_factory=list[RBlock])
    tokens: int = 0
    by_holder: dict[str, int] = field(default_factory=dict[str, int])
    """How many of the blocks lie where."""

    def add(self, block: RBlock) -> None:
        self.blocks.append(block)
        self.count(block.holder, 1)

    def pop(self) -> RBlock:
        """The last block, taken off; the tokens are not counted anew."""
        block = self.blocks.pop()
        self.count(block.holder, -1)
        return block

    def count(self, holder: str, change: int) -> None:
        left = self.by_holder.get(holder, 0) + change
        if left:
            self.by_holder[holder] = left
        else:
            del self.by_holder[holder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What an instance has: `slots` for blocks of `block_tokens` tokens each, on a device.

    `lend_most`: slots that others may have at once (None: all). `spare_slots`: slots that only recalls use, so that a circle of debts
    among full instances can still be turned.
    """

    slots: int
    block_tokens: int
    lend_most: int | None = None
    spare_slots: int = 0
    device: str = "cpu"


class SlotPool:
    """Slots 0 to `total` - 1 of an instance's memory, of which the lowest free ones are given out first: neighbours are one read."""

    def __init__(self, total: int):
        self.total = total
        self._free = [*range(total)]  # sorted, hence a heap
        self._taken = bytearray(total)

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` free slots, ascending. Raises ValueError where there are fewer."""
        if count > len(self._free):
            raise ValueError(f"{count} slots wanted, {len(self._free)} free")
        slots = [heappop(self._free) for _ in range(count)]
        for slot in slots:
            self._taken[slot] = 1
        return slots

    def give(self, slots: Iterable[int]) -> None:
        """Slots that are free again. Raises ValueError for one that is already."""
        for slot in slots:
            if not self._taken[slot]:
                raise ValueError(f"slot {slot} is free already")
            self._taken[slot] = 0
            heappush(self._free, slot)
