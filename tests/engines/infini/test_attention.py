"""Infini-attention is what the paper says, the same for every way of cutting a text into calls, and can learn through its memory.

pytest tests/engines/infini
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention, Watch
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.state import InfiniState
from tests.engines.infini import plain

OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "delta": {"rule": "delta"},
    "corrected": {"rule": "delta", "corrected_normaliser": True},
    "bias": {"attention_bias": True},
    "conv": {"conv_width": 4},
    "dilated": {"conv_width": 3, "conv_dilations": (1, 4)},
    "read_norm": {"read_norm": True},
    "write_gate": {"write_gate": True, "write_gate_bias": -1.0},
    "biased": {"feature_map": "elu1_biased", "feature_bias": -2.0, "feature_scale": 2.0},
    "dpfp": {"feature_map": "dpfp", "dpfp_nu": 2},
    "softmax": {"feature_map": "softmax", "feature_count": 7},
    "sinks": {"sink_tokens": 2},
    "overlap": {"overlap_tokens": 3},
    "delay": {"write_delay_tokens": 2, "write_gate": True},
    "delay_alone": {"write_delay_tokens": 3},
    "one_remembers": {"memory_heads": 1, "read_norm": True, "write_gate": True},
    "none_remembers": {"memory_heads": 0, "overlap_tokens": 1},
    "sight": {
        "sink_tokens": 2,
        "overlap_tokens": 2,
        "write_delay_tokens": 1,
        "memory_heads": 1,
        "write_gate": True,
        "feature_map": "softmax",
        "rule": "delta",
    },
    "all": {
        "attention_bias": True,
        "conv_width": 2,
        "conv_dilations": (1, 3),
        "read_norm": True,
        "write_gate": True,
        "feature_map": "softmax",
    },
    "all_delta": {
        "rule": "delta",
        "corrected_normaliser": True,
        "conv_width": 4,
        "read_norm": True,
        "write_gate": True,
        "feature_map": "elu1_biased",
    },
}

REMEMBERING = [name for name in OPTIONS if name != "none_remembers"]
DELAYED = ("delay", "delay_alone", "sight")


def layer(seed: int = 0, **options: Any) -> InfiniAttention:
    """A small random layer, float64, none of whose parameters is special."""
    torch.manual_seed(seed)
    module = InfiniAttention(InfiniConfig(**{"d_model": 6, "heads": 2, "head_dim": 4, "segment_tokens": 5} | options)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def text(tokens: int, *, batch: int = 1, d_model: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(batch, tokens, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def streamed(module: InfiniAttention, x: Tensor, cuts: list[int], weight: Tensor | None = None) -> tuple[Tensor, InfiniState]:
    """The text in pieces that end at `cuts`."""
    outputs, state, borders = [], None, sorted({0, *cuts, x.shape[1]})
    for start, end in itertools.pairwise(borders):
        output, state = module(x[:, start:end], state, write_weight=None if weight is None else weight[:, start:end])
        outputs.append(output)
    assert state is not None
    return torch.cat(outputs, dim=1), state


def close(one: Tensor, other: Tensor, *, within: float = 1e-9) -> bool:
    return torch.allclose(one, other, rtol=within, atol=within)


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


# --- learning through the memory


@pytest.mark.parametrize("name", [name for name in OPTIONS if not OPTIONS[name].get("corrected_normaliser")])
def test_gradients_through_memory_are_the_numerical_ones(name: str):
    """The loss is taken in the last segment only; the corrected rule is left out, whose gamma has no gradient on purpose."""
    module = layer(**OPTIONS[name] | {"d_model": 4, "heads": 1, "head_dim": 2})
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
    assert watch.write_logits is not None and watch.write_logits.shape == (1, 9, 2)
    watch.write_logits.sigmoid().mean().backward()
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


# --- the state


def test_the_state_does_not_grow():
    """The paper's size: head_dim * (head_dim + 1) float32 values a head; nothing holds on to the text behind it."""
    module = InfiniAttention(InfiniConfig.paper(d_model=256, heads=4, head_dim=64, segment_tokens=16))
    state, sizes = None, list[int]()
    with torch.inference_mode():
        for _ in range(4):
            _, state = module(torch.randn(1, 160, 256), state)
            sizes.append(state.state_bytes())
    assert sizes == [4 * 64 * 65 * 4] * 4


