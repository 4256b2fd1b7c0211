"""The `full` reader's own parts. `pytest tests/training/test_full.py`"""

import random

import pytest
import torch

from niah.task.tokens import niah_8k_encoding
from niah.training.episodes import BOS, END, EOS, PAD, USER, Shape
from niah.training.full import RETRIEVE_WEIGHT, token_classes, token_counts
from tests.training.material import SmallReader, makers, noise


def test_counts_are_of_drawn_sentences() -> None:
    counts = token_counts(noise(), seed=0, sentences=200)
    assert torch.equal(counts, token_counts(noise(), seed=0, sentences=200))
    rng = random.Random(0)
    assert counts.sum() == sum(len(niah_8k_encoding().encode_ordinary(noise().sentence(rng))) for _ in range(200))
    (the,) = niah_8k_encoding().encode_ordinary(" the")
    assert the in counts.topk(20).indices.tolist()


def test_classes_of_tokens() -> None:
    ends, asks = token_classes()
    assert ends.shape == asks.shape == (8192,)
    for text, end, ask in ((".", True, False), ("?", True, True), ("\n\n", True, False), (",", False, False), (" the", False, False)):
        (token,) = niah_8k_encoding().encode_ordinary(text)
        assert (bool(ends[token]), bool(asks[token])) == (end, ask), text
    assert [bool(ends[token]) for token in (BOS, EOS, USER, END, PAD)] == [True, True, True, True, False]


def test_virtual_length_changes_what_is_read_and_once_is_none() -> None:
    reader, rng = SmallReader(), random.Random(1)
    batch = reader.collate([makers()[0].episode(rng, Shape(tokens=400, needles=(1, 2)))], 400, rng)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the trainer calls it
        once = reader.logits(batch, virtual_times=1.0)
        assert once.shape == (len(batch.target), 8192)
        assert not torch.allclose(reader.logits(batch, virtual_times=20.0).float(), once.float(), atol=1e-4)
    assert reader.extra_losses(batch) == {}  # one layer has no structured heads


def test_losses_on_attention_are_what_a_softmax_says() -> None:
    reader, rng = SmallReader(layers=4), random.Random(3)
    batch = reader.collate([makers()[0].episode(rng, Shape(tokens=400, needles=(2, 3))) for _ in range(2)], 400, rng)
    reader.logits(batch, virtual_times=1.0)
    losses = reader.extra_losses(batch)
    looked: list[torch.Tensor] = []
    query, key = reader.model.attentions()[2].seen or (torch.empty(0), torch.empty(0))
    for answer, (row, asked) in enumerate(zip(batch.row, batch.asked, strict=True)):
        at = int(batch.at[batch.answer == answer][0]) % 400
        share = torch.softmax(query[row, :2, at, None] @ key[row, :2, : at + 1].transpose(1, 2) / 8**0.5, dim=-1)[:, 0]
        looked.append(-share[:, (batch.needle[row] == asked)[: at + 1]].sum(-1).log())
    assert losses["retrieve"].item() == pytest.approx(torch.stack(looked).mean().item() * RETRIEVE_WEIGHT, rel=1e-4)
    losses["begin"].backward()
    assert reader.model.attentions()[1].q_proj.weight.grad is not None
