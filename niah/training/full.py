"""The `full` reader: a standard Llama with structured initial weights, saved as an ordinary Hugging Face folder."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from niah.task.tokens import NIAH_8K_RANKS, niah_8k_encoding
from niah.training import structure
from niah.training.batches import Batch, collate, drawn_positions
from niah.training.episodes import BOS, END, EOS, USER, Episode
from niah.training.llama import Llama, LlamaShape, repetition_mask
from niah.training.noise import Noise


class FullReader:
    """A `Reader` (niah/training/train.py)."""

    def __init__(self, shape: LlamaShape, noise: Noise, seed: int):
        self.model = Llama(shape)
        self.reach_tokens = shape.max_position_embeddings
        boundary, asking = token_classes()
        structure.initialise(self.model, token_counts(noise, seed), boundary, asking, seed)

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> Batch:
        positions = drawn_positions(rng, len(episodes), tokens, self.reach_tokens) if rng else None
        return collate(episodes, tokens, positions=positions)

    def logits(self, batch: Batch, *, virtual_times: float) -> Tensor:
        mask = repetition_mask(batch.needle == -1, virtual_times).to(torch.bfloat16) if virtual_times > 1 else None
        hidden = self.model(batch.ids, batch.positions, mask)
        return self.model.logits(hidden.flatten(0, 1)[batch.at])

    def extra_losses(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def gates(self) -> list[nn.Parameter]:
        return []


def token_counts(noise: Noise, seed: int, sentences: int = 20_000) -> Tensor:
    """How often each token stands in drawn sentences, [vocabulary]."""
    encode, rng = niah_8k_encoding().encode_ordinary, random.Random(seed)
    counts = torch.zeros(8192)
    for _ in range(sentences):
        ids = torch.tensor(encode(noise.sentence(rng)))
        counts.index_add_(0, ids, torch.ones(len(ids)))
    return counts


_ASKING = frozenset(
    [*b"What Which Who Whose Whom How When Where Why Tell Name".split(), b" What", b" Which", b" Who", b" Whose", b" How", b" Why"]
)


def token_classes() -> tuple[Tensor, Tensor]:
    """Which tokens end a sentence or begin a turn, and which tell a question (its mark, or how it begins): two masks [vocabulary]."""
    decode = niah_8k_encoding().decode_single_token_bytes
    texts = [decode(token) for token in range(NIAH_8K_RANKS)]
    ends = [text.strip(b" \"')")[-1:] in (b".", b"?", b"!", b":") or b"\n" in text for text in texts]
    ends += [token in (BOS, EOS, USER, USER + 1, END) for token in range(NIAH_8K_RANKS, 8192)]
    asks = [b"?" in text or text in _ASKING for text in texts] + [False] * (8192 - NIAH_8K_RANKS)
    return torch.tensor(ends), torch.tensor(asks)
