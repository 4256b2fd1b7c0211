"""Greedy placement of the paper's second version: which blocks to move where so that pairs of instances serve more tokens a second.

Sourced are the loop and its order. Our own: throughput is the batch over the time of a step, and moving blocks pays because waiting
requests are let in where memory becomes free.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.messages import Candidate, MoveKVCache
from niah.engines.distkv.performance import Link, Performance

_TRIED = 16
"""Numbers of blocks that are tried for a pair, spread evenly, beside those that let another request in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """An instance as the gManager sees it, in blocks. `local`: of each request there, in its own memory; `remote`: of all, elsewhere."""

    candidate: Candidate
    total: int
    free: int
    local: dict[str, int] = field(default_factory=dict[str, int])
    remote: int = 0
    foreign: int = 0
    waiting: tuple[int, ...] = ()
    admitted: tuple[int, ...] = ()
    """Of those that waited: which would be running by now."""

    @property
    def batch(self) -> int:
        return len(self.local) + len(self.admitted)


@dataclass(frozen=True, slots=True)
class Model:
    """What `greedy` goes by. Debtors have a batch below `batch_below`, creditors use less than the share `use_below` of their memory."""

    performance: Performance
    link: Link
    block_tokens: int
    batch_below: int = 16
    use_below: float = 0.8

    def tokens_per_second(self, load: Load) -> float:
        """Batch over the time of a step, in which remote attention goes on beside local one."""
        speed = self.performance
        if not load.batch:
            return 0.0
        here = sum(load.local.values()) + sum(load.admitted) + load.foreign
        beside = speed.remote_seconds(1, load.remote * self.block_tokens, self.link) if load.remote else 0.0
        attention = max(speed.token_seconds * here * self.block_tokens, beside)
        return load.batch / (speed.decode_seconds(load.batch, 0) + attention)


def loads(gmanager: GManager) -> list[Load]:
    """What the last heartbeats tell."""
    found = {
        row.instance: Load(
            candidate=Candidate(row.instance, row.epoch, row.lendable_slots),
            total=row.total_slots,
            free=row.free_slots,
            foreign=sum(row.debtors.values()),
            waiting=row.waiting,
        )
        for row in gmanager.ledger()
    }
    for home, request, holders in gmanager.placements():
        load = found[home]
        load.local[request] = holders.get(home, 0)
        found[home] = replace(load, remote=load.remote + sum(holders.values()) - load.local[request])
    return [*found.values()]


def greedy(seen: list[Load], model: Model) -> list[MoveKVCache]:
    """Moves that each raise the summed throughput of the two instances that they are between, best first, until none does.

    The debtor with the smallest batch comes first, with its longest request (by what of it lies there), and the creditor with most room.
    """
    now = {load.candidate.instance: load for load in seen}
    debtors = [(load.batch, name) for name, load in now.items() if load.local and load.batch < model.batch_below]
    creditors = [(-load.candidate.slots, name) for name, load in now.items() if _lends(load, model)]
    heapify(debtors)
    heapify(creditors)
    orders: list[MoveKVCache] = []
    while debtors and creditors:
        name = heappop(debtors)[1]
        aside = heappop(creditors) if creditors[0][1] == name else None
        if creditors:
            other = creditors[0][1]
            request = max(now[name].local, key=lambda each: (now[name].local[each], each))
            best = max(_tries(now[name], now[other], request, model), default=(0.0, 0))
            if best[0] > 0:
                heappop(creditors)
                orders.append(MoveKVCache(name, request, best[1], now[other].candidate))
                now[name], now[other] = _moved(now[name], now[other], request, best[1])
                if now[name].batch < model.batch_below:
                    heappush(debtors, (now[name].batch, name))
                if _lends(now[other], model):
                    heappush(creditors, (-now[other].candidate.slots, other))
        if aside is not None:
            heappush(creditors, aside)
    return orders


def _lends(load: Load, model: Model) -> bool:
    return load.candidate.slots > 0 and load.total - load.free < model.use_below * load.total


def _tries(debtor: Load, creditor: Load, request: str, model: Model) -> list[tuple[float, int]]:
    """(gain in tokens a second, blocks to move) of numbers of blocks."""
    most = min(debtor.local[request], creditor.candidate.slots)
    numbers = {*range(1, most + 1, max(1, most // _TRIED))}
    needed = -debtor.free
    for blocks in debtor.waiting:
        needed += blocks
        numbers.add(needed)
    before = model.tokens_per_second(debtor) + model.tokens_per_second(creditor)
    gains: list[tuple[float, int]] = []
    for blocks in sorted(number for number in numbers if 0 < number <= most):
        left, right = _moved(debtor, creditor, request, blocks)
        gains.append((model.tokens_per_second(left) + model.tokens_per_second(right) - before, blocks))
    return gains


def _moved(debtor: Load, creditor: Load, request: str, blocks: int) -> tuple[Load, Load]:
    """Both after a move; waiting requests enter in turn as long as there is room."""
    free, count = debtor.free + blocks, 0
    while count < len(debtor.waiting) and debtor.waiting[count] <= free:
        free -= debtor.waiting[count]
        count += 1
    left = replace(
        debtor,
        free=free,
        local=debtor.local | {request: debtor.local[request] - blocks},
        remote=debtor.remote + blocks,
        waiting=debtor.waiting[count:],
        admitted=debtor.admitted + debtor.waiting[:count],
    )
    room = replace(creditor.candidate, slots=creditor.candidate.slots - blocks)
    return left, replace(creditor, candidate=room, free=creditor.free - blocks, foreign=creditor.foreign + blocks)
