"""Infini-attention can learn through its memory, and keeps it exact in half precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention, Watch
from niah.engines.infini.config import InfiniConfig
from tests.engines.infini.layers import OPTIONS, REMEMBERING, close, layer, text


@pytest.mark.parametrize("name", [name for name in OPTIONS if not OPTIONS[name].get("corrected_normaliser")])
def test_gradients_through_memory_are_the_numerical_ones(name: str):
    """The loss is taken in the last segment only; the corrected rule is left out, whose gamma has no gradient on purpose."""
    module = layer(**OPTIONS[name] | {"d_model": 4, "heads": 1 + bool(OPTIONS[name].get("memory_alone")), "head_dim": 2})
    names = [each for each, parameter in module.named_parameters() if parameter.requires_grad]

    def last_segment(x: Tensor, *parameters: Tensor) -> Tensor:
        output, _ = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        return output[:, -5:]

    parameters = [module.get_parameter(each).detach().clone().requires_grad_() for each in names]
    assert torch.autograd.gradcheck(last_segment, (text(15, d_model=4).requires_grad_(), *parameters), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_loss_reaches_what_was_written_segments_ago(name: str):
    module, x = layer(**OPTIONS[name]), text(20).requires_grad_()
    output, _ = module(x)
    output[:, -1].square().sum().backward()
    assert x.grad is not None
    # Per segment: two tokens of dpfp may have no feature in common.
    assert x.grad[0, :15].unflatten(0, (3, 5)).abs().sum((1, 2)).min() > 0
    gates = module.beta.grad
    assert gates is not None and gates.abs().min() > 0


def test_a_loss_in_the_first_segment_says_nothing_about_the_gates():
    module = layer()
    module(text(20))[0][:, :5].sum().backward()
    assert module.beta.grad is not None and module.beta.grad.abs().max() == 0


def test_a_carried_state_can_be_cut_off_from_its_past():
    module, x = layer(), text(20).requires_grad_()
    _, state = module(x[:, :12])
    module(x[:, 12:], state.detach())[0].sum().backward()
    assert x.grad is not None and x.grad[:, :12].abs().max() == 0
    _, state = module(x[:, :12])
    module(x[:, 12:], state)[0].sum().backward()
    assert x.grad[:, :12].abs().sum(-1).min() > 0


def test_the_write_gate_can_be_supervised():
    module, watch = layer(write_gate=True), Watch()
    module(text(9), watch=watch)
    assert watch.write_logarithms is not None and watch.write_logarithms.shape == (1, 9, 2)
    watch.write_logarithms.exp().mean().backward()
    assert module.write_gate is not None and module.write_gate.weight.grad is not None
    assert module.write_gate.weight.grad.abs().max() > 0
    assert close(module.memory_share().double(), module.beta.sigmoid(), within=1e-6)


def test_training_after_inference_mode():
    module = layer()
    with torch.inference_mode():
        module(text(9))
    module(text(9))[0].sum().backward()


@pytest.mark.parametrize("name", ["paper", "corrected", "all"])
def test_bfloat16_keeps_its_memory_in_float32(name: str):
    torch.manual_seed(0)
    config = replace(InfiniConfig.paper(d_model=32, heads=2, head_dim=16, segment_tokens=8), **OPTIONS[name])
    x = torch.randn(1, 40, 32)
    module = InfiniAttention(config)
    exact, state = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_state = module(x)
        _, once = module(x[:, :8])
    # A product that autocast had done in bfloat16 would lie on its grid.
    assert not torch.equal(once.memory.matrix, once.memory.matrix.bfloat16().float())
    half, half_state = module.bfloat16()(x.bfloat16())
    for output, each in ((mixed, mixed_state), (half, half_state)):
        assert output.dtype == torch.bfloat16
        assert {each.memory.matrix.dtype, each.memory.normaliser.dtype} == {torch.float32}
        assert torch.allclose(output.float(), exact, atol=0.05)
        assert torch.allclose(each.memory.normaliser, state.memory.normaliser, rtol=0.1, atol=0.1)


def test_bfloat16_counts_thousands_of_segments():
    """A sum in bfloat16 stands still at 256 times its steps."""
    torch.manual_seed(0)
    module = InfiniAttention(InfiniConfig.paper(d_model=8, heads=1, head_dim=8, segment_tokens=4)).bfloat16()
    token = torch.randn(1, 1, 8).bfloat16()
    state = None
    with torch.inference_mode():
        _, once = module(token.expand(1, 4, 8))
        for _ in range(50):
            _, state = module(token.expand(1, 400, 8), state)
    assert state is not None
    assert torch.allclose(state.memory.normaliser, once.memory.normaliser * 5000, rtol=1e-4)
