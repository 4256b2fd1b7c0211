"""One instance's data plane: it keeps blocks of keys and values and attends to them, for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from niah.engines.distkv.arena import Arena, Shape
from niah.engines.distkv.kernels import KV, Partial, attend, merged

_SHORT_TOKENS, _GATHERED_TOKENS = 512, 2048
"""Runs below the one are copied together, up to the other: a copy costs less than an output for each of them."""


class Run(NamedTuple):
    """Tokens of one text that lie together in a holder's arena."""

    start: int
    """Its first token in the arena."""
    tokens: int
    position: int
    """Its first token in the text."""


class InstanceLostError(Exception):
    """An instance does not answer any more, and what it held is gone."""

    def __init__(self, name: str, epoch: int):
        super().__init__(f"instance {name} is lost")
        self.name, self.epoch = name, epoch


class Query(NamedTuple):
    """What a holder is asked."""

    layer: int
    rows: Tensor
    """`[heads, rows, dim]`."""
    position: int
    """Where row 0 stands in the text; the others follow."""
    scale: float
    window: int | None
    """How many tokens a row sees, itself included; None for all up to itself."""


class Holder(Protocol):
    """Holds blocks. Every method raises InstanceLostError once the instance is gone."""

    @property
    def name(self) -> str: ...

    def write(self, layer: int, start: int, kv: KV) -> None:
        """Keep keys and values of one layer, from token `start` of the arena on."""
        ...

    def attend(self, query: Query, runs: Sequence[Run]) -> Callable[[], Partial]:
        """Begin attention to runs, at least one; the function that comes back ends it.

        The rows stand behind all runs or, a single one, at their end. Row 0 has a token of each run `in_sight`.
        """
        ...


class Instance(Holder, Protocol):
    """One whose blocks can be sent elsewhere."""

    def take(self, slots: Sequence[int]) -> Tensor:
        """A copy of blocks `[layers, 2, key heads, blocks, block_tokens, dim]`."""
        ...

    def put(self, slots: Sequence[int], blocks: Tensor) -> None:
        """Keep such blocks."""
        ...


class LocalInstance:
    """An instance in this process, in its incarnation `epoch`. Its arena has as many blocks as `memory_bytes` hold."""

    def __init__(self, name: str, epoch: int, shape: Shape, memory_bytes: int, device: str):
        self.name, self.epoch = name, epoch
        self._arena: Arena | None = Arena(shape, memory_bytes // shape.block_bytes, device)

    def kill(self) -> None:
        """Lose everything, as a process does that is ended."""
        self._arena = None

    @property
    def alive(self) -> bool:
        return self._arena is not None

    @property
    def arena(self) -> Arena:
        if self._arena is None:
            raise InstanceLostError(self.name, self.epoch)
        return self._arena

    def write(self, layer: int, start: int, kv: KV) -> None:
        """See `Holder`."""
        self.arena.write(layer, start, kv)

    def attend(self, query: Query, runs: Sequence[Run]) -> Callable[[], Partial]:
        """See `Holder`. All is done when the result is asked for."""
        return lambda: self._attend(query, runs)

    def _attend(self, query: Query, runs: Sequence[Run]) -> Partial:
        rows, arena, parts = query.rows, self.arena, list[Partial]()
        whole, edge = ([*runs], []) if query.window is None else _parted(runs, query.position + rows.shape[1] - query.window)
        if whole:
            # Heads that share keys become rows of one head: each key is then read once, which makes decoding two to three times faster.
            folded = rows.reshape(arena.shape.key_heads, -1, rows.shape[2])
            for kv in _gathered(arena, query.layer, whole):
                out, lse = attend(folded, kv, query.scale)
                parts.append(Partial(out.reshape(rows.shape), lse.reshape(rows.shape[:2])))
        for run in edge:
            at = torch.arange(run.position, run.position + run.tokens, device=rows.device)
            last_unseen = torch.arange(rows.shape[1], device=rows.device) + query.position - (query.window or 0)
            kv = arena.read(query.layer, run.start, run.start + run.tokens)
            parts.append(attend(rows, kv, query.scale, seen=at > last_unseen[:, None]))
        return merged(parts)

    def take(self, slots: Sequence[int]) -> Tensor:
        """See `Instance`."""
        return self.arena.take(slots)

    def put(self, slots: Sequence[int], blocks: Tensor) -> None:
        """See `Instance`."""
        self.arena.put(slots, blocks)


def in_sight(runs: Sequence[Run], position: int, window: int | None) -> list[Run]:
    """What the token at `position` sees of runs, itself included."""
    return [*runs] if window is None else _parted(runs, position - window + 1)[0]


def _parted(runs: Sequence[Run], first: int) -> tuple[list[Run], list[Run]]:
    """What of runs lies at position `first` and behind it, and what in front of it."""
    behind = [_cut(run, max(0, first - run.position), run.tokens) for run in runs]
    before = [_cut(run, 0, min(run.tokens, first - run.position)) for run in runs]
    return [run for run in behind if run.tokens > 0], [run for run in before if run.tokens > 0]


def _cut(run: Run, start: int, stop: int) -> Run:
    """Its tokens `start` to `stop`."""
    return Run(run.start + start, stop - start, run.position + start)


def _gathered(arena: Arena, layer: int, runs: Sequence[Run]) -> list[KV]:
    """Keys and values of runs: views of long ones, copies of many short ones."""
    found: list[KV] = []
    short: list[KV] = []
    gathered = 0
    for number, run in enumerate(runs, 1):
        piece = arena.read(layer, run.start, run.start + run.tokens)
        if run.tokens >= _SHORT_TOKENS:
            found.append(piece)
        else:
            short.append(piece)
            gathered += run.tokens
        if short and (gathered >= _GATHERED_TOKENS or number == len(runs)):
            keys, values = zip(*short, strict=True)
            found.append(short[0] if len(short) == 1 else (torch.cat(keys, 1), torch.cat(values, 1)))
            short, gathered = [], 0
    return found
