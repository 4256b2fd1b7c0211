import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from niah.engines import EngineError
from niah.engines.checkpoint import open_checkpoint
from tests.hub_server import Hub, dead_url

CODE = """
import json, sys
from niah.engines import EngineError
from niah.engines.checkpoint import open_checkpoint
for name in sys.argv[1:]:
    try:
        checkpoint = open_checkpoint(name)
        before = sorted(path.name for path in checkpoint.folder.iterdir())
        checkpoint.fetch_weights()
        print(json.dumps([checkpoint.served, before, sorted(path.name for path in checkpoint.folder.iterdir())]))
    except EngineError as error:
        print(json.dumps([error.kind, str(error)]))
"""
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"old",
    "README.md": b"#",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


def opened(home: Path, endpoint: str, *names: str) -> list[list[object]]:
    """What a process of its own makes of names: huggingface_hub reads its settings once."""
    own = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *names], env={**os.environ, **own}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_on_the_hub_is_fetched_once_and_works_offline(hub: Hub, tmp_path: Path):
    hub.add("org/model", {**FILES, "original/model.safetensors": b"twice"})
    hub.add("org/old", {name: content for name, content in FILES.items() if name != "model.safetensors"})
    small, commit = ["config.json", "tokenizer.json"], hub.repos["org/model"].sha
    expected = [
        [f"org/model@{commit[:8]}", small, [small[0], "model.safetensors", small[1]]],
        [f"org/old@{hub.repos['org/old'].sha[:8]}", small, [small[0], "pytorch_model.bin", small[1]]],
    ]
    assert opened(tmp_path, hub.url, "org/model", "org/old") == expected
    asked = [line for line in hub.requests if line.startswith("GET") and "resolve" in line]
    assert len(asked) == len(set(asked)) == 6
    [served, before, after] = opened(tmp_path, dead_url(), "org/model")[0]
    assert (served, after) == (expected[0][0], expected[0][2])
    assert before == after
    assert opened(tmp_path, hub.url, f"org/model@{commit}")[0][0] == expected[0][0]


def test_what_the_hub_refuses_is_told_in_a_line(hub: Hub, tmp_path: Path):
    hub.add("org/model", FILES)
    hub.add("org/gated", FILES)
    hub.fault("org/gated", "gated")
    hub.add("org/down", FILES)
    hub.fault("org/down", "error")
    told = opened(tmp_path, hub.url, "org/model@nope", "org/none", "org/gated", "org/down")
    assert [kind for kind, _ in told] == ["checkpoint"] * 4
    said = [str(why) for _, why in told]
    assert "no revision 'nope'" in said[0]
    assert "neither a folder here nor a model that the hub shows you" in said[1]
    assert "accept the terms on its page" in said[2]
    assert "cannot be reached" in said[3] or "500" in said[3]
    assert "cannot be reached" in str(opened(tmp_path, dead_url(), "org/other")[0][1])
    assert all("\n" not in line for line in said)


@pytest.mark.parametrize("name", ["./none", "none/at/all", "~/nothing-here-at-all", "org/model@", "file.json"])
def test_what_is_neither_folder_nor_id_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="it is no folder") as caught:
        open_checkpoint(name)
    assert caught.value.kind == "checkpoint"


def test_a_folder_is_named_by_its_files(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    content = bytes(range(256)) * 2000
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(content)
    served = open_checkpoint(str(folder)).served
    assert served.startswith("model@")
    assert open_checkpoint(str(folder)).served == served
    for name, at in (("config.json", 300_000), ("model.safetensors", 100), ("model.safetensors", len(content) - 1)):
        (folder / name).write_bytes(content[:at] + b"!" + content[at + 1 :])
        assert open_checkpoint(str(folder)).served != served, (name, at)
        (folder / name).write_bytes(content)
    (folder / "train.log").write_text("beside the point")
    assert open_checkpoint(str(folder)).served == served
