"""Sweeps over models whose keys and values lie with several instances."""

import json
from pathlib import Path
from typing import Any

import pytest

from niah.backends import Connection, open_backend
from niah.backends.local import LocalBackend
from niah.config import Experiment, load_experiment
from niah.errors import UsageError
from niah.run.store import read
from niah.run.sweep import connection_of
from niah.trial import Record, outcome
from tests.engines.checkpoints import tiny
from tests.run.command import here, lines, write_config

__all__ = ["tiny"]
TOKEN_BYTES, CAP = 512, 8


def swept(tiny: Path, folder: Path, prefix: str, *options: str, code: int = 0) -> dict[str, Record]:
    """The records of a sweep to 1,000 tokens, by trial."""
    lengths = [300, 600, 1000]
    config = write_config(
        folder,
        models=[f"{prefix}/{tiny}"],
        lengths=lengths,
        depths=[0.2, 0.9],
        reshuffles=1,
        cue="user",
        sampling={"max_output_tokens": CAP},
    )
    done = here("sweep", config, "--out", f"run-{prefix}", *options)
    assert done.returncode == code, done.stderr
    return {record.trial.key: record for record in read(folder / f"run-{prefix}")}


def test_four_instances_answer_what_one_model_answers(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    plain = swept(tiny, tmp_path, "hf")
    found = swept(tiny, tmp_path, "distkv", "--instances", "4", "--kv-memory", f"{0.001 * 576 * TOKEN_BYTES}kB")
    assert found.keys() == plain.keys()
    for key, record in found.items():
        other = plain[key].reply
        assert record.reply
        assert other
        assert record.reply.text == other.text
        assert (record.reply.usage.input, record.reply.usage.output) == (other.usage.input, other.usage.output)
        measured = record.reply.measured or {}
        assert set(measured) == {
            "prefill_seconds", "decode_seconds", "instances", "local_blocks", "remote_blocks", "moved_bytes", "recomputed_tokens",
        }  # fmt: skip
        assert measured["instances"] == 4
        assert measured["local_blocks"] <= 9
        assert (measured["remote_blocks"] > 0) == (measured["moved_bytes"] > 0)
    assert any(((record.reply and record.reply.measured) or {})["remote_blocks"] for record in found.values())
    assert sum(record.reply.usage.cached or 0 for record in found.values() if record.reply) > 500
    line: dict[str, Any] = lines(tmp_path / "run-distkv")[0]
    assert json.loads(json.dumps(Record.from_json(line).to_json())) == line


def test_what_fits_nowhere_is_an_overflow_and_asked_again_with_more_memory(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    first = swept(tiny, tmp_path, "distkv", "--instances", "2", "--kv-memory", f"{512 * TOKEN_BYTES}B", code=3)
    overflown = [record for record in first.values() if outcome(record) == "overflow"]
    assert {record.trial.length for record in overflown} == {600, 1000}
    assert {record.error.kind for record in overflown if record.error} == {"out_of_memory"}
    assert all("are free on 2 instances of 0.3 MB" in record.error.message for record in overflown if record.error)
    again = swept(tiny, tmp_path, "distkv", "--instances", "4", "--kv-memory", "1MB")
    assert again.keys() == first.keys()
    assert all(record.reply for record in again.values())
    assert len(lines(tmp_path / "run-distkv")) == len(first) + len(overflown)


def test_check_and_plan_take_the_same_options(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    options = ("--instances", "3", "--kv-memory", "2MB")
    done = here("check", f"distkv/{tiny}", *options)
    assert done.returncode == 0, done.stderr
    assert "tiny@" in done.stdout
    write_config(tmp_path, models=["distkv/not/there"])
    assert here("plan", "small.toml", *options).returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kv-memory", "a lot"), "error: --kv-memory: 'a lot' is no amount of memory: write bytes, as in 256MB"),
        (("--instances", "0"), "error: --instances: "),
        (("--kv-memory", "5000000GB"), "error: model 'distkv/"),
        (("--kv-memory", "2kB"), "error: model 'distkv/"),
    ],
)
def test_memory_that_cannot_be_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str):
    monkeypatch.chdir(tmp_path)
    done = here("sweep", write_config(tmp_path, models=[f"distkv/{tiny}"]), "--out", "run", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("256MB", 256 * 10**6), ("1.5 GB", 1_500_000_000), ("64MiB", 64 << 20), ("100B", 100), ("2kb", 2000), ("1GiB", 1 << 30)],
)
def test_amounts_of_memory(text: str, bytes_: int):
    assert load_experiment("quickstart", {"kv_memory": text}).kv_memory == bytes_


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "5", "1.MB", "1e6B", "5 TB x", "0B"])
def test_what_is_no_amount_of_memory(text: str):
    with pytest.raises(UsageError, match="--kv-memory"):
        load_experiment("quickstart", {"kv_memory": text})


def test_where_keys_lie_makes_no_other_experiment(tiny: Path):
    plain, other = (load_experiment("quickstart", given) for given in ({}, {"instances": 4, "kv_memory": "1MB"}))
    assert plain.identity() == other.identity()
    assert connection_of(other) == Connection(instances=4, kv_memory_bytes=10**6)
    assert isinstance(other, Experiment)


def test_bundled_is_the_reader_that_came_with_niah(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("niah.engines.checkpoint._READERS", tmp_path)
    backend = open_backend("distkv/bundled")
    assert isinstance(backend, LocalBackend)
    with pytest.raises(UsageError, match="model 'distkv/bundled': this installation has no bundled reader"):
        backend.ready()
    (tmp_path / "full").symlink_to(tiny)
    backend.ready()
    assert backend.window_tokens == 4096
