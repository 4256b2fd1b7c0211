"""Local attention: the blocks that bfloat16 on CPU takes give what torch's own attention gives."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from niah.engines.infini.local import BLOCK_TOKENS, attend


@pytest.mark.parametrize("held", [1, 5, BLOCK_TOKENS, BLOCK_TOKENS + 1, 300])
@pytest.mark.parametrize("asked", [1, 2, BLOCK_TOKENS, 200, 300])
def test_bfloat16_in_blocks(asked: int, held: int):
    asked = min(asked, held)
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8).bfloat16() for n in (asked, held, held))
    everything = [torch.cat([key[:, :, : held - asked], query], dim=2).double(), key.double(), value.double()]
    expected = scaled_dot_product_attention(*everything, is_causal=True)[:, :, held - asked :]
    output = attend(query, key, value)
    assert output.dtype == torch.bfloat16 and output.shape == query.shape
    assert torch.allclose(output.double(), expected, atol=0.03)
    assert torch.allclose(attend(query.double(), key.double(), value.double()), expected)


def test_gradients_of_the_blocks():
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 200, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    weight = torch.randn(1, 2, 200, 8)
    (attend(*inputs).float() * weight).sum().backward()
    (attend(*exact) * weight).sum().backward()
    for one, other in zip(inputs, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad.double() - other.grad).norm() < 0.02 * other.grad.norm()
