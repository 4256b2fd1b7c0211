"""Equations 5 to 11 of arXiv 2404.07143 as loops over tokens, with every option: what `InfiniAttention` is held against.

Shares no code with niah/engines/infini but the parameters. One text at a time, float64.
"""

import torch
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention


def features(layer: InfiniAttention, x: Tensor, head: int) -> Tensor:
    config, chart = layer.config, layer.features
    if config.feature_map == "softmax":
        groups = (x @ chart.projection[head]).exp().chunk(config.feature_groups)
        return torch.cat([powers / powers.sum() for powers in groups])
    if config.feature_map == "dpfp":
        halves = torch.cat([x, -x]).clamp(min=0)
        size = len(halves)
        return torch.stack([halves[i] * halves[(i - step) % size] for step in range(1, config.dpfp_nu + 1) for i in range(size)])
    if config.feature_map == "elu1_biased":
        x = x * chart.scale[head, 0] + chart.bias[head, 0]
    return torch.nn.functional.elu(x) + 1


def convolved(layer: InfiniAttention, x: Tensor, stream: int) -> Tensor:
    if layer.conv is None:
        return x
    rows: list[Tensor] = []
    for t in range(len(x)):
        row = x[t].clone()
        for d, dilation in enumerate(layer.config.conv_dilations):
            for tap in range(layer.config.conv_width):
                if t >= tap * dilation:
                    row = row + layer.conv.weight[stream, d, tap] * x[t - tap * dilation]
        rows.append(row)
    return torch.stack(rows)


def rotated(x: Tensor, place: int, theta: float) -> Tensor:
    """A head as complex numbers, each turned by its own speed."""
    half = len(x) // 2
    turn = torch.polar(torch.ones(half, dtype=torch.float64), place * theta ** (-torch.arange(half, dtype=torch.float64) / half))
    turned = torch.complex(x[:half], x[half:]) * turn
    return torch.cat([turned.real, turned.imag])


def strength(layer: InfiniAttention, x: Tensor, weight: Tensor | None, t: int, head: int) -> Tensor:
    result = torch.ones((), dtype=torch.float64)
    if layer.write_gate is not None:
        told = x @ layer.write_gate.weight.T + layer.write_gate.bias
        result = pooled(layer, told, weight, t, head) if layer.config.write_pool else torch.sigmoid(told[t, head])
    result = result if weight is None else result * weight[t]
    return result * 0 if result < layer.config.write_least else result


def pooled(layer: InfiniAttention, told: Tensor, weight: Tensor | None, t: int, head: int) -> Tensor:
    size, heads = layer.config.segment_tokens, len(layer.beta)
    start = t // size * size
    places = range(start, min(start + size, len(told)))
    heard = [place for place in places if weight is None or weight[place] > 0]
    first = max([start, *(place for place in heard if place <= t and told[place, 4 * heads + head] > 0)])
    behind = [place for place in heard if place > t and told[place, 4 * heads + head] > 0]
    run = [place for place in heard if first <= place < min([places.stop, *behind])]
    nothing = torch.zeros((), dtype=torch.float64)
    whole, weights = (sum((told[place, at * heads + head] for place in run), nothing) for at in (1, 2))
    scene = sum((told[place, 3 * heads + head] for place in heard), nothing)
    own = told[t, head] if weight is None or weight[t] > 0 else nothing
    return torch.sigmoid(own) * torch.sigmoid(whole) * weights.exp() * torch.sigmoid(scene)


def read(key: Tensor, matrix: Tensor, normaliser: Tensor) -> Tensor | None:
    below = key @ normaliser
    return None if below == 0 else (key @ matrix) / below


def one_head(layer: InfiniAttention, x: Tensor, weight: Tensor | None, head: int) -> Tensor:
    config = layer.config
    part = slice(head * config.head_dim, (head + 1) * config.head_dim)
    projected: list[Tensor] = []
    for stream, projection in enumerate((layer.q_proj, layer.k_proj, layer.v_proj)):
        rows = convolved(layer, x, stream) @ projection.weight[part].T
        projected.append(rows if projection.bias is None else rows + projection.bias[part])
    query, key, value = projected
    forgetting = config.heads - len(layer.beta)
    own = head - forgetting  # among those with a memory
    count = len(features(layer, key[0], own)) if own >= 0 else 1
    matrix, normaliser = torch.zeros(count, config.head_dim, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    sinks = config.sink_tokens
    outputs: list[Tensor] = []
    for start in range(0, len(x), config.segment_tokens):
        places = range(start, min(start + config.segment_tokens, len(x)))
        for t in places:
            asked = rotated(query[t], t - start, config.rope_theta)
            first = range(sinks if start else 0)
            near = range(max(start - config.overlap_tokens, 0), t + 1)
            seen = [*((i, i - config.overlap_tokens - sinks) for i in first), *((i, i - start) for i in near)]
            scores = torch.stack([asked @ rotated(key[i], place, config.rope_theta) for i, place in seen]) / config.head_dim**0.5
            output = sum(share * value[i] for share, (i, _) in zip(scores.softmax(0), seen, strict=True))
            if config.memory_alone and own >= 0:
                output = torch.zeros_like(value[t])
            gate = 0.0 if own < 0 else torch.sigmoid(layer.beta[own] + (0.0 if layer.read_gate is None else layer.read_gate(x[t])[own]))
            stored = read(features(layer, query[t], own), matrix, normaliser) if own >= 0 else None
            if stored is not None:
                if config.read_centred:
                    stored = stored - matrix.sum(0) / normaliser.sum()
                if layer.read_scale is not None:
                    eps = torch.finfo(torch.float64).eps
                    stored = stored / (stored.square().mean() + eps).sqrt() * layer.read_scale[own, 0]
                if config.read_floor:
                    found = normaliser @ features(layer, query[t], own)
                    gate = gate * found / (found + config.read_floor)
                output = gate * stored + (1 - gate) * output
            outputs.append(output)
        if len(places) < config.segment_tokens or own < 0:
            continue
        more, counted = torch.zeros_like(matrix), torch.zeros_like(normaliser)
        for t in places:
            feature = features(layer, key[t], own)
            change, new = value[t], 1.0
            if config.rule == "delta":
                known = read(feature, matrix, normaliser)
                change = change if known is None else change - known
            if config.corrected_normaliser:
                new = float((1 - (normaliser @ feature) / (feature @ feature)).clamp(0, 1))
            how = strength(layer, x, weight, t, own)
            more = more + how * torch.outer(feature, change)
            counted = counted + how * new * feature
        matrix, normaliser = matrix + more, normaliser + counted
    return torch.stack(outputs)


def attention(layer: InfiniAttention, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """`x` `[t, d_model]`, weights `[t]` to `[t, d_model]`."""
    heads = [one_head(layer, x, weight, head) for head in range(layer.config.heads)]
    return torch.cat(heads, dim=1) @ layer.o_proj.weight.T
