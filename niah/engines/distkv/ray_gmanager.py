"""The gManager as an actor. It is started anew when it dies, and knows everything again when each instance has sent a full heartbeat."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from niah.engines.distkv.dgfm import wishes
from niah.engines.distkv.gmanager import GManager, LedgerRow
from niah.engines.distkv.messages import Candidate, Heartbeat, HeartbeatReply, Recall

ROUND_SECONDS = 2.0
"""Between rounds in which debts are undone."""
SILENT_SECONDS = 60.0
"""Whoever is not heard of for so long counts as dead."""


class Facts(NamedTuple):
    """What an instance says of itself beside its blocks."""

    node: str
    pid: int
    memory_bytes: int
    block_bytes: int
    block_tokens: int


class Totals(NamedTuple):
    """Of all instances: how many live, their slots, and how many of these are free."""

    living: int
    slots: int
    free: int


class State(NamedTuple):
    """What a gManager knows. `model` is what the instances serve."""

    model: str
    started: float
    """Seconds since 1970."""
    pid: int
    ledger: Sequence[LedgerRow]
    facts: dict[str, Facts]


class RayGManager:
    """The actor's class. The clock is the only thing that it has beside `GManager`."""

    def __init__(self, model: str):
        self._nodes = {"": ""}
        self._manager, self._model, self._started = GManager(self._nodes), model, time.time()
        self._facts: dict[str, Facts] = {}
        self._orders: dict[str, list[Recall]] = {}
        self._round = self._heard = time.monotonic()

    def heartbeat(self, beat: Heartbeat, facts: Facts) -> tuple[HeartbeatReply, Totals, Sequence[Recall]]:
        """The reply, what all have together, and which blocks the instance had better call home."""
        now = time.monotonic()
        self._nodes[beat.instance] = facts.node
        self._facts[beat.instance] = facts
        reply = self._manager.heartbeat(beat, now)
        if now - self._heard < SILENT_SECONDS / 4:  # else it was this one that slept
            self._manager.expire(now - SILENT_SECONDS)
        self._heard = now
        ledger = self._manager.ledger()
        if now - self._round >= ROUND_SECONDS:
            self._round = now
            self._orders.clear()
            for order in wishes(self._manager.debts(), {row.instance: row.free_slots for row in ledger}):
                self._orders.setdefault(order.home, []).append(order)
        totals = Totals(len(ledger), sum(row.total_slots for row in ledger), sum(row.free_slots for row in ledger))
        return reply, totals, self._orders.pop(beat.instance, ())

    def candidates(self, asker: str, slots: int, but_not: Sequence[str]) -> list[Candidate]:
        """See `GManager`."""
        return self._manager.candidates(asker, slots, but_not)

    def declare_dead(self, instance: str, epoch: int) -> None:
        """See `GManager`."""
        self._manager.declare_dead(instance, epoch)

    def state(self) -> State:
        """All that is to be shown of it."""
        return State(self._model, self._started, os.getpid(), self._manager.ledger(), self._facts)