@pytest.mark.parametrize("tokens", [3, 5, 12, 20])
def test_the_state_keeps_no_hidden_storage(tokens: int):
    for options in OPTIONS.values():
        with torch.no_grad():
            _, state = layer(**options)(text(tokens))
        held: list[int] = []
        state.each(lambda tensor, held=held: held.append(tensor.untyped_storage().nbytes()) or tensor)
        assert sum(held) == state.state_bytes()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_older_state_stays_good(name: str):
    module, x = layer(**OPTIONS[name]), text(23)
    with torch.no_grad():
        _, snapshot = module(x[:, :12])
        copy = snapshot.clone().to("cpu")
        first, _ = module(x[:, 12:], snapshot)
        module(text(30, seed=5), snapshot)
        again, _ = module(x[:, 12:], snapshot)
        from_copy, _ = module(x[:, 12:], copy)
    assert torch.equal(first, again) and torch.equal(first, from_copy)


# --- a text that is only to be remembered, and its end


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(OPTIONS)), cuts=st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_what_is_absorbed_is_remembered_as_what_is_read(name: str, cuts: list[int]):
    module = layer(**OPTIONS[name])
    read: InfiniState | None = None
    absorbed: InfiniState | None = None
    with torch.no_grad():
        for seed, tokens in enumerate(cuts):
            _, read = module(text(tokens, seed=seed), read)
            absorbed = module.absorb(text(tokens, seed=seed), absorbed)
    assert read is not None and absorbed is not None
    both: list[list[Tensor]] = [[], []]
    for state, into in zip((read, absorbed), both, strict=True):
        state.each(lambda tensor, into=into: into.append(tensor) or tensor)
    assert len(both[0]) == len(both[1]) and all(map(torch.equal, *both))
    assert read.tokens == absorbed.tokens == sum(cuts)


@pytest.mark.parametrize("tokens", [3, 5, 13])
@pytest.mark.parametrize("name", [name for name in REMEMBERING if name not in DELAYED])
def test_a_segment_that_is_closed_early_is_one_padded_without_weight(name: str, tokens: int):
    """So training pads its texts; what follows begins a new segment, in front of which the convolution sees nothing."""
    module, x, question = layer(**OPTIONS[name]), text(tokens), text(4, seed=7)
    padded = -(-tokens // 5) * 5
    weight = torch.ones(1, padded, dtype=torch.float64)
    weight[:, tokens:] = 0
    with torch.no_grad():
        _, state = module(torch.cat([x, text(padded - tokens, seed=8)], dim=1), write_weight=weight)
        _, streamed = module(x)
        closed = module.close_segment(streamed)
        assert close(closed.memory.matrix, state.memory.matrix) and close(closed.memory.normaliser, state.memory.normaliser)
        assert not closed.keys.shape[1] and closed.tokens == tokens and closed.tail.abs().sum() == 0
        assert close(module(question, closed)[0], module(question, state.new_segment())[0])
        assert not close(module(question, closed)[0], module(question, closed.without_memory())[0])
        assert close(module(question, closed.without_memory())[0], module(question)[0])


@pytest.mark.parametrize("tokens", [3, 5, 6, 13])
def test_a_delay_changes_nothing_where_all_gates_agree_but_for_the_end(tokens: int):
    module, prompt = layer(write_gate=True, write_delay_tokens=2), layer(write_gate=True)
    assert module.write_gate is not None
    module.write_gate.weight.data.zero_()
    prompt.load_state_dict(module.state_dict())
    with torch.no_grad():
        one = module.close_segment(module(text(tokens))[1]).memory
        other = prompt.close_segment(prompt(text(tokens)[:, :-2])[1]).memory
    assert close(one.matrix, other.matrix) and close(one.normaliser, other.normaliser)


def test_a_delayed_gate_opens_for_what_stood_before():
    module = layer(write_gate=True, write_delay_tokens=3, segment_tokens=4)
    assert module.write_gate is not None
    module.write_gate.weight.data.zero_()
    module.write_gate.weight.data[:, 0] = 1e3
    module.write_gate.bias.data.fill_(-500.0)
    x = text(8)
    x[..., 0] = 0.0
    x[0, 6, 0] = 1.0
    with torch.no_grad():
        _, state = module(x)
        key = module.features(module._key(x)[0, 3].unsqueeze(1))  # pyright: ignore[reportPrivateUsage]
    assert close(state.memory.normaliser[0], key[:, 0])


def test_what_stays_in_sight_goes_on_being_seen():
    """A token is seen from the next segment's end through the overlap, and from any later one if it is a sink."""
    module = layer(sink_tokens=1, overlap_tokens=2, memory_heads=0)
    x = text(20).requires_grad_()
    module(x)[0][:, -1].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum(1).bool().tolist() == [True] + [False] * 12 + [True] * 7


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
