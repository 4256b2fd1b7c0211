"""Episodes as tensors. `pytest tests/training/test_batches.py`"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.training.batches import collate, collate_turns, drawn_positions, grade
from niah.training.episodes import PAD, Episode, Shape
from tests.training.material import makers

SEEDS = st.integers(0, 2**32)


def episodes(seed: int, count: int = 3, tokens: int = 300) -> list[Episode]:
    rng = random.Random(seed)
    return [makers()[0].episode(rng, Shape(tokens=tokens, needles=(1, 3), passkeys=0.3)) for _ in range(count)]


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_a_batch_holds_every_answer_at_the_token_before_it(seed: int) -> None:
    made = episodes(seed)
    batch = collate(made, 320)
    flat = batch.ids.flatten()
    assert batch.tokens == 3 * 320
    assert torch.equal(flat[batch.at + 1], batch.target)
    wanted = [(row, number) for row, episode in enumerate(made) for number in range(len(episode.turns))]
    assert int(batch.answer[-1]) + 1 == len(wanted)
    for answer, (row, number) in enumerate(wanted):
        _, start, end = made[row].turns[number]
        own = batch.answer == answer
        assert batch.target[own].tolist() == made[row].ids[start:end].tolist()
        assert batch.weight[own].tolist() == made[row].weights[start:end].tolist()
    for row, episode in enumerate(made):
        first, last = episode.context
        assert (batch.needle[row, :first] == -2).all()
        assert (batch.needle[row, last:] == -2).all()
        assert batch.needle[row, first:last].tolist() == episode.needle[first:last].tolist()
        assert (batch.ids[row, len(episode.ids) :] == PAD).all()


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_turns_stand_apart_from_their_texts(seed: int) -> None:
    made = episodes(seed)
    batch = collate_turns(made)
    turns = [(row, turn) for row, episode in enumerate(made) for turn in episode.turns]
    assert batch.text_of.tolist() == [row for row, _ in turns]
    assert batch.tokens == sum(episode.context[1] for episode in made) + batch.turns.numel()
    assert torch.equal(batch.turns.flatten()[batch.at + 1], batch.target)
    for number, (row, (asked, start, end)) in enumerate(turns):
        assert batch.turns[number, : end - asked].tolist() == made[row].ids[asked:end].tolist()
        assert batch.target[batch.answer == number].tolist() == made[row].ids[start:end].tolist()
    for row, episode in enumerate(made):
        first, last = episode.context
        assert batch.texts[row][0].tolist() == episode.ids[:last].tolist()
        assert batch.needle[row][0].tolist() == [-2] * first + episode.needle[first:last].tolist()


@given(SEEDS, st.integers(2, 300), st.integers(0, 5000))
def test_drawn_positions_rise_and_stay_in_reach(seed: int, tokens: int, slack: int) -> None:
    rows = drawn_positions(random.Random(seed), 4, tokens, tokens + slack)
    assert rows.shape == (4, tokens)
    assert (rows[:, 1:] > rows[:, :-1]).all()
    assert (rows >= 0).all()
    assert (rows < tokens + slack).all()
    assert ((rows.diff(dim=1) > 1).sum(dim=1) <= 8).all()


def test_a_batch_goes_to_another_device_as_a_whole() -> None:
    made = episodes(1)
    for batch in (collate(made, 320), collate_turns(made)):
        moved = batch.to("meta")
        tensors = [each for name in batch.__slots__ for each in _flat(getattr(moved, name))]
        assert {tensor.device.type for tensor in tensors} == {"meta"}


def _flat(value: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize(
    ("wrong", "exact", "first"), [([], 1.0, 1.0), ([0], 0.5, 0.5), ([2], 0.5, 1.0), ([1, 2], 0.5, 1.0), ([0, 3], 0.0, 0.0)]
)
def test_recall_counts_answers_without_any_wrong_token(wrong: list[int], exact: float, first: float) -> None:
    """Two answers, of tokens 0 to 2 and 3 to 5."""
    batch = collate(episodes(3), 320)
    small = type(batch)(
        ids=batch.ids, positions=batch.positions, needle=batch.needle, at=torch.arange(6), target=torch.arange(6),
        weight=torch.ones(6), answer=torch.tensor([0, 0, 0, 1, 1, 1]), row=torch.zeros(2), asked=torch.arange(2),
    )  # fmt: skip
    logits = torch.eye(6) * 9
    for number in wrong:
        logits[number] = torch.eye(6)[(number + 1) % 6] * 9
    marks = grade(logits, small)
    assert (marks.exact, marks.first, marks.answers) == (exact, first, 2)
    assert marks.token == pytest.approx(1 - len(wrong) / 6)
    assert marks.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.arange(6)).item(), rel=1e-5)


def test_an_answer_knows_its_row_and_its_needle() -> None:
    made = episodes(4)
    batch = collate(made, 320)
    assert [int(row) for row in batch.row] == [row for row, episode in enumerate(made) for _ in episode.turns]
    for answer, (row, asked) in enumerate(zip(batch.row, batch.asked, strict=True)):
        needle = batch.ids[row][batch.needle[row] == asked].tolist()
        wanted = batch.target[batch.answer == answer].tolist()
        # The last token is the end of the turn; the sentence's full stop may be one token with a paragraph's break.
        assert wanted[1:-2] == needle[1 : len(wanted) - 2]
