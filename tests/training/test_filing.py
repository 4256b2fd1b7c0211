"""The `infini` reader is the bundled `full` reader that files sentences. `pytest tests/training/test_filing.py`"""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from niah.engines.checkpoint import bundled
from niah.engines.infini.attention import Watch
from niah.training import filing, parts
from niah.training.addresses import SHAPE
from niah.training.batches import collate
from niah.training.episodes import Episode, Maker, Niah8k, Shape
from niah.training.frames import FrameNeedles
from niah.training.infini import InfiniReader, reader_config
from niah.training.llama import Llama
from tests.training.material import noise

pytest.importorskip("safetensors", reason="safetensors is not installed: pip install 'niah[local]'")


@pytest.fixture(scope="module")
def full() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix("model."): tensor.float() for name, tensor in load_file(f"{bundled('full')}/model.safetensors").items()}


@pytest.fixture(scope="module")
def reader(full: dict[str, Tensor]) -> InfiniReader:
    made = InfiniReader(reader_config(features=0.25), noise(), seed=0)
    made.begin(full)
    return made


def episodes(count: int, *, tokens: int, **given: float) -> Sequence[Episode]:
    shape = Shape(
        tokens=tokens, needles=(1, 1), near_misses=0, real_sentences=0, random_sentences=0, noise="documents", cue_off=0,
        question_first=given.get("question_first", 0.0),
    )  # fmt: skip
    maker, rng = Maker(FrameNeedles(blind=True), noise(held_out=True), Niah8k(border=True)), random.Random(3)
    return [maker.episode(rng, shape) for _ in range(count)]


def test_within_sight_it_says_what_the_full_reader_says(reader: InfiniReader, full: dict[str, Tensor]) -> None:
    """Of the answers' tokens that the full reader has right; of a text that does not repeat itself nothing is filed."""
    model, found = Llama(SHAPE), list[Tensor]()
    model.load_state_dict(full)
    with torch.no_grad():
        for episode in episodes(8, tokens=512):
            turns = reader.collate([episode], 512, None)
            own = reader.logits(turns, virtual_times=1.0).argmax(-1)
            batch = collate([episode], 600)
            theirs = model.logits(model(batch.ids, torch.arange(batch.ids.shape[1])[None]).flatten(0, 1)[batch.at]).argmax(-1)
            assert torch.equal(batch.target, turns.target)
            found.append((own == turns.target)[theirs == batch.target])
    right = torch.cat(found).float()
    assert len(right) > 60
    assert right.mean() > 0.95


def test_with_the_question_in_front_the_needle_is_filed(reader: InfiniReader) -> None:
    """Nearly all that is written is one sentence; without a question nothing is."""
    asked = torch.tensor([written(reader, episode) for episode in episodes(8, tokens=1024, question_first=1.0)])
    assert (asked[:, 0] / asked[:, 1] > 0.9).float().mean() >= 0.75
    silent = torch.tensor([written(reader, episode) for episode in episodes(4, tokens=1024)])
    assert (silent[:, 1] < asked[:, 1].median() / 100).all()


def written(reader: InfiniReader, episode: Episode) -> tuple[float, float]:
    """How strongly the last layer's second memory is written by the needle, and by all."""
    batch = reader.collate([episode], 1024, None)
    watches = [Watch() for _ in reader.model.config.layers]
    with torch.no_grad():
        reader.model(batch.texts[0], watches=watches)
    logarithms = watches[-1].write_logarithms
    assert logarithms is not None
    strength = logarithms[0, :, 1].double().exp()
    return float(strength[batch.needle[0][0] >= 0].sum()), float(strength.sum())


@pytest.mark.parametrize(("text", "says"), [("The grass is green. The sky is blue. " * 30, True), (None, False)])
def test_what_repeats_itself_is_told_from_what_does_not(reader: InfiniReader, text: str | None, says: bool) -> None:
    from niah.task.tokens import niah_8k_encoding

    natural = " ".join(noise().sentence(random.Random(seed)) for seed in range(24))
    ids = torch.tensor([[8184, 8188, *niah_8k_encoding().encode_ordinary(text or natural)]])
    seen: list[Tensor] = []
    hook = reader.model.layers[-1].get_submodule("input_norm").register_forward_hook(lambda _, given, out: seen.append(given[0]))
    with torch.no_grad():
        reader.model(ids)
    hook.remove()
    share = float((seen[0][0, 60:, filing.SEEN_AT] / parts.MARK > 0.5).float().mean())
    assert (share > 0.9) == says
    assert bool(seen[0][0, -1, filing.FILE_AT] / parts.MARK > 0.5) == says
