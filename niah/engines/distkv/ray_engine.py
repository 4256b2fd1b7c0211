"""The engine of a service on a Ray cluster: prompts are spread over its instances, each the home of one at a time.

What is lost with an instance is done again: by its home, if another one was lost, and by another home, if it was the home itself.
"""

from __future__ import annotations

import threading
import time
import uuid
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from niah.engines import EngineError, Generation, Sampling, Step
from niah.engines.distkv.cluster import Service, check, map_of
from niah.engines.distkv.engine import BLOCK_TOKENS
from niah.engines.distkv.home import alike
from niah.engines.distkv.ray_calls import loaded
from niah.engines.distkv.ray_gmanager import Facts
from niah.engines.hf import CHUNK_TOKENS, HfEngine

POLL_SECONDS = 0.1
AWAY_SECONDS = 300.0
"""So long an instance that was lost is waited for while no other answers."""
MOST_HOMES = 20
"""So often a prompt may lose its home before it is given up."""
_REMEMBERED = 8
"""Prompts of each instance by which the home of a new one is chosen."""


class _LostHomeError(Exception):
    """The instance at which a prompt was at home does not answer."""


@dataclass(slots=True)
class _Desk:
    """Who is at work on what. `turns`: prompts that wait for memory, in the order in which they came."""

    idle: list[str]
    slots: int
    block_tokens: int
    away: int = 0
    """Instances that were lost and have not come back for long."""
    taken: int = 0
    """Blocks that the prompts in work may come to need."""
    turns: deque[object] = field(default_factory=deque[object])
    read: dict[str, deque[array[int]]] = field(default_factory=lambda: {})


