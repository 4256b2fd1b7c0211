"""An instance as home of texts: where their keys lie, what is kept of them for the next one, what is lost with another instance."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeAlias

from torch import Tensor

from niah.engines import EngineError
from niah.engines.distkv.attention import dist_attention
from niah.engines.distkv.blocks import RBlock
from niah.engines.distkv.group import Group
from niah.engines.distkv.instance import Holder, InstanceLostError, Query, Run, in_sight
from niah.engines.distkv.kernels import KV
from niah.engines.memory import size

Holders: TypeAlias = dict[tuple[str, int], list[Run]]
"""What lies where: (instance, its epoch) -> runs in the order of the text."""
_NAMES, _TICKS = count(), count()


class Home:
    """`name` is the instance's. Blocks of texts that are over are kept, for others of this home, until somebody needs the room."""

    def __init__(self, fleet: Group, name: str):
        self.fleet, self.name = fleet, name
        self.manager = fleet.managers[name]
        self._kept: dict[str, tuple[int, array[int]]] = {}
        """request -> when it was last used, and its tokens."""
        fleet.keepers[name] = self

    @property
    def lost(self) -> bool:
        """Whether this instance is known to be dead."""
        return self.fleet.managers.get(self.name) is not self.manager

    def open(self, ids: Sequence[int]) -> Reading:
        """Begin to read a text with what is kept of one that begins alike; its last token at least is left to be read."""
        request, blocks, best = f"text-{next(_NAMES)}", 0, ""
        text = array("i", ids)
        for kept, (_, others) in self._kept.items():
            same = min(alike(text, others), self.manager.tokens(kept), len(text) - 1) // self.manager.block_tokens
            if same > blocks:
                blocks, best = same, kept
        if blocks:
            self.manager.share(best, request, blocks)
            self._kept[best] = (next(_TICKS), self._kept[best][1])
        return Reading(self, request, blocks * self.manager.block_tokens)

    def close(self, reading: Reading, ids: Sequence[int]) -> None:
        """A text is over; what has been read of it is `ids`."""
        if self.lost:
            return
        reading.stand()
        self._kept[reading.request] = (next(_TICKS), array("i", ids[: reading.tokens]))

    def drop(self, reading: Reading) -> None:
        """A text was broken off: nothing of it is kept."""
        if not self.lost:
            self._release(reading.request)

    @property
    def oldest(self) -> int | None:
        """See `Keeper`."""
        return min((used for used, _ in self._kept.values()), default=None)

    def evict(self) -> None:
        """See `Keeper`."""
        request = min(self._kept, key=lambda kept: self._kept[kept][0])
        del self._kept[request]
        self._release(request)

    def _release(self, request: str) -> None:
        self.manager.release(request)
        self.manager.losses.pop(request, None)
        self.fleet.settle(self.name)


