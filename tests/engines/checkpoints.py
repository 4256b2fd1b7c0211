"""Small random checkpoints, made here: what transformers itself would save."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.peers.tiny_checkpoint import make

transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with its tokenizer and its chat template."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make(folder)
    return folder


def changed(tiny: Path, folder: Path, *, without: Sequence[str] = (), files: dict[str, str | bytes] | None = None, **config: Any) -> Path:
    """A copy of it, without some files, with others, and with other words in its config.json."""
    shutil.copytree(tiny, folder)
    for name in without:
        (folder / name).unlink()
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def save(folder: Path, config: Any, dtype: torch.dtype = torch.float32) -> Path:
    """Random weights of any architecture, without a tokenizer."""
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder


def generated(folder: Path, ids: Sequence[int], count: int) -> list[int]:
    """What transformers' own generate() goes on with, greedily, the end of text included if it comes."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        made = model.generate(torch.tensor([list(ids)]), max_new_tokens=count, do_sample=False, pad_token_id=2)
    return made[0, len(ids) :].tolist()
