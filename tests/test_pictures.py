"""benchmarks/pictures.py draws what a model truly did: a token's share of a read times its value adds up to what was read."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from niah.config import load_experiment
from niah.engines.chat import Chat
from niah.engines.infini.checkpoint import load_checkpoint
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.model import InfiniModel, ModelConfig
from niah.run.overview import one_prompt
from niah.training.episodes import END
from niah.training.export import export_infini

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "pictures.py"
pictures: dict[str, Any] = runpy.run_path(str(SCRIPT))


def exported(folder: Path, **options: Any) -> Path:
    """A small random reader: a paper's layer, and one with the options given."""
    torch.manual_seed(2)
    common: dict[str, Any] = {"d_model": 32, "heads": 2, "head_dim": 16, "segment_tokens": 192}
    layers = InfiniConfig(**common), InfiniConfig(**{**common, "beta": (-9.0, 2.0), "write_gate": True, "conv_width": 3, **options})
    config = ModelConfig(vocabulary=8192, d_model=32, mlp=32, layers=layers, end_tokens=(END,))
    export_infini(InfiniModel(config).state_dict(), config, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> tuple[InfiniModel, Any, str]:
    folder = exported(tmp_path_factory.mktemp("reader") / "small")
    model, chat = load_checkpoint(folder), Chat(folder)
    shape = {"corpora": ["builtin/legal"], "lengths": [600], "depths": [0.4], "cue": ["prefill"]}
    prompt, sentences, _ = one_prompt(load_experiment("quickstart", shape), reshuffle=0, needle=None)
    return model, pictures["read_prompt"](model, chat, prompt, sentences[0]), sentences[0]


def test_shares_times_values_are_what_was_read(reading: tuple[InfiniModel, Any, str]) -> None:
    _, read, _ = reading
    for layer in read.layers:
        shares = layer.shares()
        assert shares.shape[1:] == (len(read.answer), len(read.text))
        assert torch.allclose(shares.sum(-1), torch.ones(shares.shape[:2]), atol=1e-4)
        assert torch.allclose(torch.einsum("hmt,htd->hmd", shares, layer.values[0]), layer.stored[0], atol=1e-4, rtol=1e-3)


def test_the_needle_and_the_answer_are_found_token_by_token(reading: tuple[InfiniModel, Any, str]) -> None:
    _, read, sentence = reading
    first, last = read.needle
    assert "".join(read.text[first:last]).strip() == sentence
    assert "".join(read.answer).strip() == sentence
    assert 0.3 < first / len(read.text) < 0.5


def test_only_open_heads_are_drawn(reading: tuple[InfiniModel, Any, str]) -> None:
    assert [name for *_, name in pictures["open_heads"](reading[0], pictures["open_shares"](*reading[:2]))] == [
        "layer 0 head 0",
        "layer 0 head 1",
        "layer 1 head 1",
    ]


def test_one_command_draws_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIAH_CACHE", str(tmp_path / "cache"))
    pictures["main"]([f"infini/{exported(tmp_path / 'small')}", "--out", str(tmp_path / "out"), "--tokens", "400"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["infini-gates.png", "infini-reads.png", "infini-writes.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for path in (tmp_path / "out").iterdir())


def test_the_delta_rule_has_no_shares_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIAH_CACHE", str(tmp_path / "cache"))
    folder = exported(tmp_path / "small", rule="delta")
    with pytest.raises(SystemExit, match="delta rule"):
        pictures["main"]([f"infini/{folder}", "--out", str(tmp_path / "out"), "--tokens", "400"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["infini-gates.png", "infini-writes.png"]
