"""The `infini` reader: structured initial weights, and training on texts read in segments with questions asked of the memory."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.model import InfiniModel, ModelConfig, States
from niah.training import structure_infini
from niah.training.batches import TurnBatch, collate_turns
from niah.training.episodes import END, Episode
from niah.training.full import vocabulary
from niah.training.noise import Noise

D_MODEL, HEADS, HEAD_DIM, MLP = 320, 4, 96, 256


def reader_config(segment_tokens: int = 512, features: int = 2048) -> ModelConfig:
    """Four layers: two that only look around (their gates begin closed), one that files words, one that files n-grams."""
    common: dict[str, Any] = {
        "d_model": D_MODEL, "heads": HEADS, "head_dim": HEAD_DIM, "segment_tokens": segment_tokens, "rope_theta": 1e6,
        "attention_bias": True, "conv_width": 4, "write_gate": True, "write_gate_bias": 2.0,
    }  # fmt: skip
    local = InfiniConfig(**common, beta=(-6.0,) * HEADS)
    words = InfiniConfig(
        **common, beta=(5.0, 5.0, -6.0, -6.0), feature_map="softmax", feature_count=features, feature_scale=8.0, feature_seed=1
    )
    grams = InfiniConfig(
        **common,
        beta=(-6.0, 5.0, 5.0, 5.0),
        feature_map="softmax",
        feature_count=features,
        feature_scale=8.0,
        feature_seed=2,
        read_norm=True,
    )
    return ModelConfig(vocabulary=8192, d_model=D_MODEL, mlp=MLP, layers=(local, local, words, grams), end_tokens=(END,))


class InfiniReader:
    """A `Reader` (niah/training/train.py)."""

    def __init__(self, config: ModelConfig, noise: Noise, seed: int):
        torch.manual_seed(seed)
        self.model = InfiniModel(config)
        self.segment_tokens = config.segment_tokens
        words = vocabulary(noise, seed)
        ordinary = (words.ordinary | words.asking).nonzero().flatten()
        structure_infini.initialise(self.model, words.counts, words.boundary, ordinary, seed)

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> TurnBatch:
        return collate_turns(episodes, self.segment_tokens)

    def logits(self, batch: TurnBatch, *, virtual_times: float) -> Tensor:
        weight = torch.where(batch.needle == -1, virtual_times, 1.0) * ~batch.padding
        _, states = self.model(batch.texts, write_weight=weight)
        hidden, _ = self.model(batch.turns, asked_of(states, batch.text_of))
        return self.model.logits(hidden.flatten(0, 1)[batch.at])

    def extra_losses(self, batch: TurnBatch) -> dict[str, Tensor]:
        return {}

    def gates(self) -> list[nn.Parameter]:
        return [attention.beta for attention in self.model.attentions()]

    def heads(self) -> dict[int, tuple[int, int]]:
        return {}


def asked_of(states: States, text_of: Tensor) -> States:
    """States for questions: each the memory of its text, at the beginning of a new segment."""
    return tuple(state.new_segment().each(lambda tensor: tensor[text_of]) for state in states)
