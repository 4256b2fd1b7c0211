"""What is known of a document once it has been tokenised: its sentence ends, and how many tokens stand between places
at which its text can be cut without changing the tokens on either side.

Such a safe place is one between a letter and a single blank that a letter follows: every tokenizer with
`splits_at_words` begins a new word there, whatever stands further off.
"""

import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from niah import sentences
from niah.task.tokens import Tokenizer

Ints = NDArray[np.int64]
_SAFE = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Offsets are characters of the document's text.

    `ends`: sentence ends, and `before[k]`: tokens of the text in front of `ends[k]`, encoded by itself.
    `cuts`: safe places next to the sentence ends, and `tokens[i]`: tokens between `cuts[i]` and `cuts[i + 1]`.
    """

    ends: Ints
    before: Ints
    cuts: Ints
    tokens: Ints


def measure(text: str, tokenizer: Tokenizer) -> Measure:
    """Tokenise a document once, in pieces between safe places."""
    ends = np.array(sentences.ends(text), dtype=np.int64)
    safe = np.fromiter((match.start() for match in _SAFE.finditer(text)), dtype=np.int64)
    left, right = np.searchsorted(safe, ends, "left") - 1, np.searchsorted(safe, ends, "right")
    cuts = np.unique(np.concatenate([safe[left[left >= 0]], safe[right[right < len(safe)]]]))
    edges = [0, *cuts.tolist(), len(text)]
    counts = tokenizer.count_many([text[a:b] for a, b in pairwise(edges)])
    upto = np.concatenate([[0], np.cumsum(counts)])
    previous = np.searchsorted(np.array(edges[:-1]), ends, "left") - 1
    rests = tokenizer.count_many([text[edges[p] : end] for p, end in zip(previous.tolist(), ends.tolist(), strict=True)])
    return Measure(
        ends=ends, before=upto[previous] + np.array(rests, dtype=np.int64), cuts=cuts, tokens=np.array(counts[1:-1], dtype=np.int64)
    )


class Measures:
    """The measures of one corpus under one tokenizer, by document number; kept on disk when `path` is given."""

    _FIELDS = ("ends", "before", "cuts", "tokens")

    def __init__(self, tokenizer: Tokenizer, path: Path | None = None):
        self._tokenizer = tokenizer
        self._path = path
        self._known: dict[int, Measure] = {}
        self._texts: dict[int, int] = {}
        self._changed = False
        if path is not None and path.exists():
            self._load(path)

    def of(self, number: int, text: str) -> Measure:
        """The measure of document `number`, whose text is `text`."""
        check = zlib.crc32(text.encode())
        if self._texts.get(number) != check:  # new, or kept by a version that wrote another text
            self._known[number], self._texts[number] = measure(text, self._tokenizer), check
            self._changed = True
        return self._known[number]

    def save(self) -> None:
        """Write what is new; a cache that cannot be written is no reason to stop."""
        if self._path is None or not self._changed:
            return
        numbers = sorted(self._known)
        arrays = {"numbers": np.array(numbers, dtype=np.int64)}
        arrays["texts"] = np.array([self._texts[number] for number in numbers], dtype=np.int64)
        for name in self._FIELDS:
            parts: list[Ints] = [getattr(self._known[number], name) for number in numbers]
            arrays[name] = np.concatenate(parts)
            arrays[f"{name}_sizes"] = np.array([len(part) for part in parts], dtype=np.int64)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._path.parent, suffix=".tmp", delete=False) as file:
                np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
            Path(file.name).replace(self._path)
            self._changed = False
        except OSError:
            return

    def _load(self, path: Path) -> None:
        try:
            with np.load(path) as arrays:
                split = {name: np.split(arrays[name], np.cumsum(arrays[f"{name}_sizes"])[:-1]) for name in self._FIELDS}
                self._texts = dict(zip(arrays["numbers"].tolist(), arrays["texts"].tolist(), strict=True))
                for i, number in enumerate(arrays["numbers"].tolist()):
                    self._known[number] = Measure(**{name: split[name][i] for name in self._FIELDS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            self._known, self._texts = {}, {}
