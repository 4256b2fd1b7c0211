"""A short causal convolution: how a key comes to know the tokens in front of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """Depthwise, causal, residual; several dilations summed; several streams (q, k, v) from one input.

    Args:
        d_model: channels.
        streams: outputs.
        width: taps of each convolution.
        dilations: one convolution each.
    """

    def __init__(self, d_model: int, *, streams: int, width: int, dilations: tuple[int, ...]):
        super().__init__()
        self.dilations = dilations
        # weight[stream, dilation, tap]: what the token tap * dilation places back is multiplied by.
        self.weight = nn.Parameter(torch.empty(streams, len(dilations), width, d_model).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: Tensor, tail: Tensor, first: int = 0) -> list[Tensor]:
        """`x` `[b, t, d_model]` and the inputs before it, `[b, (width - 1) * max(dilations), d_model]`, to one `[b, t, d_model]` a stream,
        from stream `first` on.

        Sums of shifted inputs: measured faster than torch's depthwise convolutions on CPU, above all backward.
        """
        reach, tokens = tail.shape[1], x.shape[1]
        padded = torch.cat([tail.to(x.dtype), x], dim=1)
        outputs: list[Tensor] = []
        for stream in self.weight[first:].to(x.dtype):
            output = x
            for taps, dilation in zip(stream, self.dilations, strict=True):
                for tap, weight in enumerate(taps):
                    output = torch.addcmul(output, padded[:, reach - tap * dilation :][:, :tokens], weight)
            outputs.append(output)
        return outputs
