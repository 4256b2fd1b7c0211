"""Blocks that move in the background while texts are read: no logit changes, no token, and nothing leaks, whatever ends a move."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.engines import Step
from niah.engines.distkv.dgfm import wishes
from niah.engines.distkv.engine import DistKVEngine
from niah.engines.distkv.fleet import Fleet
from niah.engines.distkv.home import Home, Reading
from niah.engines.distkv.messages import Candidate, MoveKVCache, Recall
from niah.engines.distkv.mover import Order
from niah.engines.distkv.performance import ASSUMED, LINKS
from niah.engines.distkv.placement import Model, greedy, loads
from tests.engines.checkpoints import tiny
from tests.engines.distkv.asking import ask, fleet, ids, kept, made
from tests.engines.distkv.texts import FAMILIES, assert_whole, drawn, fleet_of, model_of, step, stock_logits

__all__ = ["tiny"]
NEAR, BLOCK = 1e-4, 8
NAMES = ("0", "1", "2", "3")


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, Any]]:
    return {name: model_of(config) for name, config in FAMILIES.items()}


class Texts:
    """A text at each of some instances, read in turn; each step's logits are held against those of transformers."""

    def __init__(self, models: tuple[Any, Any], fleet: Fleet, lengths: dict[str, int]):
        self.fleet, (stock, self.ours) = fleet, models
        self.ids = {name: drawn(length, int(name)) for name, length in lengths.items()}
        self.right = {name: stock_logits(stock, ids) for name, ids in self.ids.items()}
        self.homes = {name: Home(fleet, name) for name in lengths}
        self.readings: dict[str, Reading] = {name: home.open(self.ids[name]) for name, home in self.homes.items()}

    def read(self, name: str, tokens: int) -> None:
        reading, ids = self.readings[name], self.ids[name]
        some = ids[reading.tokens : reading.tokens + tokens]
        if some:
            found, right = step(self.ours, reading, some), self.right[name][reading.tokens - 1]
            assert (found - right).abs().max() < NEAR
            assert int(found.argmax()) == int(right.argmax())

    def finish(self) -> None:
        """Carry out what is left, and give everything back."""
        while not self.fleet.mover.idle:
            self.fleet.mover.step(99)
        assert_whole(self.fleet)
        for name, reading in self.readings.items():
            self.read(name, 999)
            self.homes[name].drop(reading)
        assert_whole(self.fleet)
        assert self.fleet.free_slots == self.fleet.total_slots


orders: st.SearchStrategy[Order] = st.one_of(
    st.builds(Recall, st.sampled_from(NAMES[:3]), st.sampled_from(NAMES), st.integers(1, 9)),
    st.builds(
        lambda home, blocks, other: MoveKVCache(home, "", blocks, Candidate(other, 0, 0)),
        st.sampled_from(NAMES[:3]),
        st.integers(1, 9),
        st.sampled_from(NAMES),
    ),
)


