"""The engine's checkpoint: exact where it has to be, and every way of being no checkpoint is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from niah.engines import EngineError
from niah.engines.infini.checkpoint import load_checkpoint, save_checkpoint
from niah.engines.infini.engine import InfiniEngine
from niah.engines.infini.model import ModelConfig
from tests.engines.infini.asking import ask, ids, made, one_thread

__all__ = ["one_thread"]


def test_bfloat16_weights_stay_and_the_memory_is_exact(tmp_path: Path):
    model = made(True)
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    own = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    assert {parameter.dtype for parameter in loaded.parameters()} == {own}
    assert {buffer.dtype for buffer in loaded.buffers()} == {torch.float32}
    with torch.inference_mode():
        states = loaded.absorb(torch.tensor([ids(50)]))
    assert {state.memory.matrix.dtype for state in states} == {torch.float32}
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor.to(torch.bfloat16), stored[name]) for name, tensor in loaded.state_dict().items())


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def with_content(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def with_setting(**changes: Any) -> Callable[[Path], None]:
    return with_content("config.json", lambda old: json.dumps(json.loads(old) | changes).encode())


def with_other_weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")

    return write


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (without("config.json"), "no config.json"),
    "broken config": (with_content("config.json", lambda old: old[:50]), "config.json cannot be used"),
    "a list": (with_content("config.json", lambda _: b"[]"), "config.json cannot be used"),
    "another architecture": (with_setting(model_type="llama"), "not of an Infini-attention model"),
    "a newer version": (with_setting(rotor=1), "does not fit this version of niah"),
    "an impossible shape": (with_setting(layers=[]), "at least one layer"),
    "no weights": (without("model.safetensors"), "no model.safetensors"),
    "cut weights": (with_content("model.safetensors", lambda old: old[: len(old) // 2]), "weights cannot be read"),
    "no header": (with_content("model.safetensors", lambda _: b"not this"), "weights cannot be read"),
    "a tensor missing": (
        with_other_weights(lambda all_: {k: v for k, v in all_.items() if k != "norm.weight"}),
        "lack 1 tensors, such as norm.weight",
    ),
    "a tensor more": (
        with_other_weights(lambda all_: all_ | {"rotor": all_["norm.weight"].clone()}),
        "does not know of 1 tensors, such as rotor",
    ),
    "other shapes": (with_setting(mlp=47), "other shapes than its config.json says"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_says_what_is_wrong(tmp_path: Path, name: str):
    save_checkpoint(made(True), tmp_path / "bad")
    change, says = BAD[name]
    change(tmp_path / "bad")
    with pytest.raises(EngineError, match=says) as caught:
        ask(InfiniEngine(tmp_path / "bad", device="cpu"), ids(9))
    assert caught.value.kind == "checkpoint"


def test_configs_of_old_have_no_border(tmp_path: Path):
    data = made(True).config.to_json()
    del data["border_at_question"]
    for layer in data["layers"]:
        del layer["feature_seed"]
    assert ModelConfig.from_json(json.loads(json.dumps(data))) == replace(made(True).config, border_at_question=False)
