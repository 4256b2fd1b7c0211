"""Structured initial weights: a retrieval circuit that training then refines.

A model of this size is expected to need tens of millions of tokens before it copies at all from random weights. So the stream
starts out divided into parts, and the first heads start out with one task each:

    I  who am I: a unit code of the token, alike for forms of one word   B  the three tokens before me, one rotation a step
    C  content of the last 40 tokens, rare ones most                     S  how my sentence begins: its first token
    T  how the sentences begin that my word stands in                    A  a question is being asked
    E  ends a sentence        E1  the token before me did                R  how rare my word is
    a full stop behind me shortens a word (SHORT), or behind the token two before me (SHORT2): no sentence ends there

The first token of all holds no code: a head that finds nothing looks there and adds nothing.

    layer 0  three heads look back 1, 2 and 3 tokens (B, E1), one averages a window (C, A)
    layer 1  one head looks at the beginning of its sentence (S)
    layer 2  one head looks for its own word elsewhere, and takes that place's S (as T) and C (in S)
    layer 3  one head averages both over the rare words of the question: where most of them point, there is the answer
    layer 4  two heads look for the token that stands behind the last tokens of the answer (B), by preference where the content is
             right (C), and write its code; one writes the token that T holds, which begins the answer, and one the token that begins
             a sentence of the text and is likest to T

Everything else starts small and random. Nothing in here knows a needle, a template or a text but token frequencies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from niah.training.llama import Attention, Llama

I_PART, B_PART, C_PART, S_PART, T_PART = slice(0, 96), slice(96, 156), slice(156, 216), slice(216, 263), slice(263, 310)
SHORT_AT, SHORT2_AT, E_AT, E1_AT, BOS_AT, ASK_AT, RARE_AT, STOP_AT, ONE_AT = 310, 311, 312, 313, 314, 315, 316, 317, 318
_GRAM, _CONTENT, _START, _OWN = 60, 60, 47, 60
_FREE_BELOW = 1.2e-5  # radians a token: such pairs turn by a third of a radian in 32,768 tokens, and carry content
_BOS, _END = 8184, 8190
SLOW = 13
"""A pair of dimensions that turns by a tenth of a radian in 4,096 tokens, and carries nothing else."""
GRAMS, PLACES, SINK = 20.0, (5.0, 2.5), 27.0
"""What a token in common adds to a copying head's score, what the right place does, and how much is no match."""
LIKE, BEGINS, NONE_LIKE = 12.0, 10.0, 27.0
"""The same for the head that looks for the beginning: likeness, being a sentence's first token, and no match."""
FIRST_SIZE = 17.9
"""What the first token's mark becomes behind a norm: it stands alone among 320."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What is known of each token [vocabulary]: how often it stands in text, whether it ends a sentence, whether it asks, whether
    it is too ordinary to be looked for, whether a full stop behind it only shortens it; `form` is the same number for tokens that
    differ in a space in front or in capitals.
    """

    counts: Tensor
    boundary: Tensor
    asking: Tensor
    ordinary: Tensor
    short: Tensor
    form: Tensor


def initialise(model: Llama, words: Vocabulary, sample: Tensor, seed: int) -> None:
    """Fills `model` (in place). On `sample` [b, t], token ids of some texts, the sizes of the layers' inputs are measured."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                continue
            if parameter.ndim == 1 or "o_proj" in name or "down_proj" in name:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * (0.06 if "mlp" in name else 0.02))
        _embed(model, words, random)
        turn, entry = orthogonal(_GRAM, _GRAM, random), orthogonal(_GRAM, 96, random) * math.sqrt(96 / _GRAM)
        start = orthogonal(_START, 96, random) * math.sqrt(96 / _START)
        steps: Sequence[Callable[[list[Head], Tensor], None]] = (
            lambda heads, size: _look_around(heads, size, turn, entry),
            lambda heads, size: _find_start(heads, size, start),
            _find_word,
            _ask,
            lambda heads, size: _copy(heads, size, (turn, entry, start), random),
        )
        for number, step in enumerate(steps):
            step(_heads(model.attentions()[number]), _size(model, sample, number))
        _stop(_heads(model.attentions()[-1])[2], model.embed_tokens.weight[_END, I_PART])
        model.norm.weight.fill_(0.05)
        model.norm.weight[I_PART] = 1.0


def _embed(model: Llama, words: Vocabulary, random: torch.Generator) -> None:
    size = len(words.counts)
    shared = unit(torch.randn(size, 96, generator=random))[words.form]
    code = unit(0.75 * shared + 0.66 * unit(torch.randn(size, 96, generator=random)))
    content = unit(torch.randn(size, _CONTENT, generator=random))[words.form]
    rarity = rarities(words.counts)
    embedding = torch.zeros(size, model.shape.hidden_size)
    embedding[:, I_PART] = code
    embedding[:, C_PART] = 0.3 * rarity[:, None] * content
    embedding[words.boundary, E_AT] = 1.0
    embedding[words.boundary[:_BOS].nonzero().flatten(), STOP_AT] = 1.0
    embedding[words.asking, ASK_AT] = 0.3
    embedding[words.short, SHORT_AT] = 1.0
    embedding[:, RARE_AT] = rarity.masked_fill(words.ordinary | words.asking, 0.0)
    embedding[:, ONE_AT] = 1.0
    embedding[_BOS] = 0.0
    embedding[_BOS, BOS_AT] = 1.0
    model.embed_tokens.weight.copy_(embedding)


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


class Projections(Protocol):
    """An attention's linear maps."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear


