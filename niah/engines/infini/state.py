"""What one layer of Infini-attention carries from call to call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from niah.engines.infini.memory import Memory, exact


@dataclass(frozen=True, kw_only=True, slots=True)
class InfiniState:
    """What a layer keeps of the tokens it has seen. No call changes it: an older state stays good, to go back to.

    Its size does not grow with the text: only the unfinished segment, of p < segment_tokens tokens, varies.
    """

    memory: Memory
    """Matrix `[b, h, f, d]` and normaliser `[b, h, f]`, float32 at least."""
    tail: Tensor
    """The last inputs, for the convolution: `[b, config.tail_tokens, d_model]`; zeros before the text."""
    keys: Tensor
    """Of the unfinished segment, `[b, p, h, d]`, without rotation, as memory will take them."""
    values: Tensor
    """`[b, p, h, d]`."""
    strengths: Tensor | None
    """How strongly those will be written, `[b, p, h]`; None for 1."""
    sinks: tuple[Tensor, Tensor]
    """Keys and values `[b, sink_tokens, h, d]` of the text's first tokens; of none in the first segment, where they are in sight."""
    recent: tuple[Tensor, Tensor]
    """Those of the segment before, `[b, overlap_tokens, h, d]`; likewise."""
    tokens: int
    """Seen so far."""

    def each(self, change: Callable[[Tensor], Tensor]) -> InfiniState:
        """This state with `change` done to all of its tensors."""
        return replace(
            self,
            memory=Memory(change(self.memory.matrix), change(self.memory.normaliser)),
            tail=change(self.tail),
            keys=change(self.keys),
            values=change(self.values),
            strengths=None if self.strengths is None else change(self.strengths),
            sinks=(change(self.sinks[0]), change(self.sinks[1])),
            recent=(change(self.recent[0]), change(self.recent[1])),
        )

    def clone(self) -> InfiniState:
        """A copy that shares no storage."""
        return self.each(torch.clone)

    def detach(self) -> InfiniState:
        """The same values; no gradient goes further back."""
        return self.each(torch.detach)

    def to(self, device: torch.device | str) -> InfiniState:
        """On another device."""
        return self.each(lambda tensor: tensor.to(device))

    def new_segment(self) -> InfiniState:
        """The memory alone, in front of a new segment: nothing else is in sight, of the segment before or of the text's beginning."""
        nothing = self.keys[:, :0], self.values[:, :0]
        return replace(
            self, tail=torch.zeros_like(self.tail), keys=nothing[0], values=nothing[1], strengths=None, sinks=nothing, recent=nothing
        )

    def without_memory(self) -> InfiniState:
        """The same, but that nothing was ever written."""
        return replace(self, memory=Memory(*(torch.zeros_like(each) for each in self.memory)))

    def state_bytes(self) -> int:
        """Size in bytes."""
        sizes: list[int] = []
        self.each(lambda tensor: sizes.append(tensor.numel() * tensor.element_size()) or tensor)
        return sum(sizes)

    def tail_after(self, x: Tensor) -> Tensor:
        """The convolution's tail when `x` `[b, t, d_model]` has been seen too."""
        kept = self.tail.shape[1]
        # Cloned: a view would hold on to the whole input.
        return torch.cat([self.tail, x[:, -kept:].to(self.tail.dtype)], dim=1)[:, -kept:].clone() if kept else self.tail

    def strengths_with(self, key: Tensor, strength: Tensor | None) -> Tensor | None:
        """The strengths of the unfinished segment and of new keys `[b, t, h, d]`; None where all are 1."""
        if not self.keys.shape[1] or (self.strengths is None and strength is None):
            return strength
        before = self.keys.new_ones(self.keys.shape[:3], dtype=exact(key.dtype)) if self.strengths is None else self.strengths
        return torch.cat([before, key.new_ones(key.shape[:3], dtype=before.dtype) if strength is None else strength], dim=1)
