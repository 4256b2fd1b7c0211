"""What a token sees of what stands in front of its segment, and what a segment hands on to the next.

Shapes: b batch, s segments, n tokens of a segment, h heads, d head_dim. Keys and values are treated alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


def in_sight(own: Tensor, sinks: Tensor, recent: Tensor, overlap_tokens: int) -> Tensor:
    """Segments `[b, s, n, h, d]` with the text's first tokens `[b, k, h, d]` and the last ones of the segment before in front of each."""
    first = sinks.unsqueeze(1).expand(-1, own.shape[1], -1, -1, -1)
    parts = [part for part in (first, _in_front(own, recent, overlap_tokens), own) if part.shape[2]]
    return torch.cat(parts, dim=2) if len(parts) > 1 else own


def last(own: Tensor, tokens: int) -> Tensor:
    """The last tokens of the last of the segments `[b, s, n, h, d]`, `[b, tokens, h, d]`."""
    # Cloned: a view would hold on to the whole call's tensors.
    return own[:, -1, own.shape[2] - tokens :].clone()


def _in_front(own: Tensor, recent: Tensor, tokens: int) -> Tensor:
    """The `tokens` in front of each segment, `[b, s, tokens, h, d]`; none where the text begins."""
    before = recent[:, None, max(recent.shape[1] - tokens, 0) :]
    return torch.cat([before, own[:, :-1, own.shape[2] - tokens :]], dim=1) if own.shape[1] > 1 else before
