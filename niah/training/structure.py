"""Structured initial weights: a retrieval circuit that training then refines.

A model of this size is expected to need tens of millions of tokens before it copies at all from random weights. So the stream
starts out divided into parts, and the first heads start out with one task each:

    I  who am I: a random unit code of the token      B  the three tokens before me: their codes, one rotation a step
    C  content of the last 40 tokens, rare ones most  S  how my sentence begins: B of its third token
    E  ends a sentence                                E3 the token three places back did

The first token of all holds no code: a head that finds nothing looks there and adds nothing.

    layer 0  three heads look back 1, 2 and 3 tokens (B, E3), one averages a window (C)
    layer 1  one head keeps the question's content at hand (C), one looks at the beginning of its sentence (S)
    layer 2  two heads look for the place whose content is most like the question's, and take its C and S
    layer 3  two heads look for the token that stands behind the last tokens of the answer (B), by preference where the content is
             right (C), and write its code; one writes the first tokens that S holds, which begins the answer

Everything else starts small and random. Nothing in here knows a needle, a template or a text but token frequencies.
"""

import math

import torch
from torch import Tensor

from niah.training.llama import Attention, Llama

I_PART, B_PART, C_PART, S_PART = slice(0, 96), slice(96, 160), slice(160, 244), slice(244, 308)
E_AT, E3_AT, BOS_AT = 308, 309, 310
_CONTENT = 84
_FREE_BELOW = 1.2e-5  # radians a token: such pairs turn by a third of a radian in 32,768 tokens, and carry content
SINK = 12.0
_BOS, _ASSISTANT = 8184, 8189


def initialise(model: Llama, counts: Tensor, boundary: Tensor, asking: Tensor, seed: int) -> None:
    """Fills `model` (in place).

    `counts` [vocabulary] are token frequencies; `boundary` and `asking` [vocabulary] mark tokens that end a sentence, and a question.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                continue
            if parameter.ndim == 1 or "o_proj" in name or "down_proj" in name:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * (0.06 if "mlp" in name else 0.02))
        codes = _Codes(model, counts, boundary, asking, random)
        turn, entry = orthogonal(64, 64, random), orthogonal(64, 96, random)
        layers = model.attentions()
        _look_around(layers[0], turn, entry)
        _mark(layers[1], codes)
        _retrieve(layers[2], codes)
        _copy(layers[3], codes, turn, entry, random)
        model.norm.weight.fill_(0.05)
        model.norm.weight[I_PART] = 1.0


class _Codes:
    """Token codes, written into the embedding, and the directions that heads look for."""

    def __init__(self, model: Llama, counts: Tensor, boundary: Tensor, asking: Tensor, random: torch.Generator):
        code = unit(torch.randn(len(counts), 96, generator=random))
        self.question = unit(torch.randn(_CONTENT, generator=random))
        content = torch.randn(len(counts), _CONTENT, generator=random)
        content -= torch.outer(content @ self.question, self.question)
        embedding = torch.zeros(len(counts), model.shape.hidden_size)
        embedding[:, I_PART] = code
        embedding[:, C_PART] = 0.3 * rarities(counts)[:, None] * unit(content)
        embedding[asking, C_PART] = 0.5 * self.question
        embedding[boundary, E_AT] = 1.0
        embedding[_BOS] = 0.0
        embedding[_BOS, BOS_AT] = 1.0
        model.embed_tokens.weight.copy_(embedding)
        self.assistant = code[_ASSISTANT]


def rarities(counts: Tensor) -> Tensor:
    """0.02 for the commonest tokens to 1.2 for tokens hardly seen, by the logarithm of their frequency; 0 for special ones."""
    rarity = ((math.log(float(counts.sum())) - torch.log(counts + 3.0) - 5.0) / 6.0).clamp(0.02, 1.2)
    rarity[_BOS:] = 0.0
    return rarity


def unit(x: Tensor) -> Tensor:
    """Length 1 along the last dimension."""
    return x / x.norm(dim=-1, keepdim=True)


def orthogonal(rows: int, columns: int, random: torch.Generator) -> Tensor:
    """A matrix with orthonormal rows (rows <= columns)."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=random))[0].T.contiguous()


