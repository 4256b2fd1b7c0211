"""What an instance holds for others: reserves, keeps and gives back their blocks, first come, first served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from niah.engines.distkv.blocks import Memory, SlotPool
from niah.engines.distkv.messages import Answer, Ask, Commit, Done, Granted, Refused, Release, Reserve


@dataclass(slots=True)
class _Shelf:
    """What one incarnation of a debtor has here, by its ids."""

    epoch: int
    serial: int = -1
    closed: bool = False
    """This incarnation is dead."""
    reserved: dict[int, int] = field(default_factory=dict[int, int])
    lent: dict[int, int] = field(default_factory=dict[int, int])


class Lender:
    """The creditor's side. It knows no other instance and asks none, so that what a remote asks for is never forwarded."""

    def __init__(self, instance: str, epoch: int, pool: SlotPool, memory: Memory):
        self.instance, self.epoch, self._pool, self._memory = instance, epoch, pool, memory
        self._shelves: dict[str, _Shelf] = {}
        self.reserved_slots = self.lent_slots = 0

    @property
    def lendable_slots(self) -> int:
        """How many slots would be granted now."""
        memory = self._memory
        most = memory.slots if memory.lend_most is None else memory.lend_most
        return max(0, min(len(self._pool) - memory.spare_slots, most - self.reserved_slots - self.lent_slots))

    def receive(self, ask: Ask) -> Answer | None:
        """The answer, or None to a message that a later one has overtaken: its sender must ask again."""
        shelf = self._shelves.setdefault(ask.sender, _Shelf(ask.sender_epoch))
        if ask.sender_epoch < shelf.epoch or (ask.sender_epoch == shelf.epoch and shelf.closed):
            return self._refused(ask, "this incarnation of the asker was declared dead", fenced=True)
        if ask.sender_epoch > shelf.epoch:
            self.forget(ask.sender, ask.sender_epoch - 1)
            self._shelves[ask.sender] = shelf = _Shelf(ask.sender_epoch)
        if ask.receiver_epoch != self.epoch:
            return self._refused(ask, "meant for another incarnation")
        if ask.serial < shelf.serial:
            return None
        # A doubled one is carried out again: that changes nothing, and a debtor has what it was refused released too.
        shelf.serial = ask.serial
        return self._handle(ask, shelf)

    def slot(self, owner: str, owner_epoch: int, id_: int) -> int | None:
        """Where a block lies, or None if it is not, or no longer, here."""
        shelf = self._shelves.get(owner)
        if shelf is None or shelf.epoch != owner_epoch:
            return None
        return shelf.lent.get(id_, shelf.reserved.get(id_))

    def forget(self, instance: str, epoch: int) -> None:
        """Incarnations of a debtor up to `epoch` are dead: what they had is free, and they get nothing any more."""
        shelf = self._shelves.setdefault(instance, _Shelf(epoch))
        if shelf.epoch <= epoch:
            self._clear(shelf)
            shelf.epoch, shelf.closed = epoch, True

    def debtors(self) -> tuple[tuple[str, int, int], ...]:
        """(debtor, its epoch, blocks reserved or lent), those with any."""
        counted = ((name, shelf.epoch, len(shelf.lent) + len(shelf.reserved)) for name, shelf in self._shelves.items())
        return tuple(each for each in counted if each[2])

    def _handle(self, ask: Ask, shelf: _Shelf) -> Answer:
        match ask:
            case Reserve():
                return self._reserve(ask, shelf)
            case Commit():
                return self._commit(ask, shelf)
            case Release():
                self._release(ask, shelf)
                return Done(**self._back(ask), ids=ask.ids)

    def _reserve(self, ask: Reserve, shelf: _Shelf) -> Answer:
        # Asked again because the answer was lost: the same slots.
        known = [id_ for id_ in ask.ids if id_ in shelf.reserved]
        if known:
            return Granted(**self._back(ask), slots=tuple(shelf.reserved[id_] for id_ in known), device=self._memory.device)
        count = min(len(ask.ids), self.lendable_slots)
        if count < max(1, ask.least):
            return self._refused(ask, f"{self.lendable_slots} slots to lend, {ask.least} wanted")
        slots = self._pool.take(count)
        shelf.reserved.update(zip(ask.ids, slots, strict=False))
        self.reserved_slots += count
        return Granted(**self._back(ask), slots=tuple(slots), device=self._memory.device)

    def _commit(self, ask: Commit, shelf: _Shelf) -> Answer:
        if any(id_ not in shelf.reserved and id_ not in shelf.lent for id_ in ask.ids):
            return self._refused(ask, "nothing is reserved for it")
        for id_ in ask.ids:
            if id_ in shelf.reserved:
                shelf.lent[id_] = shelf.reserved.pop(id_)
                self.reserved_slots -= 1
                self.lent_slots += 1
        return Done(**self._back(ask), ids=ask.ids)

    def _release(self, ask: Release, shelf: _Shelf) -> None:
        for id_ in ask.ids:
            if id_ in shelf.lent:
                self._pool.give([shelf.lent.pop(id_)])
                self.lent_slots -= 1
            elif id_ in shelf.reserved:
                self._pool.give([shelf.reserved.pop(id_)])
                self.reserved_slots -= 1

    def _clear(self, shelf: _Shelf) -> None:
        self._pool.give([*shelf.lent.values(), *shelf.reserved.values()])
        self.lent_slots -= len(shelf.lent)
        self.reserved_slots -= len(shelf.reserved)
        shelf.lent.clear()
        shelf.reserved.clear()

    def _refused(self, ask: Ask, why: str, *, fenced: bool = False) -> Refused:
        return Refused(**self._back(ask), why=why, fenced=fenced)

    def _back(self, ask: Ask) -> dict[str, Any]:
        return {
            "sender": self.instance,
            "sender_epoch": self.epoch,
            "receiver": ask.sender,
            "receiver_epoch": ask.sender_epoch,
            "serial": ask.serial,
            "op": ask.op,
        }
