"""Haystacks: exact counts, sentence ends, nested prefixes, depths. `pytest tests/task/test_haystack.py`"""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah import sentences
from niah.errors import CorpusTooShort, UsageError
from niah.task.corpus import Corpus, Document, open_corpus
from niah.task.haystack import Haystack, Insert
from niah.task.measure import Measures, measure
from niah.task.seeded import Draw
from niah.task.tokens import Tokenizer, open_tokenizer

NEEDLE = "The blood-orange marmalade of Hollin Abbey is served only with barley bread."
TAIL = "\n\nWhat is the marmalade served with?\n\nHere is the most relevant sentence in the documents:"
REAL = Path(__file__).parents[3] / "shared" / "data"
NIAH_8K = open_tokenizer("niah-8k")

# Pieces that are hard on tokenizers and on sentence splitters: joints, digits, quotes, other scripts, odd white space.
PIECES = [
    "The mill at Arden burned down in 1846. ", "It cost $3.14 million, i.e. 2.5 per cent. ", "Dr. J. R. Smith said so. ", '"Go on!" he said. "Now." ',
    "\n\n", "\n", "HEADING\n\n", "a b c d e f g ", "don't can't we've ", "  double  spaces  ", "ÅÄÖ åäö ß ", "日本語の文章です。次の文。", "Русский текст. Ещё одно. ",
    "naïve café… and so on. ", "x=1;y=2 ", "1,234,567.89 ", "½ cup of flour. ", "e\u0301a\u0308 ", "🙂 emoji. ", "\ttabbed\t", "... ", "word ", "Is it? Yes! ", "(see Fig. 3.) ",
]  # fmt: skip


def insert(*, text: str, depth: float, tokenizer: Tokenizer = NIAH_8K) -> Insert:
    return Insert(text=text, depth=depth, tokens=tokenizer.count(text))


def corpus_of(*texts: str) -> Corpus:
    documents = [Document(id=str(i), title="", text=text) for i, text in enumerate(texts)]
    return Corpus(name="test", fingerprint="f", size=len(documents), about="", document=documents.__getitem__)


def haystack_of(corpus: Corpus, tokenizer: Tokenizer = NIAH_8K, *parts: str | int) -> Haystack:
    return Haystack(corpus, tokenizer, Measures(tokenizer), Draw("reshuffle", *(parts or (0, 0))))


class WholeOnly:
    """A tokenizer of which nothing is known: niah must encode the whole text to count it."""

    name = "whole-only"
    fingerprint = "w"
    splits_at_words = False

    def count(self, text: str) -> int:
        return len(text) // 3 + text.count("e")  # no cut anywhere keeps such a count

    def count_many(self, texts: list[str]) -> list[int]:
        return [self.count(text) for text in texts]


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.lists(st.sampled_from(PIECES), min_size=3, max_size=60).map("".join), min_size=3, max_size=8),
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    tokens=st.integers(60, 600),
    whole=st.booleans(),
)
def test_the_count_is_that_of_a_full_encode_and_within_one_sentence(
    documents: list[str], depths: list[float], tokens: int, whole: bool
) -> None:
    """Whatever the text, the count equals a full encode, is never above the asked one, and the next sentence would not fit."""
    corpus = corpus_of("Nothing.", *filter(None, (document.strip() for document in documents)))
    tokenizer: Tokenizer = WholeOnly() if whole else NIAH_8K
    haystack = haystack_of(corpus, tokenizer)
    inserts = [insert(text=f"{NEEDLE[:-1]} {i}.", depth=depth, tokenizer=tokenizer) for i, depth in enumerate(depths)]
    try:
        filled = haystack.fill(inserts, before="Read this:\n\n", after=TAIL, tokens=tokens, elsewhere=7)
    except (CorpusTooShort, UsageError):
        return
    assert filled.tokens == tokenizer.count("Read this:\n\n" + filled.context + TAIL) + 7
    assert filled.tokens <= tokens
    without = filled.context
    for hidden in inserts:
        assert without.count(hidden.text) == 1
        without = without.replace(f" {hidden.text}", "", 1) if f" {hidden.text}" in without else without.replace(f"{hidden.text} ", "", 1)
    assert haystack.text.startswith(without)
    following = min(end for end in haystack._ends if end > len(without))
    longer = haystack._count("Read this:\n\n", haystack._place(inserts, list(haystack._ends).index(following)), following, TAIL) + 7
    assert longer > tokens


@settings(max_examples=60, deadline=None)
@given(depth=st.floats(0, 1), tokens=st.integers(200, 3000))
def test_the_needle_stands_where_the_record_says(depth: float, tokens: int) -> None:
    """`token` counts the context in front of the needle; `depth` is the nearest sentence end to the one asked for."""
    haystack = haystack_of(open_corpus("builtin/legal"))
    filled = haystack.fill([insert(text=NEEDLE, depth=depth)], before="", after=TAIL, tokens=tokens)
    at = filled.context.index(NEEDLE)
    front, behind = filled.context[: max(0, at - 1)], filled.context[at + len(NEEDLE) :]
    assert filled.placed[0].token == NIAH_8K.count(front)
    rest = (front + behind) if front else behind[1:]
    assert at == 0 or len(front) in sentences.ends(rest)
    whole = NIAH_8K.count(rest)
    assert filled.placed[0].depth == pytest.approx(NIAH_8K.count(front) / whole)
    nearest = min((NIAH_8K.count(rest[:end]) for end in [0, *sentences.ends(rest)]), key=lambda count: abs(count - depth * whole))
    assert (
        abs(filled.placed[0].token - depth * whole) <= abs(nearest - depth * whole) + 2
    )  # the two ways of counting differ at paragraph ends


