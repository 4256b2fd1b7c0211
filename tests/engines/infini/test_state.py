"""Infini-attention's state does not grow, stays good, and remembers what was only absorbed or closed early."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niah.engines.infini.attention import InfiniAttention
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.state import InfiniState
from tests.engines.infini.layers import OPTIONS, REMEMBERING, SEEING, close, layer, streamed, text

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
@pytest.mark.parametrize("name", [name for name in REMEMBERING if name not in SEEING])
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


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 7, 9, 13])
def test_a_closed_segment_stays_in_sight_where_any_does(tokens: int):
    """What follows sees it as if no border were there, as long as it is a part of the same segment."""
    module, question = layer(sink_tokens=2, overlap_tokens=2, memory_heads=0), text(4, seed=7)
    with torch.no_grad():
        _, state = module(text(tokens))
        wide = layer(sink_tokens=2, overlap_tokens=2, memory_heads=0, segment_tokens=20)
        wide.load_state_dict(module.state_dict())
        seen = torch.cat([text(tokens)[:, max(tokens - tokens % 5 - 2, 0) :], question], dim=1)
        front = text(tokens)[:, :2] if tokens >= 5 else text(0)
        answered = module(question, module.close_segment(state))[0]
        assert close(answered, wide(torch.cat([front, seen], dim=1))[0][:, -4:])
        whole = module(torch.cat([question, question, question], dim=1), module.close_segment(state))[0]
        assert close(whole[:, :4], answered)


@pytest.mark.parametrize("tokens", [1, 2, 8])
@pytest.mark.parametrize("name", SEEING)
def test_an_answer_behind_a_border_streams_as_it_does_at_once(name: str, tokens: int):
    """Also behind a text that is shorter than the overlap."""
    module, question = layer(**OPTIONS[name]), text(11, seed=7)
    with torch.no_grad():
        closed = module.close_segment(module(text(tokens))[1])
        at_once, one = module(question, closed)
        by_token, two = streamed(module, question, list(range(11)), state=closed)
    assert close(at_once, by_token) and close(one.memory.matrix, two.memory.matrix)


def test_what_stays_in_sight_goes_on_being_seen():
    """A token is seen from the next segment's end through the overlap, and from any later one if it is a sink."""
    module = layer(sink_tokens=1, overlap_tokens=2, memory_heads=0)
    x = text(20).requires_grad_()
    module(x)[0][:, -1].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum(1).bool().tolist() == [True] + [False] * 12 + [True] * 7
