"""An instance as a Ray actor: its own copy of the model and its own KV memory, home of the prompts that are given to it, lender to others.

Its methods are in groups, each with threads of its own (`GROUPS`): `generate` in the default one, attention for others in `data`, what
instances agree on in `control`, and `evict`, which may have to wait for answers of other instances' `control`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from niah.engines import EngineError, Generation, Sampling, Step
from niah.engines.distkv.arena import Shape
from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.engine import DistKVEngine
from niah.engines.distkv.home import Home, Reading
from niah.engines.distkv.instance import LocalInstance, Query, Run
from niah.engines.distkv.messages import Answer, Ask, MoveKVCache, Recall
from niah.engines.distkv.ray_books import Books
from niah.engines.distkv.ray_calls import loaded
from niah.engines.distkv.ray_fleet import RayFleet
from niah.engines.distkv.ray_gmanager import Facts
from niah.engines.distkv.ray_instance import FENCED
from niah.engines.distkv.ray_wire import Packed, packed, unpacked
from niah.engines.inference import within_memory

GROUPS = {"data": 1, "control": 2, "evict": 1, "watch": 1}
BEAT_SECONDS = 1.0


class Plan(NamedTuple):
    """What an instance is to be. `names` are those of all instances; `actor` begins the names of their actors, `gmanager` is its actor's.

    `neighbours`: how many instances there are on a machine, which share its memory and cores. `threads`: for a model, None for its share
    of the cores.
    """

    folder: str
    names: tuple[str, ...]
    namespace: str
    actor: str
    gmanager: str
    kv_memory_bytes: int | None
    neighbours: int
    block_tokens: int
    chunk_tokens: int
    threads: int | None
    device: str | None


class Failed(NamedTuple):
    """An `EngineError`, which does not travel by itself."""

    message: str
    kind: Any


class _Home(Home):
    """Texts of it may be evicted at any time by another thread."""

    def __init__(self, fleet: RayFleet, name: str):
        super().__init__(fleet, name)
        self._shared, self._guard = fleet, fleet.books.guard

    def open(self, ids: Sequence[int]) -> Reading:
        with self._guard:
            return super().open(ids)

    def close(self, reading: Reading, ids: Sequence[int]) -> None:
        reading.stand()  # may send, which is never done under the guard
        with self._guard:
            super().close(reading, ids)

    @property
    def oldest(self) -> int | None:
        with self._guard:
            return super().oldest

    def evict(self) -> None:
        with self._guard:
            if not self._kept:
                return
            request = min(self._kept, key=lambda kept: self._kept[kept][0])
            del self._kept[request]
            self.manager.release(request)
            self.manager.losses.pop(request, None)


class _Engine(DistKVEngine):
    """At home in one instance of a cluster."""

    def __init__(self, plan: Plan, join: Callable[[Shape, int, str], RayFleet]):
        super().__init__(
            Path(plan.folder),
            instances=plan.neighbours,
            kv_memory_bytes=plan.kv_memory_bytes,
            device=plan.device,
            chunk_tokens=plan.chunk_tokens,
        )
        self._block_tokens, self._join = plan.block_tokens, join

    def load(self) -> RayFleet:
        """Read the weights, and become an instance."""
        with torch.inference_mode(), within_memory(self.device):
            self._load()
        assert isinstance(self.fleet, RayFleet)
        return self.fleet

    def _group(self, shape: Shape, memory_bytes: int) -> RayFleet:
        return self._join(shape, memory_bytes, self.device)

    def _home_at(self, name: str) -> Home:
        assert isinstance(self.fleet, RayFleet)
        return _Home(self.fleet, name)


class RayWorker:
    """The actor's class. Where it is started anew it is another incarnation: epochs are the time of the start in milliseconds."""

    def __init__(self, name: str, plan: Plan):
        self.name, self._plan, self.epoch = name, plan, int(time.time() * 1000)
        self._home = threading.Lock()
        """Held while a prompt is in work, and by whoever works in the background when none is."""
        self._step: tuple[str, Step | None] = ("", None)
        self._left = ""
        self._failed: Failed | None = None
        torch.set_num_threads(plan.threads or max(1, len(os.sched_getaffinity(0)) // plan.neighbours))
        try:
            self._engine = _Engine(plan, self._joined)
            self._fleet = self._engine.load()
        except EngineError as error:
            self._failed = Failed(str(error), error.kind)
            return
        threading.Thread(target=self._live, daemon=True, name="niah-heartbeat").start()

    # -- of the sweep

    def about(self) -> Facts | Failed:
        """What it is, or why it is not."""
        return self._failed or self._fleet.facts

    def generate(
        self, number: str, ids: Sequence[int], most_new: int, stop_ids: Collection[int], sampling: Sampling
    ) -> Generation | Failed:  # fmt: skip
        """Answer a prompt, which others call by its number."""
        with self._home:

            def report(step: Step) -> None:
                self._step = (number, step)
                if self._left == number:
                    raise EngineError("nobody waits for it any more", kind="prompt")

            try:
                return self._engine.generate([ids], most_new, stop_ids=stop_ids, sampling=sampling, report=report)
            except EngineError as error:
                return Failed(str(error), error.kind)
            finally:
                self._step = ("", None)
                self._fleet.drain()

    def step(self, number: str) -> Step | None:
        """How far that prompt is."""
        current, step = self._step
        return step if current == number else None

    def leave(self, number: str) -> None:
        """Nobody waits for that prompt any more."""
        self._left = number

    def requests(self) -> tuple[str, ...]:
        """Texts that are read here, and those that are kept."""
        return self._fleet.books.requests

    def spent(self) -> dict[str, float]:
        """What calls to other instances have cost so far, by names with units."""
        costs = self._fleet.lines.costs
        seconds = {f"{name}_seconds": getattr(costs, name) for name in ("pack", "submit", "wait", "unpack", "attend")}
        return {"calls": costs.calls, "moved_blocks": self._fleet.mover.brought_blocks, "cpu_seconds": time.process_time(), **seconds}

    # -- of other instances

    def attend(  # noqa: PLR0913, PLR0917
        self, asker: tuple[str, int], epoch: int, how: tuple[int, int, float, int | None, tuple[int, ...]],
        runs: list[tuple[int, int, int]], writes: list[tuple[int, int, int, Packed, Packed]], rows: Packed,
    ) -> tuple[Packed, Packed, int, float] | str | None:  # fmt: skip
        """Write, then attend: output, log-sum-exp, the bytes of one of its numbers, seconds. None where the one that was meant is dead."""
        began = time.perf_counter()
        if refused := self._refused(asker, epoch):
            return refused[0]
        with torch.inference_mode():
            self._keep(writes)
            layer, position, scale, window, shape = how
            query = Query(layer, unpacked(rows, shape, self._fleet.shape.dtype, self._engine.device), position, scale, window)
            out, lse = self._own.attend(query, [Run(*run) for run in runs])()
            return packed(out), packed(lse), lse.itemsize, time.perf_counter() - began

    def write(self, asker: tuple[str, int], epoch: int, writes: list[tuple[int, int, int, Packed, Packed]]) -> bool | str | None:
        """Keep keys and values: layer, first token in the arena, tokens, keys, values of each."""
        if refused := self._refused(asker, epoch):
            return refused[0]
        with torch.inference_mode():
            self._keep(writes)
        return True

    def take(self, asker: tuple[str, int], epoch: int, slots: list[int]) -> Packed | str | None:
        """A copy of blocks."""
        if refused := self._refused(asker, epoch):
            return refused[0]
        with torch.inference_mode():
            return packed(self._own.take(slots))

    def put(self, asker: tuple[str, int], epoch: int, slots: list[int], blocks: Packed | str | None) -> bool | str | None:
        """Keep blocks; False where none came."""
        if refused := self._refused(asker, epoch):
            return refused[0]
        if blocks is None or isinstance(blocks, str):
            return False
        shape = self._fleet.shape
        size = (shape.layers, 2, shape.key_heads, len(slots), shape.block_tokens, shape.dim)
        with torch.inference_mode():
            self._own.put(slots, unpacked(blocks, size, shape.dtype))
        return True

    def receive(self, ask: Ask) -> tuple[bool, Answer | None]:
        """A message of an rManager: (that it was heard, the answer)."""
        return True, self._fleet.books.receive(ask)

    def evict(self) -> bool:
        """Give up what is kept longest without use; whether there was anything."""
        keeper = self._fleet.keepers.get(self.name)
        if keeper is None or keeper.oldest is None:
            return False
        keeper.evict()
        self._fleet.send_releases()
        return True

    def beat(self) -> bool:
        """Send a heartbeat now; that it was done tells that this instance lives."""
        self._fleet.beat()
        return True

    def order(self, order: MoveKVCache | Recall) -> None:
        """The gManager's wish, to be carried out in the background."""
        self._fleet.mover.order([order])

    # -- inside

    def _joined(self, shape: Shape, memory_bytes: int, device: str) -> RayFleet:
        ray, plan = loaded(), self._plan
        node = ray.get_runtime_context().get_node_id()
        self._own = LocalInstance(self.name, self.epoch, shape, memory_bytes, device)
        memory = Memory(slots=self._own.arena.slots, block_tokens=shape.block_tokens, device=device)
        return RayFleet(
            self._own,
            Books(self.name, memory, epoch=self.epoch),
            plan.names,
            gmanager=ray.get_actor(plan.gmanager, plan.namespace),
            actor_of=lambda name: ray.get_actor(plan.actor + name, plan.namespace),
            facts=Facts(node, os.getpid(), memory_bytes, shape.block_bytes, shape.block_tokens),
            fenced=lambda: os._exit(1),  # another incarnation begins
        )

    def _live(self) -> None:
        """Heartbeats, and what goes on in the background while no prompt does it."""
        while True:
            self._fleet.beat()
            if self._home.acquire(blocking=False):
                try:
                    with torch.inference_mode():
                        self._fleet.work(self._plan.chunk_tokens)
                finally:
                    self._home.release()
            time.sleep(BEAT_SECONDS)

    def _refused(self, asker: tuple[str, int], epoch: int) -> tuple[str | None] | None:
        """The answer to one who asks a dead incarnation, or is one."""
        if epoch != self.epoch:
            return (None,)
        return (FENCED,) if self._fleet.books.is_dead(*asker) else None

    def _keep(self, writes: list[tuple[int, int, int, Packed, Packed]]) -> None:
        shape = self._fleet.shape
        for layer, start, tokens, keys, values in writes:
            size = (shape.key_heads, tokens, shape.dim)
            keys_and_values = unpacked(keys, size, shape.dtype), unpacked(values, size, shape.dtype)
            self._own.write(layer, start, keys_and_values)
