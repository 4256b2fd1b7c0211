"""What a user types: a sweep that starts Ray by itself, and addresses where no cluster is. In processes of their own, as Ray is one a process."""

from pathlib import Path

import pytest

from niah.run.store import read
from tests.engines.checkpoints import tiny
from tests.engines.distkv.asking import TOKEN_BYTES
from tests.run.command import cells, here, start, write_config

pytest.importorskip("ray", reason="Ray is not installed: pip install 'niah[ray]'")
__all__ = ["tiny"]


@pytest.mark.timeout(900)
def test_a_sweep_that_starts_ray_has_the_table_of_one_without(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path, models=[f"distkv/{tiny}"], lengths=[150, 300], depths=[0.2, 0.9], reshuffles=1, cue="user",
        sampling={"max_output_tokens": 8},
    )  # fmt: skip
    options = ("--instances", "2", "--kv-memory", f"{576 * TOKEN_BYTES}B")
    plain = here("sweep", config, "--out", "plain", *options)
    assert plain.returncode == 0, plain.stderr
    environment = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    said, errors = start("sweep", config, "--out", "cluster", *options, "--cluster", "local", **environment).communicate(timeout=800)
    assert "who holds what of the KV cache" in said, errors
    one, two = ({record.trial.key: record for record in read(tmp_path / name)} for name in ("plain", "cluster"))
    assert len(one) == 4
    assert {key: record.reply and record.reply.text for key, record in one.items()} == {
        key: record.reply and record.reply.text for key, record in two.items()
    }
    assert any(record.reply and (record.reply.measured or {})["remote_blocks"] for record in two.values())
    assert list(cells(tmp_path / "plain")) == list(cells(tmp_path / "cluster"))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_where_no_cluster_answers_that_is_said_at_once(address: str):
    """Ray itself goes on trying for a quarter of an hour."""
    asks = start("distkv", "status", "--cluster", address), start("distkv", "status", RAY_ADDRESS=address)
    for asked_for, process in zip((address, "auto"), asks, strict=True):
        said = process.communicate(timeout=120)[1].strip()
        assert said == f"error: --cluster {asked_for}: no Ray cluster answers at {address}; ray start --head starts one there"
        assert process.returncode == 2
