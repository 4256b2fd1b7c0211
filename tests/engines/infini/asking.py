"""Small random models as checkpoints, engines over them, and what they are to answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from niah.engines import Generation, Sampling, Step
from niah.engines.infini.checkpoint import load_checkpoint, save_checkpoint
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.engine import InfiniEngine
from niah.engines.infini.model import InfiniModel, ModelConfig
from niah.training.export import export_tokenizer

END, SEGMENT = 3, 16
GREEDY = Sampling()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model gains nothing from a second one, and waits for it where other work is done."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(border: bool, **options: Any) -> InfiniModel:
    """A small random model whose answers depend on all that it has read."""
    torch.manual_seed(7)
    common: dict[str, Any] = {"d_model": 32, "heads": 2, "head_dim": 16, "segment_tokens": SEGMENT, "beta": (3.0, -1.0), **options}
    layer = InfiniConfig(**common, conv_width=3, write_gate=True, feature_map="softmax", feature_count=32, feature_scale=4.0)
    config = ModelConfig(
        vocabulary=8192, d_model=32, mlp=48, layers=(layer, InfiniConfig(**common)), end_tokens=(END,), border_at_question=border
    )
    model = InfiniModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Checkpoints in float32: with a border in front of the question, and without."""
    top = tmp_path_factory.mktemp("checkpoints")
    for border in (True, False):
        save_checkpoint(made(border), top / str(border), dtype=torch.float32)
        export_tokenizer(top / str(border))
    return {border: top / str(border) for border in (True, False)}


def ids(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(6, 8000) for _ in range(count)]


def ask(
    engine: InfiniEngine,
    *pieces: Sequence[int],
    count: int = 4,
    stop_ids: Sequence[int] = (),
    report: Callable[[Step], None] = lambda _: None,
) -> Generation:
    return engine.generate(pieces, count, stop_ids=stop_ids, sampling=GREEDY, report=report)


@cache
def loaded(folder: Path) -> InfiniModel:
    return load_checkpoint(folder)


def expected(folder: Path, context: Sequence[int], question: Sequence[int], count: int = 4) -> list[int]:
    """By the model alone, its prompt read in one call, its answer with every token of it read again."""
    model, answer = loaded(folder), list[int]()
    with torch.inference_mode():
        for _ in range(count):
            if model.config.border_at_question and context:
                _, states = model(torch.tensor([list(context)]))
                hidden, _ = model(torch.tensor([[*question, *answer]]), model.close_segment(states))
            else:
                hidden, _ = model(torch.tensor([[*context, *question, *answer]]))
            answer.append(int(model.logits(hidden[0, -1]).argmax()))
    return answer


@pytest.fixture(scope="module")
def engines(folders: dict[bool, Path]) -> dict[bool, InfiniEngine]:
    return {border: InfiniEngine(folder, device="cpu", chunk_tokens=3 * SEGMENT) for border, folder in folders.items()}
