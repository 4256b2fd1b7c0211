"""Attention inside a segment: rotary positions and causal softmax (equation 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from niah.engines.infini.config import InfiniConfig

BLOCK_TOKENS = 128


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`[..., n, h, d]` turned by `[n, 1, d / 2]`, in the order of Llama checkpoints (the two halves of a head, not neighbours)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of queries `[z, h, m, d]`, which are the last m of n keys and values `[z, h, n, d]`, to `[z, h, m, d]`.

    Scores are scaled by 1/sqrt(d).
    """
    asked, held = query.shape[2], key.shape[2]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        flat = [each.flatten(0, 1) for each in (query * query.shape[3] ** -0.5, key, value)]
        return _in_blocks(*flat).unflatten(0, query.shape[:2])
    mask = None if asked in (1, held) else query.new_ones(asked, held, dtype=torch.bool).tril(held - asked)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=asked == held)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by plain matrix products, block of queries by block, for scaled queries `[z, m, d]`.

    In bfloat16 on CPU, torch's fused attention takes 2 to 3 times as long, backward too (2.13, AVX-512 BF16, 128 to 512 tokens).
    """
    past = key.shape[1] - query.shape[1]
    outputs: list[Tensor] = []
    for block in query.split(BLOCK_TOKENS, dim=1):
        rows = block.shape[1]
        seen = past + rows
        hidden = block.new_full((rows, seen), float("-inf")).triu(past + 1)
        scores = torch.baddbmm(hidden, block, key[:, :seen].transpose(1, 2))
        outputs.append(torch.bmm(scores.softmax(dim=-1), value[:, :seen]))
        past = seen
    return torch.cat(outputs, dim=1)


def rotations(config: InfiniConfig, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[count, 1, d / 2]` of so many positions."""
    # What is made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        given = torch.tensor(config.rope_frequencies, dtype=torch.float64)
        angles = torch.arange(count)[:, None, None] * (given if len(given) else config.rope_theta**-steps)
        return angles.cos().to(like.device, like.dtype), angles.sin().to(like.device, like.dtype)
