"""The full-attention reader while it is trained: a standard Llama, parameter names as in Hugging Face's `LlamaForCausalLM`.

Only what training needs and the library's own class lacks: positions drawn at random (PoSE, arXiv 2309.10400), keys that count
several times ("virtual length"), logits of the answers alone. `tests/training/test_llama.py` holds it equal to transformers.
"""

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

NEAR_TOKENS = 128
"""Keys this near to the query never count several times: repetition lies far away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """Sizes, named as in Hugging Face's `LlamaConfig`."""

    vocab_size: int = 8192
    hidden_size: int = 320
    intermediate_size: int = 64
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 112
    rope_theta: float = 1e20
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 131072

    def to_hugging_face(self) -> dict[str, Any]:
        """The content of config.json."""
        return asdict(self) | {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "use_cache": True,
            "attention_bias": True, "mlp_bias": False, "tie_word_embeddings": True, "hidden_act": "silu",
            "bos_token_id": 8184, "eos_token_id": 8190, "pad_token_id": 8186,
        }  # fmt: skip


class Attention(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.rope_theta = shape.rope_theta
        width = self.heads * self.head_dim
        kv_width = self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, width)
        self.k_proj = nn.Linear(shape.hidden_size, kv_width)
        self.v_proj = nn.Linear(shape.hidden_size, kv_width)
        self.o_proj = nn.Linear(width, shape.hidden_size)
        self.seen: tuple[Tensor, Tensor] | None = None
        """Queries and keys [B, heads, T, head_dim] of the last forward in training, rotated: losses on attention need them."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        self.seen = (q, k) if self.training else None
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.heads != self.kv_heads)
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Mlp(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Norm(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden_size))
        self.eps = shape.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(shape), Norm(shape)
        self.self_attn, self.mlp = Attention(shape), Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """`forward(ids [B, T], positions [B, T], mask)` gives the normed hidden states [B, T, hidden]; `logits` those of chosen tokens."""

    frequencies: Tensor

    def __init__(self, shape: LlamaShape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape)
        # Exponents in double precision: with a large theta single precision would shift the fast pairs.
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
        self.register_buffer("frequencies", (1.0 / shape.rope_theta**half).float(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        angles = positions[:, None, :, None].float() * self.get_buffer("frequencies")
        cos, sin = angles.cos(), angles.sin()
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            cos, sin = cos.to(dtype), sin.to(dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)

    def attentions(self) -> list[Attention]:
        """The attention of each layer."""
        return [cast(Layer, layer).self_attn for layer in self.layers]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]."""
        return linear(hidden, self.embed_tokens.weight)


def repetition_mask(filler: Tensor, times: float) -> Tensor:
    """Additive causal mask [B, 1, T, T] under which every filler key further away than NEAR_TOKENS counts `times` times.

    exp(score + log w) is what w equal keys add to a softmax, so this is the attention over a text w times as long whose filler is
    repeated: a short sequence trains against the dilution of a long one. `filler` is [B, T], true for filler.
    """
    tokens = filler.shape[1]
    at = torch.arange(tokens, device=filler.device)
    distance = at[:, None] - at[None, :]
    bias = torch.where(filler[:, None, :] & (distance > NEAR_TOKENS), float(torch.tensor(times).log()), 0.0)
    return bias.masked_fill(distance < 0, float("-inf"))[:, None]
