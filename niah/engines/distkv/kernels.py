"""Attention to a part of the keys, and how parts are put together: DistAttention (DistKV-LLM, arXiv 2401.02669).

Every holder of keys attends to its own with the query alone and returns output and log-sum-exp; weighting the outputs by the softmax over
holders of these gives attention to all keys, exactly and in any order. Kernels that return a log-sum-exp are private to torch: they are
called in this module only, after a test of their own, and a plain product of matrices stands in where that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

_PLAIN_TOKENS = 4096
"""Keys that the plain product takes at a time, which bounds its scores."""


class Partial(NamedTuple):
    """Attention to some of the keys."""

    out: Tensor
    """`[heads, rows, dim]`."""
    lse: Tensor
    """Logarithm of the sum of exponentials of the scaled scores, `[heads, rows]`, float32 at least; -inf in rows that see no key."""


KV: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values, each `[key heads, tokens, dim]`."""
Kernel: TypeAlias = Callable[[Tensor, KV, float, bool, Tensor | None], Partial]


def attend(query: Tensor, kv: KV, scale: float, *, causal: bool = False, seen: Tensor | None = None) -> Partial:
    """Attention of `query` `[heads, rows, dim]` to keys and values of at least one token.

    A key head serves `heads / key heads` neighbouring heads. `causal` is for as many rows as tokens: row i sees tokens 0 to i. `seen`
    `[rows, tokens]` says which token a row sees.
    """
    kernel = _kernel(query.device.type, query.dtype, query.shape[-1])
    mask = None
    if seen is not None:
        mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill_(~seen, -torch.inf)
    partial = kernel(query, kv, scale, causal, mask)
    if seen is None:
        return partial
    blind = ~seen.any(-1)
    # Kernels give such rows a log-sum-exp of 0, or no number at all.
    return Partial(partial.out.masked_fill_(blind[:, None], 0), partial.lse.masked_fill(blind, -torch.inf))


def merged(parts: list[Partial]) -> Partial:
    """Attention to the keys of all parts, of which there is at least one; the first one's output may be overwritten."""
    out, lse = parts[0]
    out = out.to(lse.dtype)
    for part in parts[1:]:
        both = torch.logaddexp(lse, part.lse)
        share = (part.lse - both).exp_().nan_to_num_(0)  # -inf in both parts: no number
        out, lse = out.lerp_(part.out.to(lse.dtype), share[..., None]), both
    return Partial(out, lse)


@lru_cache
def _kernel(device: str, dtype: torch.dtype, dim: int) -> Kernel:
    """The fastest kernel that works here: it has computed a small example right."""
    for kernel in _KERNELS.get(device, ()):
        try:
            right = _agrees(kernel, torch.device(device), dtype, dim)
        except (RuntimeError, AttributeError, TypeError):  # this torch has no such operator, another schema of it, or not for this dtype
            continue
        if right:
            return kernel
    return _plain


def _agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether a kernel gives what the plain product gives, with shared key heads, causally and masked."""
    random = torch.Generator().manual_seed(0)
    query, *kv = (torch.randn(heads, 6, dim, generator=random).to(device, dtype) for heads in (4, 2, 2))
    mask = torch.zeros(6, 6, dtype=dtype, device=device)
    mask[3:, :2] = -torch.inf
    near = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 5e-2)
    for causal, seen in ((False, None), (True, None), (False, mask)):
        found, right = (each(query, (kv[0], kv[1]), 0.3, causal, seen) for each in (kernel, _plain))
        for one, other in zip(found, right, strict=True):
            if one.shape != other.shape or not torch.allclose(one.double(), other.double(), rtol=near, atol=near):
                return False
    return True


def _plain(query: Tensor, kv: KV, scale: float, causal: bool, mask: Tensor | None) -> Partial:
    """By two products of matrices; scores in float32 at least."""
    keys, values = kv
    parts: list[Partial] = []
    exact = torch.promote_types(query.dtype, torch.float32)
    groups = query.to(exact).unflatten(0, (keys.shape[0], -1))
    if causal:
        mask = torch.full((query.shape[1], keys.shape[1]), -torch.inf, dtype=exact, device=query.device).triu_(1)
    for start in range(0, keys.shape[1], _PLAIN_TOKENS):
        some = slice(start, start + _PLAIN_TOKENS)
        scores = groups @ keys[:, None, some].to(exact).mT * scale
        if mask is not None:
            scores = scores + mask[:, some]
        lse = scores.logsumexp(-1)
        out = (scores - lse[..., None]).exp_().nan_to_num_(0) @ values[:, None, some].to(exact)
        parts.append(Partial(out.flatten(0, 1), lse.flatten(0, 1)))
    out, lse = merged(parts)
    return Partial(out.to(query.dtype), lse)


def _cpu_flash(query: Tensor, kv: KV, scale: float, causal: bool, mask: Tensor | None) -> Partial:
    """Takes strided keys and shared key heads as they are. Without tokens it would end the process."""
    if not kv[0].shape[1]:
        raise ValueError("attention to no token")
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = flash(query[None], kv[0][None], kv[1][None], 0.0, causal, attn_mask=mask, scale=scale)
    return Partial(out[0], lse[0])


def _cuda_flash(query: Tensor, kv: KV, scale: float, causal: bool, mask: Tensor | None) -> Partial:
    """Half precision, without masks."""
    if mask is not None:
        return _plain(query, kv, scale, causal, mask)
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    found = flash(query[None], *_repeated(query, kv), 0.0, causal, False, scale=scale)
    return Partial(found[0][0], found[1][0, :, : query.shape[1]])


def _cuda_efficient(query: Tensor, kv: KV, scale: float, causal: bool, mask: Tensor | None) -> Partial:
    """Any precision; its log-sum-exp may be padded to more rows."""
    if mask is not None:
        return _plain(query, kv, scale, causal, mask)
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    found = efficient(query[None], *_repeated(query, kv), None, True, 0.0, causal, scale=scale)
    return Partial(found[0][0], found[1][0, :, : query.shape[1]])


def _repeated(query: Tensor, kv: KV) -> KV:
    """Keys and values of every head: these kernels share none. Where rows are folded into key heads nothing is copied."""
    times = query.shape[0] // kv[0].shape[0]
    keys, values = kv if times == 1 else (each.repeat_interleave(times, 0) for each in kv)
    return keys[None], values[None]


_KERNELS: dict[str, tuple[Kernel, ...]] = {"cpu": (_cpu_flash,), "cuda": (_cuda_flash, _cuda_efficient)}
