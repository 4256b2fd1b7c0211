"""The reader that comes with niah answers the same from four instances, none of which could hold a prompt alone."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import niah.engines
from niah.engines.distkv.engine import BLOCK_TOKENS
from niah.run.store import read
from tests.run.command import here, write_config

READER = Path(niah.engines.__file__).parent / "weights" / "full"
REAL = Path(__file__).parents[4] / "shared" / "data" / "medical.parquet"
pytestmark = pytest.mark.skipif(not (READER / "model.safetensors").is_file(), reason="no bundled reader here")
LENGTHS, CAP, BLOCKS = [500], 120, 4
"""An instance has memory for so many blocks: 256 tokens, and four instances for 1,024."""
TEXTS = [
    "builtin/medical",
    pytest.param(str(REAL), marks=pytest.mark.skipif(not REAL.is_file(), reason="no real text beside this checkout"), id="real text"),
]


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


def block_bytes(reader: Path) -> int:
    """By its config, for better weights may have another shape."""
    config = json.loads((reader / "config.json").read_text())
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * dim * 4 * BLOCK_TOKENS


@pytest.mark.parametrize("corpus", TEXTS)
def test_four_instances_answer_as_one(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str):
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
    for prefix, *options in (("hf",), ("distkv", "--instances", "4", "--kv-memory", f"{BLOCKS * block_bytes(reader)}B")):
        done = here("sweep", config, "--corpus", corpus, "--model", f"{prefix}/{reader}", "--out", prefix, *options)
        assert done.returncode == 0, done.stderr
        records[prefix] = {record.trial.key: record for record in read(tmp_path / prefix)}
    plain, found = records.values()
    assert found.keys() == plain.keys()
    assert len(found) == 2
    for key, record in found.items():
        assert record.reply
        assert plain[key].reply
        assert (record.reply.text, record.reply.usage.output) == (plain[key].reply.text, plain[key].reply.usage.output)
        measured = record.reply.measured or {}
        assert measured["instances"] == 4
        assert 0 < measured["local_blocks"] <= BLOCKS < measured["local_blocks"] + measured["remote_blocks"]
        assert record.scores == plain[key].scores
