"""Corpora from files and from grammars. `pytest tests/task/test_corpus.py`"""

import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from niah.errors import CorpusError, UsageError
from niah.task.corpus import BLOCK, REPEATED, open_corpus
from niah.task.seeded import Draw

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DOMAINS = ("wikipedia", "legal", "financial", "medical")
REAL = Path(__file__).parents[3] / "shared" / "data"


def test_a_folder_of_all_kinds_is_read_in_sorted_order(tmp_path: Path) -> None:
    """.txt, .md, .jsonl and .parquet, also in folders below; other files are left alone."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_bytes("\ufeffSecond.\r\nLine.".encode())
    (tmp_path / "a.MD").write_text("# First", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("  \n", encoding="utf-8")
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    (tmp_path / "d.jsonl").write_text('"Plain."\n\n{"id": 7, "title": "Title", "text": "Body."}\n', encoding="utf-8")
    pq.write_table(pa.table({"text": ["P one.", None, "P two."], "other": [1, 2, 3]}), tmp_path / "e.parquet")
    corpus = open_corpus(str(tmp_path))
    assert corpus.size == 6
    documents = [corpus.document(i) for i in range(6)]
    assert [document.id for document in documents] == ["a.MD", "d.jsonl:1", "7", "e.parquet:0", "e.parquet:2", "sub/b.txt"]
    assert [document.text for document in documents] == ["# First", "Plain.", "Title\n\nBody.", "P one.", "P two.", "Second.\nLine."]


def test_the_fingerprint_is_of_the_text_and_not_of_the_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("Same text.", encoding="utf-8")
    one, two = (open_corpus(str(tmp_path / name)) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    (tmp_path / "two" / "a.txt").write_text("Same text!", encoding="utf-8")
    assert open_corpus(str(tmp_path / "two")).fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 \(byte 3\).*iconv"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": ', r"a\.jsonl, line 2 is no JSON"),
        ("a.jsonl", b'{"body": "x"}', r'a\.jsonl, line 1: expected a string.*"text"'),
        ("a.jsonl", b'{"text": "\\ud800"}', r"a\.jsonl holds half of a surrogate pair"),
        ("a.parquet", b"PAR1 nothing", r"a\.parquet is no readable parquet file"),
        ("a.txt", b" \n ", r"holds no text"),
        ("a.pdf", b"%PDF", r"holds no text: it needs \.txt, \.md, \.jsonl or \.parquet"),
    ],
)
def test_what_cannot_be_read_says_which_file_and_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        open_corpus(str(tmp_path))


def test_an_empty_folder_and_a_wrong_column_and_a_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no text"):
        open_corpus(str(tmp_path))
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "e.parquet")
    with pytest.raises(CorpusError, match="has no column 'text'; its columns: body"):
        open_corpus(str(tmp_path / "e.parquet"))
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    with pytest.raises(CorpusError, match=r"a corpus is read from \.txt"):
        open_corpus(str(tmp_path / "x.pdf"))


def test_an_unknown_corpus_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'wikipedia'"):
        open_corpus("wikipdia")
    with pytest.raises(UsageError, match="did you mean 'builtin/medical'"):
        open_corpus("builtin/medicla")


def test_a_finite_corpus_is_permuted_and_ends(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(f"Text {i}.") for i in range(50)), encoding="utf-8")
    corpus = open_corpus(str(tmp_path))
    orders = [list(corpus.order(Draw("r", r))) for r in (0, 1, 0)]
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]


def test_a_builtin_corpus_never_ends_and_begins_the_same_however_far_it_is_read() -> None:
    corpus = open_corpus("builtin/legal")
    first = list(islice(corpus.order(Draw("r", 0)), 3 * BLOCK))
    assert sorted(first) == list(range(3 * BLOCK))
    assert sorted(first[:BLOCK]) == list(range(BLOCK))
    assert first[:10] == list(islice(corpus.order(Draw("r", 0)), 10))


@pytest.mark.parametrize("domain", DOMAINS)
def test_builtin_documents_are_clean_prose_and_no_paragraph_comes_twice(domain: str) -> None:
    """Over 150 documents: a title, headings, paragraphs that end like sentences, no slot left open, nothing repeated."""
    corpus = open_corpus(f"builtin/{domain}")
    seen: set[str] = set()
    for number in range(150):
        document = corpus.document(number)
        blocks = document.text.split("\n\n")
        assert blocks[0] == document.title
        for flaw in ("{", "}", "  ", " ,", " .", "..", "\n\n\n"):
            assert flaw not in document.text.replace("...", ""), (number, flaw, document.text[:80])
        paragraphs = [block for block in blocks if len(block) > 200]
        assert len(paragraphs) >= 3, number
        for paragraph in paragraphs:
            assert paragraph[-1] in ".?!\"”':)", (number, paragraph[-80:])
            assert paragraph not in seen, (number, paragraph[:80])
            seen.add(paragraph)
    assert corpus.document(3) == open_corpus(f"builtin/{domain}").document(3)


def test_the_repeated_corpus_says_what_it_is_and_repeats_only_itself() -> None:
    """No silent repetition: the one corpus that repeats is called so, and so are its runs."""
    corpus = open_corpus(REPEATED)
    assert "repeated" in corpus.about
    assert "generated" in open_corpus("builtin/legal").about
    assert corpus.size is None
    assert {corpus.document(number).text for number in (0, 1, 700)} == {corpus.document(5).text}
    words, filler = corpus.document(0).text.split(), FILLER.split()
    assert words == filler * (len(words) // len(filler))


@pytest.mark.skipif(not REAL.exists(), reason=f"real text is not there: {REAL}")
def test_real_parquet_files_open() -> None:
    for domain in DOMAINS:
        corpus = open_corpus(str(REAL / f"{domain}.parquet"))
        assert corpus.name == f"{domain}.parquet"
        assert corpus.size
        assert corpus.size > 30
