"""Attention over any partition of the keys is attention over all of them."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niah.engines.distkv import instance, kernels
from niah.engines.distkv.arena import Arena, Shape
from niah.engines.distkv.attention import dist_attention
from niah.engines.distkv.instance import InstanceLostError, LocalInstance, Query, Run, in_sight
from niah.engines.distkv.kernels import KV, Partial, attend, merged

NEAR = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-2}
BLOCK = 4


def in_one_piece(query: Tensor, keys: Tensor, values: Tensor, scale: float, seen: Tensor) -> Tensor:
    """Softmax attention as it is defined, in float64. `seen` is [rows, tokens]."""
    times = query.shape[0] // keys.shape[0]
    keys, values = (each.double().repeat_interleave(times, 0) for each in (keys, values))
    scores = (query.double() @ keys.mT * scale).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ values


def drawn(seed: int, *shapes: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64).to(dtype) for shape in shapes]


def placed(keys: Tensor, values: Tensor, *, holders: int, slots: Sequence[tuple[int, int]]) -> list[tuple[LocalInstance, list[Run]]]:
    """Instances with the blocks of a text at `slots` (holder, slot), and where each has what."""
    shape = Shape(layers=2, key_heads=keys.shape[0], dim=keys.shape[2], dtype=keys.dtype, block_tokens=BLOCK)
    room = 1 + max((slot for _, slot in slots), default=0)
    found = [(LocalInstance(str(number), 0, shape, room * shape.block_bytes, "cpu"), list[Run]()) for number in range(holders)]
    for number, (holder, slot) in enumerate(slots):
        where, runs = found[holder]
        some = slice(number * BLOCK, (number + 1) * BLOCK)
        where.write(1, slot * BLOCK, (keys[:, some], values[:, some]))
        tokens = keys[:, some].shape[1]
        if runs and runs[-1].start + runs[-1].tokens == slot * BLOCK and runs[-1].position + runs[-1].tokens == number * BLOCK:
            runs[-1] = Run(runs[-1].start, runs[-1].tokens + tokens, runs[-1].position)
        else:
            runs.append(Run(slot * BLOCK, tokens, number * BLOCK))
    return found


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_placement_gives_attention_in_one_piece(data: st.DataObject):
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    key_heads, times, dim = data.draw(st.sampled_from([(2, 4, 16), (4, 1, 8), (1, 4, 24)]))
    past, rows = data.draw(st.integers(0, 90)), data.draw(st.integers(1, 40))
    window = data.draw(st.one_of(st.none(), st.integers(1, 60)))
    holders = data.draw(st.integers(1, 4))
    query, keys, values = drawn(
        data.draw(st.integers(0, 99)), (key_heads * times, rows, dim), *[(key_heads, past + rows, dim)] * 2, dtype=dtype
    )
    kept = past + (rows == 1)  # one new token is kept first and then read with the others
    blocks = -(-kept // BLOCK)
    slots = data.draw(st.lists(st.tuples(st.integers(0, holders - 1), st.integers(0, 40)), min_size=blocks, max_size=blocks, unique=True))
    if data.draw(st.booleans()):
        slots.sort()
    there = placed(keys[:, :kept], values[:, :kept], holders=holders, slots=slots)
    there = [(holder, near) for holder, runs in there if (near := in_sight(runs, past, window))]
    asked = Query(layer=1, rows=query, position=past, scale=0.3, window=window)
    short, gathered = data.draw(st.sampled_from([(512, 2048), (1, 1), (9, 16)]))  # all runs copied together, none, or some
    with patch.multiple(instance, _SHORT_TOKENS=short, _GATHERED_TOKENS=gathered):
        found = dist_attention(asked, (keys[:, past:], values[:, past:]), data.draw(st.permutations(there)))
    at = torch.arange(past + rows)
    seen = (at <= at[past:, None]) & (at > at[past:, None] - (window or past + rows + 1))
    expected = in_one_piece(query, keys, values, 0.3, seen)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < NEAR[dtype]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parts_are_merged_in_any_order(data: st.DataObject):
    dtype = data.draw(st.sampled_from(list(NEAR)))
    tokens = data.draw(st.integers(1, 60))
    query, keys, values = drawn(data.draw(st.integers(0, 99)), (4, 3, 16), (2, tokens, 16), (2, tokens, 16), dtype=dtype)
    seen = torch.rand(3, tokens, generator=torch.Generator().manual_seed(tokens)) < 0.7
    seen[:, 0] = True
    order = data.draw(st.permutations(range(tokens)))
    edges = sorted(data.draw(st.sets(st.integers(1, tokens), max_size=5)) - {tokens})
    parts: list[Partial] = []
    for start, stop in zip([0, *edges], [*edges, tokens], strict=True):
        some = order[start:stop]
        parts.append(attend(query, (keys[:, some], values[:, some]), 0.25, seen=seen[:, some]))
    assert (merged(parts).out.double() - in_one_piece(query, keys, values, 0.25, seen)).abs().max() < NEAR[dtype]


@pytest.mark.parametrize("dtype", NEAR)
def test_rows_that_see_nothing_weigh_nothing(dtype: torch.dtype):
    query, keys, values = drawn(1, (4, 5, 16), (2, 1200, 16), (2, 1200, 16), dtype=dtype)
    seen = torch.arange(1200) >= torch.tensor([0, 600, 1199, 1200, 5000])[:, None]  # a row may see nothing of the first 512, or of all
    part = attend(query, (keys, values), 0.2, seen=seen)
    assert part.lse[:, 3:].eq(-torch.inf).all()
    assert part.out[:, 3:].eq(0).all()
    assert (part.out[:, :3].double() - in_one_piece(query[:, :3], keys, values, 0.2, seen[:3])).abs().max() < NEAR[dtype]
    both = merged([part, part])
    assert not both.out.isnan().any()
    assert both.lse[:, 3:].eq(-torch.inf).all()
    other = attend(query, (keys[:, :9], values[:, :9]), 0.2)
    assert torch.equal(merged([part, other]).out[:, 3:], other.out[:, 3:].to(part.lse.dtype))


def test_the_fast_kernel_is_taken_here_and_the_plain_one_agrees(monkeypatch: pytest.MonkeyPatch):
    query, keys, values = drawn(2, (8, 7, 32), (2, 9001, 32), (2, 9001, 32), dtype=torch.float32)
    fast = attend(query, (keys, values), 0.1)
    assert kernels._kernel("cpu", torch.float32, 32) is kernels._cpu_flash
    monkeypatch.setattr(kernels, "_kernel", lambda *_: kernels._plain)
    for one, other in zip(fast, attend(query, (keys, values), 0.1), strict=True):
        assert (one - other).abs().max() < 1e-5


def wrong_lse(*args: Any) -> Partial:
    out, lse = kernels._cpu_flash(*args)
    return Partial(out, lse + 1e-2)


def wrong_mask(query: Tensor, kv: KV, scale: float, causal: bool, mask: Tensor | None) -> Partial:
    return kernels._cpu_flash(query, kv, scale, causal, None)


def wrong_schema(*_: Any) -> Partial:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(1, 2, 3)


def not_there(*_: Any) -> Partial:
    return torch.ops.aten._no_such_attention(1)


@pytest.mark.parametrize("kernel", [wrong_lse, wrong_mask, wrong_schema, not_there])
def test_a_kernel_that_fails_its_test_is_not_used(monkeypatch: pytest.MonkeyPatch, kernel: Any):
    kernels._kernel.cache_clear()
    monkeypatch.setitem(kernels._KERNELS, "cpu", (kernel,))
    try:
        assert kernels._kernel("cpu", torch.float32, 16) is kernels._plain
        monkeypatch.setitem(kernels._KERNELS, "cpu", (kernel, kernels._cpu_flash))
        assert kernels._kernel("cpu", torch.float32, 32) is kernels._cpu_flash
    finally:
        kernels._kernel.cache_clear()


def test_attention_to_no_token_is_an_exception_and_not_the_end_of_the_process():
    query, keys = torch.randn(2, 3, 8), torch.randn(2, 0, 8)
    with pytest.raises(ValueError, match="no token"):
        attend(query, (keys, keys), 1.0)


def test_an_arena_has_the_bytes_that_it_says_and_moves_blocks_whole():
    shape = Shape(layers=3, key_heads=2, dim=8, dtype=torch.bfloat16, block_tokens=BLOCK)
    arena, other = Arena(shape, 6, "cpu"), Arena(shape, 9, "cpu")
    assert shape.block_bytes == 3 * 2 * 2 * BLOCK * 8 * 2
    assert arena.bytes == 6 * shape.block_bytes
    keys, values = (torch.randn(2, 6 * BLOCK, 8).bfloat16() for _ in range(2))
    for layer in range(3):
        arena.write(layer, 0, (keys + layer, values - layer))
    taken = arena.take([4, 0, 5])
    assert taken.nbytes == 3 * shape.block_bytes
    other.put([8, 1, 2], taken)
    for layer in range(3):
        for source, slot in ((4, 8), (0, 1), (5, 2)):
            found = other.read(layer, slot * BLOCK, (slot + 1) * BLOCK)
            at = slice(source * BLOCK, (source + 1) * BLOCK)
            assert torch.equal(found[0], (keys + layer)[:, at])
            assert torch.equal(found[1], (values - layer)[:, at])


def test_a_killed_instance_says_so():
    shape = Shape(layers=1, key_heads=1, dim=8, dtype=torch.float32, block_tokens=BLOCK)
    one = LocalInstance("a", 0, shape, 10 * shape.block_bytes, "cpu")
    finish = one.attend(Query(0, torch.randn(1, 1, 8), 4, 1.0, None), [Run(0, 4, 0)])
    one.kill()
    calls = (
        finish,
        lambda: one.take([0]),
        lambda: one.write(0, 0, (torch.randn(1, 1, 8), torch.randn(1, 1, 8))),
        lambda: one.put([0], torch.randn(1, 2, 1, 1, BLOCK, 8)),
    )
    for call in calls:
        with pytest.raises(InstanceLostError, match="instance a is lost"):
            call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_of_a_gpu_agree_with_the_plain_product(dtype: torch.dtype):
    query, keys, values = (each.cuda() for each in drawn(3, (8, 70, 64), (2, 700, 64), (2, 700, 64), dtype=dtype))
    assert kernels._kernel("cuda", dtype, 64) is not kernels._plain
    for causal, tokens in ((False, 700), (True, 70)):
        kv = (keys[:, :tokens], values[:, :tokens])
        found = attend(query, kv, 0.2, causal=causal)
        for one, other in zip(found, kernels._plain(query, kv, 0.2, causal, None), strict=True):
            assert (one.double() - other.double()).abs().max() < 4 * NEAR[dtype]
