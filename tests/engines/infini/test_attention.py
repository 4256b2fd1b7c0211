"""Infini-attention is what the paper says, and the same for every way of cutting a text into calls.

pytest tests/engines/infini
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention
from niah.engines.infini.config import InfiniConfig
from tests.engines.infini import plain
from tests.engines.infini.layers import OPTIONS, close, layer, streamed, text

# --- the three forms


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_parallel_streamed_and_plain_loops_agree(name: str, data: st.DataObject):
    tokens = data.draw(st.integers(1, 18))
    cuts = data.draw(st.lists(st.integers(1, tokens)))
    module = layer(data.draw(st.integers(0, 9)), **OPTIONS[name])
    x = text(tokens, batch=2)
    weight = data.draw(st.sampled_from([None, torch.linspace(0.1, 4, 2 * tokens, dtype=torch.float64).view(2, tokens)]))
    with torch.no_grad():
        whole, state = module(x, write_weight=weight)
        pieces, state_of_pieces = streamed(module, x, cuts, weight)
        expected = torch.stack([plain.attention(module, x[i], None if weight is None else weight[i]) for i in range(2)])
    assert close(whole, expected)
    assert close(pieces, expected)
    assert state_of_pieces.tokens == state.tokens == tokens
    assert close(state.memory.matrix, state_of_pieces.memory.matrix)
    assert close(state.memory.normaliser, state_of_pieces.memory.normaliser)


@pytest.mark.parametrize("name", OPTIONS)
def test_token_by_token_over_several_segments(name: str):
    module, x = layer(**OPTIONS[name]), text(17)
    with torch.no_grad():
        assert close(streamed(module, x, list(range(17)))[0], module(x)[0])


def test_weights_that_come_in_the_middle_of_a_segment():
    module, x = layer(), text(11)
    weight = torch.ones(1, 11, dtype=torch.float64)
    weight[:, 3:7] = 5.0
    _, state = module(x[:, :3])
    _, state = module(x[:, 3:7], state, write_weight=weight[:, 3:7])
    rest, _ = module(x[:, 7:], state)
    assert close(rest, module(x, write_weight=weight)[0][:, 7:])


def test_another_segment_length_for_the_next_text():
    module, other = layer(), layer(segment_tokens=8)
    other.load_state_dict(module.state_dict())
    x = text(30)
    module(x)
    module.segment_tokens = 8
    assert close(module(x)[0], other(x)[0])
    with pytest.raises(ValueError, match="in the middle"):
        _, state = module(x[:, :7])
        module.segment_tokens = 5
        module(x[:, 7:], state)


# --- what stands in the paper


def test_the_first_segment_is_causal_attention_alone():
    """Nothing is in memory: no gate scales the output, nothing is 0 / 0, in the output and in the gradients."""
    x = text(5)
    for options in OPTIONS.values():
        module = layer(**options)
        outputs: list[Tensor] = []
        for beta in (-40.0, 0.0, 40.0):
            module.beta.data.fill_(beta)
            output, _ = module(x)
            outputs.append(output)
        assert close(outputs[0], outputs[1]) and close(outputs[1], outputs[2])
        outputs[1].square().sum().backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in module.parameters())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_memory_into_which_nothing_was_written_is_no_memory(name: str):
    module, x = layer(**OPTIONS[name]), text(20).requires_grad_()
    silent, _ = module(x, write_weight=torch.zeros(1, 20, dtype=torch.float64))
    module.beta.data.fill_(-60.0)
    assert close(silent, module(x)[0])
    silent.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_no_local_attention_across_a_border():
    module, x = layer(), text(15)
    changed = torch.cat([text(5, seed=9), x[:, 5:]], dim=1)
    assert not close(module(x)[0][:, 5:], module(changed)[0][:, 5:]), "memory sees the other segment"
    module.beta.data.fill_(-60.0)
    assert close(module(x)[0][:, 5:], module(changed)[0][:, 5:])
    assert not close(module(x)[0][:, :5], module(changed)[0][:, :5])


def test_no_token_sees_a_later_one():
    for options in OPTIONS.values():
        module, x = layer(**options), text(18)
        changed = torch.cat([x[:, :8], text(10, seed=9)], dim=1)
        assert close(module(x)[0][:, :8], module(changed)[0][:, :8])


@pytest.mark.parametrize("rule", ["linear", "delta"])
def test_memory_has_no_positions(rule: str):
    """A fact tells the same wherever it stood in its segment, and whichever segment it was (linear rule)."""
    module, x = layer(rule=rule), text(20)
    inside = torch.cat([x[:, :5].flip(1), x[:, 5:]], dim=1)
    assert close(module(x)[0][:, 5:], module(inside)[0][:, 5:])
    later = torch.cat([x[:, 5:10], x[:, :5], x[:, 10:]], dim=1)
    assert close(module(x)[0][:, 10:], module(later)[0][:, 10:]) == (rule == "linear")


def test_local_attention_has_positions_that_restart():
    module, x = layer(), text(5)
    module.beta.data.fill_(-60.0)
    assert not close(module(x)[0][:, 4], module(x[:, [3, 2, 1, 0, 4]])[0][:, 4])
    twice = module(torch.cat([x, x], dim=1))[0]
    assert close(twice[:, :5], twice[:, 5:])


def test_the_convolution_reaches_over_borders():
    module, x = layer(conv_width=4, conv_dilations=(1, 3)), text(20)
    module.beta.data.fill_(-60.0)
    moved = x.clone()
    moved[:, 4] += 1
    difference = (module(x)[0] - module(moved)[0]).abs().sum(-1)[0]
    assert difference[:4].max() < 1e-9 and difference[4:10].min() > 1e-6
    # Token 4 is seen up to 9 places on, directly; within that segment others attend to what saw it.
    assert difference[10:14].min() > 1e-6 and difference[15:].max() < 1e-9


@pytest.mark.parametrize("options", [{}, {"read_norm": True}, {"feature_map": "softmax"}])
@pytest.mark.parametrize("times", [1, 3, 64])
def test_a_weight_is_a_repetition(options: dict[str, Any], times: int):
    """Linear rule: a segment written with weight w is the segment read w times, which is how training makes long texts of short."""
    module, x = layer(**options), text(15)
    weight = torch.ones(1, 15, dtype=torch.float64)
    weight[:, 5:10] = times
    repeated = torch.cat([x[:, :5], *[x[:, 5:10]] * times, x[:, 10:]], dim=1)
    assert close(module(x, write_weight=weight)[0][:, 10:], module(repeated)[0][:, -5:])


# --- bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": 0}, "heads is 0"),
        ({"head_dim": 3}, "even"),
        ({"rule": "omega"}, "linear, delta"),
        ({"feature_map": "relu"}, "elu1, elu1_biased"),
        ({"beta": (1.0,)}, "1 values for 2 heads"),
        ({"beta": (1.0, 1.0), "memory_heads": 1}, "2 values for 1 heads"),
        ({"memory_heads": 3}, "memory_heads is 3"),
        ({"overlap_tokens": -1}, "0 or more"),
        ({"sink_tokens": 3, "overlap_tokens": 3}, "together at most"),
        ({"corrected_normaliser": True}, "delta rule"),
        ({"read_floor": -0.1}, "read_floor is -0.1"),
        ({"conv_width": 4, "conv_dilations": ()}, "conv_dilations"),
        ({"conv_width": -1}, "conv_width"),
    ],
)
def test_a_config_that_makes_no_layer(options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        layer(**options)


def test_inputs_that_do_not_fit():
    module = layer()
    for x in (text(0), text(4, d_model=7), text(4)[0]):
        with pytest.raises(ValueError, match="1 or more tokens, 6"):
            module(x)
    with pytest.raises(ValueError, match="write_weight"):
        module(text(4), write_weight=torch.ones(1, 5))


def test_presets():
    sizes = {"d_model": 64, "heads": 4, "head_dim": 16}
    paper, reader = InfiniConfig.paper(**sizes), InfiniConfig.reader(**sizes)
    assert paper == InfiniConfig(**sizes, segment_tokens=2048)
    plain_names = {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "beta"}
    assert {name for name, _ in InfiniAttention(paper).named_parameters()} == plain_names
    module = InfiniAttention(reader)
    assert {name for name, _ in module.named_parameters()} > plain_names
    assert close(module.beta.detach(), torch.tensor([-1, -1 / 3, 1 / 3, 1]), within=1e-6)
    assert not module.features.projection.requires_grad
