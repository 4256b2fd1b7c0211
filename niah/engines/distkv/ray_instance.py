"""Another instance of a Ray cluster, as a home sees it: queries go to its actor, and what it makes of them comes back (the data plane).

Keys and values that a home writes elsewhere travel with the next query of the same layer: one call a layer and holder, not two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from niah.engines.distkv.instance import InstanceLostError, Query, Run
from niah.engines.distkv.kernels import KV, Partial
from niah.engines.distkv.ray_calls import answer_of
from niah.engines.distkv.ray_wire import packed, unpacked

FENCED = "fenced"
"""What an instance answers to one that was declared dead."""


@dataclass(slots=True)
class Costs:
    """Where the time of a home's calls went, in seconds: `pack` and `unpack` tensors, `submit` calls, `wait` for results.

    `attend` is what the slowest holder of each layer computed, which is within `wait` as far as nothing hid it.
    """

    calls: int = 0
    pack: float = 0.0
    submit: float = 0.0
    wait: float = 0.0
    unpack: float = 0.0
    attend: float = 0.0


@dataclass(slots=True)
class Lines:
    """What all proxies of a home share: who asks, what it costs, whom everybody holds for dead, and what to do when oneself is."""

    asker: tuple[str, int]
    is_dead: Callable[[str, int], bool]
    fenced: Callable[[], None]
    costs: Costs = field(default_factory=Costs)


class RayInstance:
    """A `Holder`: one incarnation of an actor. Used by the home's thread alone."""

    def __init__(self, name: str, epoch: int, actor: Any, lines: Lines):
        self.name, self.epoch, self._lines = name, epoch, lines
        self._head = (lines.asker, epoch)
        self._attend, self._write = (method.options(concurrency_group="data") for method in (actor.attend, actor.write))
        self._take, self._put = (method.options(concurrency_group="data") for method in (actor.take, actor.put))
        self._pending: list[tuple[int, int, int, Any, Any]] = []
        """Not sent yet: layer, first token in the arena, tokens, keys, values."""
        self._sent: list[Any] = []
        """Calls that write, until it is known that they are over."""

    def write(self, layer: int, start: int, kv: KV) -> None:
        """See `Holder`."""
        if self._pending and self._pending[0][0] != layer:
            self._send()
        began = time.perf_counter()
        self._pending.append((layer, start, kv[0].shape[1], packed(kv[0]), packed(kv[1])))
        self._lines.costs.pack += time.perf_counter() - began

    def attend(self, query: Query, runs: Sequence[Run]) -> Callable[[], Partial]:
        """See `Holder`."""
        self._land()
        costs, began = self._lines.costs, time.perf_counter()
        how = (query.layer, query.position, query.scale, query.window, tuple(query.rows.shape))
        asked = (*self._head, how, [tuple(run) for run in runs], self._pending, packed(query.rows))
        self._pending = []
        ready = time.perf_counter()
        ref = self._attend.remote(*asked)
        self._sent.append(ref)
        costs.calls += 1
        costs.pack += ready - began
        costs.submit += time.perf_counter() - ready
        return partial(self._finish, ref, asked, query)

    def _finish(self, ref: Any, asked: tuple[Any, ...], query: Query) -> Partial:
        costs, began = self._lines.costs, time.perf_counter()
        out, lse, lse_bytes, seconds = self._checked(answer_of(ref, self._gone, partial(self._attend.remote, *asked)))
        self._sent = [other for other in self._sent if other is not ref]
        came = time.perf_counter()
        dtype, device = torch.float64 if lse_bytes == 8 else torch.float32, str(query.rows.device)
        found = Partial(unpacked(out, query.rows.shape, dtype, device), unpacked(lse, query.rows.shape[:2], dtype, device))
        costs.wait += came - began
        costs.attend += seconds
        costs.unpack += time.perf_counter() - came
        return found

    def take(self, slots: Sequence[int]) -> Any:
        """A reference to blocks, for `put` of another; only there it shows whether this instance is lost."""
        self.drain()
        return self._take.remote(*self._head, list(slots))

    def put(self, slots: Sequence[int], blocks: Any) -> bool:
        """Keep blocks of a `take`; False where these were lost before."""
        return self._checked(answer_of(self._put.remote(*self._head, list(slots), blocks), self._gone))

    def drain(self) -> None:
        """Have everything written that was to be written."""
        if self._pending:
            self._send()
        self._land()

    def _send(self) -> None:
        self._sent.append(self._write.remote(*self._head, self._pending))
        self._pending = []

    def _land(self) -> None:
        sent, self._sent = self._sent, []
        for ref in sent:
            self._checked(answer_of(ref, self._gone))

    def _gone(self) -> bool:
        return self._lines.is_dead(self.name, self.epoch)

    def _checked(self, answer: Any) -> Any:
        if isinstance(answer, str) and answer == FENCED:
            self._lines.fenced()
        if answer is None or isinstance(answer, str):
            raise InstanceLostError(self.name, self.epoch)
        return answer
