"""The `infini` reader: the weights of `full`, and heads that file in memory and ask of it (niah/training/filing.py)."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from niah.engines.infini.attention import Watch
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.model import InfiniModel, ModelConfig, States
from niah.task.tokens import NIAH_8K_RANKS, niah_8k_encoding
from niah.training import filing
from niah.training.addresses import SHAPE
from niah.training.batches import TurnBatch, collate, collate_turns
from niah.training.episodes import END, Episode, Maker, Shape
from niah.training.filing import SEGMENT
from niah.training.frames import FrameNeedles
from niah.training.noise import Noise
from niah.training.parts import RATIO

TRAINED_SEGMENTS = (256, 512, SEGMENT)
"""Mostly short ones, so that short texts have many."""
WRITE_WEIGHT, OPEN_WEIGHT = 0.1, 0.01
FEATURES = {4: (16384, 4), 5: (64, 1), 6: (16384, 64)}
"""Of the layers with a memory: how many features a key has, in how many groups."""
_SAMPLE = Shape(tokens=1024, needles=(1, 1), question_first=0.5, noise="documents")


def reader_config(segment_tokens: int = SEGMENT, features: float = 1.0) -> ModelConfig:
    """The full reader's layers and one more, without the heads that it does not use, with some that judge, and with memories.

    `features`: times as many of them as `FEATURES` says.
    """
    common: dict[str, Any] = {
        "d_model": filing.D_MODEL, "head_dim": SHAPE.head_dim, "segment_tokens": segment_tokens, "rope_theta": SHAPE.rope_theta,
        "attention_bias": True, "sink_tokens": 96, "overlap_tokens": 128,
    }  # fmt: skip
    remembers: dict[str, Any] = {
        "memory_alone": True, "write_gate": True, "write_pool": True, "write_least": 0.02, "read_gate": True, "feature_map": "softmax",
        "feature_scale": 6.0,
    }  # fmt: skip
    layers: list[InfiniConfig] = []
    for number, (local, memory) in enumerate(zip(filing.LOCAL_HEADS, filing.MEMORY_HEADS, strict=True)):
        own: dict[str, Any] = {"heads": local + memory, "memory_heads": memory}
        if memory:
            count, groups = FEATURES[number]
            own |= remembers | {"feature_count": int(count * features), "feature_groups": groups, "feature_seed": number}
        if number == filing.ASKING:
            own |= {"head_dim": filing.ASKING_DIM, "rope_theta": RATIO ** (filing.ASKING_DIM // 2)}
        elif memory:
            own |= {"read_floor": filing.FLOOR} if number == filing.WORDS else {"read_centred": True}
        layers.append(InfiniConfig(**common | own))
    return ModelConfig(
        vocabulary=SHAPE.vocab_size, d_model=filing.D_MODEL, mlp=filing.MLP, layers=tuple(layers),
        norm_epsilon=SHAPE.rms_norm_eps, end_tokens=(END,), border_at_question=True,
    )  # fmt: skip


class InfiniReader:
    """A `Reader` (niah/training/train.py). Only its last layer learns: the others were built to tell what they tell."""

    def __init__(self, config: ModelConfig, noise: Noise, seed: int):
        torch.manual_seed(seed)
        self.model = InfiniModel(config)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(f"layers.{len(config.layers) - 1}."))
        self._noise, self._seed = noise, seed
        self._shares: list[Tensor] = []

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """From an infini reader's weights, or from a full reader's. RuntimeError when they are neither's."""
        if "embed_tokens.weight" not in weights:
            self.model.load_state_dict(weights)
            return
        rng, maker = random.Random(self._seed), Maker(FrameNeedles(), self._noise)
        sample = collate([maker.episode(rng, _SAMPLE) for _ in range(8)], _SAMPLE.tokens).ids
        self._read_in(_SAMPLE.tokens)
        filing.graft(self.model, weights, question_ends(), sample)

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> TurnBatch:
        self._read_in(rng.choice(TRAINED_SEGMENTS) if rng else self.model.config.segment_tokens)
        return collate_turns(episodes)

    def _read_in(self, segment_tokens: int) -> None:
        for attention in self.model.attentions():
            attention.segment_tokens = min(segment_tokens, self.model.config.segment_tokens)

    def logits(self, batch: TurnBatch, *, virtual_times: float) -> Tensor:
        hidden: list[Tensor] = []
        self._shares = []
        for row, (text, needle) in enumerate(zip(batch.texts, batch.needle, strict=True)):
            weight = torch.where(needle == -1, virtual_times, 1.0)
            watches = [Watch() for _ in self.model.config.layers]
            _, states = self.model(text, write_weight=weight, watches=watches)
            self._shares.append(_surprise(watches[-1], needle, weight))
            turns = batch.turns[batch.text_of == row]
            hidden.append(self.model(turns, _for_each(self.model.close_segment(states), len(turns)))[0])
        return self.model.logits(torch.cat(hidden).flatten(0, 1)[batch.at])

    def extra_losses(self, batch: TurnBatch) -> dict[str, Tensor]:
        """What is written ought to be needles: -log of their share of all that is, filler counted `virtual_times`."""
        return {"write": torch.stack(self._shares).mean()}

    def gates(self) -> list[nn.Parameter]:
        last = self.model.attentions()[-1]
        return [last.beta, *([] if last.write_gate is None else last.write_gate.parameters())]

    def heads(self) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for attention in self.model.attentions():
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
                found[id(matrix.weight)] = 0, attention.config.heads
            found[id(attention.o_proj.weight)] = 1, attention.config.heads
        return found


def _for_each(states: States, turns: int) -> States:
    """The states of one text for each of several turns behind it."""
    return tuple(state.each(lambda tensor: tensor.expand(turns, *tensor.shape[1:])) for state in states)


def question_ends() -> Tensor:
    """Which tokens of niah-8k end a question [vocabulary]."""
    encoding = niah_8k_encoding()
    return torch.tensor(
        [b"?" in encoding.decode_single_token_bytes(token) for token in range(NIAH_8K_RANKS)] + [False] * (8192 - NIAH_8K_RANKS)
    )


def _surprise(watch: Watch, told: Tensor, weight: Tensor) -> Tensor:
    """Of one text: `told` and `weight` [1, T] are each token's needle, as `TurnBatch` numbers them, and its weight."""
    assert watch.write_logarithms is not None
    strength = watch.write_logarithms.float() + weight.log().unsqueeze(-1)
    wanted = (told >= 0).unsqueeze(-1)
    if not wanted.any():
        return strength.new_zeros(())
    right = strength.masked_fill(~wanted, -1e9).logsumexp(1)
    every = strength.masked_fill((told == -2).unsqueeze(-1), -1e9).logsumexp(1)
    opened = strength[wanted.expand_as(strength)].mean()
    return (every - right).clamp(max=20.0).mean() * WRITE_WEIGHT - opened * OPEN_WEIGHT
