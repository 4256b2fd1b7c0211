"""Small random layers with every option, and texts for them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.state import InfiniState

OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "delta": {"rule": "delta"},
    "corrected": {"rule": "delta", "corrected_normaliser": True},
    "bias": {"attention_bias": True},
    "conv": {"conv_width": 4},
    "dilated": {"conv_width": 3, "conv_dilations": (1, 4)},
    "read_norm": {"read_norm": True},
    "centred": {"read_centred": True, "feature_map": "softmax", "feature_groups": 2, "write_gate": True},
    "floor": {"read_floor": 0.7, "read_norm": True},
    "floor_alone": {"read_floor": 0.7, "feature_map": "softmax", "memory_heads": 1, "memory_alone": True, "read_gate": True},
    "write_gate": {"write_gate": True, "write_gate_bias": -1.0},
    "pool": {"write_gate": True, "write_pool": True, "feature_map": "softmax"},
    "pool_delta": {"write_gate": True, "write_pool": True, "rule": "delta", "corrected_normaliser": True},
    "least": {"write_gate": True, "write_least": 0.4},
    "least_pool": {"write_gate": True, "write_pool": True, "write_least": 0.05, "memory_heads": 1},
    "read_gate": {"read_gate": True},
    "alone": {"memory_heads": 1, "memory_alone": True, "read_norm": True},
    "alone_gated": {"memory_heads": 1, "memory_alone": True, "read_gate": True, "sink_tokens": 1, "overlap_tokens": 1},
    "biased": {"feature_map": "elu1_biased", "feature_bias": -2.0, "feature_scale": 2.0},
    "dpfp": {"feature_map": "dpfp", "dpfp_nu": 2},
    "softmax": {"feature_map": "softmax", "feature_count": 7},
    "groups": {"feature_map": "softmax", "feature_count": 6, "feature_groups": 3},
    "sinks": {"sink_tokens": 2},
    "overlap": {"overlap_tokens": 3},
    "one_remembers": {"memory_heads": 1, "read_norm": True, "write_gate": True},
    "none_remembers": {"memory_heads": 0, "overlap_tokens": 1},
    "sight": {
        "sink_tokens": 2,
        "overlap_tokens": 2,
        "memory_heads": 1,
        "write_gate": True,
        "feature_map": "softmax",
        "rule": "delta",
    },
    "all": {
        "attention_bias": True,
        "conv_width": 2,
        "conv_dilations": (1, 3),
        "read_norm": True,
        "write_gate": True,
        "feature_map": "softmax",
    },
    "all_delta": {
        "rule": "delta",
        "corrected_normaliser": True,
        "conv_width": 4,
        "read_norm": True,
        "write_gate": True,
        "feature_map": "elu1_biased",
    },
}

REMEMBERING = [name for name in OPTIONS if name != "none_remembers"]
SEEING = ("sinks", "overlap", "sight", "alone_gated")


def layer(seed: int = 0, **options: Any) -> InfiniAttention:
    """A small random layer, float64, none of whose parameters is special."""
    torch.manual_seed(seed)
    module = InfiniAttention(InfiniConfig(**{"d_model": 6, "heads": 2, "head_dim": 4, "segment_tokens": 5} | options)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def text(tokens: int, *, batch: int = 1, d_model: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(batch, tokens, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def streamed(
    module: InfiniAttention, x: Tensor, cuts: list[int], weight: Tensor | None = None, state: InfiniState | None = None
) -> tuple[Tensor, InfiniState]:
    """The text in pieces that end at `cuts`."""
    outputs, borders = [], sorted({0, *cuts, x.shape[1]})
    for start, end in itertools.pairwise(borders):
        output, state = module(x[:, start:end], state, write_weight=None if weight is None else weight[:, start:end])
        outputs.append(output)
    assert state is not None
    return torch.cat(outputs, dim=1), state


def close(one: Tensor, other: Tensor, *, within: float = 1e-9) -> bool:
    return torch.allclose(one, other, rtol=within, atol=within)
