"""The compressive memory of Infini-attention: what a key becomes, how a segment is written, how a query reads.

After "Leave No Context Behind" (arXiv 2404.07143), equations 7 to 9. Shapes: b batch, s segments, h heads, n tokens of a
segment, d head_dim, f features of a key. All of it runs in float32 at least: in bfloat16 a memory of 1M tokens is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from niah.engines.infini.config import FeatureKind, InfiniConfig

NOTHING = 1e-30
"""A normaliser at or below this has nothing written for the query. It replaces the epsilon that the paper leaves open: keys near
-12 are wanted (they are how filler is kept out), so that a normaliser of 1e-9 is real and an epsilon of 1e-6 would swallow it."""


class Memory(NamedTuple):
    """The matrix M `[..., f, d]` and the normaliser z `[..., f]` of a head."""

    matrix: Tensor
    normaliser: Tensor


def exact(dtype: torch.dtype) -> torch.dtype:
    """What memory is kept and computed in beside activations of `dtype`."""
    return torch.promote_types(dtype, torch.float32)


class FeatureMap(nn.Module):
    """The sigma of equations 7 to 9: `[..., h, n, d]` to non-negative features `[..., h, n, f]`.

    `elu1` is the paper's ELU + 1. The others deviate: `elu1_biased` learns a scale and a bias per head and dimension in front of it
    (a bias well below zero makes features sparse), `dpfp` is the deterministic projection of Schlag et al. (arXiv 2102.11174),
    `softmax` one or more softmaxes over a projection of its own per head. A frozen projection follows from `config.feature_seed` and is
    no part of the `state_dict`, unless one that was loaded is another: then that one stays and is saved.
    """

    def __init__(self, config: InfiniConfig):
        super().__init__()
        self.kind: FeatureKind = config.feature_map
        self.nu, self.groups = config.dpfp_nu, config.feature_groups
        heads, size = config.remembering, config.head_dim
        self.count = {"dpfp": 2 * self.nu * size, "softmax": config.feature_count or 4 * size}.get(self.kind, size)
        if self.kind == "elu1_biased":
            self.scale = nn.Parameter(torch.full((heads, 1, size), config.feature_scale))
            self.bias = nn.Parameter(torch.full((heads, 1, size), config.feature_bias))
        elif self.kind == "softmax":
            source = torch.Generator().manual_seed(config.feature_seed)
            projection = torch.randn(heads, size, self.count, generator=source, dtype=torch.float32) * size**-0.5 * config.feature_scale
            projection = projection.to(torch.get_default_dtype())
            if config.feature_frozen:
                self.register_buffer("projection", projection, persistent=False)
                self.register_load_state_dict_pre_hook(_take_projection)
            else:
                self.projection = nn.Parameter(projection)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "softmax":
            return torch.softmax((x @ self.projection.to(x.dtype)).unflatten(-1, (self.groups, -1)), dim=-1).flatten(-2)
        if self.kind == "dpfp":
            halves = torch.cat([x, -x], dim=-1).relu()
            return torch.cat([halves * halves.roll(step, dims=-1) for step in range(1, self.nu + 1)], dim=-1)
        if self.kind == "elu1_biased":
            x = x * self.scale.to(x.dtype) + self.bias.to(x.dtype)
        # ELU(x) + 1 written so that it keeps its relative precision far below zero, where elu(x) + 1 rounds to 0 (float32: x < -17).
        return x.clamp(max=0).exp_() + x.relu()


def _take_projection(features: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A frozen projection that is in what is loaded is left out where it is the one that was drawn, and otherwise taken."""
    given: Tensor | None = state_dict.get(f"{prefix}projection")
    own = features.get_buffer("projection")
    if given is None or given.shape != own.shape:
        return
    # Half precision is allowed for, and another machine's logarithm.
    if torch.allclose(given.to(own), own, rtol=1e-2, atol=1e-5):
        del state_dict[f"{prefix}projection"]
    else:
        features.register_buffer("projection", own, persistent=True)


