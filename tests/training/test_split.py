"""The split: nothing that is measured with is ever trained with. `pytest tests/training/test_split.py`

By hash (whole texts) and by runs of eight words, over episodes as the shipped recipes make them. Failures name the source only, so
that who writes training material stays blind.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from niah import resources
from niah.task.corpus import open_corpus
from niah.task.needles import load_needles
from niah.task.prompt import CUE, TEMPLATES, load_template
from niah.task.tokens import niah_8k_encoding
from niah.training.episodes import Shape
from niah.training.noise import Noise
from niah.training.recipe import Recipe, Stage, find_recipe, load_recipe
from tests.training.material import makers

RECIPES = ("reader-full", "reader-infini", "convert-infini")
REAL = Path(__file__).parents[3] / "shared" / "data"
RUN, EPISODES = 8, 2000


def words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def marks(text: str) -> set[int]:
    """Hashes of a whole text and of all its runs of eight words, lower-cased, without punctuation."""
    own = words(text.replace(CUE, " "))
    return {hash(tuple(own)), *(hash(tuple(own[i : i + RUN])) for i in range(len(own) - RUN + 1))} if own else set()


@cache
def evaluated() -> dict[str, set[int]]:
    """The marks of what sweeps ask and say, by source: needle sets, and each template without its slots and the cue."""
    found: dict[str, set[int]] = {}
    for name in resources.names("needles"):
        texts = [text for needle in load_needles(name).needles for text in (needle.text, needle.question, *needle.distractors)]
        found[f"needles {name}"] = set().union(*(marks(text) for text in texts))
    for name in TEMPLATES:
        template = load_template(name)
        parts = [part for text in (template.system, template.user) for part in re.split(r"\{\w+\}", text or "")]
        found[f"template {name}"] = set().union(*(marks(part) for part in parts if len(words(part)) > 2))
    return found


def shapes() -> Iterator[Shape]:
    """How the shipped recipes' stages make episodes, in short."""
    stages: list[Stage] = [stage for name in RECIPES for stage in load_recipe(find_recipe(name)).stages]
    while True:
        for stage in stages:
            yield Shape(
                tokens=320, needles=(2, 3), near_misses=stage.near_misses, question_first=stage.question_first,
                real_sentences=stage.real_sentences, random_sentences=stage.random_sentences, passkeys=max(stage.passkeys, 0.1),
            )  # fmt: skip


@cache
def trained() -> list[str]:
    """The texts of 2,000 training episodes and 200 held-out ones, special tokens cut out."""
    decode, texts = niah_8k_encoding().decode, []
    for maker, count in zip(makers(), (EPISODES, EPISODES // 10), strict=True):
        for seed, shape in zip(range(count), shapes(), strict=False):
            texts.append(decode(maker.episode(random.Random(seed), shape).ids.tolist()))
    return texts


@cache
def trained_marks() -> set[int]:
    """Marks of whole episodes, of each message, of each sentence-like part, and all runs of eight words."""
    found: set[int] = set()
    for text in trained():
        for part in (text, *re.split(r"<\|\w+\|>", text), *re.split(r"<\|\w+\|>|\n\n|(?<=[.?!]) ", text)):
            found |= marks(part)
    return found


def test_no_needle_question_or_distractor_of_the_evaluation_is_trained_on() -> None:
    assert [source for source, own in evaluated().items() if source.startswith("needles") and not own.isdisjoint(trained_marks())] == []
    assert {f"needles {name}" for name in ("default", "san-francisco")} <= set(evaluated())


def test_no_template_is_trained_on_but_for_the_cue() -> None:
    assert [source for source, own in evaluated().items() if source.startswith("template") and not own.isdisjoint(trained_marks())] == []
    assert sum(CUE in text for text in trained()) > EPISODES / 2


def test_no_passkey_of_the_paper_is_trained_on() -> None:
    """Training has number needles of its own wording. The passkey's number is drawn, so that the words around it are looked for."""
    texts = [text for needle in load_needles("passkey").needles for text in (needle.text, needle.question)]
    wording = {" ".join(words(part)) for text in texts for part in re.split(r"\d+", text)}
    wording = {part for part in wording if len(part.split()) > 2}
    assert len(wording) >= 3
    seen = [" ".join(words(text)) for text in trained()]
    assert any("number" in text or "code" in text for text in seen)
    assert [part for part in wording if any(part in text for text in seen)] == []


@pytest.mark.skipif(not REAL.exists(), reason=f"the real text is not there: {REAL}")
def test_no_document_of_the_medical_domain_is_trained_on() -> None:
    """Runs of twenty words: shorter ones ("the results of this study are in line with ...") are anybody's. Real needles and noise included."""
    medical = open_corpus(str(REAL / "medical.parquet"))
    assert medical.size
    seen: set[int] = set()
    for number in range(medical.size):
        own = words(medical.document(number).text)
        seen |= {hash(tuple(own[i : i + 20])) for i in range(len(own) - 19)}
    corpora = [open_corpus(name) for name in recipe_corpora() if not name.startswith("builtin/")]
    assert corpora
    text = Noise(corpora)
    rng = random.Random(4)
    for _ in range(300):
        own = words("".join(piece.text for piece in text.draw(rng, 500, "documents")))
        assert seen.isdisjoint(hash(tuple(own[i : i + 20])) for i in range(len(own) - 19))
    own = words(medical.document(0).text[:5000])
    assert not seen.isdisjoint(hash(tuple(own[i : i + 20])) for i in range(len(own) - 19))


def recipe_corpora() -> list[str]:
    recipes: list[Recipe] = [load_recipe(find_recipe(name)) for name in RECIPES]
    names = sorted({corpus for each in recipes for corpus in each.corpora})
    root = Path(__file__).parents[2]
    return [str(root / name) if name.startswith("../") else name for name in names]


def test_no_shipped_recipe_names_a_medical_corpus() -> None:
    assert recipe_corpora()
    assert [name for name in recipe_corpora() if "medical" in name] == []


def test_training_reads_built_in_documents_that_no_sweep_comes_to() -> None:
    """A sweep reads an unlimited corpus from its beginning; these would be a thousand million tokens into it."""
    asked: list[int] = []
    corpus = open_corpus("builtin/legal")
    watched = type(corpus)(
        name=corpus.name, fingerprint=corpus.fingerprint, size=None, about="", document=lambda number: asked.append(number) or corpus.document(number)
    )  # fmt: skip
    Noise([watched])
    assert min(asked) >= 1_000_000


def test_the_split_finds_what_it_looks_for() -> None:
    for name in ("default", "san-francisco"):
        for needle in load_needles(name).needles[:3]:
            planted = marks(f"As he wrote, {needle.text.upper()} And so on.") | marks(needle.question)
            assert not evaluated()[f"needles {name}"].isdisjoint(planted)
    system = load_template("default").system
    assert not evaluated()["template default"].isdisjoint(marks(str(system)))
