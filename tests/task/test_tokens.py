"""Tokenizers. `pytest tests/task/test_tokens.py`"""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niah.errors import MissingExtra, UsageError
from niah.task.tokens import NIAH_8K_PATTERN, NIAH_8K_SPECIAL, niah_8k_encoding, open_tokenizer

NIAH_8K = open_tokenizer("niah-8k")


@given(st.text())
def test_niah_8k_round_trips_any_text(text: str) -> None:
    encoding = niah_8k_encoding_once()
    assert encoding.decode(encoding.encode_ordinary(text)) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert NIAH_8K.count(text) == len(encoding.encode_ordinary(text))


_ENCODING = niah_8k_encoding()


def niah_8k_encoding_once():
    return _ENCODING


def test_niah_8k_has_8192_tokens_and_does_not_read_special_tokens_in_text() -> None:
    assert _ENCODING.n_vocab == 8192
    assert [_ENCODING.encode_single_token(token) for token in NIAH_8K_SPECIAL] == list(range(8184, 8192))
    assert NIAH_8K.count("<|eos|>") > 1


@given(
    left=st.text(alphabet="aZé ß.,'\"\n0-5"),
    right=st.text(alphabet="aZé ß.,'\"\n0-5"),
    a=st.sampled_from("azÄñ"),
    b=st.sampled_from("bYöж"),
)
def test_cutting_between_a_letter_and_a_blank_before_a_letter_changes_no_token(left: str, right: str, a: str, b: str) -> None:
    assert NIAH_8K.count(f"{left}{a} {b}{right}") == NIAH_8K.count(f"{left}{a}") + NIAH_8K.count(f" {b}{right}")


def test_an_unknown_tokenizer_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'o200k_base'"):
        open_tokenizer("o200kbase")


def test_an_encoding_that_cannot_be_had_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache and no network: the message names the variable and the offline tokenizer."""
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(UsageError, match=r"TIKTOKEN_CACHE_DIR.*niah-8k"):
        open_tokenizer("o200k_base")


def test_an_openai_model_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model's name means its encoding, also when that encoding is out of reach."""
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(UsageError, match="'o200k_base': its rank file"):
        open_tokenizer("gpt-4o-mini")


def bpe_file(path: Path, **pre_tokenizer: object) -> Path:
    """A small byte-level BPE as Hugging Face saves it."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre_tokenizer)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(NIAH_8K_PATTERN), "isolated")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level]) if pre_tokenizer else level
    texts = [Path(__file__).read_text(encoding="utf-8"), "the cat sat on the mat. " * 20]
    tokenizer.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=600, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("split", [{}, {"split": True}])
def test_a_hugging_face_file_counts_as_the_library_does(tmp_path: Path, split: dict[str, object]) -> None:
    import tokenizers

    path = bpe_file(tmp_path / "tokenizer.json", **split)
    tokenizer = open_tokenizer(str(path))
    library = tokenizers.Tokenizer.from_file(str(path))
    text = "The cat sat on the mat.\n\nIt didn't move: 12,345 times, naïve. "
    assert tokenizer.splits_at_words
    assert tokenizer.count(text) == len(library.encode(text, add_special_tokens=False).ids)
    assert tokenizer.count_many([text, "a b"]) == [tokenizer.count(text), tokenizer.count("a b")]
    assert open_tokenizer(str(tmp_path)).fingerprint == tokenizer.fingerprint
    assert tokenizer.name == f"{tmp_path.name}/tokenizer.json"
    for cut in (match.start() for match in re.finditer(r"(?<=[a-z]) (?=[a-z])", text)):
        assert tokenizer.count(text[:cut]) + tokenizer.count(text[cut:]) == tokenizer.count(text)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
    ],
)
def test_a_tokenizer_of_another_kind_is_counted_as_a_whole(tmp_path: Path, change: dict[str, object]) -> None:
    path = bpe_file(tmp_path / "tokenizer.json")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    assert not open_tokenizer(str(path)).splits_at_words


def test_a_broken_or_missing_tokenizer_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no valid tokenizer\.json"):
        open_tokenizer(str(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        open_tokenizer(str(tmp_path / "other.json"))


def test_a_missing_extra_names_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bpe_file(tmp_path / "tokenizer.json")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'niah\[hf\]'"):
        open_tokenizer(str(path))
