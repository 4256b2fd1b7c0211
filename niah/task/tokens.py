"""Counting tokens. `open_tokenizer(name)` gives one of:

- `niah-8k` (default): our own byte-level BPE, shipped with the package, so that everything works offline;
- a tiktoken encoding (`o200k_base`, `cl100k_base`, ...) or an OpenAI model's name;
- `provider`: lengths in each model's own tokens, as its provider counts them. Prompts are made with niah-8k in its stead and fitted
  (run/calibrate.py);
- a path to a Hugging Face `tokenizer.json`, or to the folder that holds one (extra `niah[hf]`).
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from niah.engines.chat import splits_at_words
from niah.errors import MissingExtra, UsageError, did_you_mean

PROVIDER = "provider"
NIAH_8K_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NIAH_8K_RANKS = 8184
NIAH_8K_SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|reserved|>")
_NIAH_8K = Path(__file__).parent / "encodings" / "niah-8k.tiktoken"


class Tokenizer(Protocol):
    """Counts tokens of plain text: markers of special tokens in it are text like any other.

    `splits_at_words`: tokens never cross from a letter to a blank that a letter follows, and neither side changes when the
    text is cut there. Then long texts are counted in parts, exactly; otherwise they are encoded as a whole.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def splits_at_words(self) -> bool: ...
    def count(self, text: str) -> int: ...
    def count_many(self, texts: Sequence[str]) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class _Encoding:
    name: str
    fingerprint: str
    splits_at_words: bool
    encode: Callable[[str], Sequence[int]]

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def count_many(self, texts: Sequence[str]) -> list[int]:
        encode = self.encode
        return [len(encode(text)) for text in texts]


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name`; UsageError when there is none or its file cannot be had."""
    if name in ("niah-8k", PROVIDER):
        return _niah_8k(name)
    path = Path(name)
    if path.suffix == ".json" or path.is_dir():
        return _hugging_face(path / "tokenizer.json" if path.is_dir() else path)
    return _tiktoken(name)


def niah_8k_encoding() -> Any:
    """The `tiktoken.Encoding` of niah-8k, special tokens included (ids 8184 to 8191)."""
    return _niah_8k_encoding(_NIAH_8K.read_bytes())


@lru_cache(maxsize=2)
def _niah_8k_encoding(content: bytes) -> Any:
    import tiktoken

    # Not tiktoken's own loader: it keeps a copy in a shared temporary folder, and would serve that when the file has changed.
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, content.splitlines())}
    special = {token: NIAH_8K_RANKS + i for i, token in enumerate(NIAH_8K_SPECIAL)}
    return tiktoken.Encoding("niah-8k", pat_str=NIAH_8K_PATTERN, mergeable_ranks=ranks, special_tokens=special)


def _niah_8k(name: str = "niah-8k") -> Tokenizer:
    fingerprint = hashlib.sha256(_NIAH_8K.read_bytes() + NIAH_8K_PATTERN.encode()).hexdigest()[:16]
    return _Encoding(name, fingerprint, True, niah_8k_encoding().encode_ordinary)


def _tiktoken(name: str) -> Tokenizer:
    import tiktoken

    known = tiktoken.list_encoding_names()
    if name not in known:
        try:
            name = tiktoken.encoding_name_for_model(name)
        except KeyError:
            raise UsageError(
                f"tokenizer {name!r} is unknown; {did_you_mean(name, [*known, 'niah-8k', PROVIDER])}. "
                "A tokenizer.json is given by its path."
            ) from None
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # tiktoken lets through whatever requests raises
        raise UsageError(
            f"tokenizer {name!r}: its rank file is neither cached nor reachable ({type(error).__name__}). Run once where there is a "
            "network, with TIKTOKEN_CACHE_DIR set to a folder that you then copy here; or use --tokenizer niah-8k, which works offline."
        ) from None
    fingerprint = hashlib.sha256(f"tiktoken {name} {encoding.n_vocab}".encode()).hexdigest()[:16]
    return _Encoding(name, fingerprint, True, encoding.encode_ordinary)


def _hugging_face(path: Path) -> Tokenizer:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"tokenizer {str(path)!r} cannot be read: {error.strerror}. Give the path of a tokenizer.json, or of its folder."
        ) from None
    try:
        import tokenizers
    except ImportError:
        raise MissingExtra("tokenizers", "hf", f"the tokenizer {str(path)!r}") from None
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        settings = json.loads(content)
    except Exception as error:  # the Rust library raises bare Exception
        raise UsageError(f"tokenizer {str(path)!r} is no valid tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return _Encoding(
        f"{path.resolve().parent.name}/{path.name}", hashlib.sha256(content).hexdigest()[:16], splits_at_words(settings), encode
    )