def test_depth_0_is_before_all_text_and_depth_1_behind_it() -> None:
    haystack = haystack_of(open_corpus("builtin/wikipedia"))
    first = haystack.fill([insert(text=NEEDLE, depth=0.0)], before="", after=TAIL, tokens=1000)
    last = haystack.fill([insert(text=NEEDLE, depth=1.0)], before="", after=TAIL, tokens=1000)
    assert first.context.startswith(NEEDLE)
    assert (first.placed[0].token, first.placed[0].depth) == (0, 0.0)
    assert last.context.endswith(f" {NEEDLE}")
    assert last.placed[0].depth == 1.0


def test_a_shorter_haystack_is_the_beginning_of_a_longer_one() -> None:
    haystack = haystack_of(open_corpus("builtin/medical"))
    texts = [
        haystack.fill([insert(text=NEEDLE, depth=1.0)], before="", after=TAIL, tokens=length).context.removesuffix(f" {NEEDLE}")
        for length in (8000, 500, 2000, 32000)
    ]
    for shorter, longer in zip(sorted(texts, key=len), sorted(texts, key=len)[1:], strict=False):
        assert longer.startswith(shorter)


def test_another_reshuffle_is_another_text_and_the_same_one_is_the_same() -> None:
    corpus = corpus_of(*(f"Document number {i} says a thing. It says more." * 20 for i in range(30)))
    texts = [haystack_of(corpus, NIAH_8K, 0, r) for r in (0, 1, 0)]
    for haystack in texts:
        haystack.read(2000)
    assert texts[0].text == texts[2].text != texts[1].text


def test_a_corpus_that_is_too_short_is_an_error_and_never_a_short_prompt() -> None:
    haystack = haystack_of(corpus_of("One sentence only. And a second one.", "A third one."))
    with pytest.raises(CorpusTooShort, match=r"'test' holds \d+ tokens, too few for a prompt of 1,000"):
        haystack.fill([insert(text="A fact.", depth=0.5)], before="", after="", tokens=1000)


def test_a_needle_longer_than_its_haystack_is_an_error_that_says_how_long_to_go() -> None:
    haystack = haystack_of(open_corpus("builtin/wikipedia"))
    with pytest.raises(UsageError, match="less than its needles") as caught:
        haystack.fill([insert(text=NEEDLE * 10, depth=0.5)], before="", after=TAIL, tokens=300)
    enough = int(re.search(r"at least ([\d,]+)", str(caught.value))[1].replace(",", ""))  # type: ignore[index]
    assert haystack.fill([insert(text=NEEDLE * 10, depth=0.5)], before="", after=TAIL, tokens=enough).tokens <= enough


def test_documents_are_tokenised_once_and_the_counts_are_kept_on_disk(tmp_path: Path) -> None:
    """A second process with the same cache encodes no document again and counts the same."""
    corpus, path = open_corpus("builtin/legal"), tmp_path / "deep" / "measures.npz"
    measures = Measures(NIAH_8K, path)
    first = Haystack(corpus, NIAH_8K, measures, Draw("x"))
    filled = first.fill([insert(text=NEEDLE, depth=0.3)], before="", after=TAIL, tokens=9000)
    measures.save()
    again = Measures(WholeOnly(), path)  # would count differently if it counted
    number = first.documents[0]
    text = corpus.document(number).text
    for name in ("ends", "before", "cuts", "tokens"):
        assert (getattr(again.of(number, text), name) == getattr(measures.of(number, text), name)).all()
    second = Haystack(corpus, NIAH_8K, Measures(NIAH_8K, path), Draw("x"))
    assert second.fill([insert(text=NEEDLE, depth=0.3)], before="", after=TAIL, tokens=9000) == filled


def test_a_cache_of_another_text_is_not_believed(tmp_path: Path) -> None:
    """The same corpus and number, but another text, as an upgrade may write it: positions of the old one would tear words apart."""
    path = tmp_path / "measures.npz"
    old = Measures(NIAH_8K, path)
    old.of(0, "One. Two is longer than that.")
    old.save()
    assert Measures(NIAH_8K, path).of(0, "A much longer first sentence. Two.").ends.tolist() == [29, 34]


def test_a_damaged_cache_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "measures.npz"
    path.write_bytes(b"PK\x03\x04 torn")
    measured = Measures(NIAH_8K, path).of(0, "One. Two is longer than that.")
    assert measured.ends.tolist() == [4, 29]


@pytest.mark.parametrize("text", ["", "word", "no end of sentence here", "A. B. C.", "日本語。" * 50])
def test_measure_of_texts_without_safe_places(text: str) -> None:
    measured = measure(text, NIAH_8K)
    assert len(measured.cuts) == 0 or len(measured.tokens) == len(measured.cuts) - 1
    assert measured.before.tolist() == sorted(measured.before.tolist())


@pytest.mark.skipif(not REAL.exists(), reason=f"real text is not there: {REAL}")
@pytest.mark.parametrize("domain", ["wikipedia", "legal", "financial", "medical"])
def test_counts_over_real_text_are_exact(domain: str) -> None:
    haystack = haystack_of(open_corpus(str(REAL / f"{domain}.parquet")))
    for i, tokens in enumerate((1000, 3000, 16000, 60000)):
        filled = haystack.fill([insert(text=NEEDLE, depth=i / 3)], before="", after=TAIL, tokens=tokens)
        assert filled.tokens == NIAH_8K.count(filled.context + TAIL)
        assert tokens - 400 < filled.tokens <= tokens
        assert abs(filled.placed[0].depth - i / 3) < 300 / tokens
