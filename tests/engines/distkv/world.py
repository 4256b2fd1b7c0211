"""Instances with memory that tells whose token lies in it, a gManager, and a network that keeps what is sent until it is asked for.

`check` holds what must be true at any time, `calm_down` brings everything to rest, and `check_at_rest` holds what must be true then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from niah.engines.distkv.blocks import Memory, RBlock
from niah.engines.distkv.debtor import Transfer
from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.messages import Ask, Commit, Granted, Heartbeat, HeartbeatReply, Message, Refused, Release, Reserve
from niah.engines.distkv.rmanager import RManager

BLOCK = 2
MEMORY = Memory(slots=6, block_tokens=BLOCK, lend_most=3, spare_slots=1)
Packet = Message | Heartbeat | HeartbeatReply


@dataclass
class World:
    names: tuple[str, ...]
    managers: dict[str, RManager] = field(default_factory=dict)
    """Those that live."""
    arenas: dict[str, list[list[int]]] = field(default_factory=dict)
    """By instance: the tokens in each slot, unlike any other's."""
    texts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """(home, request): what its tokens should be."""
    epochs: dict[str, int] = field(default_factory=dict)
    network: list[Packet] = field(default_factory=list)
    late: list[Packet] = field(default_factory=list)
    """Copies of the last ones that arrived; of heartbeats, none from when all comes to rest, which tell nothing new."""
    resting: bool = False
    gmanager: GManager = field(default_factory=GManager)
    tokens: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        for name in self.names:
            self.start(name)

    # -- instances

    def start(self, name: str) -> None:
        self.stop(name)
        self.epochs[name] = self.epochs.get(name, -1) + 1
        self.managers[name] = RManager(name, MEMORY, epoch=self.epochs[name])
        self.arenas[name] = [[] for _ in range(MEMORY.slots)]

    def stop(self, name: str) -> None:
        self.managers.pop(name, None)
        for key in [key for key in self.texts if key[0] == name]:
            del self.texts[key]

    def cell(self, holder: str, holder_epoch: int, slot: int) -> list[int] | None:
        """A slot's memory, if that incarnation still lives."""
        manager = self.managers.get(holder)
        return self.arenas[holder][slot] if manager is not None and manager.epoch == holder_epoch else None

    def reach(self, block: RBlock) -> list[int] | None:
        """A block's memory; None where its holder does not have it (any more)."""
        manager = self.managers.get(block.holder)
        slot = None if manager is None else manager.locate(block)
        return None if slot is None else self.arenas[block.holder][slot]

    # -- what an engine does

    def note_losses(self, name: str) -> None:
        home = self.managers[name]
        for request, left in home.losses.items():
            if (name, request) in self.texts:
                del self.texts[name, request][min(left, home.tokens(request)) :]
        home.losses.clear()

    def deny(self, name: str, block: RBlock) -> None:
        """A block was not where it should be: its holder died, or holds this home for dead."""
        holder = self.managers.get(block.holder)
        if holder is None or holder.epoch != block.holder_epoch:
            self.managers[name].dead(block.holder, block.holder_epoch)
            self.note_losses(name)
        else:
            assert holder._dead.get(name, -1) >= self.epochs[name], f"{holder.instance} denies a block of {name}, which it takes to live"
            self.start(name)

    def fill(self, name: str, request: str, tokens: int) -> None:
        home = self.managers[name]
        # As an engine does: the blocks written to are looked for first.
        first, last = home.tokens(request) // BLOCK, (home.tokens(request) + tokens - 1) // BLOCK
        for block in home.blocks(request)[first : last + 1]:
            if self.reach(block) is None:
                self.deny(name, block)
                return
        for span in home.fill(request, tokens):
            cell = self.reach(span.block)
            assert cell is not None
            del cell[span.start :]
            new = [next(self.tokens) for _ in range(span.tokens)]
            cell += new
            self.texts[name, request] += new

    def carry(self, name: str, transfers: list[Transfer]) -> bool:
        """Copy blocks; False, and what is lost noted, where one is not to be had or has nowhere to go."""
        for transfer in transfers:
            source, target = self.reach(transfer.block), self.cell(transfer.holder, transfer.holder_epoch, transfer.slot)
            if source is None:
                self.deny(name, transfer.block)
                return False
            if target is None:
                self.managers[name].dead(transfer.holder, transfer.holder_epoch)
                self.note_losses(name)
                return False
            target[:] = source
        return True

    # -- network

    def deliver(self, packet: Packet, *, again: bool = False) -> None:
        if not again and not (self.resting and not isinstance(packet, Message)):
            kept = isinstance(packet, Message)
            self.late = [each for each in self.late if isinstance(each, Message) != kept] + [
                *[each for each in self.late if isinstance(each, Message) == kept][-60 if kept else -9 :],
                packet,
            ]
        match packet:
            case Heartbeat():
                self.network.append(self._hear(packet))
            case HeartbeatReply():
                if manager := self.managers.get(packet.instance):
                    had, before = self._placed(manager), self._all(manager)
                    manager.heard(packet)
                    assert packet.epoch == manager.epoch or self._all(manager) == before, "what another incarnation was told was heard"
                    self._check_losses(manager, had)
                    self.note_losses(packet.instance)
            case Message():
                if manager := self.managers.get(packet.receiver):
                    had = self._placed(manager)
                    self._receive(manager, packet)
                    self._check_losses(manager, had)
                    self.note_losses(packet.receiver)

    @staticmethod
    def _placed(manager: RManager) -> dict[str, list[tuple[str, int]]]:
        return {request: [(block.holder, block.holder_epoch) for block in manager.blocks(request)] for request in manager.requests}

    def _check_losses(self, manager: RManager, had: dict[str, list[tuple[str, int]]]) -> None:
        """A request ends before its first block that lay with the dead, and nowhere else."""
        for request, places in had.items():
            lost = next((n for n, (holder, epoch) in enumerate(places) if epoch <= manager._dead.get(holder, -1)), None)
            text = self.texts[manager.instance, request]
            assert manager.tokens(request) == (len(text) if lost is None else min(len(text), lost * BLOCK))

    def _all(self, manager: RManager) -> tuple[object, ...]:
        """All that an answer may change."""
        undertakings = {number: (each.state, each.slots) for number, each in manager._undertakings.items()}
        return self.books(manager), undertakings, manager.fenced, manager._full, {key: set(ids) for key, ids in manager._owed.items()}

    def declare_dead(self, name: str, epoch: int) -> None:
        """By what the control plane saw. Later incarnations stay known."""
        known = self.gmanager.epoch(name)
        self.gmanager.declare_dead(name, epoch)
        assert self.gmanager.epoch(name) == (None if known is None or known <= epoch else known)

    def _hear(self, beat: Heartbeat) -> HeartbeatReply:
        """The gManager hears it. News that is old, or of the dead, changes nothing that it knows."""
        known = self.gmanager._rows.get(beat.instance)
        of_the_dead = beat.epoch <= self.gmanager._dead.get(beat.instance, -1)
        old = known is not None and known.beat.epoch == beat.epoch and beat.sequence <= known.beat.sequence
        before = self.gmanager.ledger(), [*self.gmanager.placements()]
        reply = self.gmanager.heartbeat(beat)
        if of_the_dead or (old and not beat.dead):
            assert (self.gmanager.ledger(), [*self.gmanager.placements()]) == before
        assert reply.fenced == of_the_dead
        return reply

    def _receive(self, manager: RManager, message: Message) -> None:
        asked = isinstance(message, Reserve | Commit | Release)
        if message.sender_epoch:  # it tells of the end of older ones, whatever the answer
            manager.dead(message.sender, message.sender_epoch - 1)
        before, undertakings, everything = self.books(manager), manager.undertakings, self._all(manager)
        answer = manager.receive(message)
        assert (answer is None) or asked
        if not asked and message.receiver_epoch != manager.epoch:
            assert self._all(manager) == everything, "an answer to another incarnation was heard"
        if asked:
            assert manager.undertakings == undertakings, "a remote's request was forwarded"
            if message.sender_epoch <= manager._dead.get(message.sender, -1):
                assert isinstance(answer, Refused), "the dead got something"
                assert answer.fenced
                assert self.books(manager) == before
        if isinstance(answer, Refused) and isinstance(message, Reserve) and self._same_incarnation(manager, message):
            assert self.books(manager) == before, "a refused try changed something"
        if isinstance(answer, Granted) and self.books(manager) != before:
            assert len(manager.pool) >= MEMORY.spare_slots
        if answer is not None:
            assert answer.receiver == message.sender
            self.network.append(answer)

    @staticmethod
    def _same_incarnation(manager: RManager, message: Message) -> bool:
        shelf = manager.lender._shelves.get(message.sender)
        return shelf is None or shelf.epoch == message.sender_epoch

    @staticmethod
    def books(manager: RManager) -> tuple[object, ...]:
        shelves = manager.lender._shelves.items()
        kept = {name: (dict(shelf.reserved), dict(shelf.lent)) for name, shelf in shelves if shelf.reserved or shelf.lent}
        return manager.counts, kept, {request: [block.id for block in manager.blocks(request)] for request in manager.requests}

    # -- what must be true

    def check(self) -> None:
        for name, manager in self.managers.items():
            self._check_slots(manager)
            for request in manager.requests:
                self._check_request(name, request)
        self._check_places()

    def _check_slots(self, manager: RManager) -> None:
        """Used + free + reserved = total, slot by slot; no more lent than the cap."""
        counts, shelves = manager.counts, manager.lender._shelves.values()
        assert counts.free + counts.own + counts.lent + counts.reserved == counts.total == MEMORY.slots
        own = {id(b): b.slot for r in manager.requests for b in manager.blocks(r) if b.holder == manager.instance}
        lent = [slot for shelf in shelves for slot in shelf.lent.values()]
        reserved = [slot for shelf in shelves for slot in shelf.reserved.values()]
        recalls = [slot for u in manager._undertakings.values() if u.creditor == manager.instance for slot in u.slots]
        assert (len(own), len(lent), len(reserved) + len(recalls)) == (counts.own, counts.lent, counts.reserved)
        assert sorted([*own.values(), *lent, *reserved, *recalls, *manager.pool._free]) == [*range(MEMORY.slots)]
        assert len(lent) + len(reserved) <= (MEMORY.lend_most or 0)

    def _check_request(self, name: str, request: str) -> None:
        """Each token of a request lies in exactly one block, and the right one in the right place, wherever it can be reached."""
        home = self.managers[name]
        blocks, text = home.blocks(request), self.texts[name, request]
        assert home.tokens(request) == sum(block.tokens for block in blocks) == len(text)
        assert [block.tokens for block in blocks] == [max(0, min(BLOCK, len(text) - n * BLOCK)) for n in range(len(blocks))]
        assert Counter(block.holder for block in blocks) == dict(home.holders(request))
        for number, block in enumerate(blocks):
            assert (block.owner, block.owner_epoch) == (name, home.epoch)
            assert block.id not in home._moving or block.tokens == BLOCK, "what is written yet is on its way"
            cell = self.reach(block)
            if cell is not None:
                assert cell[: block.tokens] == text[number * BLOCK : number * BLOCK + block.tokens]
            elif (holder := self.managers.get(block.holder)) is not None and holder.epoch == block.holder_epoch:
                assert holder._dead.get(name, -1) >= home.epoch

    def _check_places(self) -> None:
        """No place is two blocks' place, and what lies with another is committed there."""
        places: dict[tuple[str, int, int], RBlock] = {}
        for manager in self.managers.values():
            for request in manager.requests:
                for block in manager.blocks(request):
                    if self.reach(block) is not None:
                        place = (block.holder, block.holder_epoch, block.slot)
                        assert places.setdefault(place, block) is block
                        if block.holder != manager.instance:
                            lent = self.managers[block.holder].lender._shelves[manager.instance].lent
                            assert lent[block.id] == block.slot

    # -- rest

    def repeat(self) -> None:
        """Copies of what arrived lately arrive again, the last ones first."""
        for packet in self.late[::-1]:
            self.deliver(packet, again=True)
            self.check()

    def calm_down(self) -> None:
        """All come to life, messages are delivered at once and in order, undertakings are carried to their ends."""
        for name in self.names:
            if name not in self.managers:
                self.start(name)
        self.resting = True
        for _ in range(100):
            for name in self.names:
                self._push(name)
            while self.network:
                self.deliver(self.network.pop(0))
            for name in [name for name in self.names if self.managers[name].fenced]:
                self.start(name)
            idle = all(not manager.undertakings and not manager.releases() for manager in self.managers.values())
            known = all(self.gmanager.epoch(name) == self.epochs[name] for name in self.names)
            if idle and known and _ > 5:
                self.resting = False
                return
        raise AssertionError("there is no end to it")

    def _push(self, name: str) -> None:
        home = self.managers[name]
        for request in home.requests:
            for block in [*home.blocks(request)]:
                if self.managers.get(name) is home and self.reach(block) is None:
                    self.deny(name, block)
        home = self.managers[name]
        for number in home.undertakings:
            if home.granted(number) and not self.carry(name, home.transfers(number)):
                home = self.managers[name]
                break
            if home.granted(number):
                home.commit(number)
            message: Ask | None = home.message(number)
            if message is not None:
                self.network.append(message)
        self.network += [*home.releases(), home.heartbeat()]

    def check_at_rest(self) -> None:
        """Lent = borrowed, pair by pair and block by block, and the gManager knows it."""
        self.check()
        for name, manager in self.managers.items():
            assert manager.counts.reserved == 0
            borrowed = {b.id: b.holder for r in manager.requests for b in manager.blocks(r) if b.holder != name}
            lent = {i: other for other in self.names for i in self._lent(other, name)}
            assert lent == borrowed
        truth = {(home, creditor): len(self._lent(creditor, home)) for home in self.names for creditor in self.names}
        assert {(row.instance, debtor): n for row in self.gmanager.ledger() for debtor, n in row.debtors.items()} == {
            (creditor, home): n for (home, creditor), n in truth.items() if n
        }
        known = self.gmanager._dead
        assert all(known.get(name, -1) >= epoch for manager in self.managers.values() for name, epoch in manager._dead.items())
        placed = {(home, request): dict(holders) for home, request, holders in self.gmanager.placements()}
        assert placed == {(n, r): dict(m.holders(r)) for n, m in self.managers.items() for r in m.requests if m.blocks(r)}

    def _lent(self, creditor: str, debtor: str) -> dict[int, int]:
        shelf = self.managers[creditor].lender._shelves.get(debtor)
        return shelf.lent if shelf is not None else {}
