"""The `full` reader's own parts. `pytest tests/training/test_full.py`"""

import random
from copy import deepcopy

import pytest
import torch

from niah.task.prompt import CUE
from niah.task.tokens import niah_8k_encoding
from niah.training import parts
from niah.training.addresses import SHAPE
from niah.training.batches import grade
from niah.training.episodes import BOS, END, EOS, PAD, USER, Shape
from niah.training.full import BEGIN_WEIGHT, QUESTION_TOKENS, FullReader, token_counts, vocabulary
from niah.training.muon import LEAST_SIZE, RelativeMuon
from niah.training.positions import offsets
from tests.training.material import SmallReader, makers, noise


def test_counts_are_of_drawn_sentences() -> None:
    counts = token_counts(noise(), seed=0, sentences=200)
    assert torch.equal(counts, token_counts(noise(), seed=0, sentences=200))
    rng = random.Random(0)
    assert counts.sum() == sum(len(niah_8k_encoding().encode_ordinary(noise().sentence(rng))) for _ in range(200))
    (the,) = niah_8k_encoding().encode_ordinary(" the")
    assert the in counts.topk(20).indices.tolist()


def test_what_is_known_of_tokens() -> None:
    words = vocabulary(noise(), seed=0)
    for text, end, ask in ((".", True, False), ("?", True, True), ("\n\n", True, False), (",", False, False), (" the", False, False)):
        (token,) = niah_8k_encoding().encode_ordinary(text)
        assert (bool(words.boundary[token]), bool(words.asking[token])) == (end, ask), text
    assert [bool(words.boundary[token]) for token in (BOS, EOS, USER, END, PAD)] == [True, True, True, True, False]
    assert all(words.ordinary[token] for token in niah_8k_encoding().encode_ordinary(CUE))
    one, other, else_ = (niah_8k_encoding().encode_ordinary(text)[0] for text in (" The", "the", " of"))
    assert words.form[one] == words.form[other] != words.form[else_]


def test_structured_weights_find_and_copy_untrained() -> None:
    """The first token, the share of all tokens and of whole sentences (but for how they end), and the two steps on the way."""
    shape = Shape(tokens=384, needles=(1, 1), near_misses=0, real_sentences=0, random_sentences=0, noise="documents", cue_off=0)
    reader, rng = FullReader(SHAPE, noise(), seed=0), random.Random(5)
    episodes = [makers()[1].episode(rng, shape) for _ in range(12)]
    batch = reader.collate(episodes, 384, None)
    with torch.no_grad():
        logits = reader.logits(batch, virtual_times=1.0)
        marks = grade(logits, batch)
        losses = reader.extra_losses(batch)
    assert marks.first >= 0.7
    assert marks.token >= 0.9
    assert losses["retrieve"] < 1.2
    assert losses["begin"] < 0.3
    right = logits.argmax(-1) == batch.target
    # A paragraph's break joins the full stop before it in one token, and is copied with it.
    whole = [bool(right[batch.answer == answer][:-2].all()) for answer in range(marks.answers)]
    assert sum(whole) / len(whole) >= 0.5


def test_saving_in_half_precision_loses_nothing() -> None:
    """Positions that are fitted in single precision and rounded behind that are off by a third of a wave."""
    for name, parameter in FullReader(SHAPE, noise(), seed=0).model.named_parameters():
        assert torch.equal(parameter, parameter.bfloat16().float()), name


def test_an_answers_token_is_as_far_from_its_beginning_as_the_needles_is_from_its_own() -> None:
    """Offsets of tokens that follow the same one, compared with that of the token eight behind."""
    shape = Shape(tokens=512, needles=(1, 1), near_misses=0, real_sentences=0, random_sentences=0, noise="documents", cue_off=0)
    reader, rng, found = FullReader(SHAPE, noise(), seed=0), random.Random(2), list[bool]()
    rows, seen = offsets(), list[torch.Tensor]()
    reader.model.layers[-1].get_submodule("input_layernorm").register_forward_hook(lambda _, given, __: seen.append(given[0][0]))
    for _ in range(8):
        episode = makers()[1].episode(rng, shape)
        with torch.no_grad():
            reader.model(torch.from_numpy(episode.ids)[None], torch.arange(len(episode.ids))[None])
        told = seen.pop() @ rows.T
        begins, (_, answer, end) = int((episode.needle == 0).argmax()), episode.turns[0]
        for far in range(1, min(end - answer, 24) - 9):
            own = told[answer + far - 1]
            found.append(bool((told[begins + far] - own).norm() < (told[begins + far + 8] - own).norm()))
    assert sum(found) / len(found) >= 0.8


