"""One model's trials: what is recorded, what stops, and how much is held in memory."""

import asyncio
import gc
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from niah.backends import Connection, open_backend
from niah.backends.fake import FakeBackend
from niah.errors import BadRequest, ContextOverflow, FatalError, RetryableError, UsageError
from niah.run.limits import Patience
from niah.run.plan import Plan
from niah.trial import Prompt, Reply, Trial, outcome
from tests.chat_server import Answer, Asked, ChatServer, closed_port, completion, failure
from tests.run.asking import ask, plan, recorded
from tests.run.command import found, here, write_config

__all__ = ["plan"]


def test_every_trial_is_recorded_once_and_scored(plan: Plan, tmp_path: Path) -> None:
    """36 trials, 36 records, with the prompt's token count and placements."""
    made = {trial.key: plan.materials.maker.make(trial) for trial in plan.trials(("user",))}
    records = ask(plan, FakeBackend(lambda prompt: Reply(text=prompt.context)), tmp_path / "run")
    assert len(records) == len({record.trial.key for record in records}) == 36
    for record in records:
        assert outcome(record) == "hit"
        assert record.tokens == made[record.trial.key].tokens <= record.trial.length
        assert record.placements == made[record.trial.key].placements


def test_memory_does_not_grow_with_the_number_of_trials(plan: Plan, tmp_path: Path) -> None:
    """Over 300 trials at concurrency 4, no more than a few prompts are alive at any moment."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Tracked(Prompt):
        """A prompt that can be referred to weakly."""

        __slots__ = ("__weakref__",)

    def make(trial: Trial) -> Prompt:
        nonlocal most
        prompt = plan.materials.maker.make(trial)
        tracked = Tracked(**{name: getattr(prompt, name) for name in Prompt.__dataclass_fields__})
        alive.add(tracked)
        gc.collect(0)
        most = max(most, len(alive))
        return tracked

    async def answer(_: Prompt) -> Reply:
        await asyncio.sleep(0.001)
        return Reply(text="no")

    backend = FakeBackend(answer)
    backend.asked = type("Forgetful", (list,), {"append": lambda self, item: None})()
    trials = (replace(trial, seed=seed) for seed in range(9) for trial in plan.trials(("user",)))
    records = ask(plan, backend, tmp_path / "run", make=make, trials=trials)
    assert len(records) == 324
    assert most <= 4 + 4


@pytest.mark.parametrize("broken", [False, True])
def test_the_collector_goes_on_as_before_once_all_is_asked(plan: Plan, tmp_path: Path, broken: bool) -> None:
    """While a sweep asks, it is called seldom and leaves the corpora out; afterwards it is what it was, also after an error."""
    before, seen = gc.get_threshold(), set[tuple[int, bool]]()

    def answer(_: Prompt) -> Reply:
        seen.add((gc.get_threshold()[0], gc.get_freeze_count() > 0))
        return _raise(FatalError("401", kind="credentials")) if broken and len(backend.asked) > 20 else Reply(text="no")

    backend = FakeBackend(answer)
    try:
        ask(plan, backend, tmp_path)
    except FatalError:
        assert broken
    assert max(seen) > (before[0], True)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


@pytest.mark.parametrize("first", [True, False])
def test_a_model_whose_window_is_smaller_than_every_length_is_no_failure_of_the_server(plan: Plan, tmp_path: Path, first: bool) -> None:
    """Overflow alone never counts as a server out of reach, whether it comes first or after answers."""

    def answer(prompt: Prompt) -> Reply:
        if first or prompt.tokens > 320:
            raise ContextOverflow("too long")
        return Reply(text="no")

    records = ask(plan, FakeBackend(answer), tmp_path / "run", concurrency=1)
    assert len(records) == 36


def test_the_first_trial_goes_alone_until_there_is_an_answer(plan: Plan, tmp_path: Path) -> None:
    """At concurrency 30, a server that refuses keys sees one request; a server that refuses requests sees three."""
    backend = FakeBackend(lambda _: _raise(FatalError("401", kind="credentials")))
    with pytest.raises(FatalError):
        ask(plan, backend, tmp_path / "a", concurrency=30)
    assert len(backend.asked) == 1
    backend = FakeBackend(lambda _: _raise(BadRequest("what?")))
    with pytest.raises(FatalError, match="3 trials in a row failed"):
        ask(plan, backend, tmp_path / "b", concurrency=30)
    assert len(backend.asked) == 3
    assert [record.error and record.error.kind for record in recorded(tmp_path / "b")] == ["bad_request"] * 3


def test_the_last_trials_may_fail_in_a_row(plan: Plan, tmp_path: Path) -> None:
    """With nothing left to ask there is nothing to stop: errors are recorded, and no exit for a server out of reach."""
    count = 0

    def answer(_: Prompt) -> Reply:
        nonlocal count
        count += 1
        return Reply(text="no") if count <= 28 else _raise(RetryableError("broken", kind="server"))

    once = Patience(attempts=1)
    assert len(ask(plan, FakeBackend(answer), tmp_path / "a", concurrency=1, patience=once)) == 36
    count = 1  # one failure more: there is a trial left when eight have failed
    with pytest.raises(FatalError, match="8 trials in a row failed"):
        ask(plan, FakeBackend(answer), tmp_path / "b", concurrency=1, patience=once)
    assert len(recorded(tmp_path / "b")) == 35


def _raise(error: Exception) -> Reply:
    raise error


def test_a_server_that_dies_in_the_middle_stops_the_run_with_everything_kept(plan: Plan, tmp_path: Path) -> None:
    """Killed after twelve answers: the runner gives up after a few failed trials, every answer is on disk, the error says what."""
    asked_before_death = 12

    def answer(asked: Asked) -> Answer:
        if asked.number == asked_before_death:
            server.die()
        return completion(found(asked), delay=0.002)

    with ChatServer(answer) as server:
        backend = open_backend("server/m", Connection(base_url=server.url))
        with pytest.raises(FatalError, match="in a row failed"):
            ask(plan, backend, tmp_path / "run")
    records = recorded(tmp_path / "run")
    answers = [record for record in records if record.reply]
    assert len(answers) >= asked_before_death - 4
    assert all(record.error and record.error.kind == "connection" for record in records if not record.reply)


def test_a_server_that_hiccups_is_asked_again_within_the_run(plan: Plan, tmp_path: Path) -> None:
    """Every third request meets a 500, a 429, a cut connection or nonsense: in the end every trial has its answer."""
    trouble = [failure(500), failure(429, retry_after="0.001"), Answer(body={"choices": []}, cut=3), Answer(body="{"), failure(529, "")]

    def answer(asked: Asked) -> str | Answer:
        return trouble[asked.number // 3 % len(trouble)] if asked.number % 3 == 1 else found(asked)

    with ChatServer(answer) as server:
        records = ask(plan, open_backend("server/m", Connection(base_url=server.url)), tmp_path / "run")
    assert len(records) == 36
    assert all(outcome(record) == "hit" for record in records)


def test_a_rate_limit_slows_the_run_and_fails_nothing(plan: Plan, tmp_path: Path) -> None:
    """40 requests a second are let through, 30 at a time are asked: 429 for the rest, and in the end every trial is answered."""
    began = time.monotonic()
    let_through = 0

    def answer(asked: Asked) -> str | Answer:
        nonlocal let_through
        if let_through >= 2 + 40 * (time.monotonic() - began):
            return failure(429)
        let_through += 1
        return found(asked)

    trials = (replace(trial, seed=seed) for seed in range(3) for trial in plan.trials(("user",)))
    with ChatServer(answer) as server:
        patience = Patience(base_seconds=0.02, longest_seconds=0.3)
        records = ask(
            plan,
            open_backend("server/m", Connection(base_url=server.url)),
            tmp_path / "run",
            concurrency=30,
            trials=trials,
            patience=patience,
        )
        assert sum(server.times_asked.values()) > 108
    assert len(records) == 108
    assert all(record.reply for record in records)


def test_a_closed_port_is_told_within_seconds(folder: Path) -> None:
    """Nobody listens: exit 4 soon, the message names --base-url."""
    config = write_config(folder)
    began = time.monotonic()
    done = here("sweep", config, "--base-url", f"http://127.0.0.1:{closed_port()}/v1", "--out", "run")
    assert time.monotonic() - began < 15
    assert done.returncode == 4
    assert "--base-url" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_the_plan_in_the_middle_keeps_what_is_answered(plan: Plan, tmp_path: Path) -> None:
    """A prompt that cannot be made stops the run as what it is; answers in flight are kept."""
    count = 0

    def make(trial: Trial) -> Prompt:
        nonlocal count
        count += 1
        if count == 20:
            raise UsageError("too short")
        return plan.materials.maker.make(trial)

    async def answer(_: Prompt) -> Reply:
        await asyncio.sleep(0.01)
        return Reply(text="no")

    with pytest.raises(UsageError, match="too short"):
        ask(plan, FakeBackend(answer), tmp_path / "run", make=make)
    assert 19 <= len(recorded(tmp_path / "run")) <= 22


def test_eight_failures_in_a_row_and_no_fewer_stop_a_run(plan: Plan, tmp_path: Path) -> None:
    """Seven failed trials between answers are recorded and the run goes on; at eight it stops."""
    for bad, whole in ((7, True), (8, False)):
        number = 0

        def answer(_: Prompt, bad: int = bad) -> Reply:
            nonlocal number
            number += 1
            if number <= 5 or (number - 5) % (bad + 1) == 0:
                return Reply(text="no")
            raise RetryableError("500", kind="server", wait_seconds=1000)

        folder = tmp_path / str(bad)
        if whole:
            records = ask(plan, FakeBackend(answer), folder, concurrency=1)
            assert len(records) == 36
        else:
            with pytest.raises(FatalError, match="8 trials in a row"):
                ask(plan, FakeBackend(answer), folder, concurrency=1)
            assert len(recorded(folder)) == 13