def recall(query: Tensor, memory: Memory, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Equation 7 for queries `[..., n, f]`: what was stored `[..., n, d]`, and where anything was stored at all `[..., n, 1]` (bool).

    Where nothing was, the value has no meaning (it is finite). With a `floor` the latter is a share: what lies there is known by half.
    """
    weight = _dots(query, memory.normaliser)
    known = weight / (weight + floor) if floor else weight > NOTHING
    return (query @ memory.matrix) / weight.clamp(min=NOTHING), known


def mean_of(memory: Memory) -> Tensor:
    """The mean of all values by strength, `[..., 1, d]`, of a memory whose keys' features all have one sum."""
    return memory.matrix.sum(-2, keepdim=True) / memory.normaliser.sum(-1).clamp(min=NOTHING)[..., None, None]


def write_all(key: Tensor, value: Tensor, strength: Tensor | None, start: Memory, config: InfiniConfig) -> tuple[Memory, Memory]:
    """Writes s whole segments, one after the other.

    Args:
        key: features `[b, s, h, n, f]`.
        value: `[b, s, h, n, d]`.
        strength: `[b, s, h, n]`, multiplies a key's features in M and z; None for 1.
        start: the memory in front of the first segment, `[b, h, f, d]` and `[b, h, f]`.
        config: its rule, `linear` (equation 8) or `delta` (equation 9: the value that a key already has is subtracted).

    Returns:
        The memory that each segment reads, `[b, s, h, f, d]` and `[b, s, h, f]`, and the memory after the last.
    """
    if config.rule == "linear":
        # Exclusive: a segment reads what was written before it, never itself.
        matrices = _running_sum(start.matrix, _bound(key, value, strength))
        normalisers = _running_sum(start.normaliser, _counted(key, strength))
        # Cloned: a view would hold on to the memories of all segments.
        return Memory(matrices[:, :-1], normalisers[:, :-1]), Memory(matrices[:, -1].clone(), normalisers[:, -1].clone())
    memory = start
    before: list[Memory] = []
    for segment in range(key.shape[1]):
        before.append(memory)
        share = None if strength is None else strength[:, segment]
        memory = _delta(key[:, segment], value[:, segment], share, memory, corrected=config.corrected_normaliser)
    return _side_by_side(before), memory


def write_told(
    features: FeatureMap, pair: tuple[Tensor, Tensor], strength: Tensor, start: Memory, config: InfiniConfig
) -> tuple[Memory, Memory]:
    """`write_all` of keys and values `[b, s, h, n, d]`; no features are made of keys that no head writes."""
    key, value = pair
    if key.shape[0] > 1:
        return write_all(features(key), value, strength, start, config)
    memory, before = start, list[Memory]()
    for segment in range(key.shape[1]):
        before.append(memory)
        kept = (strength[0, segment] > 0).any(0).nonzero().flatten()
        if len(kept):
            some, told, how = (each[:, segment : segment + 1].index_select(3, kept) for each in (key, value, strength))
            memory = write_all(features(some), told, how, memory, config)[1]
    return _side_by_side(before), memory


def _side_by_side(memories: Sequence[Memory]) -> Memory:
    """Memories of one segment each, `[b, s, h, f, d]` and `[b, s, h, f]`."""
    return Memory(torch.stack([each.matrix for each in memories], dim=1), torch.stack([each.normaliser for each in memories], dim=1))


def _bound(key: Tensor, value: Tensor, strength: Tensor | None) -> Tensor:
    """What a segment adds to M, `[..., f, d]`."""
    return key.transpose(-1, -2) @ (value if strength is None else value * strength.unsqueeze(-1))


def _counted(key: Tensor, strength: Tensor | None) -> Tensor:
    """What a segment adds to z, `[..., f]`."""
    return key.sum(dim=-2) if strength is None else (strength.unsqueeze(-2) @ key).squeeze(-2)


def _dots(key: Tensor, normaliser: Tensor) -> Tensor:
    """`[..., n, f]` and `[..., f]` to `[..., n, 1]`; on CPU a batched matrix product with one column takes several times as long."""
    return torch.einsum("...nf,...f->...n", key, normaliser).unsqueeze(-1)


def _running_sum(start: Tensor, steps: Tensor) -> Tensor:
    """`[b, ...]` and `[b, s, ...]` to `[b, s + 1, ...]`."""
    return torch.cat([start.unsqueeze(1), steps], dim=1).cumsum(dim=1)


def _delta(key: Tensor, value: Tensor, strength: Tensor | None, memory: Memory, *, corrected: bool) -> Memory:
    """Equation 9 for one segment, all of whose tokens subtract what the memory held in front of the segment.

    As printed, z counts a key again whose value is no longer added, so that a fact told twice reads back at half its strength.
    `corrected` is the factor of ARMT (arXiv 2407.04841): z += gamma * sigma(k), gamma = clip(1 - z sigma(k) / |sigma(k)|^2, 0, 1),
    without a gradient through gamma. A key repeated in later segments then keeps its value, and a new value replaces it. Both hold
    per segment, as in the sources: a known key that comes n times *within* a later segment is moved n times too far (from n = 3 on it
    swings ever wider), so that this rule wants few or faint writes a segment.
    """
    stored, known = recall(key, memory)
    matrix = memory.matrix + _bound(key, value - stored * known, strength)
    if corrected:
        with torch.no_grad():
            length = key.square().sum(dim=-1).clamp(min=NOTHING)
            new = (1 - _dots(key, memory.normaliser).squeeze(-1) / length).clamp(0, 1)
        strength = new if strength is None else strength * new
    return Memory(matrix, memory.normaliser + _counted(key, strength))
