"""What structured initial weights are made of: what is known of tokens, random codes, and one head's rows in an attention."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

_FREE_BELOW = 1.2e-5  # radians a token: such pairs turn by a third of a radian in 32,768 tokens, and carry content
_BOS = 8184


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

    def takes(self, part: slice, to: slice, start: int, times: float, size: Tensor) -> int:
        """Carries a part of the stream in its dimensions from `start` on, as far as there are; the dimension behind."""
        count = min(part.stop - part.start, self.v.shape[0] - start, to.stop - to.start)
        own = torch.arange(count)
        self.v[start + own, part.start + own] = 1 / size[part.start + own]
        self.o[to.start + own, start + own] = times
        return start + count
