"""The `infini` reader begins as the bundled `full` reader that files needles. `pytest tests/training/test_structure_infini.py`"""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from niah.engines.infini.attention import Watch
from niah.training.batches import collate
from niah.training.episodes import Episode, Maker, Niah8k, Shape
from niah.training.frames import FrameNeedles
from niah.training.infini import InfiniReader, reader_config
from niah.training.llama import Llama, LlamaShape
from niah.training.session import VOTES
from tests.training.material import noise

pytest.importorskip("safetensors", reason="safetensors is not installed: pip install 'niah[local]'")
FEATURES = 256
DELAY = 32


@pytest.fixture(scope="module")
def full() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix("model."): tensor.float() for name, tensor in load_file(f"{VOTES}/model.safetensors").items()}


@pytest.fixture(scope="module")
def reader(full: dict[str, Tensor]) -> InfiniReader:
    made = InfiniReader(reader_config(features=FEATURES), noise(), seed=0)
    made.begin(full)
    return made


def episodes(count: int, *, tokens: int, question_first: float) -> Sequence[Episode]:
    shape = Shape(
        tokens=tokens, needles=(1, 1), near_misses=0, question_first=question_first, real_sentences=0, random_sentences=0, noise="documents",
        cue_off=0,
    )  # fmt: skip
    maker, rng = Maker(FrameNeedles(blind=True), noise(held_out=True), Niah8k(border=True)), random.Random(3)
    return [maker.episode(rng, shape) for _ in range(count)]


def test_within_sight_it_says_what_the_full_reader_says(reader: InfiniReader, full: dict[str, Tensor]) -> None:
    """Of the answers' tokens that the full reader has right; memory's heads, which are new, speak too."""
    model, found = Llama(LlamaShape()), list[Tensor]()
    model.load_state_dict(full, strict=False)
    with torch.no_grad():
        for episode in episodes(8, tokens=512, question_first=0):
            turns = reader.collate([episode], 512, None)
            own = reader.logits(turns, virtual_times=1.0).argmax(-1)
            batch = collate([episode], 600)
            theirs = model.logits(model(batch.ids, torch.arange(batch.ids.shape[1])[None]).flatten(0, 1)[batch.at]).argmax(-1)
            assert torch.equal(batch.target, turns.target)
            found.append((own == turns.target)[theirs == batch.target])
    right = torch.cat(found).float()
    assert len(right) > 60
    assert right.mean() > 0.9


def test_with_the_question_in_front_it_files_the_needle(reader: InfiniReader) -> None:
    """Of all that is written the needle is several times its part of the text, and with no question it is not."""
    shares = {
        first: torch.tensor([share(reader, episode) for episode in episodes(8, tokens=1024, question_first=first)]) for first in (1.0, 0.0)
    }
    times = {first: found[:, 0] / found[:, 1] for first, found in shares.items()}
    assert times[1.0].median() > 3
    assert times[0.0].median() < 2


def share(reader: InfiniReader, episode: Episode) -> tuple[float, float]:
    """The needle's part of what is written into memory, and of the text."""
    batch = reader.collate([episode], 1024, None)
    watches = [Watch() for _ in reader.model.config.layers]
    with torch.no_grad():
        reader.model(batch.texts[0], watches=watches)
    needle = batch.needle[0]
    told = torch.cat([needle.new_full((1, DELAY), -2), needle[:, :-DELAY]], 1)[0]
    logits = watches[-1].write_logits
    assert logits is not None
    strength = logsigmoid(logits[0].double()).exp().mean(-1)[told != -2]
    wanted = told[told != -2] >= 0
    return float(strength[wanted].sum() / strength.sum()), float(wanted.double().mean())
