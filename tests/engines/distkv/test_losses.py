"""No token of an answer changes when instances are lost or blocks move, whenever it happens."""

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from niah.engines import EngineError, Step
from niah.engines.distkv.cache import cache_of
from niah.engines.distkv.engine import DistKVEngine
from niah.engines.distkv.home import Home
from niah.engines.distkv.instance import InstanceLostError, LocalInstance
from tests.engines.checkpoints import tiny
from tests.engines.distkv.asking import BLOCK, ask, fleet, ids, kept, made

__all__ = ["tiny"]


@pytest.fixture(scope="module")
def right(tiny: Path) -> tuple[list[int], tuple[int, ...]]:
    """A prompt that takes three of four instances, and its answer."""
    prompt = ids(420, 5)
    answer = ask(made(tiny), prompt, 20)
    assert len(answer.ids) == 20
    return prompt, answer.ids


def killer(engine: DistKVEngine, name: str, phase: str, tokens: int) -> tuple[Callable[[Step], None], list[int]]:
    """What ends an instance, once, when so much is done; and where it writes how many tokens are lost with it."""
    lost: list[int] = []

    def report(step: Step) -> None:
        if not lost and step.phase == phase and step.tokens >= tokens:
            assert engine._reading
            blocks = fleet(engine).managers["0"].blocks(engine._reading.request)
            first = next((number * BLOCK for number, block in enumerate(blocks) if block.holder == name), 1 << 30)
            lost.append(max(0, engine._reading.tokens - first))
            fleet(engine).kill(name)

    return report, lost


@pytest.mark.parametrize("name", ["0", "1", "2", "3"])
@pytest.mark.parametrize(("phase", "tokens"), [("prefill", 64), ("prefill", 300), ("prefill", 420), ("decode", 1), ("decode", 12)])
def test_a_lost_instance_changes_no_token(tiny: Path, right: tuple[list[int], tuple[int, ...]], name: str, phase: str, tokens: int):
    prompt, expected = right
    engine = made(tiny, instances=4, tokens=160)
    ask(engine, prompt[:5], 1)
    report, lost = killer(engine, name, phase, tokens)
    answer = ask(engine, prompt, 20, report=report)
    assert answer.ids == expected
    assert answer.measured["instances"] == (4 if name == "3" else 3)
    assert [answer.measured["recomputed_tokens"]] == lost
    assert kept(engine) == 0
    if name in fleet(engine).managers:
        return
    fleet(engine).start(name)
    assert ask(engine, prompt, 20).ids == expected
    assert kept(engine) == 0


