"""Training episodes: what is asked is in the text, word for word, and nothing is longer than it may be. `pytest tests/training/test_episodes.py`"""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.errors import CorpusTooShort
from niah.task.corpus import Corpus, Document
from niah.task.prompt import CUE
from niah.task.tokens import niah_8k_encoding
from niah.training import noise as noise_module
from niah.training.episodes import ASSISTANT, BOS, END, FIRST_TOKENS, FIRST_WEIGHT, SYSTEM, USER, Episode, Shape, masked_question
from niah.training.frames import FrameNeedles, TrainingNeedle
from niah.training.noise import Noise
from tests.training.material import makers, noise

SEEDS = st.integers(0, 2**32)
SHAPES = st.builds(
    lambda tokens, most, **shares: Shape(tokens=tokens, needles=(1, most), **shares),
    tokens=st.sampled_from([256, 300, 512, 1100]),
    most=st.integers(1, 8),
    question_first=st.sampled_from([0.0, 0.5, 1.0]),
    passkeys=st.sampled_from([0.0, 0.5]),
    real_sentences=st.sampled_from([0.0, 0.35, 1.0]),
    near_misses=st.sampled_from([0.0, 1.0]),
    cue_off=st.sampled_from([0.0, 0.15, 1.0]),
)
text = niah_8k_encoding().decode


def episode(seed: int, shape: Shape) -> Episode:
    return makers()[0].episode(random.Random(seed), shape)


def answers(made: Episode) -> list[str]:
    return [text(made.ids[start : end - 1].tolist()) for _, start, end in made.turns]


def questions(made: Episode) -> list[str]:
    return [text(made.ids[asked:start].tolist()) for asked, start, _ in made.turns]


@settings(deadline=None, max_examples=60)
@given(SEEDS, SHAPES)
def test_every_answer_is_a_sentence_of_the_text(seed: int, shape: Shape) -> None:
    made = episode(seed, shape)
    first, last = made.context
    context = text(made.ids[first:last].tolist())
    assert made.turns
    for answer, (_, _, end) in zip(answers(made), made.turns, strict=True):
        assert answer.startswith(" ") != context.startswith(answer.strip()), "with the space in front of it that the text has"
        assert answer.strip() in context
        assert made.ids[end - 1] == END


@settings(deadline=None, max_examples=60)
@given(SEEDS, SHAPES)
def test_it_is_never_longer_than_asked_and_its_parts_fit_together(seed: int, shape: Shape) -> None:
    made = episode(seed, shape)
    assert len(made.ids) == len(made.weights) == len(made.needle) <= shape.tokens
    assert made.ids[0] == BOS
    at = made.context[1]
    for asked, start, end in made.turns:
        assert asked == at
        assert asked < start < end <= len(made.ids)
        assert END in made.ids[asked:start]
        assert ASSISTANT in made.ids[asked:start]
        at = end
    assert 0 < made.context[0] < made.context[1]


@settings(deadline=None, max_examples=60)
@given(SEEDS, SHAPES)
def test_only_answers_weigh_and_their_beginnings_most(seed: int, shape: Shape) -> None:
    made = episode(seed, shape)
    rest = made.weights.copy()
    for _, start, end in made.turns:
        own = made.weights[start:end]
        assert (own[:FIRST_TOKENS] == FIRST_WEIGHT).all()
        assert (own[FIRST_TOKENS:] == 1).all()
        rest[start:end] = 0
    assert not rest[: made.turns[-1][2]].any()


@settings(deadline=None, max_examples=60)
@given(SEEDS, SHAPES)
def test_marks_are_the_needles_tokens_in_the_text(seed: int, shape: Shape) -> None:
    made = episode(seed, shape)
    first, last = made.context
    assert (made.needle[:first] == -1).all()
    assert (made.needle[last:] == -1).all()
    marked = {text(made.ids[made.needle == number].tolist()).strip() for number in set(made.needle.tolist()) - {-1}}
    assert {answer.strip() for answer in answers(made)} <= marked


