"""The reader that comes with niah answers the same from four instances, none of which could hold a prompt alone."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import niah.engines
from niah.run.store import read
from tests.run.command import here, write_config

READER = Path(niah.engines.__file__).parent / "weights" / "full"
pytestmark = pytest.mark.skipif(not (READER / "model.safetensors").is_file(), reason="no bundled reader here")
LENGTHS, CAP = [500], 120


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights in float32, where rounding decides no token."""
    folder = tmp_path_factory.mktemp("readers") / "full"
    shutil.copytree(READER, folder)
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
    return folder


def test_four_instances_answer_as_one_over_generated_text(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path,
        corpora=[],
        needles="default",
        lengths=LENGTHS,
        depths=[0.2, 0.8],
        reshuffles=1,
        sampling={"max_output_tokens": CAP},
    )
    records = {}
    for prefix, *options in (("hf",), ("distkv", "--instances", "4", "--kv-memory", "8MB")):
        done = here("sweep", config, "--corpus", "builtin/medical", "--model", f"{prefix}/{reader}", "--out", prefix, *options)
        assert done.returncode == 0, done.stderr
        records[prefix] = {record.trial.key: record for record in read(tmp_path / prefix)}
    plain, found = records.values()
    assert found.keys() == plain.keys()
    assert len(found) == 2
    for key, record in found.items():
        assert record.reply
        assert plain[key].reply
        assert (record.reply.text, record.reply.usage.output) == (plain[key].reply.text, plain[key].reply.usage.output)
        assert (record.reply.measured or {})["remote_blocks"] > 0, "the home could hold it, and all have as much memory"
        assert record.scores == plain[key].scores
