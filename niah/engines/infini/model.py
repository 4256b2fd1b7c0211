"""A small language model whose layers all attend by Infini-attention (niah/engines/infini/attention.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

from niah.engines.infini.attention import InfiniAttention, Watch
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.state import InfiniState

States = tuple[InfiniState, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of the model; `layers` holds one attention a layer, all with the same `d_model` and `segment_tokens`."""

    vocabulary: int
    d_model: int
    mlp: int
    layers: tuple[InfiniConfig, ...]
    norm_epsilon: float = 1e-5
    tied_embeddings: bool = True
    """What tokens become on their way in makes them on their way out too."""
    end_tokens: tuple[int, ...] = ()
    """Tokens that end an answer."""
    border_at_question: bool = False
    """What follows the text begins a new segment, as in the training of the bundled reader."""

    def __post_init__(self) -> None:
        if not self.layers or any(layer.d_model != self.d_model for layer in self.layers):
            raise ValueError("a model needs at least one layer, each with the model's d_model")
        if len({layer.segment_tokens for layer in self.layers}) > 1:
            raise ValueError("all layers have the same segment_tokens")

    @property
    def segment_tokens(self) -> int:
        return self.layers[0].segment_tokens

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"model_type": "niah-infini"} | asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ModelConfig:
        """The configuration in a checkpoint's config.json. ValueError says what does not fit."""
        data = dict(data)
        if data.pop("model_type", None) != "niah-infini":
            raise ValueError("its config.json is not of an Infini-attention model of niah (model_type is not niah-infini)")
        try:
            layers = tuple(InfiniConfig(**_tuples(layer)) for layer in data.pop("layers"))
            return cls(layers=layers, **_tuples(data))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"its config.json does not fit this version of niah: {error}") from None


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, d_model: int, size: int):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, size, bias=False)
        self.up_proj = nn.Linear(d_model, size, bias=False)
        self.down_proj = nn.Linear(size, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and MLP, each behind an RMS norm and around a residual."""

    def __init__(self, config: ModelConfig, attention: InfiniConfig):
        super().__init__()
        self.input_norm = nn.RMSNorm(config.d_model, eps=config.norm_epsilon)
        self.attention = InfiniAttention(attention)
        self.mlp_norm = nn.RMSNorm(config.d_model, eps=config.norm_epsilon)
        self.mlp = Mlp(config.d_model, config.mlp)

    def forward(self, x: Tensor, state: InfiniState | None, write_weight: Tensor | None, watch: Watch | None) -> tuple[Tensor, InfiniState]:
        attended, after = self.attention(self.input_norm(x), state, write_weight=write_weight, watch=watch)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), after


class InfiniModel(nn.Module):
    """Tokens in, normed hidden states and the new state out; `logits` are made for chosen positions only."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.d_model)
        self.layers = nn.ModuleList(Layer(config, attention) for attention in config.layers)
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_epsilon)
        self.head = None if config.tied_embeddings else nn.Linear(config.d_model, config.vocabulary, bias=False)

    def forward(
        self, ids: Tensor, states: States | None = None, *, write_weight: Tensor | None = None, watches: Sequence[Watch] | None = None
    ) -> tuple[Tensor, States]:
        """Over the next tokens `[b, t]` of a text: `[b, t, d_model]` and the state of each layer after them."""
        x = self.embed(ids)
        after: list[InfiniState] = []
        for number, layer in enumerate(self.layers):
            x, state = layer(x, states[number] if states else None, write_weight, watches[number] if watches else None)
            after.append(state)
        return self.norm(x), tuple(after)

    def absorb(self, ids: Tensor, states: States | None = None) -> States:
        """The states that `forward` would give, without the hidden ones: for a text that is only to be remembered."""
        x = self.embed(ids)
        after: list[InfiniState] = []
        before = states or (None,) * len(self.layers)
        *others, last = cast("list[Layer]", list(self.layers))
        for layer, state in zip(others, before, strict=False):
            x, seen = layer(x, state, None, None)
            after.append(seen)
        return (*after, last.attention.absorb(last.input_norm(x), before[-1]))

    def close_segment(self, states: States) -> States:
        """The text is over: what comes begins a new segment (`InfiniAttention.close_segment`)."""
        return tuple(attention.close_segment(state) for attention, state in zip(self.attentions(), states, strict=True))

    def attentions(self) -> list[InfiniAttention]:
        """The attention of each layer."""
        return [cast(Layer, layer).attention for layer in self.layers]

    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., d_model]` to `[..., vocabulary]`."""
        return F.linear(hidden, self.embed.weight) if self.head is None else self.head(hidden)
