"""Trains the bundled encoding `niah-8k`, a byte-level BPE in tiktoken's file format (base64 of the token, blank, rank).

    python -m niah.training.tokenizer TEXT... --out niah/task/encodings/niah-8k.tiktoken

TEXT are parquet files with a column `text`, or text files; the same files in the same order give the same ranks. The
shipped ranks were trained on real encyclopedia, legal and financial text; no medical text and no needle was among it.
"""

import argparse
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from niah.errors import MissingExtra
from niah.task.tokens import NIAH_8K_PATTERN, NIAH_8K_RANKS


def texts(paths: list[Path]) -> Iterator[str]:
    """The documents of all files, in order."""
    for path in paths:
        if path.suffix == ".parquet":
            import pandas

            yield from pandas.read_parquet(path, columns=["text"])["text"].tolist()
        else:
            yield path.read_text(encoding="utf-8")


def train(documents: Iterator[str]) -> dict[bytes, int]:
    """Ranks of the byte-level BPE over `documents`: NIAH_8K_RANKS of them."""
    try:
        import rustbpe
    except ImportError:
        raise MissingExtra("rustbpe", "train", "training the tokenizer") from None
    bpe: Any = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]  # a Rust module without stubs
    bpe.train_from_iterator(documents, vocab_size=NIAH_8K_RANKS, pattern=NIAH_8K_PATTERN)
    return {bytes(token): rank for token, rank in bpe.get_mergeable_ranks()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    ranks = train(texts(options.texts))
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in sorted(ranks.items(), key=lambda item: item[1])]
    options.out.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
