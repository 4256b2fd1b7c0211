"""The `full` reader: a standard Llama with structured initial weights, saved as an ordinary Hugging Face folder."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from niah.task.tokens import NIAH_8K_RANKS, niah_8k_encoding
from niah.training import structure
from niah.training.batches import Batch, collate, drawn_positions
from niah.training.episodes import BOS, END, EOS, USER, Episode
from niah.training.llama import Attention, Llama, LlamaShape, repetition_mask
from niah.training.noise import Noise

RETRIEVE_WEIGHT, BEGIN_WEIGHT = 1.0, 0.5
BEGINNING_TOKENS = 4


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
        """Two steps on the way to an answer's first token, each a loss of its own: the needle is looked at, and its beginning from its end.

        The loss on the answers alone hardly reaches them: it is wrong about the first token long after it copies all others (docs/LOG.md).
        """
        layers = self.model.attentions()
        if len(layers) < 3:
            return {}  # too few layers for the structured weights, whose heads these are
        start, retrieve = layers[1:3]
        starts = torch.cat([torch.ones_like(batch.answer[:1]), batch.answer[1:] - batch.answer[:-1]]).nonzero().flatten()
        asking = batch.at[starts] % batch.ids.shape[1]
        inside = batch.needle[batch.row] == batch.asked[:, None]
        rank = inside.cumsum(1) * inside
        beginning = (rank > 0) & (rank <= BEGINNING_TOKENS)
        middle, end = (_last(rank, share) for share in (0.6, 1.0))
        looked = [_surprise(retrieve, heads, batch.row, asking, inside) for heads in (0, 1)]
        begun = [_surprise(start, 1, batch.row, at, beginning) for at in (middle, end)]
        return {"retrieve": torch.stack(looked).mean() * RETRIEVE_WEIGHT, "begin": torch.stack(begun).mean() * BEGIN_WEIGHT}

    def gates(self) -> list[nn.Parameter]:
        return []


def _last(rank: Tensor, share: float) -> Tensor:
    """Where [answers] in each row of ranks 1, 2, ... [answers, T] the needle's token of that share of its length stands."""
    wanted = (rank.amax(1, keepdim=True) * share).ceil()
    return (rank == wanted).int().argmax(1)


def _surprise(attention: Attention, head: int, row: Tensor, at: Tensor, wanted: Tensor) -> Tensor:
    """-log of the attention that the tokens `at` [answers] of `row` [answers] pay to the `wanted` ones [answers, T], in the mean."""
    assert attention.seen is not None, "extra losses follow a forward in training"
    query, key = (each[:, head] for each in attention.seen)
    scores = (key[row] @ query[row, at].unsqueeze(-1)).squeeze(-1).float() * attention.head_dim**-0.5
    scores = scores.masked_fill(torch.arange(scores.shape[1], device=scores.device) > at[:, None], -1e9)
    right = scores.masked_fill(~wanted, -1e9).logsumexp(1)
    return (scores.logsumexp(1) - right).clamp(max=20.0).mean()


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
