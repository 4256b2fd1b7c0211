"""The `full` reader: a standard Llama with structured initial weights, saved as an ordinary Hugging Face folder."""

import random
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from niah.task.prompt import CUE
from niah.task.tokens import NIAH_8K_RANKS, niah_8k_encoding
from niah.training import addresses
from niah.training.batches import Batch, collate, drawn_positions
from niah.training.episodes import BOS, END, EOS, USER, Episode, Maker, Shape
from niah.training.frames import FrameNeedles
from niah.training.llama import Attention, Llama, LlamaShape, repetition_mask
from niah.training.noise import Noise
from niah.training.positions import REACH_TOKENS
from niah.training.structure import Vocabulary

BEGIN_WEIGHT = 0.5
QUESTION_TOKENS = 64
_LOOKING = 2
"""The layer whose first head looks at the beginning of its sentence; those of the next two find words and ask."""
_SAMPLE = Shape(tokens=512, needles=(1, 3))


class FullReader:
    """A `Reader` (niah/training/train.py)."""

    def __init__(self, shape: LlamaShape, noise: Noise, seed: int):
        self.model = Llama(shape)
        self.reach_tokens = REACH_TOKENS
        self._mask: Tensor | None = None
        rng, maker = random.Random(seed), Maker(FrameNeedles(), noise)
        sample = collate([maker.episode(rng, _SAMPLE) for _ in range(8)], _SAMPLE.tokens).ids
        addresses.initialise(self.model, signs(noise, seed), sample, seed)

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> Batch:
        positions = drawn_positions(rng, len(episodes), tokens, self.reach_tokens) if rng else None
        return collate(episodes, tokens, positions=positions)

    def logits(self, batch: Batch, *, virtual_times: float) -> Tensor:
        device = batch.ids.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        mask = repetition_mask(batch.needle == -1, virtual_times).to(dtype) if virtual_times > 1 else None
        self._mask = mask
        hidden = self.model(batch.ids, batch.positions, mask)
        return self.model.logits(hidden.flatten(0, 1)[batch.at])

    def extra_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Two steps on the way to an answer's first token, each a loss of its own: the question's words are found in the needle, and
        from there its beginning is.
        """
        layers = self.model.attentions()
        if len(layers) < _LOOKING + 3:
            return {}  # too few layers for the structured weights, whose heads these are
        start, find, ask = layers[_LOOKING : _LOOKING + 3]
        starts = torch.cat([torch.ones_like(batch.answer[:1]), batch.answer[1:] - batch.answer[:-1]]).nonzero().flatten()
        asking = batch.at[starts] % batch.ids.shape[1]
        inside = batch.needle[batch.row] == batch.asked[:, None]
        rank = inside.cumsum(1) * inside
        begun = [
            self._weights(start, batch.row, at[:, None])[:, 0].masked_fill(rank != 1, 0.0).sum(1)
            for at in (_last(rank, share) for share in (0.6, 1.0))
        ]
        near = (asking[:, None] - torch.arange(QUESTION_TOKENS, device=asking.device)).clamp(min=0)
        asked = self._weights(ask, batch.row, asking[:, None])[:, 0].gather(1, near)
        found = (self._weights(find, batch.row, near) * inside[:, None]).sum(2)
        return {"retrieve": _surprise((asked * found).sum(1)), "begin": _surprise(torch.stack(begun)) * BEGIN_WEIGHT}

    def _weights(self, attention: Attention, row: Tensor, at: Tensor) -> Tensor:
        """What a layer's first head pays attention to, from the places `at` [answers, n] of each `row`: [answers, n, T]."""
        assert attention.seen is not None, "extra losses follow a forward in training"
        query, key = (each[:, 0] for each in attention.seen)
        scores = (query[row[:, None], at] @ key[row].transpose(1, 2)).float() * attention.head_dim**-0.5
        if self._mask is not None:
            scores = scores + self._mask[row[:, None], 0, at].clamp(min=0)
        later = torch.arange(scores.shape[2], device=scores.device) > at[..., None]
        return scores.masked_fill(later, float("-inf")).softmax(2)

    def gates(self) -> list[nn.Parameter]:
        return []

    def heads(self) -> dict[int, tuple[int, int]]:
        shape = self.model.shape
        found: dict[int, tuple[int, int]] = {}
        for attention in self.model.attentions():
            found[id(attention.q_proj.weight)] = 0, shape.num_attention_heads
            found[id(attention.k_proj.weight)] = found[id(attention.v_proj.weight)] = 0, shape.num_key_value_heads
            found[id(attention.o_proj.weight)] = 1, shape.num_attention_heads
        return found


