"""The `infini` reader: it begins with the weights of `full`, and learns what to write into memory and what to ask of it."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from niah.engines.infini.attention import Watch
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.model import InfiniModel, ModelConfig, States
from niah.task.tokens import NIAH_8K_RANKS, niah_8k_encoding
from niah.training import structure_infini
from niah.training.batches import TurnBatch, collate, collate_turns
from niah.training.episodes import END, Episode, Maker, Shape
from niah.training.frames import FrameNeedles
from niah.training.llama import LlamaShape
from niah.training.noise import Noise

TRAINED_SEGMENTS = (256, 512, 2304)
"""Mostly short ones, so that short texts have many."""
WRITE_WEIGHT, OPEN_WEIGHT = 0.1, 0.01
_SAMPLE = Shape(tokens=1024, needles=(1, 1), question_first=1.0, noise="documents")


def reader_config(segment_tokens: int = 2304, features: int = 2048) -> ModelConfig:
    """The full reader's layers without the heads that it does not use, with some that judge, and two with a memory in the last."""
    shape = LlamaShape()
    common: dict[str, Any] = {
        "d_model": structure_infini.D_MODEL, "head_dim": shape.head_dim, "segment_tokens": segment_tokens, "rope_theta": shape.rope_theta,
        "attention_bias": True, "value_bias": True, "output_bias": True, "sink_tokens": 96, "overlap_tokens": 128,
    }  # fmt: skip
    *judging, last = structure_infini.LOCAL_HEADS
    local = tuple(InfiniConfig(**common, heads=heads, memory_heads=0) for heads in judging)
    memory = InfiniConfig(
        **common, heads=last + 2, memory_heads=2, beta=(5.0, 5.0), write_gate=True, write_delay_tokens=32, conv_width=4,
        conv_memory_only=True, feature_map="softmax", feature_count=features, feature_groups=8,
        feature_scale=8.0, feature_seed=1,
    )  # fmt: skip
    return ModelConfig(
        vocabulary=shape.vocab_size, d_model=structure_infini.D_MODEL, mlp=structure_infini.MLP, layers=(*local, memory),
        norm_epsilon=shape.rms_norm_eps, end_tokens=(END,), border_at_question=True,
    )  # fmt: skip


class InfiniReader:
    """A `Reader` (niah/training/train.py). Only its last layer learns: the others were built or trained to tell what they tell."""

    def __init__(self, config: ModelConfig, noise: Noise, seed: int):
        torch.manual_seed(seed)
        self.model = InfiniModel(config)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(f"layers.{len(config.layers) - 1}."))
        self._noise, self._seed, self._delay = noise, seed, config.layers[-1].write_delay_tokens
        self._shares: list[Tensor] = []

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """From an infini reader's weights, or from a full reader's. RuntimeError when they are neither's."""
        if "embed_tokens.weight" not in weights:
            self.model.load_state_dict(weights)
            return
        rng, maker = random.Random(self._seed), Maker(FrameNeedles(), self._noise)
        sample = collate([maker.episode(rng, _SAMPLE) for _ in range(8)], _SAMPLE.tokens).ids
        self._read_in(_SAMPLE.tokens)
        structure_infini.graft(self.model, weights, marks(), sample)

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
            # The weight of what is written at a place, which stood a delay earlier.
            told = torch.cat([needle.new_full((1, self._delay), -2), needle[:, : -self._delay]], dim=1)
            weight = torch.where(told == -1, virtual_times, 1.0)
            watches = [Watch() for _ in self.model.config.layers]
            _, states = self.model(text, write_weight=weight, watches=watches)
            self._shares.append(_surprise(watches[-1], told, weight))
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


def marks() -> structure_infini.Marks:
    """What ends a paragraph in niah-8k."""
    encoding = niah_8k_encoding()
    texts = [encoding.decode_single_token_bytes(token) for token in range(NIAH_8K_RANKS)] + [b""] * (8192 - NIAH_8K_RANKS)
    paragraph = torch.tensor([b"\n" in text for text in texts])
    return structure_infini.Marks(paragraph=paragraph, question=paragraph & torch.tensor([b"?" in text for text in texts]))


def _surprise(watch: Watch, told: Tensor, weight: Tensor) -> Tensor:
    """Of one text: `told` and `weight` [1, T] are the number of the needle and the weight of what is written at a place."""
    assert watch.write_logits is not None
    strength = logsigmoid(watch.write_logits.float()) + weight.log().unsqueeze(-1)
    wanted = (told >= 0).unsqueeze(-1)
    if not wanted.any():
        return strength.new_zeros(())
    right = strength.masked_fill(~wanted, -1e9).logsumexp(1)
    every = strength.masked_fill((told == -2).unsqueeze(-1), -1e9).logsumexp(1)
    opened = strength[wanted.expand_as(strength)].mean()
    return (every - right).clamp(max=20.0).mean() * WRITE_WEIGHT - opened * OPEN_WEIGHT
