"""Structured initial weights of the `infini` reader: what to file in memory and how to ask for it, which training then refines.

Parts of the stream: I the token's random code; S how its sentence begins (the codes of the first three tokens); T what memory
says about its word; how rare it is; whether it ends a sentence.

    layer 0  free
    layer 1  one head looks at the beginning of the sentence (S)
    layer 2  memory: a word -> the beginning of the sentence that it stands in (T), rare words only
    layer 3  one head averages T over the rare words of the question: which sentence to begin; three heads: memory of
             the last three tokens -> the next one

Random features of a softmax make keys nearly orthogonal: each n-gram owns a few of 1,024 slots, in each head others.
"""

import math

import torch
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention
from niah.engines.infini.model import InfiniModel
from niah.training.structure import orthogonal, rarities, unit

I_PART, S_PART, T_PART, RARE_AT, END_AT = slice(0, 96), slice(96, 192), slice(192, 288), 288, 289
_FREE = 28  # rotation of the pairs from here on does not show within a segment
_Q, _K, _V = 0, 1, 2


def initialise(model: InfiniModel, counts: Tensor, boundary: Tensor, ordinary: Tensor, seed: int) -> None:
    """Fills `model` in place; arguments as in `structure.initialise`. `ordinary` are token ids that never count as rare."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "beta" in name or "features" in name or "read_scale" in name or "write_gate.bias" in name:
                continue
            if "write_gate" in name or "conv" in name or "o_proj" in name or parameter.ndim == 1:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.02)
        for name, parameter in model.named_parameters():
            if "down_proj" in name:
                parameter.zero_()
        code = unit(torch.randn(len(counts), 96, generator=random))
        end = unit(torch.randn(96, generator=random))
        code[boundary] = unit(0.7 * end + 0.7 * code[boundary])
        rarity = rarities(counts)
        model.embed.weight.zero_()
        model.embed.weight[:, I_PART] = code
        rarity[ordinary] = 0.0
        model.embed.weight[:, RARE_AT] = rarity
        model.embed.weight[boundary, END_AT] = 1.0
        signs = torch.randint(0, 2, (4, 96), generator=random) * 2.0 - 1
        starts = torch.randint(0, 2, (3, 96), generator=random) * 2.0 - 1
        begins = orthogonal(96, 96, random)
        _, start, words, grams = model.attentions()
        _look_at_start(start, starts, begins)
        _file_words(words, signs)
        _file_grams(grams, signs, starts, begins)
        model.norm.weight.fill_(0.05)
        model.norm.weight[I_PART] = 1.0


class Head:
    """Views of one head's rows; they begin at zero."""

    def __init__(self, attention: InfiniAttention, number: int):
        size = attention.config.head_dim
        rows = slice(number * size, (number + 1) * size)
        self.half, self.scale, self.theta = size // 2, size**0.25, attention.config.rope_theta
        self.q, self.k, self.v = (m.weight[rows] for m in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.q_bias, self.k_bias = attention.q_proj.bias[rows], attention.k_proj.bias[rows]
        self.o = attention.o_proj.weight[:, rows]
        for part in (self.q, self.k, self.v, self.o):
            part.zero_()

    def near(self, pairs: range, strength: float) -> None:
        """Adds strength * cos(f * distance) to the score for each pair."""
        for pair in pairs:
            self.q_bias[pair] = self.k_bias[pair] = math.sqrt(strength) * self.scale


def _taps(attention: InfiniAttention) -> Tensor:
    """The convolution's weights [stream, dilation, tap, channel]."""
    assert attention.conv is not None
    return attention.conv.weight


def _look_at_start(attention: InfiniAttention, starts: Tensor, begins: Tensor) -> None:
    factor = 15.0
    taps = _taps(attention)
    taps[_K, 0, 0, END_AT] = -1.0
    taps[_K, 0, 3, END_AT] = 1.0  # three behind a sentence's end stands the third token of the next, which has seen the first two
    for back in range(3):
        taps[_V, 0, back, I_PART] = starts[back] - (1.0 if back == 0 else 0.0)
    head = Head(attention, 0)
    head.near(range(8, 24), 1.0)
    head.q_bias[_FREE] = head.scale * 3
    head.k[_FREE, END_AT] = 2 * head.scale / factor
    head.v[:, I_PART] = begins / factor
    head.o[S_PART, :] = torch.eye(96)


def _file_words(attention: InfiniAttention, signs: Tensor) -> None:
    factor = 7.0
    taps = _taps(attention)
    gate = attention.write_gate
    assert gate is not None
    taps[_Q, 0, 1, I_PART] = signs[1] * 0.5
    taps[_K, 0, 1, I_PART] = signs[1] * 0.5
    for number in (0, 1):
        head = Head(attention, number)
        head.q[:, I_PART] = torch.eye(96) * math.sqrt(96) / factor
        head.k[:, I_PART] = torch.eye(96) * math.sqrt(96) / factor
        head.v[:, S_PART] = torch.eye(96) / factor
        head.o[T_PART, :] = torch.eye(96)
        gate.weight[number, RARE_AT] = 20.0 / factor
        gate.bias[number] = -8.0


def _file_grams(attention: InfiniAttention, signs: Tensor, starts: Tensor, begins: Tensor) -> None:
    factor = 6.0
    taps = _taps(attention)
    taps[_K, 0, 0, I_PART] = -1.0
    for back in (1, 2, 3):
        taps[_K, 0, back, I_PART] = signs[back]
    for back in range(3):
        taps[_Q, 0, back, I_PART] = signs[back + 1] - (1.0 if back == 0 else 0.0)
    head = Head(attention, 0)
    head.q_bias[_FREE] = head.scale * 3
    head.k[_FREE, RARE_AT] = head.scale / factor
    head.v[:, T_PART] = torch.eye(96) / factor
    for back, share in ((2, 4.0), (1, 2.0), (0, 1.0)):
        head.o[I_PART, :] += share * starts[back][:, None] * begins.T
    for number in (1, 2, 3):
        head = Head(attention, number)
        head.q[:, I_PART] = torch.eye(96) * math.sqrt(96) / math.sqrt(3) / factor
        head.k[:, I_PART] = torch.eye(96) * math.sqrt(96) / math.sqrt(3) / factor
        head.v[:, I_PART] = torch.eye(96) / factor
        head.o[I_PART, :] = torch.eye(96) * 0.3
