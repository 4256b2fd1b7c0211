"""Models whose keys and values lie with several instances: `HfEngine` with DistAttention in place of its own, and exact.

A prompt's home is one instance; what does not fit there lies with the others, which attend to it. When one of them is lost, the prompt is
read again from the first token that was lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from niah.engines import Engine, EngineError, Generation, Sampling, Step
from niah.engines.distkv import cache
from niah.engines.distkv.arena import Shape
from niah.engines.distkv.fleet import Fleet
from niah.engines.distkv.group import Group
from niah.engines.distkv.home import Home, Reading
from niah.engines.distkv.instance import InstanceLostError
from niah.engines.distkv.memory_map import map_text
from niah.engines.hf import CHUNK_TOKENS, HfEngine
from niah.engines.memory import free_bytes, size

BLOCK_TOKENS = 64
SETTINGS = ("instances", "kv_memory_bytes", "cluster")
"""What `open_engine` takes beside a folder, by name."""
_USED_SHARE = 0.8
"""Of the memory that is free, when nobody says how much."""
_PROBE_TOKENS = 40


class DistKVEngine(HfEngine):
    """The checkpoint in a folder, on `instances` with `kv_memory_bytes` of KV memory each; without that, room for the model's window
    as far as memory is free.
    """

    def __init__(
        self,
        folder: Path,
        *,
        instances: int = 1,
        kv_memory_bytes: int | None = None,
        device: str | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
    ):
        super().__init__(folder, device=device, chunk_tokens=chunk_tokens)
        self._instances, self._kv_memory_bytes, self._block_tokens = instances, kv_memory_bytes, BLOCK_TOKENS
        free = free_bytes(self.device)
        if kv_memory_bytes is not None and free is not None and instances * kv_memory_bytes > free:
            raise EngineError(
                f"{instances} instances with {size(kv_memory_bytes)} of KV memory each are more than the {size(free)} that are free",
                kind="settings",
            )
        self.fleet: Group | None = None
        """The instances, once the weights are read."""
        self._home: Home | None = None
        self._reading: Reading | None = None
        self._furthest = self._recomputed = 0

    def generate(
        self,
        prompt: Iterable[Sequence[int]],
        max_new_tokens: int,
        *,
        stop_ids: Collection[int],
        sampling: Sampling,
        report: Callable[[Step], None],
    ) -> Generation:
        """See `Engine`. `measured` tells where the text's blocks lie at the end, and what an instance's loss has cost."""
        moved = self.fleet.moved_bytes if self.fleet else 0
        generation = super().generate(prompt, max_new_tokens, stop_ids=stop_ids, sampling=sampling, report=report)
        assert self.fleet and self._home and self._reading, "a prompt has been read"
        holders = self._home.manager.holders(self._reading.request)
        measured = {
            "instances": self.fleet.living,
            "local_blocks": holders.get(self._home.name, 0),
            "remote_blocks": sum(holders.values()) - holders.get(self._home.name, 0),
            "moved_bytes": self.fleet.moved_bytes - moved,
            "recomputed_tokens": self._recomputed,
        }
        self._home.close(self._reading, self._read)
        self._reading = None
        return replace(generation, measured=measured)

    def memory_map(self) -> str:
        """See `Mapped`."""
        if not isinstance(self.fleet, Fleet):
            return ""
        self.fleet.beat()
        return map_text(self.fleet.gmanager.ledger(), self.fleet.shape.block_bytes)

    def close(self) -> None:
        """See `Engine`."""
        self._reading = self._home = self.fleet = None
        super().close()

    def _forget(self) -> None:
        if self._home and self._reading:
            self._home.drop(self._reading)
        self._reading = None
        super()._forget()

    def _load(self) -> None:
        if self.fleet is not None:
            return
        super()._load()
        known = self._model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(known, (_PROBE_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
        shape, expected = self._stock(ids)
        cache.register()
        self._model.set_attn_implementation(cache.NAME)
        if self._model.config._attn_implementation != cache.NAME:
            raise self._unknown()
        self.fleet = self._group(shape, self._memory_of_one(shape))
        self._check(ids, expected)

    def _group(self, shape: Shape, memory_bytes: int) -> Group:
        return Fleet(self._instances, shape, memory_bytes, self.device)

    def _home_at(self, name: str) -> Home:
        assert self.fleet, "the weights are read"
        return Home(self.fleet, name)

    def _stock(self, ids: list[int]) -> tuple[Shape, Tensor]:
        """What keys the model makes, and its logits [vocabulary] behind a few tokens, all by transformers' own attention."""
        its_own = DynamicCache(config=self._config)
        logits = self._logits(ids, its_own)
        kinds = {(type(layer), *_key_shape(layer)) for layer in its_own.layers}
        if len({kind[1:] for kind in kinds}) != 1 or not {kind[0] for kind in kinds} <= {DynamicLayer, DynamicSlidingWindowLayer}:
            told = f"{type(self._model).__name__} keeps other things than keys and values of one shape: try hf/"
            raise EngineError(told, kind="checkpoint")
        _, key_heads, dim, dtype = kinds.pop()
        shape = Shape(layers=len(its_own.layers), key_heads=key_heads, dim=dim, dtype=dtype, block_tokens=self._block_tokens)
        return shape, logits

    def _memory_of_one(self, shape: Shape) -> int:
        """Bytes of an instance."""
        bytes_ = self._kv_memory_bytes
        if bytes_ is None:
            blocks = -(-self.window_tokens // shape.block_tokens) if self.window_tokens else None
            window = None if blocks is None else -(-blocks // self._instances) * shape.block_bytes
            free = free_bytes(self.device)
            most = None if free is None else int(free * _USED_SHARE) // self._instances
            bytes_ = min((each for each in (window, most) if each is not None), default=1 << 30)
        if bytes_ < shape.block_bytes:
            raise EngineError(
                f"{size(bytes_)} of KV memory an instance hold no block: {shape.block_tokens} tokens take {size(shape.block_bytes)}",
                kind="settings",
            )
        return bytes_

    def _check(self, ids: list[int], expected: Tensor) -> None:
        """An architecture may do what an attention function is not told of: then its logits differ."""
        self._open(ids, tokens=min(len(ids), self._block_tokens))
        found = self._forward(ids)
        self._forget()
        near = (1e-3 if found.dtype == torch.float32 else 0.1) * max(1.0, float(expected.abs().max()))
        if not torch.allclose(found.float(), expected.float(), rtol=0, atol=near):
            raise self._unknown()

    def _unknown(self) -> EngineError:
        return EngineError(f"{type(self._model).__name__} attends in a way that distkv/ does not know: try hf/", kind="checkpoint")

    def _open(self, ids: list[int], tokens: int) -> Reading:
        """Begin to read a text at an instance that lives, with room for `tokens`."""
        assert self.fleet, "the weights are read"
        if self._home is None or self._home.lost:
            if not self.fleet.managers:
                raise EngineError("all instances are lost", kind="memory")
            self._home = self._home_at(next(iter(self.fleet.managers)))
        self._reading = self._home.open(ids)
        self._cache = cache.cache_of(self._reading, self.fleet.shape.layers)
        self._reading.reserve(tokens)
        return self._reading

    def _reuse(self, ids: list[int]) -> int:
        self._recomputed = 0
        reading = self._open(ids, tokens=len(ids))
        self._furthest = reading.tokens
        self._read = ids[: reading.tokens]
        return reading.tokens

    def _takes_chunks(self) -> bool:
        return True

    def _check_memory(self, tokens: int) -> None:
        """There was room for the prompt when it began."""

    def _forward(self, ids: list[int]) -> Tensor:
        self._read += ids
        while True:
            assert self.fleet and self._home and self._reading, "a prompt is being read"
            try:
                reading = self._open(self._read, tokens=len(self._read)) if self._home.lost else self._reading
                start = reading.stand()
                rows = self._read[start : start + self._chunk_tokens]
                reading.reserve(start + len(rows))
                if reading.stand() != start:
                    continue
                logits = reading.read(len(rows), lambda rows=rows: self._logits(rows, self._cache))
            except InstanceLostError as error:
                self.fleet.lost(error.name, error.epoch)
                continue
            self._recomputed += max(0, min(self._furthest, reading.tokens) - start)
            self._furthest = max(self._furthest, reading.tokens)
            if reading.tokens == len(self._read):
                return logits

    def _logits(self, ids: list[int], past: Any) -> Tensor:
        """Behind the last token, [vocabulary]."""
        tokens = torch.tensor([ids], device=self.device)
        return self._model(input_ids=tokens, past_key_values=past, use_cache=True, return_dict=True, **self._only_last).logits[0, -1]


def _key_shape(layer: Any) -> tuple[int, int, torch.dtype]:
    """(key heads, dim, dtype); of what holds no such keys, (0, 0, bool)."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None or keys.shape != values.shape:
        return 0, 0, torch.bool
    return keys.shape[1], keys.shape[3], keys.dtype


def open_engine(folder: Path, *, instances: int = 1, kv_memory_bytes: int | None = None, cluster: str | None = None) -> Engine:
    """The engine of a checkpoint's folder, with its instances in this process or on a Ray `cluster`; EngineError (checkpoint, settings)
    when it holds none that fits, or memory does not do.
    """
    if cluster is not None:
        from niah.engines.distkv.ray_engine import RayEngine

        return RayEngine(folder, cluster=cluster, instances=instances, kv_memory_bytes=kv_memory_bytes)
    return DistKVEngine(folder, instances=instances, kv_memory_bytes=kv_memory_bytes)