@settings(deadline=None, max_examples=20)
@given(SEEDS, SHAPES)
def test_equal_seeds_give_equal_episodes(seed: int, shape: Shape) -> None:
    one, two = episode(seed, shape), episode(seed, shape)
    for field in ("ids", "weights", "needle"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
    assert (one.context, one.turns) == (two.context, two.turns)


def test_with_the_question_first_it_stands_in_front_of_the_text_and_again_behind_it() -> None:
    for seed in range(40):
        made = episode(seed, Shape(tokens=512, needles=(1, 4), question_first=1.0))
        assert len(made.turns) == 1
        head = text(made.ids[: made.context[0]].tolist())
        assert head.endswith(("?\n\n", ".\n\n"))
        asked = questions(made)[0].partition("<|end|>")[0].replace(CUE, "").strip()
        assert asked and head.endswith(asked + "\n\n")
    for seed in range(10):
        made = episode(seed, Shape(tokens=512, needles=(1, 1)))
        assert made.ids[made.context[0] - 1] == USER  # nothing in front of the text


def test_the_cue_stands_where_a_sweep_puts_it_or_nowhere() -> None:
    found: set[str] = set()
    for seed in range(60):
        asked = questions(episode(seed, Shape(tokens=400, needles=(1, 1))))[0]
        assert asked.count(CUE) <= 1
        found.add("user" if CUE + "<|end|>" in asked else "prefill" if asked.endswith(CUE) else "off" if CUE not in asked else "elsewhere")
    assert found == {"user", "prefill", "off"}
    assert all(CUE not in questions(episode(seed, Shape(tokens=400, needles=(1, 1), cue_off=1)))[0] for seed in range(10))


def test_some_have_a_system_message_and_some_have_none() -> None:
    assert {episode(seed, Shape(tokens=300, needles=(1, 1))).ids[1] for seed in range(20)} == {SYSTEM, USER}


def test_near_misses_stand_in_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each near miss that is drawn, unless there is no room for it; and no question asks for one."""
    made: list[str] = []
    real = FrameNeedles.near_miss

    def watched(self: FrameNeedles, rng: random.Random, needle: TrainingNeedle) -> TrainingNeedle:
        miss = real(self, rng, needle)
        made.append(miss.text)
        return miss

    monkeypatch.setattr(FrameNeedles, "near_miss", watched)
    drawn = kept = 0
    for seed in range(40):
        made.clear()
        shape = Shape(tokens=1500, needles=(2, 2), near_misses=1.0, real_sentences=0, random_sentences=0)
        one = episode(seed, shape)
        context = text(one.ids[one.context[0] : one.context[1]].tolist())
        drawn += len(made)
        kept += sum(miss in context for miss in made)
        assert not {answer.strip() for answer in answers(one)} & set(made)
    assert drawn > 50
    assert kept / drawn > 0.9


def test_depths_are_everywhere_and_the_ends_more_often() -> None:
    depths: list[float] = []
    for seed in range(300):
        made = episode(seed, Shape(tokens=400, needles=(1, 1), near_misses=0, noise="documents"))
        first, last = made.context
        at = np.flatnonzero(made.needle[first:last] == 0)
        depths.append(at[0] / max(1, last - first - len(at)))
    assert sum(depth < 0.02 for depth in depths) > 10
    assert sum(depth > 0.98 for depth in depths) > 10
    assert all(sum(low <= depth < low + 0.2 for depth in depths) > 25 for low in (0.0, 0.2, 0.4, 0.6, 0.8))


def test_a_needle_too_long_for_its_text_is_drawn_again() -> None:
    for seed in range(60):
        assert episode(seed, Shape(tokens=256, needles=(1, 1), real_sentences=1.0, near_misses=0)).turns


@given(SEEDS)
def test_a_masked_question_holds_words_of_the_sentence_but_not_all(seed: int) -> None:
    # No word of it stands in what a question opens with.
    sentence = "Tall keepers at Brandt Hall painted eleven wooden swans green last May."
    asked = masked_question(random.Random(seed), sentence)
    own = {word.strip(".").lower() for word in sentence.split()}
    shared = own & {word.strip("?,:").lower() for word in asked.split()}
    assert asked.endswith("?")
    assert 1 <= len(shared) < len(own)


@pytest.mark.parametrize("kind", noise_module._KINDS)
def test_every_kind_of_noise_is_about_as_long_as_asked(kind: str) -> None:
    for seed in range(5):
        pieces = noise().draw(random.Random(seed), 500, kind)
        size = sum(len(piece.text) for piece in pieces)
        assert 1900 <= size <= 3000
        assert [piece.text for piece in pieces] == [piece.text for piece in noise().draw(random.Random(seed), 500, kind)]
    repeated = len({piece.text for piece in pieces}) < len(pieces)
    assert repeated == (kind == "repeated")


def documents(count: int, content: str) -> Corpus:
    made = [
        Document(id=str(number), title="", text=f"{content} Number {number} says so. It is the last one here.") for number in range(count)
    ]
    return Corpus(name="few", fingerprint="x", size=count, about="", document=made.__getitem__)


def test_one_document_in_ten_is_held_out() -> None:
    corpus = documents(20, "This is a sentence to begin with.")
    seen: dict[bool, set[str]] = {}
    for held_out in (False, True):
        source: Any = Noise([corpus], held_out=held_out)
        seen[held_out] = {source.sentence(random.Random(seed)) for seed in range(400)}
    numbers = {held: {word for s in sentences for word in s.split() if word.isdigit()} for held, sentences in seen.items()}
    assert numbers[True] == {"9", "19"}
    assert numbers[False] == {str(number) for number in range(20)} - {"9", "19"}


def test_text_that_cannot_be_trained_with_is_named() -> None:
    with pytest.raises(CorpusTooShort, match="'few': none of its documents"):
        Noise([Corpus(name="few", fingerprint="x", size=1, about="", document=lambda _: Document(id="1", title="", text="Short."))])
    with pytest.raises(CorpusTooShort, match="ten or more"):
        Noise([documents(5, "This is a sentence to begin with.")], held_out=True)