def test_an_address_is_the_same_for_all_words_of_a_sentence_and_for_no_other() -> None:
    """Cosines of PS with the PO of the sentence's first token, near 1; with those of other sentences' first tokens, well below."""
    reader, rng = FullReader(SHAPE, noise(), seed=0), random.Random(5)
    shape = Shape(tokens=384, needles=(1, 1), near_misses=0, real_sentences=0, random_sentences=0, noise="documents")
    batch = reader.collate([makers()[1].episode(rng, shape) for _ in range(4)], 384, None)
    seen: list[torch.Tensor] = []
    reader.model.layers[3].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        reader.logits(batch, virtual_times=1.0)
    for row, stream in enumerate(seen[0]):
        inside = (batch.needle[row] == 0).nonzero().flatten()
        inside = inside[inside < int(batch.at[batch.answer == row][0]) % 384]
        place = torch.nn.functional.normalize(stream[:, parts.PO_PART], dim=-1)
        sentence = torch.nn.functional.normalize(stream[inside, parts.PS_PART], dim=-1)
        own = sentence @ place[inside[0]]
        assert own.median() > 0.95
        far = torch.cat([place[8 : max(int(inside[0]) - 60, 9)], place[int(inside[-1]) + 60 : 300]])
        assert (sentence[-1] @ far.T).quantile(0.95) < own.median() - 0.1


def test_virtual_length_changes_what_is_read_and_once_is_none() -> None:
    reader, rng = SmallReader(), random.Random(1)
    batch = reader.collate([makers()[0].episode(rng, Shape(tokens=400, needles=(1, 2)))], 400, rng)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the trainer calls it
        once = reader.logits(batch, virtual_times=1.0)
        assert once.shape == (len(batch.target), 8192)
        assert not torch.allclose(reader.logits(batch, virtual_times=20.0).float(), once.float(), atol=1e-4)
    assert reader.extra_losses(batch) == {}  # one layer has no structured heads


def test_losses_on_attention_are_what_a_softmax_says() -> None:
    reader, rng = SmallReader(layers=5), random.Random(3)
    batch = reader.collate([makers()[0].episode(rng, Shape(tokens=400, needles=(2, 3))) for _ in range(2)], 400, rng)
    reader.logits(batch, virtual_times=1.0)
    losses = reader.extra_losses(batch)

    def attention(layer: int, row: int, at: int) -> torch.Tensor:
        query, key = reader.model.attentions()[layer].seen or (torch.empty(0), torch.empty(0))
        return torch.softmax(key[row, 0, : at + 1] @ query[row, 0, at] / 8**0.5, dim=0)

    found: list[torch.Tensor] = []
    begun: list[list[torch.Tensor]] = [[], []]
    for answer, (row, asked) in enumerate(zip(batch.row.tolist(), batch.asked.tolist(), strict=True)):
        at = int(batch.at[batch.answer == answer][0]) % 400
        inside = (batch.needle[row] == asked).nonzero().flatten()
        votes = attention(4, row, at)
        near = range(max(at - QUESTION_TOKENS + 1, 0), at + 1)
        found.append(sum(votes[i] * attention(3, row, i)[inside[inside <= i]].sum() for i in near).log())
        for into, place in zip(begun, (inside[-(-len(inside) * 6 // 10) - 1], inside[-1]), strict=True):
            into.append(attention(2, row, int(place))[inside[0]].log())
    assert losses["retrieve"].item() == pytest.approx(-torch.stack(found).mean().item(), rel=1e-3)
    expected = -sum(torch.stack(each).mean().item() for each in begun) / 2 * BEGIN_WEIGHT
    assert losses["begin"].item() == pytest.approx(expected, rel=1e-3)
    losses["begin"].backward()
    assert reader.model.attentions()[2].q_proj.weight.grad is not None


def test_steps_are_relative_to_each_head() -> None:
    """One step moves a head's part by the same share of its size, whatever that is; a part that is nothing still moves."""
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.cat([torch.randn(8, 32) * 10, torch.randn(8, 32) * 0.1, torch.zeros(8, 32)]))
    muon = RelativeMuon([matrix], 0.01, {id(matrix): (0, 3)})
    before = matrix.detach().clone()
    matrix.grad = torch.randn_like(matrix)
    muon.step()
    moved = [(part.norm() / 8**0.5).item() for part in (matrix.detach() - before).chunk(3)]
    sizes = [(part.norm() / 8**0.5).item() for part in before.chunk(3)]
    assert moved[0] / sizes[0] == pytest.approx(moved[1] / sizes[1], rel=0.3)
    assert 0 < moved[2] < 0.01 * LEAST_SIZE * 2
    again = RelativeMuon([matrix], 0.01, {id(matrix): (0, 3)})
    again.load_state_dict(deepcopy(muon.state_dict()))
    copy = matrix.detach().clone()
    muon.step()
    one = matrix.detach().clone()
    matrix.data.copy_(copy)
    again.step()
    assert torch.equal(matrix, one)
