"""What goes wrong between the tool and a real server: it is named, costs no more requests than it must, and is never counted as a miss."""

import subprocess
import time
from pathlib import Path

import pytest

from niah.run.store import read
from tests.peers.server import Server
from tests.peers.serving import CUE, IN_FLIGHT, checkpoint, experiment, folder, lines, niah, open_plan, peers, server, start, summary

__all__ = ["checkpoint", "folder", "server"]
pytestmark = peers
STALLED_SECONDS = 300


@pytest.fixture
def small(folder: Path, request: pytest.FixtureRequest) -> Path:
    """The config of four trials."""
    return experiment(folder / f"{request.node.name}.toml", lengths=[400], depths=(0, 1), reshuffles=2)


def test_a_wrong_model_name_stops_the_run_and_keeps_what_others_answered(small: Path, server: Server) -> None:
    out = small.with_suffix("")
    models = ["--model", "server/tiny", "--model", "server/tinny"]
    ended = niah("sweep", small, *models, "--base-url", server.url, "--out", out, cwd=small.parent)
    assert ended.code == 4
    assert 1 <= len(lines(ended.err)) <= 2
    assert "tinny" in ended.err
    assert "Traceback" not in ended.out + ended.err
    answered = [record for record in read(out) if record.reply]
    assert [record.model for record in answered] == ["server/tiny"] * 4
    assert summary(out)["trials"] + summary(out)["cut"] == 4
    assert not [record for record in read(out) if record.model == "server/tinny" and record.scores]


def test_a_wrong_model_name_costs_one_request(small: Path, server: Server) -> None:
    """niah/run/runner.py promises it: what is wrong with the model's name costs one request."""
    before = len(server.statuses())
    ended = niah("sweep", small, "--model", "server/tinny", "--base-url", server.url, "--out", small.with_suffix(""), cwd=small.parent)
    assert ended.code == 4
    assert server.statuses()[before:] == [400], ended.err


def test_an_address_without_v1_is_named(small: Path, server: Server) -> None:
    out, address = small.with_suffix(""), server.url.removesuffix("/v1")
    ended = niah("sweep", small, "--base-url", address, "--out", out, cwd=small.parent)
    assert ended.code == 4
    assert 1 <= len(lines(ended.err)) <= 2
    assert "--base-url" in ended.err
    assert "/v1" in ended.err
    assert not list(read(out))


def test_a_prefilled_cue_that_the_server_refuses_is_an_error_and_no_miss(small: Path, server: Server) -> None:
    out, before = small.with_suffix(""), len(server.statuses())
    ended = niah("sweep", small, "--cue", "prefill", "--base-url", server.url, "--out", out, cwd=small.parent)
    assert ended.code == 4
    assert 1 <= len(lines(ended.err)) <= 2
    assert "continue_final_message" in ended.err
    assert set(server.statuses()[before:]) == {422}
    assert len(server.statuses()) - before <= 3
    records = list(read(out))
    assert all(record.reply is None and not record.scores for record in records)
    assert {record.error and record.error.kind for record in records} <= {"bad_request"}
    assert (summary(out)["trials"], summary(out)["recall"]) == (0, None)


def test_a_refused_prefill_says_what_to_do(small: Path, server: Server) -> None:
    ended = niah("sweep", small, "--cue", "prefill", "--base-url", server.url, "--out", small.with_suffix(""), cwd=small.parent)
    assert ended.code == 4
    assert "--cue" in ended.err, ended.err


def test_a_server_that_dies_in_the_middle_loses_nothing(folder: Path, server: Server) -> None:
    config = experiment(folder / "killed.toml", lengths=[400, 800, 1600], reshuffles=12)
    out, planned = folder / "killed", 3 * 3 * 12
    command = ("sweep", config, "--base-url", server.url, "--out", out)
    before = len(server.statuses())

    with start(*command, cwd=folder) as process:
        wait_for_lines(out / "trials.jsonl", 20, process)
        server.kill()
        told, complaint = process.communicate(timeout=600)
    asked = server.statuses()[before:]
    answered = {record.trial.key for record in read(out) if record.reply}
    assert process.returncode == 4, f"{told}\n{complaint}"
    assert 1 <= len(lines(complaint)) <= 2
    assert server.url in complaint
    assert "--out" in told, "the line that resumes"
    assert 20 <= len(answered) <= len(asked) <= len(answered) + IN_FLIGHT < planned
    assert not [record for record in read(out) if record.error and record.scores]
    assert summary(out)["trials"] + summary(out)["cut"] == len(answered)

    server.start()
    ended = niah(*command, cwd=folder)
    assert ended.code == 0, ended.err
    assert server.statuses()[before + len(asked) :] == [200] * (planned - len(answered))
    replies = [record.trial.key for record in read(out) if record.reply]
    assert sorted(replies) == sorted(trial.key for trial in open_plan(config).trials((CUE,)))
    told_after = summary(out)
    assert (told_after["trials"] + told_after["cut"], told_after["errors"], told_after["missing"]) == (planned, 0, 0)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    """However long that takes on a busy machine, as long as there are new ones."""
    seen, moved = 0, time.monotonic()
    while seen < count:
        assert process.poll() is None, "the sweep ended before the server was killed"
        now = path.read_bytes().count(b"\n") if path.exists() else 0
        seen, moved = now, time.monotonic() if now > seen else moved
        assert time.monotonic() - moved < STALLED_SECONDS, f"{seen} lines and no more"
        time.sleep(0.02)