class Head:
    """Views of one head's rows in the projections, zero to begin with. Pair i of its dimensions is (i, i + half)."""

    def __init__(self, attention: Projections, number: int, frequencies: Tensor):
        size = 2 * len(frequencies)
        rows = slice(number * size, (number + 1) * size)
        self.half, self.scale, self.frequencies = size // 2, size**0.25, frequencies
        self.q, self.k, self.v = (m.weight[rows] for m in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.q_bias, self.k_bias = attention.q_proj.bias[rows], attention.k_proj.bias[rows]
        self.o = attention.o_proj.weight[:, rows]
        pairs = (frequencies < _FREE_BELOW).nonzero().flatten()
        self.free = torch.cat([pairs, pairs + self.half])
        """The dimensions that carry content, whatever the distance."""

    def clear(self) -> "Head":
        for part in (self.q, self.k, self.v, self.o):
            part.zero_()
        return self

    def near(self, fastest: float, slowest: float, strength: float, offset: float = 0.0) -> None:
        """Adds strength * cos(f * (distance - offset)) for each pair of a frequency f between; a negative strength pushes away."""
        for pair, frequency in enumerate(self.frequencies.tolist()):
            if slowest <= frequency <= fastest:
                size, phase = math.sqrt(abs(strength)) * self.scale, frequency * offset
                self.q_bias[pair], self.q_bias[pair + self.half] = size * math.cos(phase), -size * math.sin(phase)
                self.k_bias[pair] = math.copysign(size, strength)

    def like(self, at: Tensor, query: Tensor, key: Tensor, strength: float, size: Tensor) -> None:
        """Adds strength * (query x) (key y): matrices [dimensions, d_model] over the dimensions `at`."""
        times = math.sqrt(strength) * self.scale / size
        self.q[at] += query * times
        self.k[at] += key * times

    def wants(self, at: int, keys: dict[int, float], size: Tensor) -> None:
        """Adds to the score of what stands at each place of the stream."""
        self.q_bias[at] = self.scale
        for place, strength in keys.items():
            self.k[at, place] = strength * self.scale / size[place]

    def finds_nothing(self, strength: float, size: Tensor, first: Tensor | None = None) -> None:
        """Adds to the score of the first token, which holds nothing; larger where the query is large, as what competes with it.

        `first` [d_model]: what tells the first token, 1 there and 0 elsewhere; without it, its mark.
        """
        self.q[SLOW, ONE_AT] = self.scale / size[ONE_AT]
        if first is None:
            self.k[SLOW, BOS_AT] = strength * self.scale / FIRST_SIZE
        else:
            self.k[SLOW] = strength * self.scale * first

    def takes(self, part: slice, to: slice, start: int, times: float, size: Tensor) -> int:
        """Carries a part of the stream in its dimensions from `start` on, as far as there are; the dimension behind."""
        count = min(part.stop - part.start, self.v.shape[0] - start, to.stop - to.start)
        own = torch.arange(count)
        self.v[start + own, part.start + own] = 1 / size[part.start + own]
        self.o[to.start + own, start + own] = times
        return start + count


def _stop(own: Head, end: Tensor) -> None:
    """Behind the end of a sentence stands the end of the answer."""
    at = _START + _OWN
    own.v[at, STOP_AT] = 1.0
    own.o[I_PART, at] = 9.0 * end


def _heads(attention: Attention) -> list[Head]:
    half = torch.arange(0, attention.head_dim, 2, dtype=torch.float64) / attention.head_dim
    return [Head(attention, number, attention.rope_theta**-half) for number in range(attention.heads)]


def _size(model: Llama, sample: Tensor, layer: int) -> Tensor:
    """By how much the norm in front of a layer's attention multiplies the stream [d_model], in the mean over a text."""
    sizes: list[Tensor] = []

    def measure(_: nn.Module, given: tuple[Tensor], __: Tensor) -> None:
        sizes.append(given[0][:, 1:].square().mean(-1).rsqrt().mean())

    hook = model.layers[layer].get_submodule("input_layernorm").register_forward_hook(measure)
    model(sample, torch.arange(sample.shape[1])[None].expand_as(sample))
    hook.remove()
    return sizes[0] * model.layers[layer].get_submodule("input_layernorm").get_parameter("weight")


def _look_around(heads: list[Head], size: Tensor, turn: Tensor, entry: Tensor) -> None:
    rotation = entry
    for back, (head, share) in enumerate(zip(heads[:3], (1.0, 1.0, 0.5), strict=True), start=1):
        head.clear().near(0.3, 3e-5, 3.0, offset=back)
        head.near(1.0, 0.3, 9.0, offset=back)
        rotation = turn @ rotation
        head.v[:_GRAM, I_PART] = rotation * share / size[I_PART]
        head.o[B_PART, :_GRAM] = torch.eye(_GRAM)
    heads[0].takes(slice(E_AT, E_AT + 1), slice(E1_AT, E1_AT + 1), _GRAM, 2.0, size)
    heads[1].takes(slice(SHORT_AT, SHORT_AT + 1), slice(SHORT2_AT, SHORT2_AT + 1), _GRAM, 2.0, size)
    window = heads[3].clear()
    window.near(0.03, 3e-5, 4.0)
    end = window.takes(C_PART, C_PART, 0, 48.0, size)
    window.takes(slice(ASK_AT, ASK_AT + 1), slice(ASK_AT, ASK_AT + 1), end, 48.0, size)


def _find_start(heads: list[Head], size: Tensor, start: Tensor) -> None:
    head = heads[0].clear()
    head.near(0.04, 8e-5, 5.0)
    head.wants(int(head.free[0]), {E1_AT: 20.0, SHORT2_AT: -20.0}, size)
    head.v[:_START, I_PART] = start / size[I_PART]
    head.o[S_PART, :_START] = torch.eye(_START)


def _find_word(heads: list[Head], size: Tensor) -> None:
    head = heads[0].clear()
    head.near(0.03, 0.005, -9.0)
    free = head.free[: I_PART.stop]
    own = torch.zeros(len(free), head.q.shape[1])
    own[:, I_PART] = torch.eye(96)[: len(free)]
    head.like(free, own, own, 60.0, size)
    head.finds_nothing(22.0, size)
    end = head.takes(S_PART, T_PART, 0, 1.0, size)
    head.takes(C_PART, S_PART, end, 1.0, size)


def _ask(heads: list[Head], size: Tensor) -> None:
    head = heads[0].clear()
    head.near(0.1, 0.01, 4.0, offset=18)
    head.wants(int(head.free[0]), {RARE_AT: 8.0, ASK_AT: 4.0}, size)
    end = head.takes(T_PART, T_PART, 0, 2.0, size)
    head.takes(S_PART, S_PART, end, 2.0, size)


def _copy(heads: list[Head], size: Tensor, codes: tuple[Tensor, Tensor, Tensor], random: torch.Generator) -> None:
    turn, entry, start = codes
    width = heads[0].q.shape[1]
    query, key = torch.zeros(_GRAM, width), torch.zeros(_GRAM, width)
    query[:, I_PART], query[:, B_PART], key[:, B_PART] = turn @ entry, turn, torch.eye(_GRAM)
    for head, place in zip(heads[:2], PLACES, strict=True):
        head.clear().near(0.03, 0.005, -2.0)
        grams_at, place_at = head.free[:_GRAM], head.free[_GRAM:]
        head.like(grams_at, query, key, GRAMS, size)
        wanted, here = torch.zeros(len(place_at), width), torch.zeros(len(place_at), width)
        address = orthogonal(len(place_at), _START, random) * math.sqrt(_START / len(place_at))
        wanted[:, S_PART], here[:, C_PART.start : C_PART.start + _START] = address, address
        head.like(place_at, wanted, here, place, size)
        head.takes(I_PART, I_PART, 0, 14.0, size)
        # Not even one token in common: nothing is copied.
        head.finds_nothing(SINK, size)
    begin, clean = (head.clear() for head in heads[2:])
    begin.near(1.0, 3e-5, 3.0)
    begin.v[:_START, T_PART] = torch.eye(_START) / size[T_PART]
    begin.o[I_PART, :_START] = 3.0 * start.T
    own = orthogonal(_OWN, 96, random)
    begin.v[_START : _START + _OWN, I_PART] = own / size[I_PART]
    begin.o[I_PART, _START : _START + _OWN] = -3.0 * 96 / _OWN * own.T  # so that the second token follows the first
    _find_beginning(clean, size, start)


def _find_beginning(head: Head, size: Tensor, start: Tensor) -> None:
    at = head.free[:_START]
    wanted, here = torch.zeros(_START, head.q.shape[1]), torch.zeros(_START, head.q.shape[1])
    wanted[:, T_PART], here[:, I_PART] = torch.eye(_START), start
    head.like(at, wanted, here, LIKE, size)
    head.wants(int(head.free[_START]), {E1_AT: BEGINS, SHORT2_AT: -BEGINS}, size)
    head.takes(I_PART, I_PART, 0, 7.0, size)
    head.finds_nothing(NONE_LIKE, size)
