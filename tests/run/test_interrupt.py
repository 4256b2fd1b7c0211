"""Ctrl-C: once finishes what is in flight, twice stops at once; the printed line resumes."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chat_server import ChatServer, completion, failure
from tests.run.command import answered, found, here, lines, start, write_config


def wait_until_quiet(server: ChatServer, requests: int) -> None:
    """Until so many requests are in flight."""
    until = time.monotonic() + 240
    while server.in_flight < requests and time.monotonic() < until:
        time.sleep(0.005)
    assert server.in_flight == requests


def resume_line(output: str) -> list[str]:
    return shlex.split(next(line for line in output.splitlines() if line.startswith("  niah sweep")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_keeps_what_is_in_flight_and_prints_the_line_that_resumes(folder: Path, number: int) -> None:
    """Exit 130; every request that the server got is recorded; the printed line asks exactly the rest."""
    config = write_config(folder, reshuffles=6)
    with ChatServer(lambda asked: completion(found(asked), delay=0.0 if asked.number < 10 else 0.8)) as server:
        process = start("sweep", config, "--base-url", server.url, "--concurrency", "4")
        wait_until_quiet(server, 4)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "waiting for the answers in flight" in output
        (run,) = (folder / "results").iterdir()
        assert len(answered(run)) == len(server.log) == 14
        assert "22 trials are left" in output
        server.answer = found
        words = resume_line(output)
        assert words[0] == "niah"
        script = Path(sys.executable).with_name("niah")
        again = subprocess.run([script if script.exists() else "niah", *words[1:]], capture_output=True, text=True, check=False, timeout=60)
        assert again.returncode == 0, again.stderr
    assert set(server.times_asked.values()) == {1}
    assert len(set(answered(run))) == len(lines(run)) == 36


def test_two_interrupts_stop_at_once_and_keep_all_that_was_answered(folder: Path) -> None:
    """With answers that would take a minute: gone within seconds, only those in flight are asked again."""
    config = write_config(folder, reshuffles=6)
    with ChatServer(lambda asked: completion(found(asked), delay=0.0 if asked.number < 10 else 60)) as server:
        process = start("sweep", config, "--base-url", server.url, "--concurrency", "4", "--out", "run")
        wait_until_quiet(server, 4)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        began = time.monotonic()
        for _ in range(3):  # a third press changes nothing
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 15
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert len(answered(folder / "run")) == len(lines(folder / "run")) == 10
        assert {asked.id for asked in server.log if asked.answered} == {asked.id for asked in server.log[:10]}
        server.answer = found
        again = here(*resume_line(output)[1:])
        assert again.returncode == 0, again.stderr
    assert sum(server.times_asked.values()) == 36 + 4
    assert len(set(answered(folder / "run"))) == len(lines(folder / "run")) == 36


def test_an_interrupt_before_the_first_answer_keeps_the_folder_usable(folder: Path) -> None:
    """The very first request hangs and is left: exit 130, nothing recorded, the same command goes on."""
    config = write_config(folder)
    with ChatServer(lambda asked: completion(found(asked), delay=60)) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        process = start(*words)
        wait_until_quiet(server, 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "18 trials are left" in output
        server.answer = found
        assert here(*words).returncode == 0
    assert len(answered(folder / "run")) == 18


def test_an_interrupt_while_waiting_for_a_busy_server_does_not_wait_on(folder: Path) -> None:
    """The server says: come back in 100 seconds. One Ctrl-C ends the wait, nothing is recorded as failed."""
    config = write_config(folder)
    with ChatServer(lambda asked: found(asked) if asked.number < 6 else failure(429, retry_after="100")) as server:
        process = start("sweep", config, "--base-url", server.url, "--concurrency", "4", "--out", "run")
        assert server.wait_for(7)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130, errors
    assert len(answered(folder / "run")) == len(lines(folder / "run")) == 6
