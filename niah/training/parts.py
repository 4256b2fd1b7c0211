"""The stream of the circuit with addresses (niah/training/addresses.py): its parts, and heads that work on them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niah.training.structure import Head, Projections, orthogonal

I_PART, N_PART, B_PART = slice(0, 96), slice(96, 168), slice(168, 220)
PO_PART, PS_PART, PV_PART, PA_PART, OF_PART = slice(220, 232), slice(232, 244), slice(244, 256), slice(256, 268), slice(268, 270)
E_AT, E1_AT, SHORT_AT, SHORT2_AT, GLUED_AT, BOS_AT, ASK_AT, RARE_AT, ONE_AT, FOUND_AT, FIRST_AT, START_AT = range(270, 282)
F_AT, ASKED_AT, START1_AT = (282, 283, 284), 285, 286
D_MODEL, RATIO = 288, 2.9
"""Of the frequencies of neighbouring pairs: no multiple of one is one of another."""
BEFORE = 0.5
"""What of a code is left of it in B a token later."""
CODE, GRAM, PREVIOUS, PLACE, HEAD_DIM = 96, 52, 72, 12, 96

MARK, ONE = 0.3, 4.0
"""How large marks are beside a code of 1, and the constant. Small marks and a large constant keep the norm in front of a layer alike for
all tokens."""
MARKS = (
    slice(E_AT, GLUED_AT + 1), slice(RARE_AT, RARE_AT + 1), slice(FOUND_AT, FOUND_AT + 1), slice(START_AT, F_AT[-1] + 1),
    slice(START1_AT, START1_AT + 1), slice(PV_PART.start, PA_PART.stop),
)  # fmt: skip
"""The places of marks, and of what is carried as faintly."""


class CircuitHead(Head):
    """One head's rows, empty to begin with unless they are `kept`. Its last free dimension is for finding nothing."""

    def __init__(self, attention: Projections, number: int, given: "Given", *, dim: int = HEAD_DIM, kept: bool = False):
        super().__init__(attention, number, RATIO ** -torch.arange(dim / 2, dtype=torch.float64))
        self.given = given
        if not kept:
            self.clear()

    def at_distance(self, strengths: Mapping[int, float], offset: float = 0.0) -> "CircuitHead":
        """Adds strength * cos(f * (distance - offset)) for each pair, of frequency f."""
        for pair, strength in strengths.items():
            size, phase = math.sqrt(strength) * self.scale, float(self.frequencies[pair]) * offset
            self.q_bias[pair], self.q_bias[pair + self.half] = size * math.cos(phase), -size * math.sin(phase)
            self.k_bias[pair] = size
        return self

    def alike(self, start: int, query: Tensor, key: Tensor, strength: float) -> int:
        """Adds strength * (query x) (key y) in the free dimensions from `start` on; the one behind them."""
        self.like(self.free[start : start + len(query)], query, key, strength, self.given.size)
        return start + len(query)

    def prefers(self, at: int, keys: dict[int, float]) -> None:
        self.wants(int(self.free[at]), keys, self.given.size)

    def carries(self, part: slice, to: slice, times: float, start: int = 0) -> "CircuitHead":
        self.takes(part, to, start, times, self.given.size)
        return self

    def or_nothing(self, strength: float) -> Tensor:
        """What the first token's score is; the query's row [d_model], to add to. There is nothing to be taken there."""
        for rows in (self.k, self.v):
            rows[:, BOS_AT] -= (rows @ self.given.first) / self.given.first[BOS_AT]
        at, size = int(self.free[-1]), self.given.size
        self.k[at, BOS_AT] += self.scale / self.given.first[BOS_AT]
        self.q[at, ONE_AT] = strength * self.scale / size[ONE_AT]
        return self.q[at]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An attention's input: what a mark or a code of 1 is there (`size` [d_model]), the first token's, and all of it [b, t, d_model]."""

    size: Tensor
    first: Tensor
    x: Tensor


class Codes:
    """The fixed random maps between parts of the stream."""

    def __init__(self, random: torch.Generator):
        self._random = random
        self.previous = orthogonal(PREVIOUS, CODE, random) * math.sqrt(CODE / PREVIOUS)
        self.turn = orthogonal(GRAM, GRAM, random)
        self.entry = orthogonal(GRAM, CODE, random) * math.sqrt(CODE / GRAM)
        self.back = self.previous.T * PREVIOUS / CODE

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Codes":
        """Those that a full reader was made with, out of its first layer's heads; what is drawn from them is drawn anew."""
        codes = cls(torch.Generator().manual_seed(1))
        told: list[Tensor] = []
        for head, like in enumerate((codes.previous, codes.entry, codes.entry)):
            rows = weights["layers.0.self_attn.v_proj.weight"][head * HEAD_DIM :, I_PART][: len(like)]
            told.append(rows * like.norm() / rows.norm())
        codes.previous, codes.turn = told[0], told[2] @ torch.linalg.pinv(told[1])
        codes.entry, codes.back = torch.linalg.inv(codes.turn) @ told[1], told[0].T * PREVIOUS / CODE
        return codes

    def grams(self, sizes: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Query and key of the last token, and of the two before that, each in so many dimensions of its own.

        A query makes of its own codes what N and B will be at the token behind it.
        """
        n, b = (
            orthogonal(count, size, self._random) * math.sqrt(size / count) for count, size in zip(sizes, (PREVIOUS, GRAM), strict=True)
        )
        return [
            (placed((n @ self.previous, I_PART)), placed((n, N_PART))),
            (placed((b @ self.turn @ self.entry @ self.back, N_PART), (BEFORE * b @ self.turn, B_PART)), placed((b, B_PART))),
        ]


def as_saved(*weights: Tensor) -> None:
    """Rounds weights (in place) as they will be saved, before anything is measured that is built on them."""
    for each in weights:
        each.copy_(each.to(torch.bfloat16))


def one(at: int) -> slice:
    return slice(at, at + 1)


def sizes(stream: Tensor) -> Tensor:
    """What marks and codes of 1 become behind a norm of weight 1 in front of which the stream is `stream` [b, t, d_model]: [d_model]."""
    size = torch.full((stream.shape[-1],), float(stream[:, 1:].square().mean(-1).rsqrt().mean()))
    for part in (*MARKS, slice(START1_AT + 1, None)):
        size[part] *= MARK
    size[ONE_AT] *= ONE
    return size


def summed(size: Tensor, places: Mapping[int, float]) -> Tensor:
    """The row [d_model] that gives the sum of marks times what `places` says of them."""
    row = torch.zeros_like(size)
    for at, strength in places.items():
        row[at] = strength / size[at]
    return row


def neuron(layer: nn.Module, number: int, size: Tensor, places: Mapping[int, float], *, times: int = ONE_AT) -> Tensor:
    """Lets a neuron of a layer's SwiGLU say silu(6 x) y: x is the sum of marks times what `places` says of them, y the mark `times`.

    Its column in `down_proj` [d_model], to be filled.
    """
    gate, up, down = (layer.get_parameter(f"mlp.{name}_proj.weight") for name in ("gate", "up", "down"))
    gate[number], up[number] = 6 * summed(size, places), 0.0
    up[number, times] = 1 / size[times]
    return down[:, number]


def threshold(layer: nn.Module, number: int, size: Tensor, at: int, row: Tensor) -> None:
    """Lets two neurons, `number` and the next, add to the mark `at`: nothing where `row` [d_model] times the input is below 0, a mark
    where it is above 1.
    """
    for twin, sign in enumerate((1.0, -1.0)):
        neuron(layer, number + twin, size, {ONE_AT: -twin})[at] = sign * MARK / 6
        layer.get_parameter("mlp.gate_proj.weight")[number + twin] += 6 * row


def placed(*parts: tuple[Tensor, slice], width: int = D_MODEL) -> Tensor:
    """Rows [n, width] with each part in its place."""
    rows = torch.zeros(len(parts[0][0]), width)
    for part, at in parts:
        rows[:, at] = part
    return rows
