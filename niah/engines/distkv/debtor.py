"""The debtor's side of an instance: undertakings that borrow new blocks, move blocks to another instance, or recall them home.

Each is known by a number:

    number = home.begin_...(...)             nothing has changed yet
    answer = SEND(home.message(number))      Reserve; called again it makes the message anew, for when no answer comes
    home.receive(answer)                     refused: the undertaking is over and nothing has changed
    COPY each of home.transfers(number)      granted: places are reserved; data goes there while the old places stay good
    home.commit(number)                      a recall begins granted, and is over here
    answer = SEND(home.message(number))      Commit
    home.receive(answer)                     the blocks have their new places, the old ones are given back

`abandon` ends one at any time with nothing changed. What creditors may keep for nothing is told them by `releases` until they confirm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from niah.engines.distkv.blocks import Memory, RBlock
from niah.engines.distkv.messages import Answer, Candidate, Commit, Done, Granted, Refused, Release, Reserve
from niah.engines.distkv.requests import Requests


@dataclass(frozen=True, slots=True)
class Transfer:
    """Data to copy: from where `block` lies now into `slot` of `holder`."""

    block: RBlock
    holder: str
    holder_epoch: int
    slot: int


@dataclass(slots=True)
class _Undertaking:
    creditor: str
    epoch: int
    ids: tuple[int, ...]
    least: int
    request: str
    blocks: tuple[RBlock, ...]
    """Those on their way; none where new ones are borrowed."""
    origins: tuple[int, ...]
    """Their ids when they set out."""
    state: Literal["asking", "granted", "committing"] = "asking"
    serial: int = -1
    """Of the last message sent: only its answer counts."""
    slots: tuple[int, ...] = ()
    device: str = ""


class Debtor(Requests):
    """See the module."""

    def __init__(self, instance: str, memory: Memory, *, epoch: int = 0):
        super().__init__(instance, memory, epoch=epoch)
        self.recall_slots = 0
        """Slots reserved for blocks on their way home."""
        self._undertakings: dict[int, _Undertaking] = {}
        self._numbers, self._serials = count(), count()

    @property
    def undertakings(self) -> tuple[int, ...]:
        """Those not yet over, by number."""
        return tuple(self._undertakings)

    def begin_borrow(self, request: str, blocks: int, creditor: Candidate, *, least: int = 1) -> int:
        """New blocks for a request: `blocks` or fewer, but at least `least`, all from one creditor."""
        self._table(request)
        return self._begin(creditor, blocks, least=least, request=request)

    def begin_move(self, blocks: Sequence[RBlock], destination: Candidate) -> int:
        """Blocks of `movable` to another instance, all or none."""
        return self._begin(destination, len(blocks), least=len(blocks), blocks=blocks)

    def begin_recall(self, blocks: Sequence[RBlock]) -> int | None:
        """Blocks of `movable` home; None where there is too little room. Nothing is to be sent: places are reserved at once."""
        if len(blocks) > len(self.pool):
            return None
        number = self._begin(Candidate(self.instance, self.epoch, 0), len(blocks), least=len(blocks), blocks=blocks)
        undertaking = self._undertakings[number]
        undertaking.slots, undertaking.device, undertaking.state = tuple(self.pool.take(len(blocks))), self.memory.device, "granted"
        self.recall_slots += len(blocks)
        return number

    def movable(self, holder: str, most: int, request: str | None = None) -> list[RBlock]:
        """Up to `most` blocks (of one request, or of any) that lie with `holder` and may move: full ones, not on their way already."""
        found: dict[int, RBlock] = {}
        for name in self.requests if request is None else [request]:
            if not self.holders(name).get(holder):
                continue
            for block in self.blocks(name):
                if len(found) >= most:
                    break
                if block.holder == holder and block.tokens == self.block_tokens and block.id not in self._moving:
                    found[block.id] = block
        return [*found.values()]

    def message(self, number: int) -> Reserve | Commit | None:
        """What to send now, numbered anew; None where nothing is to be sent, or the undertaking is over."""
        undertaking = self._undertakings.get(number)
        if undertaking is None or undertaking.state == "granted":
            return None
        undertaking.serial = next(self._serials)
        head = self._head(undertaking.creditor, undertaking.epoch, undertaking.serial, number)
        if undertaking.state == "asking":
            return Reserve(**head, ids=undertaking.ids, least=undertaking.least)
        return Commit(**head, ids=undertaking.ids)

    def granted(self, number: int) -> int:
        """How many places are reserved, so that data can be sent and `commit` follow; 0 before, and when it is over."""
        undertaking = self._undertakings.get(number)
        return len(undertaking.slots) if undertaking is not None and undertaking.state == "granted" else 0

    def transfers(self, number: int) -> list[Transfer]:
        """What to copy before `commit`; blocks given back meanwhile are left out, and new ones have nothing to copy."""
        undertaking = self._undertakings[number]
        return [
            Transfer(block, undertaking.creditor, undertaking.epoch, slot)
            for block, origin, slot in zip(undertaking.blocks, undertaking.origins, undertaking.slots, strict=False)
            if _stands(block, origin)
        ]

    def commit(self, number: int) -> None:
        """The data is there. A recall is over with it; anything else needs the creditor's word yet. Raises ValueError if not granted."""
        if not self.granted(number):
            raise ValueError(f"undertaking {number} was not granted")
        self._undertakings[number].state = "committing"
        if self._undertakings[number].creditor == self.instance:
            self._complete(self._close(number))

    def abandon(self, number: int) -> None:
        """End an undertaking without its effect, whatever messages of it are still on their way."""
        self._cancel(self._close(number))

    def releases(self) -> list[Release]:
        """To each creditor what it may give back. To be sent now and then: what a creditor has confirmed is left out."""
        return [
            Release(**self._head(creditor, epoch, next(self._serials), -1), ids=tuple(sorted(ids)))
            for (creditor, epoch), ids in self._owed.items()
        ]

    def _hear(self, answer: Answer) -> None:
        """An answer to this incarnation."""
        if isinstance(answer, Done):
            self._settled(answer)
        undertaking = self._undertakings.get(answer.op)
        if undertaking is None or undertaking.serial != answer.serial:
            return
        match answer:
            case Granted() if undertaking.state == "asking":
                undertaking.slots, undertaking.device, undertaking.state = answer.slots, answer.device, "granted"
                undertaking.ids = undertaking.ids[: len(answer.slots)]
            case Done() if undertaking.state == "committing":
                self._complete(self._close(answer.op))
            case Refused():
                self._cancel(self._close(answer.op))
            case _:
                pass

    def _settled(self, answer: Done) -> None:
        """A creditor has these ids no more, if it was a Release that it answers; one to a Commit names ids that are not owed."""
        owed = self._owed.get((answer.sender, answer.sender_epoch))
        if owed is not None and answer.op < 0:
            owed.difference_update(answer.ids)
            if not owed:
                del self._owed[answer.sender, answer.sender_epoch]

    def _head(self, receiver: str, receiver_epoch: int, serial: int, op: int) -> dict[str, Any]:
        sender, epoch = self.instance, self.epoch
        return {"sender": sender, "sender_epoch": epoch, "receiver": receiver, "receiver_epoch": receiver_epoch, "serial": serial, "op": op}

    def _begin(self, creditor: Candidate, count: int, *, least: int, request: str = "", blocks: Sequence[RBlock] = ()) -> int:
        if count < 1 or any(block.id in self._moving for block in blocks):
            raise ValueError("nothing to borrow or move, or it is on its way already")
        number = next(self._numbers)
        ids = tuple(next(self._ids) for _ in range(count))
        origins = tuple(block.id for block in blocks)
        self._moving.update(origins)
        self._undertakings[number] = _Undertaking(creditor.instance, creditor.epoch, ids, least, request, tuple(blocks), origins)
        return number

    def _close(self, number: int) -> _Undertaking:
        undertaking = self._undertakings.pop(number)
        self._moving.difference_update(undertaking.origins)
        if undertaking.creditor == self.instance:
            self.recall_slots -= len(undertaking.slots)
        return undertaking

    def _cancel(self, undertaking: _Undertaking) -> None:
        if undertaking.creditor == self.instance:
            self.pool.give(undertaking.slots)
        else:
            self._owe(undertaking.creditor, undertaking.epoch, undertaking.ids)

    def _complete(self, undertaking: _Undertaking) -> None:
        """The places are there: new blocks join their request, moved ones leave their old places."""
        if undertaking.blocks:
            self._arrive(undertaking)
            return
        table = self._tables.get(undertaking.request)
        if table is None:
            self._cancel(undertaking)
            return
        for id_, slot in zip(undertaking.ids, undertaking.slots, strict=True):
            table.add(RBlock(id_, self.instance, self.epoch, undertaking.creditor, undertaking.epoch, undertaking.device, slot))
        self._changed.add(undertaking.request)

    def _arrive(self, undertaking: _Undertaking) -> None:
        places = zip(undertaking.blocks, undertaking.origins, undertaking.ids, undertaking.slots, strict=True)
        arrived: dict[int, str] = {}
        for block, origin, id_, slot in places:
            home = undertaking.creditor == self.instance
            if not _stands(block, origin):
                if home:
                    self.pool.give([slot])
                else:
                    self._owe(undertaking.creditor, undertaking.epoch, [id_])
                continue
            arrived[id_] = block.holder
            self._vacate(block)
            self.own_slots += home
            block.id, block.holder, block.holder_epoch = id_, undertaking.creditor, undertaking.epoch
            block.slot, block.device = slot, undertaking.device
        for request, table in self._tables.items():
            for block in table.blocks if arrived else ():
                if block.id in arrived:
                    table.count(arrived[block.id], -1)
                    table.count(block.holder, 1)
                    self._changed.add(request)


def _stands(block: RBlock, origin: int) -> bool:
    """Whether a block that set out with the id `origin` is still needed and where it was."""
    return block.references > 0 and block.id == origin
