"""Models of transformers give the logits that they give by themselves, wherever their keys lie."""

import copy
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StaticCache

from niah.engines import EngineError
from niah.engines.distkv import cache
from niah.engines.distkv.home import Home, runs
from niah.engines.memory import size
from tests.engines.distkv.texts import FAMILIES, assert_whole, drawn, fleet_of, model_of, scatter, step, stock_logits

NEAR = 1e-4


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, Any]]:
    return {name: model_of(config) for name, config in FAMILIES.items()}


def shuffle(home: Home, draw: random.Random) -> None:
    """Bring some blocks elsewhere, or home."""
    fleet = home.fleet
    for _ in range(draw.randrange(3)):
        source, destination = draw.choice([*fleet.managers]), draw.choice([*fleet.managers])
        if source != destination and (source == home.name or destination in (home.name, source)):
            fleet.move(home.name, home.manager.movable(source, draw.randrange(1, 5)), destination)
    fleet.settle(home.name)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_logits_are_those_of_transformers(models: dict[str, tuple[Any, Any]], family: str, data: st.DataObject):
    stock, ours = models[family]
    instances, block_tokens = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([4, 8, 16]))
    count, chunk, decoded = data.draw(st.integers(1, 180)), data.draw(st.integers(1, 90)), 5
    draw = random.Random(data.draw(st.integers(0, 999)))
    ids = drawn(count + decoded, count)
    fleet = fleet_of(
        FAMILIES[family], instances=instances, slots=2 * (count // block_tokens + 3) // instances + 4, block_tokens=block_tokens
    )
    home = Home(fleet, draw.choice([*fleet.managers]))
    if data.draw(st.booleans()):
        scatter(fleet, draw, free=-(-len(ids) // block_tokens))
    expected = stock_logits(stock, ids)
    reading = home.open(ids)
    while reading.tokens < len(ids):
        rows = min(chunk, count - reading.tokens) if reading.tokens < count else 1
        found = step(ours, reading, ids[reading.tokens : reading.tokens + rows])
        assert (found - expected[reading.tokens - 1]).abs().max() < NEAR
        assert int(found.argmax()) == int(expected[reading.tokens - 1].argmax())
        shuffle(home, draw)
        assert_whole(fleet)


def test_moves_and_holes_make_pieces_that_the_test_above_reads(models: dict[str, tuple[Any, Any]]):
    """It would also pass if all blocks lay in one run."""
    config = FAMILIES["qwen3"]
    fleet, draw = fleet_of(config, instances=3, slots=30), random.Random(4)
    home = Home(fleet, "1")
    scatter(fleet, draw, free=28)
    reading = home.open(drawn(200))
    step(models["qwen3"][1], reading, drawn(200))
    found = runs(home.manager.blocks(reading.request), 8, 0, 200)
    assert len(found) > 8
    assert {name for (name, _), _ in found} == {"0", "1", "2"}
    assert sum(run.tokens for _, run in found) == 200
    before = fleet.moved_bytes
    for seed in range(20):
        shuffle(home, random.Random(seed))
    assert fleet.moved_bytes > before + 5 * fleet.shape.block_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_errs_no_more_than_transformers_itself(family: str):
    """The floor is what bfloat16 costs a model with the caches of transformers: its distance from the same weights in float32."""
    stock, ours = model_of(FAMILIES[family], torch.bfloat16)
    exact = copy.deepcopy(stock).float()
    static_errors, errors = list[torch.Tensor](), list[torch.Tensor]()
    for seed in range(6):
        ids = drawn(120, seed)
        fleet = fleet_of(FAMILIES[family], instances=3, slots=8, dtype=torch.bfloat16)
        reading, static = Home(fleet, "0").open(ids), StaticCache(config=stock.config, max_cache_len=128)
        right = stock_logits(exact, ids)
        for start, stop in [(0, 50), (50, 100), (100, 120)]:
            with torch.inference_mode():
                other = stock(torch.tensor([ids[start:stop]]), past_key_values=static).logits[0, -1]
            static_errors.append(other.float() - right[stop - 1])
            errors.append(step(ours, reading, ids[start:stop]).float() - right[stop - 1])
    ours_off, floor = torch.stack(errors), torch.stack(static_errors)
    assert 0 < ours_off.square().mean().sqrt() <= 1.15 * floor.square().mean().sqrt()
    assert ours_off.abs().max() <= 2 * floor.abs().max()


def test_a_model_without_our_cache_is_refused(models: dict[str, tuple[Any, Any]]):
    ours = models["qwen3"][1]
    with pytest.raises(EngineError, match="Qwen3Attention attends in a way that distkv/ does not know: try hf/"):
        ours(torch.tensor([drawn(5)]))


@pytest.mark.parametrize("what", ["softcap", "s_aux"])
def test_what_the_attention_function_does_not_know_is_refused(what: str):
    keys = torch.randn(1, 2, 3, 8)
    keys.niah_text = object()
    with pytest.raises(EngineError, match=rf"does not know \({what}\)"):
        cache._attention(torch.nn.Identity(), torch.randn(1, 4, 3, 8), keys, keys, None, scaling=1.0, **{what: 1.0})


def test_room_that_is_not_there_is_told_in_bytes(models: dict[str, tuple[Any, Any]]):
    fleet = fleet_of(FAMILIES["qwen3"], instances=2, slots=5)
    home = Home(fleet, "0")
    bytes_ = fleet.shape.block_bytes
    with pytest.raises(EngineError) as caught:
        home.open(drawn(100)).reserve(100)
    told = f"the keys and values of 100 tokens take {size(13 * bytes_)}; {size(10 * bytes_)} are free on 2 instances of {size(5 * bytes_)}"
    assert (str(caught.value), caught.value.kind) == (told, "memory")
    reading = home.open(drawn(80))
    step(models["qwen3"][1], reading, drawn(80))
    with pytest.raises(EngineError, match=r"81 tokens take .* are free on 2 instances"):
        reading.reserve(81)
    home.drop(reading)
    assert_whole(fleet)
    assert fleet.free_slots == fleet.total_slots