@pytest.mark.parametrize("count", range(0, 46, 5))
@pytest.mark.parametrize("method", ["write", "_attend"])
def test_an_instance_may_be_lost_within_a_layer(
    tiny: Path, right: tuple[list[int], tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, method: str, count: int
):
    prompt, expected = right
    engine = made(tiny, instances=4, tokens=160)
    ask(engine, prompt[:5], 1)
    calls, do = [0], getattr(LocalInstance, method)

    def counted(self: LocalInstance, *args: Any) -> Any:
        calls[0] += self.name != "0"
        if self.name != "0" and calls[0] == count + 1:
            self.kill()
        return do(self, *args)

    monkeypatch.setattr(LocalInstance, method, counted)
    answer = ask(engine, prompt, 20)
    assert calls[0] > count
    assert (answer.ids, answer.measured["instances"]) == (expected, 3)
    assert kept(engine) == 0


@pytest.mark.parametrize(
    "case", [*product(["source", "destination", "home"], ["before take", "after take", "after put"], ["prefill", "decode"])], ids=" ".join
)
def test_an_instance_may_be_lost_in_the_middle_of_a_move(
    tiny: Path, right: tuple[list[int], tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]
):
    (prompt, expected), (who, when, phase) = right, case
    engine = made(tiny, instances=4, tokens=160)
    ask(engine, prompt[:5], 1)
    victim = {"source": "1", "destination": "3", "home": "0"}[who]
    moment, _, method = when.partition(" ")
    do, moved = getattr(LocalInstance, method), []

    def fatal(self: LocalInstance, *args: Any) -> Any:
        if moment == "before":
            fleet(engine).kill(victim)
        result = do(self, *args)
        fleet(engine).kill(victim)
        return result

    def report(step: Step) -> None:
        if not moved and step.phase == phase and step.tokens >= (320 if phase == "prefill" else 13):
            with monkeypatch.context() as patched:
                patched.setattr(LocalInstance, method, fatal)
                blocks = fleet(engine).managers["0"].movable("1", 4)
                assert len(blocks) == 4
                moved.append(fleet(engine).move("0", blocks, "3"))

    answer = ask(engine, prompt, 20, report=report)
    assert answer.ids == expected
    assert len(moved) == 1
    assert victim not in fleet(engine).managers
    assert kept(engine) == 0


@pytest.mark.parametrize("tokens", [1, 13])  # at the thirteenth a block is full
def test_a_home_that_others_found_dead_changes_no_token(tiny: Path, right: tuple[list[int], tuple[int, ...]], tokens: int):
    prompt, expected = right
    engine = made(tiny, instances=4, tokens=160)
    ask(engine, prompt[:5], 1)

    def report(step: Step) -> None:
        if step.phase == "decode" and step.tokens == tokens:
            fleet(engine).kill("0")
            fleet(engine).lost("0", 0)

    answer = ask(engine, prompt, 20, report=report)
    assert (answer.ids, answer.measured["instances"]) == (expected, 3)
    assert kept(engine) == 0


def test_moves_between_steps_change_no_token(tiny: Path, right: tuple[list[int], tuple[int, ...]]):
    prompt, expected = right
    engine, draw = made(tiny, instances=4, tokens=240), random.Random(2)
    counts: list[int] = []

    def report(_: Step) -> None:
        source = draw.choice(["0", "1", "2", "3"])
        destination = draw.choice([name for name in ("0", "1", "2", "3") if name != source])
        counts.append(fleet(engine).move("0", fleet(engine).managers["0"].movable(source, draw.randrange(1, 6)), destination))

    assert ask(engine, prompt, 20, report=report).ids == expected
    assert sum(counts) > 20
    assert kept(engine) == 0


def test_when_all_are_lost_it_is_an_error_and_not_an_answer(tiny: Path):
    engine = made(tiny, instances=2, tokens=320)

    def report(step: Step) -> None:
        if step.tokens > 100:
            fleet(engine).kill("0")
            fleet(engine).kill("1")

    with pytest.raises(EngineError, match="all instances are lost"):
        ask(engine, ids(300), report=report)


def test_what_does_not_fit_any_more_after_a_loss_is_an_error(tiny: Path, right: tuple[list[int], tuple[int, ...]]):
    prompt, expected = right
    engine = made(tiny, instances=3, tokens=160)
    ask(engine, prompt[:5], 1)
    with pytest.raises(EngineError, match="are free on 2 instances") as caught:
        ask(engine, prompt, report=killer(engine, "2", "prefill", 300)[0])
    assert caught.value.kind == "memory"
    assert kept(engine) == 0
    fleet(engine).start("2")
    assert ask(engine, prompt, 20).ids == expected


def test_other_homes_go_on_when_an_instance_is_lost(tiny: Path):
    engine = made(tiny, instances=4, tokens=320)
    ask(engine, ids(9), 1)
    them = fleet(engine)
    texts = {name: ids(380, int(name)) for name in ("0", "1", "3")}
    assert engine._home
    homes = {name: Home(them, name) for name in ("1", "3")} | {"0": engine._home}
    readings = {name: home.open(texts[name]) for name, home in homes.items()}
    logits: dict[str, Any] = {}
    for turn in range(60):
        for name, reading in readings.items():
            if homes[name].lost or reading.stand() == len(texts[name]):
                continue
            rows = texts[name][reading.tokens : reading.tokens + 64]
            engine._cache = cache_for(engine, reading)
            try:
                reading.reserve(len(texts[name]))
                with torch.inference_mode():
                    logits[name] = reading.read(len(rows), lambda rows=rows: engine._logits(rows, engine._cache))
            except InstanceLostError as error:
                them.lost(error.name, error.epoch)
        if turn == 3:
            them.kill("3")  # a home itself, and lender to others
    assert readings["0"].tokens == readings["1"].tokens == 380
    assert "3" not in them.managers
    for name in ("0", "1"):
        assert ask(made(tiny), texts[name], 1).ids == (int(logits[name].argmax()),)
        homes[name].drop(readings[name])
    assert kept(engine) == 0


def cache_for(engine: DistKVEngine, reading: Any) -> Any:
    return cache_of(reading, fleet(engine).shape.layers)
