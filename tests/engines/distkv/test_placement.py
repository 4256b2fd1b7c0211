"""The performance model is found again in what it says, and greedy moves each raise what it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.messages import Candidate
from niah.engines.distkv.performance import ASSUMED, LINKS, DecodePoint, PrefillPoint, fitted, parallel
from niah.engines.distkv.placement import Load, Model, greedy, loads
from niah.engines.distkv.rmanager import RManager

MODEL = Model(ASSUMED, LINKS["nvlink"], 1000)
speeds = st.floats(1e-6, 1e-1)


@given(speeds, speeds, st.floats(1e-9, 1e-5), speeds, st.floats(1e-12, 1e-7))
def test_a_fit_finds_the_speeds_that_made_the_points(step: float, request: float, token: float, read: float, pair: float):
    made = replace(
        ASSUMED, step_seconds=step, request_seconds=request, token_seconds=token, prefill_token_seconds=read, prefill_pair_seconds=pair
    )
    decode = [DecodePoint(b, t, made.decode_seconds(b, t)) for b in (1, 4, 16) for t in (100, 5_000, 40_000)]
    prefill = [PrefillPoint(t, made.prefill_seconds(t)) for t in (100, 2_000, 30_000, 500_000)]
    found = fitted(ASSUMED, decode, prefill, source="made up")
    for point in decode:
        assert found.decode_seconds(point.batch, point.tokens) == pytest.approx(point.seconds, rel=1e-6)
    for point in prefill:
        assert found.prefill_seconds(point.tokens) == pytest.approx(point.seconds, rel=1e-6)
    assert found.kind == "measured"
    assert found.kv_bytes_per_token == ASSUMED.kv_bytes_per_token


def test_noise_makes_no_speed_negative():
    decode = [DecodePoint(1, 100, 1.0), DecodePoint(2, 100, 0.9), DecodePoint(4, 5000, 0.8), DecodePoint(4, 100, 0.85)]
    found = fitted(ASSUMED, decode, [PrefillPoint(10, 1.0), PrefillPoint(100, 2.0)], source="")
    assert min(found.step_seconds, found.request_seconds, found.token_seconds, found.prefill_token_seconds) >= 0
    assert found.decode_seconds(2, 100) == pytest.approx(0.9, rel=0.15)


def test_too_few_points_are_said():
    with pytest.raises(ValueError, match="too few"):
        fitted(ASSUMED, [DecodePoint(1, 10, 1.0)] * 3, [PrefillPoint(10, 1.0)], source="")
    with pytest.raises(ValueError, match="no points"):
        fitted(ASSUMED, [], [], source="")


def test_one_of_many_is_faster_in_work_and_slower_in_steps_over_a_slow_link():
    near, far = (parallel(ASSUMED, 32, LINKS[name]) for name in ("nvlink", "ethernet"))
    assert near.prefill_seconds(100_000) < ASSUMED.prefill_seconds(100_000) / 20
    assert far.decode_seconds(1, 0) > ASSUMED.decode_seconds(1, 0)
    assert parallel(ASSUMED, 1, LINKS["ethernet"]) == ASSUMED


def load(name: str, slots: int, free: int, **more: object) -> Load:
    return Load(candidate=Candidate(name, 0, slots), total=60, free=free, **more)  # type: ignore[arg-type]


def test_blocks_move_out_so_that_waiting_requests_come_in():
    debtor = load("d", 0, 0, local={"long": 50, "short": 10}, waiting=(8, 8, 30))
    orders = greedy([debtor, load("c", 60, 60), load("e", 20, 50)], MODEL)
    assert (orders[0].home, orders[0].request, orders[0].destination.instance) == ("d", "long", "c")
    assert orders[0].blocks >= 16, "two of those that wait are let in at least"


def test_without_gain_nothing_moves():
    idle = load("c", 60, 60)
    assert greedy([load("d", 0, 0, local={}), idle], MODEL) == []
    assert greedy([load("d", 0, 0, local={"r": 5}, waiting=(5,))], MODEL) == []
    slow = replace(MODEL, link=LINKS["ethernet"])
    assert greedy([load("d", 50, 50, local={"r": 5}), idle], slow) == []


loads_drawn = st.lists(
    st.tuples(st.integers(0, 60), st.lists(st.integers(1, 30), max_size=3), st.lists(st.integers(1, 30), max_size=3)),
    min_size=2,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(loads_drawn)
def test_moves_stay_within_what_there_is(drawn: list[tuple[int, list[int], list[int]]]):
    seen = [
        load(f"i{n}", slots, slots, local={f"r{m}": blocks for m, blocks in enumerate(local)}, waiting=tuple(waiting))
        for n, (slots, local, waiting) in enumerate(drawn)
    ]
    before = {each.candidate.instance: (each.candidate.slots, dict(each.local)) for each in seen}
    orders = greedy(seen, MODEL)
    for name, (slots, local) in before.items():
        assert sum(order.blocks for order in orders if order.destination.instance == name) <= slots
        for request, blocks in local.items():
            assert sum(order.blocks for order in orders if (order.home, order.request) == (name, request)) <= blocks
    assert all(order.home != order.destination.instance and order.blocks > 0 for order in orders)
    assert {each.candidate.instance: (each.candidate.slots, dict(each.local)) for each in seen} == before


def test_loads_are_what_heartbeats_tell():
    manager, gmanager = RManager("a", Memory(slots=6, block_tokens=10)), GManager()
    manager.allocate("r", 4)
    gmanager.heartbeat(manager.heartbeat(waiting=[7]))
    assert loads(gmanager) == [Load(candidate=Candidate("a", 0, 2), total=6, free=2, local={"r": 4}, waiting=(7,))]