class _Head:
    """Views of one head's rows in the projections, zero to begin with. Pair i of its dimensions is (i, i + half)."""

    def __init__(self, attention: Attention, number: int, frequencies: Tensor):
        size = attention.head_dim
        rows = slice(number * size, (number + 1) * size)
        self.half, self.scale, self.frequencies = size // 2, size**0.25, frequencies
        self.q, self.k, self.v = (m.weight[rows] for m in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.q_bias, self.k_bias = attention.q_proj.bias[rows], attention.k_proj.bias[rows]
        self.o = attention.o_proj.weight[:, rows]
        for part in (self.q, self.k, self.v, self.o):
            part.zero_()
        pairs = (frequencies < _FREE_BELOW).nonzero().flatten()
        self.free = torch.cat([pairs, pairs + self.half])
        """The dimensions that carry content, whatever the distance."""

    def near(self, fastest: float, slowest: float, strength: float, offset: float = 0.0) -> None:
        """Adds strength * cos(f * (distance - offset)) for each pair of a frequency f between; a negative strength pushes away."""
        for pair, frequency in enumerate(self.frequencies.tolist()):
            if slowest <= frequency <= fastest:
                size, phase = math.sqrt(abs(strength)) * self.scale, frequency * offset
                self.q_bias[pair], self.q_bias[pair + self.half] = size * math.cos(phase), -size * math.sin(phase)
                self.k_bias[pair] = math.copysign(size, strength)


def _heads(attention: Attention) -> list[_Head]:
    half = torch.arange(0, attention.head_dim, 2, dtype=torch.float64) / attention.head_dim
    return [_Head(attention, number, attention.rope_theta**-half) for number in range(attention.heads)]


def _look_around(attention: Attention, turn: Tensor, entry: Tensor) -> None:
    factor = 16.0  # what the norm multiplies the stream with here; likewise below
    heads, rotation = _heads(attention), entry
    for back, head in enumerate(heads[:3], start=1):
        head.near(0.3, 3e-5, 3.0, offset=back)
        head.near(1.0, 0.3, 9.0, offset=back)
        rotation = turn @ rotation
        head.v[:64, I_PART] = rotation / factor
        head.o[B_PART, :64] = torch.eye(64)
    heads[2].v[64, E_AT] = 1 / factor
    heads[2].o[E3_AT, 64] = 2.0
    heads[3].near(0.03, 3e-5, 4.0)
    heads[3].v[:_CONTENT, C_PART] = torch.eye(_CONTENT) * (4 / factor)
    heads[3].o[C_PART, :_CONTENT] = torch.eye(_CONTENT) * 12


def _mark(attention: Attention, codes: _Codes) -> None:
    factor = 6.8
    question, start = _heads(attention)[:2]
    question.near(0.04, 8e-5, 6.0)
    at = question.free[0]
    question.q_bias[at] = question.scale * 5
    question.k[at, I_PART] = codes.assistant * 8 * question.scale / factor
    question.k[at, BOS_AT] = 1.0 * question.scale / factor
    question.v[:_CONTENT, C_PART] = torch.eye(_CONTENT) / factor * 2
    question.o[C_PART, :_CONTENT] = torch.eye(_CONTENT)
    start.near(0.04, 8e-5, 5.0)
    start.q_bias[at] = start.scale * 5
    start.k[at, E3_AT] = 3.0 * start.scale / factor
    start.v[:64, B_PART] = torch.eye(64) / factor
    start.o[S_PART, :64] = torch.eye(64)


def _retrieve(attention: Attention, codes: _Codes) -> None:
    factor = 6.0
    for head, sharp in zip(_heads(attention)[:2], (6.0, 3.0), strict=True):
        head.near(0.03, 0.005, -9.0)
        like = torch.eye(_CONTENT) * math.sqrt(sharp) * head.scale / factor
        along = torch.outer(codes.question, codes.question)
        free = head.free[:_CONTENT]
        head.q[free, C_PART] = like - along @ like
        # The question is most like itself: places with a question mark in view are passed over.
        head.q_bias[free] = -codes.question * head.scale * 5
        head.k[free, C_PART] = like + along * head.scale * 6 / factor
        head.v[:64, S_PART] = torch.eye(64) / factor
        head.v[64:, C_PART] = torch.eye(_CONTENT)[: head.v.shape[0] - 64] / factor
        head.o[S_PART, :64] = torch.eye(64) * 3.0
        head.o[C_PART, 64:] = torch.eye(_CONTENT)[:, : head.v.shape[0] - 64] * 0.5


def _copy(attention: Attention, codes: _Codes, turn: Tensor, entry: Tensor, random: torch.Generator) -> None:
    factor = 5.0
    heads = _heads(attention)
    for head, (grams, place) in zip(heads[:2], ((40.0, 1.5), (40.0, 0.5)), strict=True):
        head.near(0.03, 0.005, -2.0)
        grams_at, place_at = head.free[:64], head.free[64:]
        by_grams, by_place = math.sqrt(grams) * head.scale / factor, math.sqrt(place) * head.scale / factor
        head.q[grams_at, I_PART] = turn @ entry * by_grams
        head.q[grams_at, B_PART] = turn * by_grams
        head.k[grams_at, B_PART] = torch.eye(64) * by_grams
        address = orthogonal(len(place_at), _CONTENT, random)
        head.q[place_at, C_PART] = address * by_place
        head.k[place_at, C_PART] = address * by_place
        head.v[:96, I_PART] = torch.eye(96) / factor
        head.o[I_PART, :96] = torch.eye(96) * 14
        # Less than two tokens in common: nothing is copied.
        head.q_bias[grams_at[0]] = head.scale * 2
        head.k[grams_at[0], BOS_AT] = SINK * head.scale / 2 / 17.9
    begin, own = heads[2:]
    begin.near(1.0, 3e-5, 3.0)
    begin.v[:64, S_PART] = torch.eye(64) / factor
    second = turn @ entry
    first = turn @ second
    begin.o[I_PART, :64] = 1.5 * first.T + 0.8 * second.T
    own.near(1.0, 3e-5, 3.0)
    own.v[:96, I_PART] = torch.eye(96) / factor
    own.o[I_PART, :96] = torch.eye(96) * -3  # so that the second token follows the first