@pytest.mark.parametrize("family", ["llama with shared heads", "llama with one head of keys", "mistral with a window", "qwen3"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_logits_stay_while_blocks_are_on_their_way(models: dict[str, tuple[Any, Any]], family: str, data: st.DataObject):
    them = fleet_of(FAMILIES[family], instances=4, slots=12, block_tokens=BLOCK)
    texts = Texts(models[family], them, dict.fromkeys(NAMES[:3], 110))
    for _ in range(data.draw(st.integers(4, 20))):
        name = data.draw(st.sampled_from(NAMES[:3]))
        texts.read(name, data.draw(st.sampled_from([1, 1, 30])))
        for order in data.draw(st.lists(orders, max_size=2)):
            if isinstance(order, Recall):
                them.mover.order([order] * (order.home != order.creditor))
            elif order.home != order.destination.instance:
                them.mover.order([MoveKVCache(order.home, texts.readings[order.home].request, order.blocks, order.destination)])
    texts.finish()


def circle(models: tuple[Any, Any]) -> Texts:
    """Three instances that each hold blocks of their neighbour's text, and a slot that is free at the first."""
    them = fleet_of(FAMILIES["qwen3"], instances=3, slots=15, block_tokens=BLOCK)
    texts = Texts(models, them, dict.fromkeys(NAMES[:3], 90))
    for name in NAMES[:3]:
        texts.readings[name].reserve(90)
        texts.read(name, 6 * BLOCK)
    for name, other in zip(NAMES[:3], ("1", "2", "0"), strict=True):
        manager = them.managers[name]
        assert them.move(name, manager.movable(name, 3), other) == 3
    for name in NAMES[:3]:  # what is free elsewhere is taken: the circle has one slot to turn in
        them.managers[name].allocate("hole", 3 - (name == "0"))
    return texts


def test_a_circle_of_debts_is_undone_while_its_texts_are_read(models: dict[str, tuple[Any, Any]]):
    texts = circle(models["qwen3"])
    them = texts.fleet
    them.beat()
    assert them.gmanager.debts() == {("0", "1"): 3, ("1", "2"): 3, ("2", "0"): 3}
    used = {name: manager.counts.total - manager.counts.free for name, manager in them.managers.items()}
    asked = wishes(them.gmanager.debts(), {name: manager.counts.free for name, manager in them.managers.items()})
    assert asked == [Recall("0", "1", 1), Recall("1", "2", 1), Recall("2", "0", 1)] * 3
    halves = 0
    for number in range(30):
        texts.read(NAMES[number % 3], 1)
        halves += not them.mover.idle
    assert halves > 5, "it went on bit by bit"
    assert them.mover.brought_blocks == 9
    assert_whole(them)
    assert them.gmanager.debts() == {}
    assert {name: manager.counts.total - manager.counts.free for name, manager in them.managers.items()} == used
    for name in NAMES[:3]:
        them.managers[name].release("hole")
    texts.finish()


def test_what_the_greedy_placement_wishes_is_carried_out(models: dict[str, tuple[Any, Any]]):
    them = fleet_of(FAMILIES["qwen3"], instances=2, slots=12, block_tokens=BLOCK)
    texts = Texts(models["qwen3"], them, {"0": 99})
    texts.read("0", 12 * BLOCK)
    home = them.managers["0"]
    for manager in (home, them.managers["1"]):
        them.gmanager.heartbeat(manager.heartbeat(full=True, waiting=[4] if manager is home else []))
    wished = greedy(loads(them.gmanager), Model(ASSUMED, LINKS["nvlink"], 1000))
    assert wished
    assert all((order.home, order.destination.instance) == ("0", "1") for order in wished)
    them.mover.order(wished)
    while not them.mover.idle:
        texts.read("0", 1) if texts.readings["0"].tokens < 99 else them.mover.step(1)
    assert home.holders(texts.readings["0"].request)["1"] >= 4
    assert home.counts.free >= 4, "there is room for what waited"
    texts.finish()


def test_a_text_that_needs_the_room_of_a_move_gets_it(models: dict[str, tuple[Any, Any]]):
    them = fleet_of(FAMILIES["qwen3"], instances=2, slots=6, block_tokens=BLOCK)
    texts = Texts(models["qwen3"], them, {"0": 12 * BLOCK})
    texts.read("0", 6 * BLOCK)
    them.mover.order([MoveKVCache("0", texts.readings["0"].request, 6, Candidate("1", 0, 6))])
    them.mover.step(2)
    assert them.managers["1"].counts.reserved == 6
    texts.read("0", 6 * BLOCK)
    assert them.mover.idle
    assert them.free_slots == 0
    texts.finish()


@pytest.fixture(scope="module")
def right(tiny: Path) -> tuple[list[int], tuple[int, ...]]:
    """A prompt that lies with three of four instances, and its answer."""
    prompt = ids(420, 5)
    return prompt, ask(made(tiny), prompt, 24).ids


ENDS: dict[str, Callable[[Fleet], None]] = {
    "home": lambda them: them.kill("0"),
    "lender": lambda them: them.kill("1"),
    "other lender": lambda them: them.kill("3"),
    "gManager": Fleet.restart_gmanager,
    "bystander": lambda them: them.kill("2"),
    "nobody": lambda them: None,
}


def send_out(engine: DistKVEngine, blocks: int) -> None:
    """From the home to "3"."""
    assert engine._reading
    fleet(engine).mover.order([MoveKVCache("0", engine._reading.request, blocks, Candidate("3", 0, 0))])


def bring_home(engine: DistKVEngine, blocks: int) -> None:
    """From "1", into room that is made for it."""
    assert fleet(engine).move("0", fleet(engine).managers["0"].movable("0", blocks), "3") == blocks
    fleet(engine).mover.order([Recall("0", "1", blocks)])


@pytest.mark.parametrize("order", [send_out, bring_home])
@pytest.mark.parametrize("when", [1, 3, 6])
@pytest.mark.parametrize("who", ENDS)
def test_whoever_dies_during_a_move_no_token_changes(
    tiny: Path, right: tuple[list[int], tuple[int, ...]], who: str, when: int, order: Callable[[DistKVEngine, int], None]
):
    """Six blocks move, one a token."""
    prompt, expected = right
    engine = made(tiny, instances=4, tokens=160)
    ask(engine, prompt[:5], 1)
    halfway: list[bool] = []

    def report(told: Step) -> None:
        if told.phase == "decode" and told.tokens == 3:
            order(engine, 6)
        if told.phase == "decode" and told.tokens == 3 + when:
            halfway.append(not fleet(engine).mover.idle)
            ENDS[who](fleet(engine))

    answer = ask(engine, prompt, 24, report=report)
    assert answer.ids == expected
    assert halfway == [when < 6]
    assert answer.measured["instances"] == (4 if who in ("gManager", "nobody") else 3)
    if who in ("gManager", "nobody"):
        assert fleet(engine).mover.brought_blocks >= 6, "what is on its way goes on"
    while not fleet(engine).mover.idle:
        fleet(engine).work(16)
    assert kept(engine) == 0


def test_debts_are_called_home_when_there_is_room_again(tiny: Path):
    engine = made(tiny, instances=2, tokens=320)  # 20 blocks of 16 each
    first, second = ids(200, 1), ids(280, 2)
    expected = ask(made(tiny), second, 40).ids
    ask(engine, first, 1)
    counts: list[int] = []

    def report(told: Step) -> None:
        if told.phase == "decode":
            if told.tokens == 1:
                fleet(engine).evict()  # the first text, which lies at home
            counts.append(fleet(engine).managers["0"].holders(engine._reading.request).get("1", 0) if engine._reading else -1)

    assert ask(engine, second, 40, report=report).ids == expected
    assert counts[0] > 8
    assert counts[-1] < counts[0] - 5
    assert counts == sorted(counts, reverse=True)
    assert kept(engine) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_move_ends_at_any_step_and_slots_return(models: dict[str, tuple[Any, Any]], seed: int):
    """Texts are dropped, grow and begin anew while their blocks are on their way."""
    draw = random.Random(seed)
    them = fleet_of(FAMILIES["qwen3"], instances=3, slots=12, block_tokens=BLOCK)
    texts = Texts(models["qwen3"], them, dict.fromkeys(NAMES[:3], 90))
    for _ in range(60):
        name, other = draw.sample(NAMES[:3], 2)
        reading = texts.readings[name]
        if draw.random() < 0.15:
            texts.homes[name].drop(reading)
            texts.readings[name] = texts.homes[name].open(texts.ids[name])
        elif draw.random() < 0.5:
            texts.read(name, draw.choice([1, 5, 20]))
        else:
            there = Candidate(other, 0, 0)
            wish = Recall(name, other, draw.randrange(1, 6)), MoveKVCache(name, reading.request, draw.randrange(1, 6), there)
            them.mover.order(draw.sample(wish, 1))
    texts.finish()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_moves_change_no_token(tiny: Path, right: tuple[list[int], tuple[int, ...]]):
    prompt, expected = right
    engine = DistKVEngine(tiny, instances=4, kv_memory_bytes=160 * 512, device="cuda", chunk_tokens=64)
    engine._block_tokens = 16

    def report(told: Step) -> None:
        if told.phase == "decode" and told.tokens == 3:
            send_out(engine, 6)

    assert ask(engine, prompt, 24, report=report).ids == expected
    assert kept(engine) == 0
