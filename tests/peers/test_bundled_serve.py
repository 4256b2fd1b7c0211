"""The bundled reader `full` as an ordinary checkpoint: `transformers serve` over its folder answers as `hf/` does in this process.

Where it does not come with this checkout, a small one with random weights is exported in the same way: it finds nothing, but its
babble depends on the whole prompt. Weights are served in single precision: rounded ones leave ties, which two programs break apart.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from niah.engines import EngineError
from niah.engines.checkpoint import bundled
from niah.run.store import read
from niah.training.episodes import END
from niah.training.export import export_full
from niah.training.llama import Llama, LlamaShape
from niah.trial import Record
from tests.peers.server import Server
from tests.peers.serving import CORPORA, PYTHON, experiment, niah, peers

pytestmark = peers
SMALL = LlamaShape(hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=112)
CAP = 120


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """A folder called `full` with the reader in single precision, and whether it is the bundled one."""
    folder = tmp_path_factory.mktemp("bundled") / "full"
    try:
        shutil.copytree(bundled("full"), folder)
    except EngineError:
        torch.manual_seed(4)
        model = Llama(SMALL)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            model.embed_tokens.weight[END] *= 2.2  # some answers end by themselves
        export_full(model.state_dict(), SMALL, folder, dtype=torch.float32)
        return folder, False
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.float() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}), encoding="utf-8")
    return folder, True


@pytest.fixture(scope="module")
def records(reader: tuple[Path, bool]) -> Iterator[list[Record]]:
    """The records of one sweep that asks both: over HTTP, and in its own process."""
    folder, _ = reader
    place = folder.parent
    models = ["server/full", f"hf/{folder}"]
    config = experiment(place / "both.toml", lengths=[500, 1500], reshuffles=len(CORPORA), depths=(0, 0.6, 1), models=models, cap=CAP)
    with Server(PYTHON, folder, place / "server.log") as server:
        ended = niah("sweep", config, "--base-url", server.url, "--out", place / "run", cwd=place)
        assert ended.code == 0, f"{ended.out}\n{ended.err}\n{server.tail()}"
        yield list(read(place / "run"))


def test_the_served_reader_answers_as_the_local_one(reader: tuple[Path, bool], records: list[Record]) -> None:
    replies = {(record.model.split("/")[0], record.trial.key): record.reply for record in records}
    keys = {record.trial.key for record in records}
    assert len(keys) == 2 * 3 * len(CORPORA)
    assert len(records) == 2 * len(keys)
    for key in keys:
        served, local = replies["server", key], replies["hf", key]
        assert served
        assert local
        assert served.text.strip() == local.text.strip()
        assert served.stop == local.stop
        assert served.usage.input == local.usage.input
    assert {reply.stop for reply in replies.values() if reply} == {"end", "length"} or reader[1]
    assert len({reply.text for reply in replies.values() if reply}) > len(keys) // 2, "answers that depend on the prompt"


def test_the_bundled_reader_finds_needles_over_http(reader: tuple[Path, bool], records: list[Record]) -> None:
    if not reader[1]:
        pytest.skip("the bundled reader `full` is not in this checkout (niah/engines/weights/full): a random one finds nothing")
    scores = [record.scores[0].value for record in records if record.model == "server/full"]
    assert sum(scores) / len(scores) > 0.5