class Reading:
    """A text in work. `tokens` have been read, and their keys and values are kept; see `cache.Text`."""

    def __init__(self, home: Home, request: str, tokens: int):
        self.home, self.request, self.tokens = home, request, tokens
        self._manager, self._fleet = home.manager, home.fleet
        self._writes: list[tuple[tuple[str, int], Run]] = []
        self._holders: Holders = {}
        self._near: dict[int | None, list[tuple[Holder, list[Run]]]] = {}

    def stand(self) -> int:
        """How many tokens have been read and are still there. What lies behind a lost one counts as lost."""
        self._manager.losses.pop(self.request, None)
        if self._manager.tokens(self.request) != self.tokens:
            self.tokens = self._manager.truncate(self.request, self.tokens)
            self._fleet.settle(self.home.name)
        return self.tokens

    def reserve(self, tokens: int) -> None:
        """Room for so many tokens in all, or EngineError (memory). InstanceLostError when the home itself is lost."""
        manager, fleet = self._manager, self._fleet
        needed = -(-tokens // manager.block_tokens)
        while missing := manager.missing(self.request, tokens - manager.tokens(self.request)):
            if self.home.lost:
                raise InstanceLostError(self.home.name, manager.epoch)
            if needed <= fleet.total_slots and fleet.place(self.home.name, self.request, missing) == missing:
                continue
            if not fleet.bury() and not fleet.mover.give_way() and (needed > fleet.total_slots or not fleet.evict()):
                free = fleet.total_slots if needed > fleet.total_slots else fleet.free_slots + len(manager.blocks(self.request))
                raise EngineError(_too_much(tokens, needed, free, fleet), kind="memory")

    def read(self, rows: int, forward: Callable[[], Tensor]) -> Tensor:
        """Read `rows` more tokens: `forward` has the model call `attend` for each layer. InstanceLostError leaves them unread."""
        self._manager.fill(self.request, rows)
        blocks, block_tokens = self._manager.blocks(self.request), self._manager.block_tokens
        self._writes = runs(blocks, block_tokens, self.tokens, self.tokens + rows)
        self._holders = {}
        for holder, run in runs(blocks, block_tokens, 0, self.tokens + (rows == 1)):
            self._holders.setdefault(holder, []).append(run)
        self._near = {}
        result = forward()
        self.tokens += rows
        self._fleet.work(rows)
        return result

    def attend(self, query: Query, own: KV) -> Tensor:
        """See `cache.Text`."""
        shape, home = self._fleet.shape, self.home.name
        if (own[0].shape[0], own[0].shape[2], own[0].dtype) != (shape.key_heads, shape.dim, shape.dtype):
            raise EngineError(f"layer {query.layer} has keys of another shape than the first one: try hf/", kind="checkpoint")
        for (name, epoch), run in self._writes:
            first = run.position - self.tokens
            some = (own[0][:, first : first + run.tokens], own[1][:, first : first + run.tokens])
            self._fleet.instance(name, epoch).write(query.layer, run.start, some)
            if name != home:
                self._fleet.moved_bytes += 2 * some[0].nbytes
        if query.window not in self._near:
            self._near[query.window] = self._in_sight(query.window)
        holders = self._near[query.window]
        remote = sum(holder.name != home for holder, _ in holders)
        self._fleet.moved_bytes += remote * (2 * query.rows.nbytes + 4 * query.rows.shape[0] * query.rows.shape[1])
        return dist_attention(query, own, holders)

    def _in_sight(self, window: int | None) -> list[tuple[Holder, list[Run]]]:
        """What the first new token sees, the home last."""
        there = ((holder, in_sight(runs, self.tokens, window)) for holder, runs in self._holders.items())
        found = [(self._fleet.instance(*holder), near) for holder, near in there if near]
        return sorted(found, key=lambda each: each[0].name == self.home.name)


def _too_much(tokens: int, needed: int, free: int, fleet: Group) -> str:
    """What to say where there is no room; `needed` and `free` are blocks."""
    count, bytes_ = fleet.living, fleet.shape.block_bytes
    where = f"{count} instance{'s' * (count != 1)} of {size(fleet.memory_bytes)}"
    return f"the keys and values of {tokens:,} tokens take {size(needed * bytes_)}; {size(free * bytes_)} are free on {where}"


def runs(blocks: Sequence[RBlock], block_tokens: int, start: int, stop: int) -> list[tuple[tuple[str, int], Run]]:
    """Where tokens `start` to `stop` of a text lie: blocks in neighbouring slots of one holder are one run."""
    found: list[tuple[tuple[str, int], Run]] = []
    for number in range(start // block_tokens, -(-stop // block_tokens)):
        block, first = blocks[number], max(start, number * block_tokens)
        tokens = min(stop, (number + 1) * block_tokens) - first
        at, holder = block.slot * block_tokens + first - number * block_tokens, (block.holder, block.holder_epoch)
        if found and found[-1][0] == holder and found[-1][1].start + found[-1][1].tokens == at:
            last = found[-1][1]
            found[-1] = (holder, last._replace(tokens=last.tokens + tokens))
        else:
            found.append((holder, Run(at, tokens, first)))
    return found


def alike(one: array[int], other: array[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices compare much faster than items
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
