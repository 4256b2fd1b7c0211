"""The other instances of a Ray cluster, as one of them sees them: a `Group` over actor calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from niah.engines.distkv import exchange
from niah.engines.distkv.blocks import RBlock
from niah.engines.distkv.debtor import Transfer
from niah.engines.distkv.group import Keeper
from niah.engines.distkv.instance import Holder, InstanceLostError, LocalInstance
from niah.engines.distkv.messages import Answer, Ask, Candidate
from niah.engines.distkv.mover import Mover
from niah.engines.distkv.ray_books import Books
from niah.engines.distkv.ray_calls import answer_of, loaded
from niah.engines.distkv.ray_gmanager import Facts, Totals
from niah.engines.distkv.ray_instance import Lines, RayInstance
from niah.engines.distkv.ray_wire import packed, unpacked
from niah.engines.distkv.rmanager import RManager

PATIENCE_SECONDS = 180.0
"""So long a home that lacks memory waits for instances that died to come back."""
_WAIT_SECONDS = 0.5
_CALL_SECONDS = 60.0


class RayFleet:
    """`actor_of` finds an instance's actor by its name, `gmanager` is the gManager's, `names` are those of all instances.

    `fenced` is called when this instance was declared dead, and must not return.
    """

    def __init__(  # noqa: PLR0913
        self,
        own: LocalInstance,
        books: Books,
        names: Sequence[str],
        *,
        gmanager: Any,
        actor_of: Callable[[str], Any],
        facts: Facts,
        fenced: Callable[[], None],
    ):
        self.shape, self.memory_bytes = own.arena.shape, facts.memory_bytes
        self.name, self.books, self.facts = own.name, books, facts
        self.managers: dict[str, RManager] = {own.name: books}
        self.keepers: dict[str, Keeper] = {}
        self.moved_bytes = 0
        self.lines = Lines((own.name, own.epoch), books.is_dead, fenced)
        self.mover = Mover(self.managers, self._send, self._copy)
        self.totals = Totals(living=1, slots=own.arena.slots, free=own.arena.slots)
        self._own, self._names, self._gmanager, self._actor_of = own, names, gmanager, actor_of
        self._actors: dict[str, Any] = {}
        self._others: dict[tuple[str, int], RayInstance] = {}
        self._silent: dict[str, int] = {}
        self._patient_until: float | None = None
        self._asking = threading.RLock()
        """Held from numbering a message to other instances to its answer: they pass over one that a later one overtook."""
        self._beating = threading.Lock()

    @property
    def living(self) -> int:
        return self.totals.living

    @property
    def total_slots(self) -> int:
        return self.totals.slots

    @property
    def free_slots(self) -> int:
        return self.totals.free

    def instance(self, name: str, epoch: int) -> Holder:
        """See `Group`."""
        if name == self.name and epoch == self._own.epoch:
            return self._own
        return self._other(name, epoch)

    def place(self, home: str, request: str, blocks: int) -> int:
        """See `Group`."""

        def candidates(wanted: int, tried: Collection[str]) -> Sequence[Candidate]:
            named = self._ask_gmanager("candidates", self.name, wanted, tuple(tried)) or ()
            if not named:
                self.refresh()  # it may know old news, or be new itself
                named = self._ask_gmanager("candidates", self.name, wanted, tuple(tried)) or ()
            return named

        self.settle(home)
        with self._asking:
            return exchange.place(self.books, request, blocks, candidates, self._send)

    def move(self, blocks: Sequence[RBlock], destination: Candidate) -> int:
        """Full blocks of own requests to another instance, in one go; returns how many moved."""
        with self._asking:
            return exchange.move(self.books, blocks, destination, self._send, self._copy)

    def work(self, tokens: int) -> None:
        """See `Group`."""
        self.catch_up()
        if not self.mover.idle:
            with self._asking:
                self.mover.step(max(1, tokens // self.shape.block_tokens))
            self._bury_silent()

    def settle(self, home: str) -> None:
        """See `Group`."""
        if self.books.owes:
            self.drain()  # nothing may be written later to what is given back now
            self.send_releases()

    def send_releases(self) -> None:
        with self._asking:
            exchange.settle(self.books, self._send)

    def drain(self) -> None:
        """Have all other instances written what was to be written there; of those that are lost nothing is."""
        for other in [*self._others.values()]:
            try:
                other.drain()
            except InstanceLostError as error:
                self._silent[error.name] = error.epoch

    def evict(self) -> bool:
        """See `Group`: own texts first, for to know which are older the clocks of all would have to agree."""
        keeper = self.keepers.get(self.name)
        if keeper is not None and keeper.oldest is not None:
            keeper.evict()
            self.settle(self.name)
            return True
        for name in self._names:
            actor = self._actor(name) if name != self.name else None
            if actor is not None and answer_of(actor.evict.options(concurrency_group="evict").remote(), lambda: True):
                return True
        return False

    def lost(self, name: str, epoch: int) -> None:
        """See `Group`."""
        self.books.dead(name, epoch)
        self._ask_gmanager("declare_dead", name, epoch)
        self.catch_up()

    def bury(self) -> bool:
        """See `Group`: instances that died come back, as long as a cluster has room for them, and that is waited for. What an instance
        holds that has just died, and is not known to be dead yet, looks as if it were used.
        """
        before = self.totals
        found = self._bury_silent() or self.catch_up()
        all_answer = self.refresh()
        if found or self.totals != before:
            return True
        if all_answer and self.totals.living >= len(self._names):
            self._patient_until = None
            return False
        if self.evict():  # which may be enough
            return True
        if self._patient_until is None:
            self._patient_until = time.monotonic() + PATIENCE_SECONDS
        time.sleep(_WAIT_SECONDS)
        return time.monotonic() < self._patient_until

    def catch_up(self) -> bool:
        """Take in who has died; whether there was any news. Between steps of reading only."""
        for name, epoch in [key for key in self._others if self.books.is_dead(*key)]:
            del self._others[name, epoch]
        return self.books.catch_up()

    def beat(self) -> None:
        """Send a heartbeat, and take in what comes back."""
        with self._beating:
            for _ in range(2):  # the second one if a full one is wanted
                told = self._ask_gmanager("heartbeat", self.books.heartbeat(), self.facts)
                if told is None:
                    return
                reply, self.totals, orders = told
                self.books.heard(reply)
                if self.books.fenced:
                    self.lines.fenced()
                if self.mover.idle:
                    self.mover.order(orders)
                if not reply.want_full:
                    return

    def refresh(self) -> bool:
        """Have all instances send heartbeats now; whether each did."""
        actors = [self._actor(name) for name in self._names if name != self.name]
        beats = [actor.beat.options(concurrency_group="control").remote() for actor in actors if actor is not None]
        done = loaded().wait(beats, num_returns=len(beats), timeout=_CALL_SECONDS)[0] if beats else []
        self.beat()
        return sum(bool(answer_of(each, lambda: True)) for each in done) == len(actors)

    # -- inside

    def _other(self, name: str, epoch: int) -> RayInstance:
        if self.books.is_dead(name, epoch) or (actor := self._actor(name)) is None:
            raise InstanceLostError(name, epoch)
        if (name, epoch) not in self._others:
            self._others[name, epoch] = RayInstance(name, epoch, actor, self.lines)
        return self._others[name, epoch]

    def _actor(self, name: str) -> Any:
        """None where there is none."""
        if name not in self._actors:
            try:
                self._actors[name] = self._actor_of(name)
            except ValueError:  # not made yet
                return None
        return self._actors[name]

    def _ask_gmanager(self, method: str, *arguments: Any) -> Any:
        """None where it does not answer. A call waits while it is started anew."""
        return answer_of(getattr(self._gmanager, method).remote(*arguments), lambda: False)

    def _bury_silent(self) -> bool:
        silent, self._silent = self._silent, {}
        for name, epoch in silent.items():
            self.lost(name, epoch)
        return bool(silent)

    def _send(self, message: Ask) -> Answer | None:
        name, epoch = message.receiver, message.receiver_epoch
        actor = self._actor(name)
        if actor is None or self.books.is_dead(name, epoch):
            return None
        call = actor.receive.options(concurrency_group="control")
        told = answer_of(call.remote(message), lambda: self.books.is_dead(name, epoch), lambda: call.remote(message))
        if told is None:
            self._silent[name] = epoch
            return None
        return told[1]

    def _copy(self, transfers: Sequence[Transfer]) -> bool:
        """All that goes from one holder to another at once, and on the shortest way."""
        routes: dict[tuple[str, int, str, int], list[Transfer]] = {}
        for each in transfers:
            route = (each.block.holder, each.block.holder_epoch, each.holder, each.holder_epoch)
            routes.setdefault(route, []).append(each)
        try:
            for route, some in routes.items():
                self._carry(*route, some)
                self.moved_bytes += len(some) * self.shape.block_bytes
        except InstanceLostError as error:
            self._silent[error.name] = error.epoch
            return False
        return True

    def _carry(self, source: str, source_epoch: int, destination: str, epoch: int, some: Sequence[Transfer]) -> None:
        """From one instance to another, of which at most one is this."""
        taken, slots = [each.block.slot for each in some], [each.slot for each in some]
        blocks = packed(self._own.take(taken)) if source == self.name else self._other(source, source_epoch).take(taken)
        if destination != self.name:
            if not self._other(destination, epoch).put(slots, blocks):
                raise InstanceLostError(source, source_epoch)
            return
        data, shape = answer_of(blocks, lambda: self.books.is_dead(source, source_epoch)), self.shape
        if data is None or isinstance(data, str):
            raise InstanceLostError(source, source_epoch)
        size = (shape.layers, 2, shape.key_heads, len(slots), shape.block_tokens, shape.dim)
        self._own.put(slots, unpacked(data, size, shape.dtype))
