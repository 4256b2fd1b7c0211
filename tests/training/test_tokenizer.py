"""How niah-8k was made. `pytest tests/training/test_tokenizer.py`"""

import sys
from pathlib import Path

import pytest

from niah.errors import MissingExtra
from niah.training import tokenizer

REAL = Path(__file__).parents[3] / "shared" / "data"
SHIPPED = Path(tokenizer.__file__).parents[1] / "task" / "encodings" / "niah-8k.tiktoken"


def test_training_is_deterministic_and_keeps_every_byte() -> None:
    texts = ["The cat sat on the mat. " * 50, "A cat may look at a king, 1846. " * 50]
    ranks = tokenizer.train(iter(texts))
    assert ranks == tokenizer.train(iter(texts))
    assert {bytes([byte]) for byte in range(256)} <= ranks.keys()
    assert sorted(ranks.values()) == list(range(len(ranks)))
    assert b" cat" in ranks


def test_the_command_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one two three one two " * 30, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["tokenizer", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out.tiktoken")])
    tokenizer.main()
    lines = (tmp_path / "out.tiktoken").read_text(encoding="ascii").splitlines()
    assert [line.split()[1] for line in lines] == [str(rank) for rank in range(len(lines))]


def test_without_its_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rustbpe", None)
    with pytest.raises(MissingExtra, match=r"niah\[train\]"):
        tokenizer.train(iter(["x"]))


@pytest.mark.skipif(not REAL.exists(), reason=f"the training text is not there: {REAL}")
def test_the_shipped_ranks_come_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files in the same order give the shipped file, byte for byte; no medical text is among them."""
    files = [str(REAL / f"{domain}.parquet") for domain in ("wikipedia", "legal", "financial")]
    monkeypatch.setattr(sys, "argv", ["tokenizer", *files, "--out", str(tmp_path / "out.tiktoken")])
    tokenizer.main()
    assert (tmp_path / "out.tiktoken").read_bytes() == SHIPPED.read_bytes()
