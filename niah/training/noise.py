"""The text around training needles: real documents, shuffled and repeated sentences, random words."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niah import sentences
from niah.errors import CorpusTooShort
from niah.task.corpus import Corpus

_KINDS = ("documents", "shuffled", "repeated", "scrambled", "random")
_SHARES = (0.55, 0.15, 0.14, 0.10, 0.06)
_BUILTIN_DOCUMENTS = 400
_CHARACTERS_A_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence with the white space in front of it."""

    text: str
    needle: int | None = None
    """Number of the episode's needle that this sentence is; None for filler, near misses included."""


class Noise:
    """Draws text from `corpora`. The same `rng` state gives the same text."""

    def __init__(self, corpora: Sequence[Corpus], *, held_out: bool = False, builtin_from: int = 1_000_000):
        self._sources: list[list[list[str]]] = []
        for corpus in corpora:
            # Evaluation reads an unlimited corpus from its beginning; training takes documents that no sweep comes to.
            numbers = range(corpus.size) if corpus.size is not None else range(builtin_from, builtin_from + _BUILTIN_DOCUMENTS)
            documents = [_split(corpus.document(number).text) for number in numbers if (number % 10 == 9) == held_out]
            documents = [document for document in documents if len(document) > 2]
            if documents:
                self._sources.append(documents)
            elif not held_out:
                raise CorpusTooShort(f"corpus {corpus.name!r}: none of its documents has three sentences to train with")
        if not self._sources:
            raise CorpusTooShort("no document is left to measure with: a corpus needs ten or more, one in ten of which is held out")
        self._words = sorted({word for source in self._sources for document in source[:60] for s in document[:200] for word in s.split()})

    def draw(self, rng: random.Random, tokens: int, kind: str | None = None) -> list[Piece]:
        """Sentences of about `tokens` tokens, of one kind of noise."""
        kind = kind or rng.choices(_KINDS, _SHARES)[0]
        characters = int(tokens * _CHARACTERS_A_TOKEN)
        if kind == "random":
            return self._random(rng, characters)
        if kind == "repeated":
            few = [Piece(" " + self.sentence(rng).strip()) for _ in range(rng.randint(1, 6))]
            return _fill(characters, lambda: few)
        if kind == "documents":
            return _fill(characters, lambda: self._stretch(rng, characters))
        sentence = self._scrambled if kind == "scrambled" else self.sentence
        return _fill(characters, lambda: [Piece(_gap(rng) + sentence(rng).strip())])

    def sentence(self, rng: random.Random) -> str:
        """One sentence of a drawn document."""
        return rng.choice(rng.choice(rng.choice(self._sources)))

    def words(self, rng: random.Random, count: int) -> list[str]:
        """Words of the corpora, each word form equally likely."""
        return [rng.choice(self._words) for _ in range(count)]

    def _stretch(self, rng: random.Random, characters: int) -> list[Piece]:
        document = rng.choice(rng.choice(self._sources))
        start = rng.randrange(len(document)) if len(document) > 20 else 0
        taken: list[Piece] = []
        for text in document[start:]:
            taken.append(Piece(text if taken else "\n\n" + text.lstrip()))
            characters -= len(text)
            if characters < 0:
                break
        return taken

    def _scrambled(self, rng: random.Random) -> str:
        words = self.sentence(rng).split()
        rng.shuffle(words)
        return " ".join(words)

    def _random(self, rng: random.Random, characters: int) -> list[Piece]:
        return _fill(characters, lambda: [Piece(_gap(rng) + " ".join(self.words(rng, rng.randint(5, 25))) + ".")])


def _gap(rng: random.Random) -> str:
    return "\n\n" if rng.random() < 0.1 else " "


def _fill(characters: int, more: Callable[[], Sequence[Piece]]) -> list[Piece]:
    """Pieces of as many draws as it takes to reach `characters`."""
    pieces: list[Piece] = []
    while characters > 0:
        for piece in more():
            pieces.append(piece)
            characters -= len(piece.text)
            if characters <= 0:
                break
    return pieces


def _split(text: str) -> list[str]:
    """Sentences, each with the white space in front of it; stretches without a sentence end are left out."""
    return [part for part in _with_space(text) if 15 < len(part) < 600]


def _with_space(text: str) -> list[str]:
    at, parts = 0, []
    for end in sentences.ends(text):
        parts.append(text[at:end])
        at = end
    return parts
