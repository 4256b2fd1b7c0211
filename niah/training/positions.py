"""Where a token stands, told in the stream: heads that compare distances, and products that tell an offset within a sentence."""

import math

import torch
from torch import Tensor, nn

from niah.training.llama import Llama
from niah.training.parts import (
    BOS_AT,
    D_MODEL,
    F_AT,
    MARK,
    OF_PART,
    ONE_AT,
    PLACE,
    PO_PART,
    PS_PART,
    CircuitHead,
    as_saved,
    placed,
    sizes,
)

REACH_TOKENS = 40_960
"""Up to here the codes of positions were fitted."""
PLACES = (2, 3, 4, 5, 6, 7)
"""Pairs whose cosines and sines make an address: they turn once in 53 to 10,800 tokens."""
LOCATED, OFFSETS, STEADY, OFFSET_SIZE = 2, (0,), 4.0, 0.2
"""The layer whose neurons tell offsets, and of which of the pairs; what is added to a gate so that it lets through what it is given."""
_ANCHOR, _SWING, _UNIT = 25.0, 0.35, math.sqrt(len(PLACES))


def watched(model: Llama, norm: nn.Module, sample: Tensor) -> tuple[Tensor, Tensor]:
    """What a norm is given and what it gives [b, t, d_model] on a sample."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(_: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        seen.append((given[0], out))

    hook = norm.register_forward_hook(watch)
    model(sample, torch.arange(sample.shape[1])[None].expand_as(sample))
    hook.remove()
    return seen[0]


def locate(heads: list[CircuitHead], random: torch.Generator) -> None:
    """Each head weighs the first four tokens against each other: three by the distance to them, the first by nothing."""
    anchors: tuple[dict[int, float], ...] = (
        {BOS_AT: 1.0}, {F_AT[0]: 1.0, BOS_AT: -1.0}, {F_AT[1]: 1.0, F_AT[0]: -1.0}, {F_AT[2]: 1.0, F_AT[1]: -1.0},
    )  # fmt: skip
    waves = [(pair, quarter) for pair in PLACES for quarter in (0, 1)]
    for number, head in enumerate(heads):
        size = head.given.size
        # All but the first four tokens are out of the question.
        head.prefers(0, {ONE_AT: -_ANCHOR, F_AT[2]: _ANCHOR, BOS_AT: -_ANCHOR})
        for row, anchor in enumerate(anchors):
            for at, sign in anchor.items():
                head.v[row, at] = sign / size[at]
        for anchor, (pair, quarter) in zip(anchors[1:], waves[3 * number :], strict=False):
            head.q_bias[pair] = math.sqrt(_SWING) * head.scale
            for at, sign in anchor.items():
                head.k[pair + quarter * head.half, at] = sign * math.sqrt(_SWING) * head.scale / size[at]
    for head in heads:
        as_saved(head.q_bias, head.k, head.k_bias, head.v)
    position = torch.randint(8, REACH_TOKENS, (3000,), generator=random).double()
    weights = torch.cat([_weights(head, position) for head in heads], dim=-1).flatten(0, 1).double()
    angles = [position * heads[0].frequencies[pair] for pair in PLACES]
    wanted = torch.stack([wave for angle in angles for wave in (angle.cos(), angle.sin())], 1) / math.sqrt(len(PLACES))
    wanted = wanted.repeat(len(weights) // len(wanted), 1)
    ridge = 1e-9 * len(weights) * torch.eye(weights.shape[1], dtype=torch.float64)
    told = torch.linalg.solve(weights.T @ weights + ridge, weights.T @ wanted).float()
    for number, head in enumerate(heads):
        head.o[PO_PART, :4] = told[4 * number : 4 * number + 4].T


def _weights(head: CircuitHead, position: Tensor) -> Tensor:
    """What a head takes from the first four tokens when it stands at each of the positions [p]: [b, p, 4]."""
    angle = position[:, None] * head.frequencies
    a, b = head.q_bias[: head.half].double(), head.q_bias[head.half :].double()
    query = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1).float()
    near = head.given.x[:, :4] @ head.k.T
    turned = torch.arange(4.0)[:, None] * head.frequencies.float()
    c, d = near[..., : head.half], near[..., head.half :]
    key = torch.cat([c * turned.cos() - d * turned.sin(), d * turned.cos() + c * turned.sin()], -1)
    scores = torch.einsum("pd,bkd->bpk", query, key) / head.scale**2
    return scores.softmax(-1) @ (head.given.x[:, :4] @ head.v[:4].T)


def early(model: Llama, sample: Tensor) -> Tensor:
    """What PO lacks at the tokens 1, 2 and 3, which do not see all of the first four, as a map [places, d_model] of their marks."""
    stream = watched(model, model.layers[2].get_submodule("input_layernorm"), sample)[0]
    frequencies = model.frequencies[list(PLACES)]
    lacking = torch.zeros(PLACE, D_MODEL)
    for position, (own, before) in enumerate(zip(F_AT, (BOS_AT, *F_AT), strict=False), start=1):
        angle = position * frequencies
        wanted = torch.stack([angle.cos(), angle.sin()], 1).flatten() / math.sqrt(len(PLACES))
        lack = (wanted - stream[:, position, PO_PART].mean(0)) * MARK / stream[:, position, own].mean()
        lacking[:, own] += lack
        lacking[:, before] -= lack
    return lacking


def tell_offsets(model: Llama, sample: Tensor) -> None:
    """How far a token is behind the first of its sentence: cosine and sine of the difference of PO and PS, by products of both."""
    layer = model.layers[LOCATED]
    size = sizes(watched(model, layer.get_submodule("post_attention_layernorm"), sample)[0])
    gate, up, down = (layer.get_parameter(f"mlp.{name}_proj.weight") for name in ("gate", "up", "down"))
    number = 0
    for place, wave in enumerate(_waves()):
        for own, begun, sign in wave:
            gate[number], up[number], down[:, number] = 0.0, 0.0, 0.0
            gate[number, ONE_AT] = STEADY / size[ONE_AT]
            gate[number, own] = _UNIT / size[own]
            up[number, begun] = sign * _UNIT / size[begun]
            down[OF_PART.start + place, number] = OFFSET_SIZE
            number += 1


def _waves() -> list[tuple[tuple[int, int, float], ...]]:
    """The offset's cosines and sines, each a sum of products: a place of PO, one of PS, and the sign."""
    found: list[tuple[tuple[int, int, float], ...]] = []
    for pair in OFFSETS:
        (cosine, sine), (begun_cosine, begun_sine) = ((part.start + 2 * pair, part.start + 2 * pair + 1) for part in (PO_PART, PS_PART))
        found.append(((cosine, begun_cosine, 1.0), (sine, begun_sine, 1.0)))
        found.append(((sine, begun_cosine, 1.0), (cosine, begun_sine, -1.0)))
    return found


def offsets() -> Tensor:
    """Rows [2 a pair, d_model] that tell the offset's cosines and sines: of OF, without what the steady gate lets through of PS alone."""
    rows = placed((torch.eye(OF_PART.stop - OF_PART.start), OF_PART)) / OFFSET_SIZE
    steady = STEADY / (1 + math.exp(-STEADY))
    for row, wave in zip(rows, _waves(), strict=True):
        for _, begun, sign in wave:
            row[begun] -= steady * sign * _UNIT
    return rows