def _last(rank: Tensor, share: float) -> Tensor:
    """Where [answers] in each row of ranks 1, 2, ... [answers, T] the needle's token of that share of its length stands."""
    wanted = (rank.amax(1, keepdim=True) * share).ceil()
    return (rank == wanted).int().argmax(1)


def _surprise(share: Tensor) -> Tensor:
    """-log of shares of attention, in the mean."""
    return -share.clamp(min=1e-6).log().mean()


def token_counts(noise: Noise, seed: int, sentences: int = 20_000) -> Tensor:
    """How often each token stands in drawn sentences, [vocabulary]."""
    encode, rng = niah_8k_encoding().encode_ordinary, random.Random(seed)
    counts = torch.zeros(8192)
    for _ in range(sentences):
        ids = torch.tensor(encode(noise.sentence(rng)))
        counts.index_add_(0, ids, torch.ones(len(ids)))
    return counts


_SHORT = re.compile(rb"[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Mt|Sen|Gov|Gen|Jr|No|vs?|Inc|Co|Corp|Ltd|cf|al|e\.g|i\.e|[A-Z]\.[A-Z]")
"""A full stop behind these rather shortens them than ends a sentence."""
_ASKING = frozenset(b"what which who whose whom how when where why tell name wh".split())
"""niah-8k writes What and Which at a beginning as Wh and a rest."""


_GLUED = re.compile(rb"[0-9a-z,;:.!?)'\"%-]")
"""No sentence begins with a token that begins so, without a space in front."""


def signs(noise: Noise, seed: int) -> addresses.Signs:
    """What the structured weights with addresses take into account of each token."""
    encoding = niah_8k_encoding()
    texts = [encoding.decode_single_token_bytes(token) for token in range(NIAH_8K_RANKS)]
    glued = [bool(_GLUED.match(text)) for text in texts] + [token != BOS for token in range(NIAH_8K_RANKS, 8192)]
    full_stop = torch.tensor([text == b"." for text in texts] + [False] * (8192 - NIAH_8K_RANKS))
    before, last = encoding.encode_ordinary(CUE)[-2:]
    return addresses.Signs(words=vocabulary(noise, seed), glued=torch.tensor(glued), full_stop=full_stop, cue=(before, last))


def vocabulary(noise: Noise, seed: int) -> Vocabulary:
    """What the structured weights take into account of each token."""
    encoding = niah_8k_encoding()
    texts = [encoding.decode_single_token_bytes(token) for token in range(NIAH_8K_RANKS)]
    special = range(NIAH_8K_RANKS, 8192)
    ends = [text.strip(b" \"')")[-1:] in (b".", b"?", b"!") or b"\n" in text for text in texts]
    ends += [token in (BOS, EOS, USER, END) for token in special]
    asks = [b"?" in text or text.strip().lower() in _ASKING for text in texts] + [False] * len(special)
    forms: dict[bytes, int] = {}
    form = [forms.setdefault(text.strip().lower() or text, token) for token, text in enumerate(texts)] + [*special]
    ordinary = torch.zeros(8192, dtype=torch.bool)
    ordinary[torch.tensor(encoding.encode_ordinary(CUE + " " + CUE))] = True
    short = torch.tensor([bool(_SHORT.fullmatch(text.strip())) for text in texts] + [False] * len(special))
    return Vocabulary(
        counts=token_counts(noise, seed), boundary=torch.tensor(ends), asking=torch.tensor(asks), ordinary=ordinary, short=short,
        form=torch.tensor(form),
    )  # fmt: skip
