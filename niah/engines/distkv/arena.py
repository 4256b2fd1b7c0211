"""Where keys and values lie: all of an instance's KV memory, taken at once and cut into blocks of so many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from niah.engines.distkv.kernels import KV


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of the keys and values of a model, and into how many tokens a block they are cut."""

    layers: int
    key_heads: int
    dim: int
    dtype: torch.dtype
    block_tokens: int

    @property
    def block_bytes(self) -> int:
        """Keys and values of one block in all layers."""
        return 2 * self.layers * self.key_heads * self.block_tokens * self.dim * self.dtype.itemsize


class Arena:
    """`slots` blocks on a device. Blocks in adjacent slots are one piece of memory: tokens `start` to `stop` of the arena, whose first
    `block_tokens` are those of slot 0, make one view whatever blocks they belong to.
    """

    def __init__(self, shape: Shape, slots: int, device: str):
        self.shape, self.slots = shape, slots
        # Heads outside of tokens: a head's keys are read in one go, which makes decoding a tenth faster than the other way round.
        size = (2, shape.key_heads, slots * shape.block_tokens, shape.dim)
        self._layers = [torch.empty(size, dtype=shape.dtype, device=device) for _ in range(shape.layers)]

    @property
    def bytes(self) -> int:
        return sum(layer.nbytes for layer in self._layers)

    @torch.inference_mode()  # or else what was made in that mode could not be written outside of it
    def write(self, layer: int, start: int, kv: KV) -> None:
        """Keep keys and values from a token of the arena on."""
        for room, new in zip(self._layers[layer][:, :, start : start + kv[0].shape[1]], kv, strict=True):
            room.copy_(new)

    def read(self, layer: int, start: int, stop: int) -> KV:
        """Views of keys and values."""
        keys, values = self._layers[layer][:, :, start:stop].unbind()
        return keys, values

    def take(self, slots: Sequence[int]) -> Tensor:
        """A copy of blocks, to be sent: `[layers, 2, key heads, blocks, block_tokens, dim]`."""
        at = torch.tensor(slots, device=self._layers[0].device)
        return torch.stack([self._blocks(layer).index_select(2, at) for layer in range(self.shape.layers)])

    @torch.inference_mode()
    def put(self, slots: Sequence[int], blocks: Tensor) -> None:
        """Keep blocks as `take` gives them."""
        at = torch.tensor(slots, device=self._layers[0].device)
        for layer, some in enumerate(blocks):
            self._blocks(layer).index_copy_(2, at, some.to(self._layers[layer].device))

    def _blocks(self, layer: int) -> Tensor:
        return self._layers[layer].unflatten(2, (self.slots, self.shape.block_tokens))
