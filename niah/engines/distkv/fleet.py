"""Instances of one process that lend each other memory, and what goes between them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from niah.engines.distkv import exchange
from niah.engines.distkv.arena import Shape
from niah.engines.distkv.blocks import Memory, RBlock
from niah.engines.distkv.debtor import Transfer
from niah.engines.distkv.dgfm import wishes
from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.group import Keeper
from niah.engines.distkv.instance import Instance, InstanceLostError, LocalInstance
from niah.engines.distkv.messages import Answer, Ask, Candidate
from niah.engines.distkv.mover import Mover
from niah.engines.distkv.rmanager import RManager

_ROUND_STEPS = 16
"""Steps of reading between rounds of the gManager."""


class Fleet:
    """`count` instances, named "0", "1" and so on, with `memory_bytes` of KV memory each, in blocks of `shape`."""

    def __init__(self, count: int, shape: Shape, memory_bytes: int, device: str):
        self.shape, self.memory_bytes, self._device = shape, memory_bytes, device
        self.gmanager = GManager()
        self.managers: dict[str, RManager] = {}
        """Of the instances that are not known to be dead."""
        self.keepers: dict[str, Keeper] = {}
        self.moved_bytes = 0
        """That went from one instance to another: keys and values, queries, and what came of them."""
        self.mover = Mover(self.managers, self._send, self._copy)
        self._steps = 0
        self._instances: dict[str, LocalInstance] = {}
        self._silent: set[str] = set()
        for number in range(count):
            self.start(str(number))

    def start(self, name: str) -> None:
        """A new instance, or a new and empty one in place of a dead one."""
        epoch = self._instances[name].epoch + 1 if name in self._instances else 0
        if epoch:
            self.lost(name, epoch - 1)
        instance = self._instances[name] = LocalInstance(name, epoch, self.shape, self.memory_bytes, self._device)
        memory = Memory(slots=instance.arena.slots, block_tokens=self.shape.block_tokens, device=self._device)
        self.managers[name] = RManager(name, memory, epoch=epoch)
        self.beat()

    def kill(self, name: str) -> None:
        """End an instance as a power cut does: nobody is told."""
        self._instances[name].kill()

    def lost(self, name: str, epoch: int) -> None:
        """An incarnation was found dead: everyone is told, and what it held or had borrowed is free or lost."""
        self.gmanager.declare_dead(name, epoch)
        if name in self.managers and self.managers[name].epoch <= epoch:
            del self.managers[name]
            self.keepers.pop(name, None)
        self.beat()

    def bury(self) -> bool:
        """Tell everyone of those that gave no answer; whether there were any."""
        silent = [name for name in self._silent if name in self.managers and not self._instances[name].alive]
        self._silent.clear()
        for name in silent:
            self.lost(name, self._instances[name].epoch)
        return bool(silent)

    def instance(self, name: str, epoch: int) -> Instance:
        """That very incarnation; InstanceLostError when it is over."""
        if self._instances[name].epoch != epoch:
            raise InstanceLostError(name, epoch)
        return self._instances[name]

    @property
    def living(self) -> int:
        return len(self.managers)

    @property
    def total_slots(self) -> int:
        return sum(manager.counts.total for manager in self.managers.values())

    @property
    def free_slots(self) -> int:
        return sum(manager.counts.free for manager in self.managers.values())

    def restart_gmanager(self) -> None:
        """A new gManager in place of one that died: its wishes are forgotten, the rest it hears from everyone."""
        self.gmanager = GManager()
        self.mover.drop_orders()
        self.beat()  # each is asked for a full one
        self.beat()

    def beat(self) -> None:
        """A heartbeat of every instance."""
        for manager in self.managers.values():
            manager.heard(self.gmanager.heartbeat(manager.heartbeat()))

    def place(self, home: str, request: str, blocks: int) -> int:
        """Up to `blocks` empty blocks for a request, in its home's memory first and then in others'; returns how many."""

        def candidates(wanted: int, tried: Collection[str]) -> list[Candidate]:
            self.beat()
            return self.gmanager.candidates(home, wanted, tried)

        return exchange.place(self.managers[home], request, blocks, candidates, self._send)

    def move(self, home: str, blocks: Sequence[RBlock], destination: str) -> int:
        """Full blocks of a home's requests to another instance, or back home; all or none. Returns how many."""
        manager = self.managers[home]
        if destination == home:
            moved = exchange.recall(manager, blocks, self._send, self._copy)
        else:
            moved = exchange.move(manager, blocks, Candidate(destination, self._instances[destination].epoch, 0), self._send, self._copy)
        self.bury()
        return moved

    def work(self, tokens: int) -> None:
        """What goes on in the background when so many tokens have been read: as many, or one block, move; now and then a round."""
        self._steps += 1
        if self.mover.idle and self._steps % _ROUND_STEPS == 0:
            self.beat()
            self.mover.order(wishes(self.gmanager.debts(), {row.instance: row.free_slots for row in self.gmanager.ledger()}))
        if not self.mover.idle:
            self.mover.step(max(1, tokens // self.shape.block_tokens))
            self.bury()

    def settle(self, home: str) -> None:
        """Tell creditors what they may have back."""
        if home in self.managers:
            exchange.settle(self.managers[home], self._send)

    def evict(self) -> bool:
        """Give up what was kept longest without use, whoever keeps it; whether there was anything."""
        kept = [(oldest, name) for name, keeper in self.keepers.items() if (oldest := keeper.oldest) is not None]
        if not kept:
            return False
        self.keepers[min(kept)[1]].evict()
        return True

    def _send(self, message: Ask) -> Answer | None:
        receiver = self.managers.get(message.receiver)
        if receiver is None or not self._instances[message.receiver].alive:
            self._silent.add(message.receiver)
            return None
        return receiver.receive(message)

    def _copy(self, transfers: Sequence[Transfer]) -> bool:
        """All that goes from one holder to another at once."""
        routes: dict[tuple[str, int, str, int], list[Transfer]] = {}
        for each in transfers:
            route = (each.block.holder, each.block.holder_epoch, each.holder, each.holder_epoch)
            routes.setdefault(route, []).append(each)
        try:
            for (source, source_epoch, destination, epoch), some in routes.items():
                data = self.instance(source, source_epoch).take([each.block.slot for each in some])
                self.instance(destination, epoch).put([each.slot for each in some], data)
                self.moved_bytes += data.nbytes
        except InstanceLostError as error:
            self._silent.add(error.name)
            return False
        return True
