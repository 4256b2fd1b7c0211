"""Sentence ends: a table read by eye, properties of any text, and the real corpora where they are at hand."""

import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.sentences import ends, split

DATA = Path(__file__).parents[2] / "shared" / "data"

# "|" marks every sentence end but the last one, which is always the end of the text.
TABLE = [
    # plain
    "One sentence.",
    "No stop at all",
    "The sky is blue.| The grass is green!| Is it?| Yes.",
    "It ended…| The next one began.",
    "He stopped.|\nThe next line goes on.|\n\nThe next paragraph too.",
    "  Leading and trailing space.| Belongs nowhere.  \n",
    "What?!| Nobody knew.",
    # numbers
    "It grew by 3.14 percent.| That was much.",
    "It grew by 3.14.| That was much.",
    "See No. 5 and Nos. 7 and 8.| They differ.",
    "Sales fell in 1998.| The board resigned.",
    "Sales fell in 1998.| 12 people left.",
    "Under Sec. 4.2 and § 2.1 it holds.| So be it.",
    "It is given in Fig. 3 and Figs. 4 and 5, see Eq. 2.| It converges.",
    "As shown in Table 1. it works.",
    "As shown in Table 1.| The effect was small.",
    "Version 2.0.1 is out at www.example.com today.| Get it from example.com.| It is free.",
    "The dose was .05 mg.| The rest got 5 g.| Patients slept for 24 h.| Samples were taken.",
    "The p value (p < .05) held.| Results follow.",
    # titles, initials, abbreviations
    "Mr. Smith met Dr. Jones and Prof. Lee on St. James St. in town.| They spoke.",
    "J. R. Smith and George W. Bush met.| They spoke.",
    "Apple Inc. Common Stock rose.| It fell later.",
    "He joined Apple Inc.| The firm grew.",
    "He works at Foo Corp. and Bar Ltd. as a clerk.| We met.",
    "The U.S. Government paid.| It came from the U.S.| The bill was high.",
    "They came at 9 a.m. Monday and left at 5 p.m.| The shop closed.",
    "Apples, pears, etc. were sold.| We bought apples, pears, etc.| Then we left.",
    "Smith et al. (2010) found it.| It was confirmed by Jones et al.| However, doubts remain.",
    "Some drugs, e.g. Aspirin, i.e. ASA, vs. Placebo, helped.| Others did not.",
    "She has a Ph.D. from Yale.| He has none.",
    "It was signed on Jan. 5, 1990 by J. Doe, Jr. of Boston.| Nobody cared.",
    "Take vitamin C. Patients like it.".replace("C. ", "C.| "),
    "They asked; he said no.| Nothing helped.",
    "All were ill.| Doctors came.",
    "Yahoo! Inc. was sold.| Verizon paid.",
    "The mRNA was cut.| mRNA levels rose.| iPhone sales too.",
    # law
    "See Brown v. Board of Education, 347 U. S. 483, 495 (1954).| The Court agreed.",
    "It cites 483 U. S., at 352–353.| We affirm.",
    "Id., at 12.| See id., at 15; 42 U. S. C. §1983.| The claim fails.",
    "See 567 F. 3d 856, 860 (CA7 2009), cert. granted, 557 U. S. 965.| It stands.",
    "That is the law.| Ibid.| The dissent objects.",
    "The Act, 12 U.S.C. 5481 and 12 C.F.R. Part 1026, applies.| It binds banks.",
    "(THOMAS, J., concurring in part).| But that was not the question.",
    "It is in Harv. L. Rev. 767 and in 85 L. Lib. J. 545 (1993).| Nobody reads it.",
    "He kept arms.13 The next point is weak.".replace("13 ", "13| "),
    # labels
    "1. The first point.| 2. The second point.",
    "The tests are: 1. It is new.| 2. It is useful.",
    "ITEM 1.\nBUSINESS\nWe make shoes.| They sell.",
    "Item 7A. Market Risk\nRates may rise.| Prices too.",
    "a. The first.|\nb. The second.|\niv. The fourth.",
    "2.1. Methods\n\nWe asked people.| They answered.",
    "The rule has parts.| (a) The first part.| (b) The second part.",
    # ellipses
    "He said ... nothing and left.| She stayed.",
    "The order . . . was void.| It fell.",
    "Income .......... 12,345 and Total .......... 5.| Done.",
    # quotes and brackets
    'He said, "I went. I saw. I won." Then he left.'.replace('won."', 'won."|'),
    "He said, “I went. He said ‘No. Never.’ I left.”| Then he slept.",
    '"Will you come? Please do!" she asked.| He came.',
    '"Will you come?" Smith asked.| He came.',
    "It failed (see the report. It was long) in May.| June was better.",
    "(This is a whole sentence.)| [So is this one.]| The end.",
    'The 5" pipe broke.| The 6" pipe held.',
    "He didn't go.| The workers' rights weren’t kept.| It’s the '90s.| Fine.",
    "An “unclosed quote stays. It ends.|\n\nA new paragraph.| It goes on.".replace("stays. ", "stays.| "),
    "“First paragraph of a speech. It goes on.|\n\n“Second paragraph. It ends here.”| He sat.".replace("speech. ", "speech.| "),
    "It is so.[12]| Others agree.[3, 4]| We too.¹| End.",
    "«Il part. Il revient.»| Elle reste.",
    "Er rief: „Komm! Er wartet.“| Sie kam.",
    # blocks
    "A Heading\n\nThe first sentence.|\n\nAnother Heading\n\nThe second.",
    "The list:\n\nApples\n\nPears\n\nThat was the list.",
    "It ended.|\n\nlower case begins here.",
    # other scripts
    "今天下雨。|我们在家。|你呢？|很好！",
    "「行く。来る。」と言った。|終わり。",
    "Ο ήλιος λάμπει.| Η θάλασσα είναι ήρεμη.",
    "Он пришёл.| Она ушла.",
    "यह एक वाक्य है।| यह दूसरा है।",
    "هل جاء؟| نعم۔| انتهى",
]


