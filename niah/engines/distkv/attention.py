"""DistAttention at a text's home: the query goes out to all holders of keys, and what they answer is put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from niah.engines.distkv.instance import Holder, Query, Run
from niah.engines.distkv.kernels import KV, Partial, attend, merged


def dist_attention(query: Query, own: KV, holders: Sequence[tuple[Holder, Sequence[Run]]]) -> Tensor:
    """Attention `[heads, rows, dim]` of new tokens, with keys and values `own`, to themselves and to all before.

    `holders` have the tokens in front of them or, of a single one, its own too; of these what row 0 has `in_sight`. Let the home come
    last: what it computes itself then overlaps with what others do.
    """
    begun = [holder.attend(query, runs) for holder, runs in holders]
    rows, parts = query.rows.shape[1], list[Partial]()
    if rows > 1:
        seen = None if query.window is None or rows <= query.window else _own(query.rows, query.window)
        parts.append(attend(query.rows, own, query.scale, causal=seen is None, seen=seen))
    parts += [finish() for finish in reversed(begun)]
    return merged(parts).out.to(query.rows.dtype)


def _own(rows: Tensor, window: int) -> Tensor:
    """Which of the new tokens each of them sees, `[rows, rows]`."""
    return rows.new_ones(rows.shape[1], rows.shape[1], dtype=torch.bool).tril().triu_(1 - window)
