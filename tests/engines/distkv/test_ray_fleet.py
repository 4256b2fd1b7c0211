"""An instance's view of the others while one of them is dead and nobody has noticed. Actors are stand-ins here; `test_cluster.py` has real ones."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="Ray is not installed: pip install 'niah[ray]'")
from niah.engines.distkv import ray_calls, ray_fleet
from niah.engines.distkv.arena import Shape
from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.instance import LocalInstance
from niah.engines.distkv.messages import Candidate
from niah.engines.distkv.ray_books import Books
from niah.engines.distkv.ray_fleet import RayFleet
from niah.engines.distkv.ray_gmanager import Facts, RayGManager

SHAPE = Shape(layers=1, key_heads=1, dim=8, dtype=torch.float32, block_tokens=4)
SLOTS = 4


class Dead(Exception):
    """What a call to an actor gives whose process has ended."""


class Actor:
    """Methods of an object as those of an actor: a call gives at once what `ray.get` then unwraps."""

    def __init__(self, target: Any):
        self.target = target

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            return Dead() if self.target is None else getattr(self.target, name)(*arguments)

        method = SimpleNamespace(remote=remote)
        method.options = lambda **_: method
        return method


class Other:
    """Another instance: it lends, and sends heartbeats."""

    def __init__(self, name: str, epoch: int, gmanager: RayGManager):
        self.books, self.gmanager = Books(name, Memory(slots=SLOTS, block_tokens=4), epoch=epoch), gmanager
        self.beat()

    def beat(self) -> bool:
        for _ in range(2):
            self.books.heard(self.gmanager.heartbeat(self.books.heartbeat(), facts())[0])
        return True

    def receive(self, ask: Any) -> Any:
        return True, self.books.receive(ask)

    def evict(self) -> bool:
        return False


def facts() -> Facts:
    return Facts("node", 1, SLOTS * SHAPE.block_bytes, SHAPE.block_bytes, SHAPE.block_tokens)


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(value: Any, timeout: float | None = None) -> Any:
        if isinstance(value, Dead):
            raise value
        return value

    errors = SimpleNamespace(
        GetTimeoutError=TimeoutError, ActorUnavailableError=ConnectionError, RayActorError=Dead, ObjectLostError=KeyError
    )
    ray = SimpleNamespace(get=get, wait=lambda refs, **_: (refs, []), exceptions=errors)
    for module in (ray_calls, ray_fleet):
        monkeypatch.setattr(module, "loaded", lambda: ray)
    monkeypatch.setattr(ray_fleet, "_WAIT_SECONDS", 0.0)


@pytest.mark.usefixtures("fake_ray")
def test_what_the_dead_hold_is_waited_for_before_anybody_has_noticed():
    gmanager = RayGManager("model")
    others = {name: Actor(Other(name, 1, gmanager)) for name in ("1", "2")}
    own = LocalInstance("0", 1, SHAPE, SLOTS * SHAPE.block_bytes, "cpu")
    books = Books("0", Memory(slots=SLOTS, block_tokens=4), epoch=1)
    fleet = RayFleet(own, books, ("0", "1", "2"), gmanager=Actor(gmanager), actor_of=others.__getitem__, facts=facts(), fenced=lambda: None)
    fleet.beat()
    dying = others["1"].target
    dying.books.allocate("its text", SLOTS)
    number = dying.books.begin_borrow("its text", 3, Candidate("2", 1, 3))
    for _ in range(2):
        dying.books.receive(others["2"].target.books.receive(dying.books.message(number)))
        if dying.books.granted(number):
            dying.books.commit(number)
    fleet.refresh()
    others["1"].target = None  # with all of its own memory in use, and three blocks of another's
    assert fleet.place("0", "r", 8) == SLOTS + 1
    assert (fleet.totals.living, fleet.free_slots) == (3, 0), "it still counts as one that lives"
    for _ in range(3):
        assert fleet.bury(), "there is less than all of the memory only for now"
    others["1"].target = Other("1", 2, gmanager)
    assert fleet.bury(), "it came back, with free memory"
    assert fleet.place("0", "r", 3) == 3
    assert others["2"].target.books.counts.lent == 1, "what the dead one had borrowed is free"
    assert not [fleet.bury() for _ in range(3)][-1], "all are there, and nothing has changed"