class RayEngine:
    """An `Engine` of a checkpoint's folder, which every machine of the cluster must have under the same name. `generate` may be called
    from several threads.
    """

    border_after_context = False

    def __init__(  # noqa: PLR0913
        self,
        folder: Path,
        *,
        cluster: str,
        instances: int = 1,
        kv_memory_bytes: int | None = None,
        threads: int | None = None,
        device: str | None = None,
        block_tokens: int = BLOCK_TOKENS,
        chunk_tokens: int = CHUNK_TOKENS,
    ):
        check(cluster)
        known = HfEngine(folder, device="cpu")
        self.window_tokens, self.stop_ids, self.device = known.window_tokens, known.stop_ids, device or "cpu"
        self._folder, self._cluster, self._instances = folder.resolve(), cluster, instances
        self._plan: dict[str, Any] = {
            "folder": str(self._folder), "kv_memory_bytes": kv_memory_bytes, "block_tokens": block_tokens,
            "chunk_tokens": chunk_tokens, "threads": threads, "device": device,
        }  # fmt: skip
        self.service: Service | None = None
        """The instances, once a prompt has come."""
        self._starting, self._changed = threading.Lock(), threading.Condition()
        self._desk = _Desk([], 0, block_tokens)

    def generate(
        self,
        prompt: Iterable[Sequence[int]],
        max_new_tokens: int,
        *,
        stop_ids: Collection[int],
        sampling: Sampling,
        report: Callable[[Step], None],
    ) -> Generation:
        """See `Engine`."""
        ids = array("i", chain.from_iterable(prompt))
        service = self._started()
        tokens = len(ids) + max_new_tokens
        blocks = -(-min(tokens, self.window_tokens or tokens) // self._desk.block_tokens)
        asked = (list(ids), max_new_tokens, frozenset(stop_ids), sampling)
        for alone in (False, True):
            try:
                return self._somewhere(service, ids, self._desk.slots if alone else blocks, asked, report)
            except EngineError as error:
                # Where instances were lost, prompts together may need more than is left: then one after the other.
                if error.kind != "memory" or alone or blocks > self._desk.slots or self._instances == 1:
                    raise
        raise AssertionError("the second time returns or raises")

    def memory_map(self) -> str:
        """See `Mapped`."""
        return map_of(self.service.state()) if self.service else ""

    def close(self) -> None:
        """See `Engine`."""
        with self._starting:
            if self.service is not None:
                self.service.close()
            self.service = None

    def _started(self) -> Service:
        with self._starting:
            if self.service is None:
                service = Service(self._cluster, self._instances)
                try:
                    facts = service.start(self._folder.name, self._plan)
                except BaseException:
                    service.close()
                    raise
                self.service = service
                slots = sum(each.memory_bytes // each.block_bytes for each in facts)
                self._desk = _Desk([*service.names], slots, facts[0].block_tokens)
            return self.service

    def _somewhere(
        self, service: Service, ids: array[int], blocks: int, asked: tuple[Any, ...], report: Callable[[Step], None]
    ) -> Generation:
        """An answer of one instance after the other, until one survives it."""
        for _ in range(MOST_HOMES):
            name, back = self._begin(ids, blocks), True
            try:
                return self._at(service, name, asked, report)
            except _LostHomeError:
                back = False
            finally:
                self._end(name, blocks, back=back)
            threading.Thread(target=self._await, args=(service, name), daemon=True, name="niah-instance").start()
        raise EngineError(f"{MOST_HOMES} instances were lost while they answered it", kind="memory")

    def _begin(self, ids: array[int], blocks: int) -> str:
        """Wait for room and an instance; of the idle ones the one that has read the longest common beginning."""
        turn, desk = object(), self._desk
        with self._changed:
            desk.turns.append(turn)
            try:
                while desk.turns[0] is not turn or not desk.idle or (desk.taken and desk.taken + blocks > desk.slots):
                    if desk.away == self._instances:
                        raise EngineError("all instances are lost, and none has come back", kind="memory")
                    self._changed.wait()
            finally:
                desk.turns.remove(turn)
                self._changed.notify_all()
            name = max(desk.idle, key=lambda each: max((alike(ids, other) for other in desk.read.get(each, ())), default=0))
            desk.idle.remove(name)
            desk.taken += blocks
            desk.read.setdefault(name, deque(maxlen=_REMEMBERED)).append(ids)
            return name

    def _end(self, name: str, blocks: int, *, back: bool) -> None:
        with self._changed:
            if back:
                self._desk.idle.append(name)
            else:
                self._desk.read.pop(name, None)
            self._desk.taken -= blocks
            self._changed.notify_all()

    def _await(self, service: Service, name: str) -> None:
        """Give an instance that was lost prompts again once it answers; where that takes too long, count it out meanwhile."""
        ray, began, away, desk = loaded(), time.monotonic(), False, self._desk
        while self.service is service:
            try:
                found = ray.get(service.actors[name].about.options(concurrency_group="watch").remote(), timeout=5)
            except Exception:  # it is dead or on its way, or the cluster is being left
                found = None
            if not isinstance(found, Facts):  # it may also have started, and found no memory
                if not away and time.monotonic() - began > AWAY_SECONDS:
                    away = True
                    with self._changed:
                        desk.away += 1
                        self._changed.notify_all()
                time.sleep(0.5)
                continue
            with self._changed:
                desk.away -= away
                desk.idle.append(name)
                self._changed.notify_all()
            return

    def _at(self, service: Service, name: str, asked: tuple[Any, ...], report: Callable[[Step], None]) -> Generation:
        """An answer of one instance; told are its steps as they are seen from time to time."""
        ray = loaded()
        actor, number = service.actors[name], uuid.uuid4().hex
        seen: Step | None = None
        try:
            reference = actor.generate.remote(number, *asked)
            watch, leave = (method.options(concurrency_group="watch") for method in (actor.step, actor.leave))
            try:
                while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
                    step = ray.get(watch.remote(number), timeout=60)
                    if step is not None and step != seen:
                        seen = step
                        report(step)
            except ray.exceptions.GetTimeoutError:
                raise _LostHomeError from None
            except BaseException:
                leave.remote(number)
                ray.wait([reference], timeout=60)
                raise
            answer = ray.get(reference)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
            raise _LostHomeError from None
        if isinstance(answer, Generation):
            return answer
        raise EngineError(answer.message, kind=answer.kind)