@pytest.mark.parametrize("marked", TABLE)
def test_the_table(marked: str) -> None:
    text, wanted = "", list[int]()
    for part in marked.split("|"):
        text += part
        wanted.append(len(text.rstrip()))
    assert [text[:end] for end in ends(text)] == [text[:end] for end in wanted]


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\n"])
def test_blank_text_has_no_sentence(text: str) -> None:
    assert ends(text) == []
    assert split(text) == []


def test_split_gives_stripped_sentences() -> None:
    assert split("  One. Two!\n\n  Head\n\nThree  ") == ["One.", "Two!", "Head\n\nThree"]


def test_a_sentence_in_straight_quotes_in_a_long_paragraph_is_whole() -> None:
    quote = '"' + "He went there. She did not! " * 20 + 'Why?"'
    text = f"It says {quote} in the book. The end."
    assert ends(text) == [len(text) - len(" The end."), len(text)]


def test_long_stretches_are_cut_at_blocks_then_lines_then_words() -> None:
    blocks = "\n\n".join(["A heading of a table with quite some words"] * 20)
    assert ends(blocks) == [m.start() for m in re.finditer("\n\n", blocks)] + [len(blocks)]
    assert ends(blocks[:500]) == [500]
    lines = "\n".join(["Row of a table | with | cells"] * 60)
    assert ends(lines) == [m.start() for m in re.finditer("\n", lines)] + [len(lines)]
    assert ends(lines[:1000]) == [1000]
    words = "word " * 3000
    assert all(text.strip() and len(text) <= 2010 for text in split(words)[:-1])
    assert set(" ".join(split(words)).split()) == {"word"}


def test_wrapped_prose_is_cut_at_true_ends_only() -> None:
    line = "and so the very long sentence of the old author goes on and on\n"
    text = "Thus it begins\n" + line * 15 + "until it ends. Then the next one comes."
    assert len(split(text)) == 2


def test_any_text_whatever_can_be_cut() -> None:
    assert max(map(len, split("天" * 30000))) <= 4000
    assert max(map(len, split("x" * 30000))) <= 4000
    accents = "e\u0301" * 10000
    assert all(not part.startswith("\u0301") for part in split(accents))
    mixed = "天地人" * 1000 + "Verfassung" * 3 + "天地人" * 2000
    assert sum("Verfassung" * 3 in part for part in split(mixed)) == 1
    spaced = "a" + " " * 20000 + "b"
    assert split(spaced) == ["a", "b"]


