"""The rManager of an instance: home to its requests, debtor and creditor of others. It keeps books; the KV lies in an engine's arena."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from niah.engines.distkv.blocks import Memory, RBlock
from niah.engines.distkv.debtor import Debtor
from niah.engines.distkv.lender import Lender
from niah.engines.distkv.messages import (
    Answer,
    Commit,
    Done,
    Granted,
    Heartbeat,
    HeartbeatReply,
    Message,
    PlacementEntry,
    Refused,
    Release,
    Reserve,
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Slots of an instance: `own` hold blocks of its requests, `lent` those of others, `reserved` wait for data that is on its way."""

    total: int
    free: int
    own: int
    lent: int
    reserved: int


class RManager(Debtor):
    """One object is one incarnation: an instance that lost its memory gets a new one with a higher `epoch`.

    `requests.Requests` has what it does with its own requests, `debtor.Debtor` what with other instances. Raises ValueError for misuse.
    """

    def __init__(self, instance: str, memory: Memory, *, epoch: int = 0):
        super().__init__(instance, memory, epoch=epoch)
        self.lender = Lender(instance, epoch, self.pool, memory)
        self.fenced = False
        """Others hold this incarnation for dead; a new one must begin."""
        self.losses: dict[str, int] = {}
        """Requests that lost blocks with a dead holder, and how many of their first tokens are left. Who recomputes takes them out."""
        self._dead: dict[str, int] = {}
        self._sequences = count()
        self._full = True

    @property
    def counts(self) -> Counts:
        """What the slots are used for; the last four sum up to the first."""
        lender = self.lender
        return Counts(self.pool.total, len(self.pool), self.own_slots, lender.lent_slots, lender.reserved_slots + self.recall_slots)

    def locate(self, block: RBlock) -> int | None:
        """The slot of a block that this instance is said to hold, for itself or for another; None where it does not (any more)."""
        if block.holder != self.instance or block.holder_epoch != self.epoch:
            return None
        return block.slot if block.owner == self.instance else self.lender.slot(block.owner, block.owner_epoch, block.id)

    def receive(self, message: Message) -> Answer | None:
        """Take in a message to this instance; returns the answer to send back, if any. Late and doubled ones do no harm."""
        if message.receiver != self.instance:
            raise ValueError(f"{self.instance} was given a message to {message.receiver}")
        if message.sender_epoch > self._dead.get(message.sender, -1) + 1:
            self.dead(message.sender, message.sender_epoch - 1)
        match message:
            case Reserve() | Commit() | Release():
                return self.lender.receive(message)
            case Granted() | Refused() | Done() if message.receiver_epoch == self.epoch:
                self.fenced = self.fenced or (isinstance(message, Refused) and message.fenced)
                self._hear(message)
            case _:
                pass
        return None

    def dead(self, instance: str, epoch: int) -> None:
        """Incarnations of `instance` up to `epoch` are dead: what they had here is free, requests end before what they held (`losses`)."""
        self._dead[instance] = max(epoch, self._dead.get(instance, -1))
        self.lender.forget(instance, epoch)
        for number, undertaking in [*self._undertakings.items()]:
            if undertaking.creditor == instance and undertaking.epoch <= epoch:
                self.abandon(number)
        for request, tokens in self._sever(instance, epoch).items():
            self.losses[request] = min(tokens, self.losses.get(request, tokens))
        for owed in [owed for owed in self._owed if owed[0] == instance and owed[1] <= epoch]:
            del self._owed[owed]

    def heartbeat(self, *, full: bool = False, waiting: Iterable[int] = ()) -> Heartbeat:
        """What to tell the gManager now; full also when it asked for that."""
        full, self._full = full or self._full, False
        told = sorted(self._tables if full else self._changed)
        self._changed.clear()
        return Heartbeat(
            instance=self.instance,
            epoch=self.epoch,
            sequence=next(self._sequences),
            full=full,
            total_slots=self.pool.total,
            free_slots=len(self.pool),
            lendable_slots=self.lender.lendable_slots,
            lent=self.lender.debtors(),
            entries=tuple(entry for request in told for entry in self._entries(request)),
            waiting=tuple(waiting),
            dead=tuple(self._dead.items()) if full else (),
        )

    def heard(self, reply: HeartbeatReply) -> None:
        """The gManager's reply to a heartbeat."""
        if reply.instance != self.instance or reply.epoch != self.epoch:
            return
        self._full = self._full or reply.want_full
        self.fenced = self.fenced or reply.fenced
        for instance, epoch in reply.dead:
            if instance != self.instance:
                self.dead(instance, epoch)

    def _entries(self, request: str) -> list[PlacementEntry]:
        """Where a request's blocks lie; that it has none, where it has none."""
        epochs = {block.holder: block.holder_epoch for block in self.blocks(request)}
        held = [PlacementEntry(request, holder, epochs[holder], n, holder == self.instance) for holder, n in self.holders(request).items()]
        return held or [PlacementEntry(request, self.instance, self.epoch, 0, True)]
