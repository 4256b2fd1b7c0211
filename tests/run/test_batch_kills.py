"""Sweeps in batches that end in the middle: Ctrl-C, and kill -9 between every two steps."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.batch_server import KEYS, BatchServer
from tests.run.batches import KEY, quick, server, sweep, table, words
from tests.run.command import answered, here, lines, write_config
from tests.run.forks import Forks

__all__ = ["quick", "server"]


def test_an_interrupt_while_waiting_leaves_the_batch_at_work(folder: Path, server: BatchServer) -> None:
    write_config(folder)
    server.looks = 10_000
    with Killer("openai", folder) as killer:
        process = killer.start(*words(server, "openai", "--batch"))
        until = time.monotonic() + 60
        while server.count("GET", "/batches/") < 3 and time.monotonic() < until:
            time.sleep(0.01)
        process.kill(signal.SIGINT)
        assert process.wait() == 130 and "18 trials are left" in killer.log.read_text(), killer.log.read_text()
    next(iter(server.batches.values())).looks = 0
    assert sweep(server, "openai").returncode == 0 and set(server.paid.values()) == {1}


_STEPS = """
import signal
import niah.run.session as session
from niah.backends.http import Sender
from niah.run.collecting import Pace
from niah.run.journal import Journal
from niah.run.limits import Patience

session.Pace = lambda: Pace(first=0.01, longest=0.03, grace=0.0, patience=Patience(base_seconds=0.002, longest_seconds=0.01))
at, steps = "", 0

def begin(told):
    global at
    at = told

def step():
    global steps
    steps += 1
    if at.isdecimal() and steps == int(at):
        os.kill(os.getpid(), signal.SIGKILL)

def stepped(owner, name):
    plain = getattr(owner, name)
    if name in ("_put", "fsync"):
        def around(*given, **named):
            step(); came = plain(*given, **named); step()
            return came
    else:
        async def around(*given, **named):
            step(); came = await plain(*given, **named); step()
            return came
    setattr(owner, name, around)

stepped(Journal, "_put")
stepped(os, "fsync")
for name in ("post", "post_file", "get", "download"):
    stepped(Sender, name)
"""
"""The command with quick waits kills itself at the step that is told: before or after any journal line, sync or request."""


class Killer(Forks):
    """Runs the command and kills it in time."""

    def __init__(self, provider: str, folder: Path):
        super().__init__(folder / "told.txt", prelude=_STEPS, **{KEYS[provider]: KEY})

    def run(self, at: str, words: list[str]) -> int:
        """`at` is the number of a step, or "after" and the seconds to wait, or neither."""
        process = self.start(*words, told=at)
        if at.startswith("after"):
            time.sleep(float(at.removeprefix("after")))
            process.kill()
        return process.wait()


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_kill_at_every_step_pays_nothing_twice_and_loses_nothing(folder: Path, server: BatchServer, provider: str) -> None:
    """kill -9 before and after every journal line, every sync and every request of a sweep, each followed by the same command again."""
    write_config(folder, lengths=[300], depths=[0.5, 1.0], reshuffles=2)
    assert here(*words(server, provider, out="live"), **{KEYS[provider]: KEY}).returncode == 0
    expected, steps = table(folder / "live"), 0
    with Killer(provider, folder) as killer:
        for steps in range(1, 200):
            server.paid.clear()
            server.batches.clear()
            server.looks = 1
            run = words(server, provider, "--batch", out=f"run{steps}")
            killed = killer.run(str(steps), run)
            if killed == 0:
                break
            assert killed == -signal.SIGKILL
            assert killer.run("-", run) == 0, steps
            assert set(server.paid.values()) == {1} and len(server.paid) == 4, (steps, server.paid)
            assert table(folder / f"run{steps}") == expected, steps
            assert len(set(answered(folder / f"run{steps}"))) == len(lines(folder / f"run{steps}")) == 4
    assert 20 < steps < 199


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_thirty_kills_at_random_pay_nothing_twice_and_lose_nothing(folder: Path, server: BatchServer, provider: str) -> None:
    """One run, killed again and again after a random number of steps or a random time, with batches that expire in between."""
    write_config(folder, lengths=[300, 500], reshuffles=6)
    assert here(*words(server, provider, out="live"), **{KEYS[provider]: KEY}).returncode == 0
    draw = random.Random(5)
    server.looks = 2
    if provider != "gemini":
        server.fate = lambda _: "expired" if len(server.batches) % 3 == 0 else "done"
    run = words(server, provider, "--batch")
    kills = 0
    with Killer(provider, folder) as killer:
        while kills < 30:
            code = killer.run(str(draw.randint(1, 9)) if kills % 3 else f"after{draw.random() * 0.15:.3f}", run)
            kills += 1
            if code == 0:
                break
        assert code in (0, -signal.SIGKILL) and killer.run("-", run) == 0
    assert set(server.paid.values()) == {1} and len(server.paid) == 36
    assert table(folder / "run") == table(folder / "live")
    assert len(set(answered(folder / "run"))) == len(lines(folder / "run")) == 36
