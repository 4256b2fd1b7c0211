"""The requests that an instance is home to: the blocks that each has, and what is free in the instance's own memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from niah.engines.distkv.blocks import BlockTable, Memory, RBlock, SlotPool, Span


class Requests:
    """Bookkeeping of an instance's own requests. Their blocks lie here or with others; the table is the truth about both."""

    def __init__(self, instance: str, memory: Memory, *, epoch: int = 0):
        self.instance, self.memory, self.epoch = instance, memory, epoch
        self.block_tokens = memory.block_tokens
        self.pool = SlotPool(memory.slots)
        self.own_slots = 0
        """Slots with blocks of own requests."""
        self._tables: dict[str, BlockTable] = {}
        self._ids = count()
        self._changed: set[str] = set()
        self._owed: dict[tuple[str, int], set[int]] = {}
        """Ids that a creditor (instance, epoch) may still keep for nothing."""
        self._moving: set[int] = set()
        """Ids of blocks that are on their way elsewhere; they must not be written."""

    @property
    def requests(self) -> tuple[str, ...]:
        return tuple(self._tables)

    @property
    def free_slots(self) -> int:
        """What `allocate` could take."""
        return max(0, len(self.pool) - self.memory.spare_slots)

    def blocks(self, request: str) -> Sequence[RBlock]:
        """A request's blocks in the order of its tokens; none for an unknown one."""
        table = self._tables.get(request)
        return table.blocks if table else ()

    def tokens(self, request: str) -> int:
        table = self._tables.get(request)
        return table.tokens if table else 0

    def holders(self, request: str) -> Mapping[str, int]:
        """How many of a request's blocks lie where."""
        table = self._tables.get(request)
        return table.by_holder if table else {}

    def missing(self, request: str, tokens: int) -> int:
        """How many blocks a request lacks to hold `tokens` more."""
        return max(0, -(-(self.tokens(request) + tokens) // self.block_tokens) - len(self.blocks(request)))

    def allocate(self, request: str, blocks: int) -> int:
        """Up to `blocks` empty blocks in own memory; returns how many there were. The rest is to be borrowed."""
        table = self._table(request)
        slots = self.pool.take(min(blocks, self.free_slots))
        for slot in slots:
            table.add(RBlock(next(self._ids), self.instance, self.epoch, self.instance, self.epoch, self.memory.device, slot))
        self.own_slots += len(slots)
        return len(slots)

    def fill(self, request: str, tokens: int) -> list[Span]:
        """Count `tokens` more as there and say where they go. Raises ValueError where there are too few blocks; then nothing changes."""
        if self.missing(request, tokens):
            raise ValueError(f"{request}: {self.missing(request, tokens)} blocks too few for {tokens} more tokens")
        spans: list[Span] = []
        while tokens:
            table = self._tables[request]
            block = table.blocks[table.tokens // self.block_tokens]
            some = min(tokens, self.block_tokens - block.tokens)
            spans.append(Span(block, block.tokens, some))
            block.tokens += some
            table.tokens += some
            tokens -= some
        return spans

    def share(self, source: str, request: str, blocks: int) -> None:
        """Begin a new request with the first `blocks` blocks of another, which must be full. Raises ValueError."""
        taken = self.blocks(source)[:blocks]
        if request in self._tables or len(taken) < blocks or self.tokens(source) < blocks * self.block_tokens:
            raise ValueError(f"{request} cannot begin with {blocks} blocks of {source}")
        table = self._table(request)
        for block in taken:
            block.references += 1
            table.add(block)
        table.tokens = blocks * self.block_tokens

    def truncate(self, request: str, tokens: int) -> int:
        """Keep the first `tokens` tokens and give all other blocks back, empty ones too; returns how many are kept.

        Fewer than asked where the last block would have to be written again though it is shared or on its way elsewhere.
        """
        table = self._tables.get(request)
        if table is None:
            return 0
        tokens = min(tokens, table.tokens)
        whole, part = divmod(tokens, self.block_tokens)
        if part and part < (last := table.blocks[whole]).tokens and (last.references > 1 or last.id in self._moving):
            tokens, part = tokens - part, 0
        while len(table.blocks) > whole + (part > 0):
            self._drop(table.pop())
            self._changed.add(request)
        if part:
            table.blocks[whole].tokens = part
        table.tokens = tokens
        return tokens

    def release(self, request: str) -> None:
        """The request is no more: all its blocks go back, those that no other request begins with."""
        self.truncate(request, 0)
        if self._tables.pop(request, None) is not None:
            self._changed.add(request)

    def _table(self, request: str) -> BlockTable:
        self._changed.add(request)
        return self._tables.setdefault(request, BlockTable())

    def _drop(self, block: RBlock) -> None:
        block.references -= 1
        if not block.references:
            self._vacate(block)

    def _vacate(self, block: RBlock) -> None:
        """Give back the place that a block has now."""
        if block.holder == self.instance:
            self.pool.give([block.slot])
            self.own_slots -= 1
        else:
            self._owe(block.holder, block.holder_epoch, [block.id])

    def _owe(self, creditor: str, epoch: int, ids: Iterable[int]) -> None:
        self._owed.setdefault((creditor, epoch), set()).update(ids)

    def _sever(self, holder: str, epoch: int) -> dict[str, int]:
        """What `holder` held in incarnations up to `epoch` is lost: requests end before it. Returns the tokens that are left of each."""
        left: dict[str, int] = {}
        for request, table in self._tables.items():
            if holder in table.by_holder:
                lost = (n for n, block in enumerate(table.blocks) if block.holder == holder and block.holder_epoch <= epoch)
                first = next(lost, None)
                if first is not None:
                    left[request] = self.truncate(request, min(first * self.block_tokens, table.tokens))
        return left
