"""The protocol against a network that loses, delays, doubles and reorders messages, and against deaths of instances and of the gManager."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from niah.engines.distkv.dgfm import call_home, cancel_circles
from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.messages import Candidate
from tests.engines.distkv.world import BLOCK, MEMORY, World

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)
requests = st.sampled_from(("r", "s"))
few = st.integers(1, 4)
picks = st.integers(0, 99)
at_once = st.booleans()
fates = st.sampled_from(("no heartbeat", "no heartbeat", "arrives", "waits", "lost"))


class Protocol(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World(NAMES)

    # -- requests

    @initialize(amounts=st.lists(few, min_size=3, max_size=3))
    def begins_in_use(self, amounts: list[int]):
        for name, blocks in zip(NAMES, amounts, strict=True):
            self.allocate(name, "r", blocks)
            self.fill(name, 0, blocks * BLOCK)

    @rule(name=names, request=requests, blocks=few, told=fates)
    def allocate(self, name: str, request: str, blocks: int, told: str = "waits"):
        if home := self.world.managers.get(name):
            self.world.texts.setdefault((name, request), [])
            free = max(0, len(home.pool) - MEMORY.spare_slots)
            assert home.allocate(request, blocks) == min(free, blocks)
            self._beat(name, told)

    @rule(name=names, pick=picks, tokens=st.integers(1, 5))
    def fill(self, name: str, pick: int, tokens: int):
        home = self.world.managers.get(name)
        if home and home.requests:
            request = home.requests[pick % len(home.requests)]
            room = len(home.blocks(request)) * BLOCK - home.tokens(request)
            if room:
                self.world.fill(name, request, min(tokens, room))

    @rule(name=names, pick=picks, tokens=st.integers(0, 8))
    def truncate(self, name: str, pick: int, tokens: int):
        home = self.world.managers.get(name)
        if home and home.requests:
            request = home.requests[pick % len(home.requests)]
            had = home.tokens(request)
            kept = home.truncate(request, tokens)
            assert kept == home.tokens(request) <= min(tokens, had)
            assert kept > min(tokens, had) - BLOCK
            del self.world.texts[name, request][kept:]

    @rule(name=names, pick=picks, told=fates)
    def release(self, name: str, pick: int, told: str):
        home = self.world.managers.get(name)
        if home and home.requests:
            request = home.requests[pick % len(home.requests)]
            home.release(request)
            del self.world.texts[name, request]
            assert request not in home.requests
            self._beat(name, told)

    @rule(name=names)
    def share(self, name: str):
        home = self.world.managers.get(name)
        if home and len(home.requests) == 1 and (blocks := home.tokens(home.requests[0]) // BLOCK):
            source, request = home.requests[0], "s" if home.requests[0] == "r" else "r"
            home.share(source, request, blocks)
            self.world.texts[name, request] = self.world.texts[name, source][: blocks * BLOCK]

    # -- undertakings

    @rule(name=names, request=requests, blocks=few, other=names, least=st.integers(1, 2), stale=st.integers(0, 5), at_once=at_once)
    def borrow(self, *, name: str, request: str, blocks: int, other: str, least: int, stale: int, at_once: bool):
        if name != other and (home := self.world.managers.get(name)):
            self.world.texts.setdefault((name, request), [])
            epoch = max(0, self.world.epochs[other] - (stale == 5))
            self._send(name, home.begin_borrow(request, blocks, Candidate(other, epoch, 1), least=min(least, blocks)), at_once)

    @rule(name=names, holder=names, other=names, most=few, at_once=at_once)
    def move(self, name: str, holder: str, other: str, most: int, at_once: bool):
        home = self.world.managers.get(name)
        if home and other not in (name, holder) and (blocks := home.movable(holder, most)):
            self._send(name, home.begin_move(blocks, Candidate(other, self.world.epochs[other], 1)), at_once)

    @rule(name=names, holder=names, most=few)
    def recall(self, name: str, holder: str, most: int):
        home = self.world.managers.get(name)
        if home and holder != name and (blocks := home.movable(holder, most)):
            home.begin_recall(blocks)

    def _send(self, name: str, number: int, at_once: bool = False):
        """The message of an undertaking; `at_once`: there and back before anything else."""
        message = self.world.managers[name].message(number)
        if message is not None:
            self.world.network.append(message)
            for _ in range(2 * at_once):
                if self.world.network:
                    self.world.deliver(self.world.network.pop())

    @rule(name=names, pick=picks, at_once=at_once)
    def go_on(self, name: str, pick: int, at_once: bool):
        """Data is copied where places were granted; else the message is sent again."""
        home = self.world.managers.get(name)
        if home and home.undertakings:
            number = home.undertakings[pick % len(home.undertakings)]
            if home.granted(number):
                if self.world.carry(name, home.transfers(number)):
                    home.commit(number)
                elif number in home.undertakings and self.world.managers.get(name) is home:
                    home.abandon(number)
            if self.world.managers.get(name) is home:
                self._send(name, number, at_once)

    @rule(name=names, pick=picks)
    def abandon(self, name: str, pick: int):
        home = self.world.managers.get(name)
        if home and home.undertakings:
            home.abandon(home.undertakings[pick % len(home.undertakings)])

    @rule(name=names)
    def tell_releases(self, name: str):
        if home := self.world.managers.get(name):
            self.world.network += home.releases()

    # -- network

    @precondition(lambda self: self.world.network)
    @rule(pick=picks, fate=st.sampled_from(("arrives", "arrives", "arrives", "doubled", "lost")))
    def network(self, pick: int, fate: str):
        """The oldest or any message; one that is left waits."""
        waiting = self.world.network
        place = pick % len(waiting) if pick % 2 else 0
        packet = waiting[place] if fate == "doubled" else waiting.pop(place)
        if fate != "lost":
            self.world.deliver(packet)

    @precondition(lambda self: self.world.late)
    @rule(first=picks, more=st.lists(picks, max_size=3))
    def copies_arrive(self, first: int, more: list[int]):
        for pick in [first, *more]:
            self.world.deliver(self.world.late[pick % len(self.world.late)], again=True)

    @precondition(lambda self: self.world.network)
    @rule()
    def network_in_order(self):
        for _ in range(len(self.world.network)):
            self.world.deliver(self.world.network.pop(0))

    # -- gManager

    @rule(name=names, full=st.booleans(), fate=fates)
    def heartbeat(self, name: str, full: bool, fate: str):
        self._beat(name, fate, full=full)

    def _beat(self, name: str, fate: str, *, full: bool = False):
        """A heartbeat that is heard at once, later, or never."""
        home = self.world.managers.get(name)
        if home is None or fate == "no heartbeat":
            return
        beat = home.heartbeat(full=full)
        if fate == "arrives":
            self.world.deliver(beat)
        elif fate == "waits":
            self.world.network.append(beat)

    @rule(name=names, slots=few)
    def candidates(self, name: str, slots: int):
        for candidate in self.world.gmanager.candidates(name, slots):
            assert candidate.instance != name
            assert 0 < candidate.slots <= (MEMORY.lend_most or 0)

    @rule()
    def gmanager_dies(self):
        self.world.gmanager = GManager()

    @rule(name=names, rightly=st.sampled_from((True, True, True, False)))
    def declare_dead(self, name: str, rightly: bool):
        """Wrongly where the network was only slow."""
        self.world.declare_dead(name, self.world.epochs[name] - (rightly and name in self.world.managers))

    # -- deaths

    @rule(name=names)
    def dies(self, name: str):
        self.world.stop(name)

    @rule(name=names)
    def restarts(self, name: str):
        if name not in self.world.managers or self.world.managers[name].fenced:
            self.world.start(name)

    # -- rest

    @rule()
    def comes_to_rest(self):
        self.world.repeat()
        self.world.calm_down()
        self.world.check_at_rest()

    @rule(turned=at_once, blocks=st.integers(1, 2))
    def dgfm(self, turned: bool, blocks: int):
        """With true ledgers: circles of full blocks go, nothing else changes. There is one, as far as there is room for it."""
        world = self.world
        world.calm_down()
        for name, other in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
            debtor, creditor = (other, name) if turned else (name, other)
            self.move(debtor, debtor, creditor, blocks, True)
            for _ in range(2 * len(world.managers[debtor].undertakings)):
                self.go_on(debtor, 0, True)
            world.calm_down()
        debts: dict[tuple[str, str], int] = {}
        for name, home in world.managers.items():
            for other in NAMES:
                if other != name and (blocks := len(home.movable(other, 99))):
                    debts[name, other] = blocks
        free = {name: len(manager.pool) for name, manager in world.managers.items()}
        before = {name: self._position(name) for name in NAMES}
        remote = sum(lent for lent, _, _ in before.values())
        orders = cancel_circles(debts, free)
        for order in orders:
            home = world.managers[order.home]
            number = home.begin_recall(home.movable(order.creditor, order.blocks))
            assert number is not None
            assert world.carry(order.home, home.transfers(number))
            home.commit(number)
            for release in home.releases():
                world.deliver(release)
            world.check()
        world.calm_down()
        world.check_at_rest()
        after = {name: self._position(name) for name in NAMES}
        for name in NAMES:
            assert before[name][0] - before[name][1] == after[name][0] - after[name][1]
            assert before[name][2] == after[name][2]
        assert remote - sum(lent for lent, _, _ in after.values()) == sum(order.blocks for order in orders)
        left = {pair: blocks - sum(o.blocks for o in orders if (o.home, o.creditor) == pair) for pair, blocks in debts.items()}
        turns = ((NAMES[0], NAMES[1], NAMES[2]), (NAMES[0], NAMES[2], NAMES[1]))
        for circle in (*turns, *((one, other) for one in NAMES for other in NAMES if one < other)):
            if any(free[name] for name in circle):
                assert not all(left.get(pair, 0) for pair in zip(circle, circle[1:] + circle[:1], strict=True)), "a circle is left"
        assert call_home(debts, free) or not any(free[debtor] for debtor, _ in debts)

    def _position(self, name: str) -> tuple[int, int, int]:
        """Lent, borrowed, used."""
        manager = self.world.managers[name]
        borrowed = {id(b) for r in manager.requests for b in manager.blocks(r) if b.holder != name}
        return manager.counts.lent, len(borrowed), manager.counts.own + manager.counts.lent

    @invariant()
    def what_must_hold(self):
        self.world.check()

    def teardown(self):
        """In the end everything returns."""
        self.world.calm_down()
        self.world.check_at_rest()
        for home in self.world.managers.values():
            for request in home.requests:
                home.release(request)
        self.world.texts.clear()
        self.world.calm_down()
        self.world.repeat()
        self.world.calm_down()
        self.world.check_at_rest()
        assert all(manager.counts.free == MEMORY.slots for manager in self.world.managers.values())


class TestProtocol(Protocol.TestCase):
    settings = settings(  # more examples where a profile asks for more (benchmarks/distkv_mutants.py)
        max_examples=max(200, settings.default.max_examples if settings.default else 0), stateful_step_count=50, deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip


def test_a_block_that_is_freed_twice_is_noticed():
    pool = World(NAMES).managers["a"].pool
    pool.give(pool.take(2))
    with pytest.raises(ValueError, match="free already"):
        pool.give([0])
