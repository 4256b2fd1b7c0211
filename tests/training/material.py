"""What the tests of the training share: a little text, and a reader small enough to be trained in a second."""

import random
from collections.abc import Sequence
from functools import cache

import torch

from niah.task.corpus import open_corpus
from niah.training.batches import Batch, collate
from niah.training.episodes import Episode, Maker
from niah.training.frames import FrameNeedles
from niah.training.full import FullReader
from niah.training.llama import Llama, LlamaShape
from niah.training.noise import Noise
from niah.training.recipe import Recipe

CORPORA = ["builtin/wikipedia", "builtin/legal"]


@cache
def noise(*, held_out: bool = False) -> Noise:
    return Noise([open_corpus(name) for name in CORPORA], held_out=held_out)


@cache
def makers() -> tuple[Maker, Maker]:
    return Maker(FrameNeedles(), noise()), Maker(FrameNeedles(blind=True), noise(held_out=True))


class SmallReader(FullReader):
    """A Llama of random weights, of one layer if nothing is said, trained as the `full` reader is."""

    def __init__(self, layers: int = 1) -> None:
        torch.manual_seed(0)
        self.model = Llama(
            LlamaShape(
                hidden_size=24, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2, head_dim=8
            )
        )
        with torch.no_grad():
            self.model.embed_tokens.weight.mul_(0.05)
        self.reach_tokens = 2048
        self._mask = None


class GatedReader(SmallReader):
    """One that counts a parameter as a gate."""

    def gates(self) -> list[torch.nn.Parameter]:
        return [self.model.layers[0].self_attn.q_proj.bias]

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> Batch:
        return collate(episodes, tokens)


def recipe(**changes: object) -> Recipe:
    """256 tokens a step, 20 steps."""
    stage = {"tokens": 100_000, "lengths": [256], "needles_per_1k": [4, 8], "virtual_times": 4.0}
    base = {"reader": "full", "corpora": CORPORA, "batch_tokens": 256, "total_tokens": 5120, "warmup_steps": 4, "stages": [stage]}
    return Recipe.model_validate({**base, **changes})