WORDS = st.sampled_from(
    [
        "The",
        "cat",
        "sat",
        "Mr.",
        "e.g.",
        "U. S.",
        "ran.",
        "Why?",
        '"',
        "“",
        "”",
        "(",
        ")",
        "’s",
        "1.",
        "3.5",
        ". . .",
        "…",
        "\n",
        "\n\n",
        "好。",
        "no.",
    ]
)
PROSE = st.lists(WORDS, max_size=60).map(" ".join)
TEXTS = st.one_of(PROSE, st.text(max_size=200), st.text(alphabet="aA1 .!?\"'“”()[]\n。", max_size=200))


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_offsets_cover_the_text(text: str) -> None:
    found = ends(text)
    assert all(a < b for a, b in pairwise([0, *found]))
    if text.strip():
        assert found[-1] == len(text.rstrip())
        assert "".join(text[a:b] for a, b in pairwise([0, *found])) == text.rstrip()
        assert all(text[a:b].strip() for a, b in pairwise([0, *found]))
    else:
        assert found == []
    for end in found:
        assert not text[end - 1].isspace()
        # only CJK stops need no white space behind them
        assert end == len(text.rstrip()) or text[end].isspace() or re.search(r"[。！？｡]\W*$", text[:end])


@given(before=PROSE, inside=st.lists(st.sampled_from(["The cat ran.", "Why?", "No!", "He did."]), max_size=6), after=PROSE)
@settings(max_examples=150, deadline=None)
def test_no_end_inside_a_straight_quotation(before: str, inside: list[str], after: str) -> None:
    lead, tail = (re.sub(r'["\n]', "", part) for part in (before, after))
    text = f'{lead} "{" ".join(inside)}" {tail}'
    start, end = text.index('"'), text.rindex('"')
    assert not [offset for offset in ends(text) if start < offset <= end]


@given(st.lists(st.text(alphabet="abc XY.,好 \n", max_size=40), max_size=6), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_no_sentence_is_longer_than_4000_characters(parts: list[str], times: int) -> None:
    text = "".join(parts) * times
    assert all(len(sentence) <= 4000 for sentence in split(text))
    for end in ends(text)[:-1]:
        between = text[end - 1 : end + 1]
        assert not (between.isascii() and between.isalnum()), between


def test_time_is_linear_in_hostile_text() -> None:
    for unit in (".", ". ", '"', "“", "”", "(", "A. ", "\n", " ", "a", "1. ", '?" the ', "‘a’ ", "ab. Cd (“ "):
        text = unit * (50_000 // len(unit)) + "x"
        start = time.process_time()
        assert ends(text)[-1] == len(text)
        assert time.process_time() - start < 1, unit  # about 0.05 s; 50,000 squared would take minutes


@pytest.mark.parametrize("domain", ["wikipedia", "legal", "financial", "medical"])
def test_real_text(domain: str) -> None:
    path = DATA / f"{domain}.parquet"
    if not path.is_file():
        pytest.skip(f"no real text: {path} is absent")
    parquet = pytest.importorskip("pyarrow.parquet", reason="reading the real text needs pyarrow")
    texts: list[str] = parquet.ParquetFile(path).read_row_group(0, columns=["text"]).column("text").to_pylist()[:6]
    never = re.compile(r"\b(?:Mr|Mrs|Dr|v|e\.g|i\.e|U)\.$")
    lengths = list[int]()
    for text in texts:
        found = ends(text)
        assert found[-1] == len(text.rstrip())
        assert all(text[end : end + 1].isspace() for end in found[:-1])
        assert not [end for end in found[:-1] if never.search(text[max(0, end - 8) : end])]
        lengths += [b - a for a, b in pairwise([0, *found])]
    lengths.sort()
    assert 80 <= lengths[len(lengths) // 2] <= 220
    assert lengths[len(lengths) * 99 // 100] <= 900
    assert lengths[-1] <= 4100  # 4,000 and leading white space
