"""The gManager: what all instances last said of themselves, as a ledger of debts and a map of requests. Stale by design.

It grants nothing: it names candidates and wishes, and the creditor that is asked decides, first come, first served. All of its state comes
from heartbeats, so that a new gManager knows everything again when each instance has sent it a full one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from niah.engines.distkv.messages import Candidate, Heartbeat, HeartbeatReply, PlacementEntry


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row of the global debt ledger: an instance, its slots, and how many of them it lends to whom."""

    instance: str
    epoch: int
    total_slots: int
    free_slots: int
    lendable_slots: int
    debtors: Mapping[str, int]
    waiting: tuple[int, ...]
    """Blocks that each request needs which waits there."""


@dataclass(slots=True)
class _Row:
    beat: Heartbeat
    heard: float
    node: str
    whole: bool = False
    """Whether `requests` is all that the instance said; else a heartbeat was missed."""
    requests: dict[str, tuple[PlacementEntry, ...]] = field(default_factory=dict[str, tuple[PlacementEntry, ...]])


class GManager:
    """`nodes` says which instances are near each other, by a name for each neighbourhood; those left out are near none."""

    def __init__(self, nodes: Mapping[str, str] | None = None):
        self._nodes = nodes or {}
        self._rows: dict[str, _Row] = {}
        self._rooms: dict[str, list[tuple[int, str]]] = {"": []}
        """(- lendable slots, instance) ascending: of each neighbourhood, and under "" of all."""
        self.lendable_slots = 0
        """Of all instances together."""
        self._dead: dict[str, int] = {}
        self._mentioned: dict[tuple[str, int], float] = {}
        """Incarnations that others have dealings with, since when."""

    # -- what comes in

    def heartbeat(self, beat: Heartbeat, now: float = 0.0) -> HeartbeatReply:
        """Take in what an instance says at `now` seconds of any clock; older news than what is known changes nothing."""
        if beat.epoch <= self._dead.get(beat.instance, -1):
            return HeartbeatReply(instance=beat.instance, epoch=beat.epoch, want_full=False, fenced=True)
        for instance, epoch in (*beat.dead, (beat.instance, beat.epoch - 1)):
            self.declare_dead(instance, epoch)
        row = self._rows.get(beat.instance)
        if row is None:
            row = self._rows[beat.instance] = _Row(beat, now, self._nodes.get(beat.instance, ""))
            self._admit(row, beat)
            self._take_entries(row, beat, follows=False)
        elif beat.sequence > row.beat.sequence:
            follows = beat.sequence == row.beat.sequence + 1
            self._withdraw(row)
            self._admit(row, beat)
            row.heard = now
            self._take_entries(row, beat, follows=follows)
        for name, epoch, _ in beat.lent:
            self._mention(name, epoch, now)
        for entry in beat.entries:
            self._mention(entry.instance, entry.epoch, now)
        dead = tuple(self._dead.items())
        return HeartbeatReply(instance=beat.instance, epoch=beat.epoch, want_full=not row.whole, dead=dead)

    def declare_dead(self, instance: str, epoch: int) -> None:
        """Incarnations of an instance up to `epoch` are over; all others are told with their next heartbeat."""
        if epoch <= self._dead.get(instance, -1):
            return
        self._dead[instance] = epoch
        row = self._rows.get(instance)
        if row is not None and row.beat.epoch <= epoch:
            self._withdraw(row)
            del self._rows[instance]

    def expire(self, before: float) -> list[str]:
        """Declare dead whoever was last heard of, or first heard of only from others, before that time; returns their names."""
        silent = [(name, row.beat.epoch) for name, row in self._rows.items() if row.heard < before]
        for (name, epoch), since in [*self._mentioned.items()]:
            known = epoch <= self._dead.get(name, -1) or (name in self._rows and self._rows[name].beat.epoch >= epoch)
            if known:
                del self._mentioned[name, epoch]
            elif since < before:
                silent.append((name, epoch))
        for name, epoch in silent:
            self.declare_dead(name, epoch)
        return [name for name, _ in silent]

    # -- what goes out

    def candidates(self, asker: str, slots: int, but_not: Collection[str] = (), most: int = 3) -> list[Candidate]:
        """Who may lend to `asker`, to be tried in turn: first its neighbours that have all `slots`, the roomiest first, then the roomiest
        of all. As far as the last heartbeats tell: others may have been served since.
        """
        node = self._nodes.get(asker, "")
        out = {asker, *but_not}
        near = self._roomiest(node, out, most, least=slots) if node else []
        far = self._roomiest("", out.union(each.instance for each in near), most - len(near), least=1)
        return near + far

    def ledger(self) -> list[LedgerRow]:
        """The global debt ledger, as creditors tell it, by name."""
        rows: list[LedgerRow] = []
        for name in sorted(self._rows):
            beat = self._rows[name].beat
            debtors = {debtor: count for debtor, _, count in beat.lent}
            rows.append(LedgerRow(name, beat.epoch, beat.total_slots, beat.free_slots, beat.lendable_slots, debtors, beat.waiting))
        return rows

    def placements(self) -> Iterator[tuple[str, str, Mapping[str, int]]]:
        """The request placement map, as homes tell it: (home, request, blocks by holder)."""
        for name, row in self._rows.items():
            for request, entries in row.requests.items():
                yield name, request, {entry.instance: entry.blocks for entry in entries}

    def debts(self) -> dict[tuple[str, str], int]:
        """(debtor, creditor): blocks, as creditors tell it; a block that several requests begin with is one."""
        return {(debtor, name): blocks for name, row in self._rows.items() for debtor, _, blocks in row.beat.lent}

    def epoch(self, instance: str) -> int | None:
        """An instance's incarnation, None for one that is not known to live."""
        row = self._rows.get(instance)
        return row.beat.epoch if row else None

    # -- inside

    def _take_entries(self, row: _Row, beat: Heartbeat, *, follows: bool) -> None:
        if beat.full:
            row.requests.clear()
        row.whole = beat.full or (row.whole and follows)
        if not row.whole:
            return
        told: dict[str, list[PlacementEntry]] = {}
        for entry in beat.entries:
            told.setdefault(entry.request, []).append(entry)
        for request, entries in told.items():
            kept = tuple(entry for entry in entries if entry.blocks)
            if kept:
                row.requests[request] = kept
            else:
                row.requests.pop(request, None)

    def _mention(self, instance: str, epoch: int, now: float) -> None:
        row = self._rows.get(instance)
        if row is None or row.beat.epoch < epoch:
            self._mentioned.setdefault((instance, epoch), now)

    def _admit(self, row: _Row, beat: Heartbeat) -> None:
        row.beat = beat
        self.lendable_slots += beat.lendable_slots
        for node in {"", row.node}:
            insort(self._rooms.setdefault(node, []), (-beat.lendable_slots, beat.instance))

    def _withdraw(self, row: _Row) -> None:
        self.lendable_slots -= row.beat.lendable_slots
        place = (-row.beat.lendable_slots, row.beat.instance)
        for node in {"", row.node}:
            rooms = self._rooms[node]
            del rooms[bisect_left(rooms, place)]

    def _roomiest(self, node: str, out: Collection[str], most: int, *, least: int) -> list[Candidate]:
        found: list[Candidate] = []
        for room, name in self._rooms.get(node, ()):
            if -room < max(1, least) or len(found) >= most:
                break
            if name not in out:
                found.append(Candidate(name, self._rows[name].beat.epoch, -room))
        return found
