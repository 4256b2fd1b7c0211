"""`niah train`: from a recipe to a checkpoint, interrupted and resumed. `pytest tests/training/test_session.py`"""

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM

from niah.cli import main
from niah.engines.infini.checkpoint import load_checkpoint
from niah.errors import UsageError
from niah.training import log
from niah.training import train as module
from niah.training.addresses import SHAPE
from niah.training.llama import Llama
from niah.training.session import Wish, export, resolve
from tests.engines.checkpoints import changed, tiny

__all__ = ["tiny"]
FULL = """
reader = "full"
corpora = ["builtin/legal"]
batch_tokens = 256
total_tokens = 1536
[[stages]]
tokens = 5000
lengths = [256]
"""
INFINI = (
    FULL.replace("1536", "512")
    .replace('"full"', '"infini"')
    .replace("[[stages]]", "[model]\nsegment_tokens = 256\nfeatures = 0.015625\n[[stages]]")
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(module, "HELD_OUT_EPISODES", 2)
    monkeypatch.setattr("niah.training.full.token_counts", lambda *_: torch.arange(8192).float() % 97)
    (folder / "full.toml").write_text(FULL, encoding="utf-8")
    (folder / "infini.toml").write_text(INFINI, encoding="utf-8")


def niah(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["niah", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def interrupted_after(monkeypatch: pytest.MonkeyPatch, steps: int, signals: Sequence[int]) -> None:
    """Signals come while a step is at work."""
    real, count = module.Trainer._advance, iter(range(1, 1000))

    def advance(self: Any) -> Any:
        if next(count) == steps:
            for number in signals:
                signal.raise_signal(number)
        return real(self)

    monkeypatch.setattr(module.Trainer, "_advance", advance)


def test_a_training_is_interrupted_resumed_and_exported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "full", "--recipe", "full.toml", "--out", "run", "--device", "cpu", "--threads", "1", "--seed", "4"]
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3, [signal.SIGINT])
        assert niah(patch, *line) == 130
    told = capsys.readouterr().out
    assert "full reader, 5," in told
    assert "on cpu: begins" in told
    assert "stopped after step 3, 768 tokens; everything is kept. To go on:\n  niah train full --recipe full.toml --out run" in told
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert json.loads(Path("run/recipe.json").read_text())["recipe"]["seed"] == 4

    assert niah(monkeypatch, *line) == 0
    told = capsys.readouterr().out
    assert "resumed at step 3, 768 of 1,536 tokens" in told
    assert "the recipe is at its end" in told
    assert "held-out recall" in told
    assert [row["step"] for row in log.read(Path("run/log.jsonl"))] == [5, 6]
    model = AutoModelForCausalLM.from_pretrained("run/checkpoint", dtype=torch.float32)
    ours = Llama(SHAPE)
    best = torch.load("run/best.pt", weights_only=True)
    # In half precision, as they are stored.
    ours.load_state_dict({name: tensor.bfloat16().float() for name, tensor in best.items()})
    ids = torch.randint(0, 8000, (1, 30))
    with torch.no_grad():
        expected = ours.logits(ours(ids, torch.arange(30)[None]))
        assert torch.allclose(model(ids).logits, expected, atol=0.01 * expected.std().item())

    assert niah(monkeypatch, "train", "curves", "run") == 0
    assert Path("run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert niah(monkeypatch, "train", "export", "run", "--out", "again") == 0
    assert (Path("again") / "model.safetensors").read_bytes() == Path("run/checkpoint/model.safetensors").read_bytes()

    assert niah(monkeypatch, "train", "full", "--recipe", "full.toml", "--out", "next", "--init", "again", "--minutes", "0") == 0
    begun = torch.load("next/state.pt", weights_only=True)["model"]
    for name, tensor in ours.state_dict().items():
        assert torch.allclose(begun[name], tensor, rtol=0.01, atol=1e-6), name


def test_a_second_signal_breaks_off_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted_after(monkeypatch, 2, [signal.SIGTERM, signal.SIGINT])
    assert niah(monkeypatch, "train", "full", "--recipe", "full.toml", "--out", "run", "--device", "cpu") == 130
    assert "broken off; what was saved is kept. To go on:\n  niah train full" in capsys.readouterr().out
    assert not Path("run/state.pt").exists()


def test_minutes_that_are_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert niah(monkeypatch, "train", "full", "--recipe", "full.toml", "--minutes", "0", "--device", "cpu") == 0
    assert "niah train full --recipe full.toml --minutes 0 --device cpu --out results/train-full" in capsys.readouterr().out
    assert Path("results/train-full/state.pt").is_file()


def test_the_infini_reader_is_trained_and_begun_with_its_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert niah(monkeypatch, "train", "infini", "--recipe", "infini.toml", "--out", "run", "--device", "cpu") == 0
    model = load_checkpoint(Path("run/checkpoint"))
    assert model.config.border_at_question
    best = torch.load("run/best.pt", weights_only=True)
    for init in ("run", "run/checkpoint"):
        shutil.rmtree("next", ignore_errors=True)
        wish = ["--recipe", "infini.toml", "--out", "next", "--init", init, "--minutes", "0", "--device", "cpu"]
        assert niah(monkeypatch, "train", "infini", *wish) == 0
        begun = torch.load("next/state.pt", weights_only=True)["model"]
        name = "layers.6.attention.q_proj.weight"
        assert torch.allclose(begun[name], best[name], rtol=0.01, atol=1e-6)
    assert json.loads(Path("next/recipe.json").read_text())["init"] == str(Path("run/checkpoint").resolve())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["full", "--recipe", "changed.toml"], "another recipe (total_tokens: 1536 was, 9 is asked): give another --out"),
        (["full", "--seed", "3"], "another recipe (seed: 0 was, 3 is asked)"),
        (["full", "--init", "run"], "another recipe (init: null was,"),
        (["infini"], "the recipe is for the reader 'full', and 'infini' is to be trained"),
        (["full", "--recipe", "infini.toml", "--out", "new"], "the recipe is for the reader 'infini'"),
        (["full", "--recipe", "absent.toml"], "'absent.toml' is neither a file nor a name in configs/"),
        (["full", "--recipe", "nowhere.toml", "--out", "new"], "corpus 'texts/none.parquet' is neither a known corpus nor an existing path"),
        (["full", "--recipe", "sizes.toml", "--out", "new"], "the recipe's [model]: got an unexpected keyword argument 'hiden_size'"),
        (["full", "--recipe", "full.toml", "--out", "new", "--init", "empty"], "empty holds neither best.pt"),
        (["full", "--recipe", "full.toml", "--out", "new", "--init", "torn"], "the weights in"),
        (["full", "--recipe", "full.toml", "--out", "new", "--init", "other"], "its weights are of another model"),
        (["infini", "--recipe", "convert.toml", "--out", "new"], "the recipe converts a checkpoint: name it with --init"),
        (["infini", "--init", "gpt", "--recipe", "convert.toml", "--out", "new"], "is a gpt2: niah converts llama"),
        (["curves", "empty"], "empty holds no training's log"),
        (["export", "empty", "--out", "x"], "empty holds no training of niah"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], message: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("changed.toml").write_text(FULL.replace("1536", "9"))
    Path("nowhere.toml").write_text(FULL.replace("builtin/legal", "texts/none.parquet"))
    Path("sizes.toml").write_text(FULL.replace("[[stages]]", "[model]\nhiden_size = 8\n[[stages]]"))
    Path("convert.toml").write_text(FULL.replace('"full"', '"convert"'))
    Path("empty").mkdir()
    Path("torn").mkdir()
    Path("torn/best.pt").write_bytes(b"PK\x03\x04torn")
    Path("other").mkdir()
    torch.save({"x": torch.zeros(1)}, "other/best.pt")
    changed(tiny, Path("gpt"), model_type="gpt2")
    Path("run").mkdir()
    wish = Wish(reader="full", folder=Path("run"), recipe="full.toml")
    Path("run/recipe.json").write_text(json.dumps({"recipe": resolve(wish)[0].model_dump(mode="json"), "init": None}))
    Path("run/state.pt").write_bytes(b"")
    trains = arguments[0] in ("full", "infini")
    code = niah(monkeypatch, "train", *arguments, *(["--out", "run"] if trains and "--out" not in arguments else []))
    told = capsys.readouterr().err
    assert (code, message in told) == (2, True), told
    assert "Traceback" not in told


def test_the_recipe_that_counts(tiny: Path, tmp_path: Path) -> None:
    def kind(**wish: Any) -> str:
        return resolve(Wish(folder=tmp_path / "new", **wish))[0].reader

    assert [kind(reader="full"), kind(reader="infini"), kind(reader="infini", init=str(tiny))] == ["full", "infini", "convert"]
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "config.json").write_text('{"model_type": "niah-infini"}')
    assert kind(reader="infini", init=str(ours)) == "infini"


def test_two_trainings_do_not_share_a_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    with FileLock("run/.lock"):
        assert niah(monkeypatch, "train", "full", "--recipe", "full.toml", "--out", "run") == 2
    assert "another training writes into run" in capsys.readouterr().err


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert niah(monkeypatch, "train", "full", "--recipe", "full.toml", "--device", "cuda") == 2
    assert "torch finds no GPU here" in capsys.readouterr().err


def test_without_torch_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "niah.training.session")
    monkeypatch.delattr("niah.training.session", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert niah(monkeypatch, "train", "full") == 2
    assert "pip install 'niah[local]'" in capsys.readouterr().err


def test_an_unfinished_export_names_what_lacks() -> None:
    wish = Wish(reader="full", folder=Path("run"), recipe="full.toml")
    Path("run").mkdir()
    Path("run/recipe.json").write_text(json.dumps({"recipe": resolve(wish)[0].model_dump(mode="json"), "init": None}))
    with pytest.raises(UsageError, match="holds neither"):
        export(Path("run"), Path("out"))
