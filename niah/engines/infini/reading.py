"""What heads read from memory, beyond equation 7 of arXiv 2404.07143: options of `InfiniConfig`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.memory import Memory, mean_of, recall

NOTHING_READ = 1e-6
"""A share of memory that is as good as none."""


def recalled(query: Tensor, memory: Memory, config: InfiniConfig, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """`recall` of queries' features `[..., n, f]` as `config` says, and of one size where there is a `scale`."""
    stored, known = recall(query, memory, config.read_floor)
    if config.read_centred:
        stored = stored - mean_of(memory)
    return stored if scale is None else F.rms_norm(stored, stored.shape[-1:]) * scale.to(stored.dtype), known


def told(query: Tensor, share: Tensor, read: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """What is read times its share, of queries and shares `[1, 1, h, m, *]`; a token of whose heads none reads costs nothing."""
    asking = (share > NOTHING_READ).any(2).flatten().nonzero().flatten()
    result = torch.zeros_like(query)
    if len(asking):
        stored, known = read(query.index_select(3, asking))
        result.index_copy_(3, asking, stored * known * share.index_select(3, asking))
    return result
