"""How strongly a token is written into memory. Options that the paper does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from niah.engines.infini.config import InfiniConfig

MOST = 75.0
"""No token is written more than e to this many times as strongly as another: sums of them stay far inside float32."""


class WriteGate(nn.Linear):
    """From a layer's input to strengths, one a head with a memory.

    Plainly a sigmoid of a linear map. With `config.write_pool` tokens are weighed with those around them. Five numbers of a token are
    linear in its input: its own logit o, its parts a, e and s in what is said of its run and of its segment, and b, which is positive
    where a run begins. Its strength is sigmoid(o) * sigmoid(sum of a over its run) * exp(sum of e over its run) * sigmoid(sum of s over
    its segment). A segment is written when it is over, so that a strength may know what comes behind: nothing reads it before.
    """

    def __init__(self, config: InfiniConfig):
        self.heads, self.pooled = config.remembering, config.write_pool
        super().__init__(config.d_model, 5 * self.heads if self.pooled else self.heads)
        nn.init.constant_(self.bias, config.write_gate_bias)

    def raw(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Of inputs `[b, t, d_model]` and what their strengths are multiplied by, `[b, t]`: what `strengths` takes, `[b, t, c]`."""
        told = self(x).to(torch.promote_types(x.dtype, torch.float32))
        times = told.new_ones(x.shape[:2]) if weight is None else weight.to(told.dtype)
        return torch.cat([told, times.unsqueeze(-1)], dim=-1)

    def logarithms(self, raw: Tensor) -> Tensor:
        """Of whole segments `[..., n, c]`: logarithms of the strengths `[..., n, h]`, the times apart."""
        if not self.pooled:
            return logsigmoid(raw[..., :-1])
        told = raw[..., :-1] * (raw[..., -1:] > 0)  # what is not written says nothing either
        own, whole, weight, scene, begins = told.chunk(5, dim=-1)
        run = (begins > 0).cumsum(dim=-2)
        sums = torch.zeros_like(told[..., : 2 * self.heads])
        sums = torch.cat([sums, sums[..., :1, :]], dim=-2)
        of_run = torch.cat([run, run], dim=-1)
        whole, weight = sums.scatter_add(-2, of_run, torch.cat([whole, weight], dim=-1)).gather(-2, of_run).chunk(2, dim=-1)
        return logsigmoid(own) + logsigmoid(whole) + weight.clamp(max=MOST) + logsigmoid(scene.sum(dim=-2, keepdim=True))

    def strengths(self, raw: Tensor) -> Tensor:
        """Of whole segments `[..., n, c]`: `[..., n, h]`."""
        return self.logarithms(raw).exp() * raw[..., -1:]
