"""Haystacks: one reshuffle of a corpus as one stream of text, cut to a length, with needles on sentence ends.

A shorter haystack is the beginning of a longer one. Token counts are exact: between safe places (see measure.py) they
are known, and the few words around every joint are encoded anew.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from niah.errors import CorpusTooShort, UsageError
from niah.task.corpus import Corpus
from niah.task.measure import Measures
from niah.task.seeded import Draw
from niah.task.tokens import Tokenizer

SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """A sentence to hide, the depth that is asked for, and the sentence's own tokens."""

    text: str
    depth: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where an insert went: tokens of the context in front of it, and the fraction of the haystack in front of it."""

    token: int
    depth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A haystack with its needles; `tokens` is the count of the whole prompt, `shared_characters` stand in front of the first insert."""

    context: str
    tokens: int
    placed: tuple[Placed, ...]
    shared_characters: int


class Haystack:
    """The documents of a corpus in drawn order, read as far as they were asked for."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, measures: Measures, draw: Draw):
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._measures = measures
        self._order: Iterator[int] = corpus.order(draw)
        self.text = ""
        self.documents: list[int] = []
        self._ends = array("q")
        self._before = array("q")
        self._cuts = array("q")
        self._upto = array("q")
        self._finished = False

    def read(self, tokens: int) -> None:
        """Read documents until more than `tokens` tokens are there, or the corpus ends."""
        texts = [self.text]
        characters = len(self.text)
        joints: list[tuple[int, list[int], list[int]]] = []
        while not self._finished and (not self._before or self._before[-1] <= tokens):
            number = next(self._order, None)
            if number is None:
                self._finished = True
                break
            text = self._corpus.document(number).text
            measure = self._measures.of(number, text)
            if characters:
                texts.append(SEPARATOR)
                characters += len(SEPARATOR)
            base = self._before[-1] + 1 if self._before else 0
            self._ends.extend((measure.ends + characters).tolist())
            self._before.extend((measure.before + base).tolist())
            joints.append((len(self._cuts), (measure.cuts + characters).tolist(), measure.tokens.tolist()))
            self._cuts.extend(joints[-1][1])
            self.documents.append(number)
            texts.append(text)
            characters += len(text)
        self.text = "".join(texts)
        self._add_up(joints)

    def fill(self, inserts: Sequence[Insert], *, before: str, after: str, tokens: int, elsewhere: int = 0) -> Filled:
        """The longest beginning of the stream with which before + context + after, and `elsewhere`, have at most `tokens` tokens.

        Adding the next sentence would pass `tokens`. Raises CorpusTooShort when there is no next sentence, UsageError when
        the inserts are longer than the text that is left for the haystack.
        """
        needed = sum(insert.tokens for insert in inserts)
        overhead = elsewhere + self._tokenizer.count(before + after) + needed
        self.read(tokens)
        fits, best = -1, 0
        exceeds = len(self._ends)
        guess = bisect_right(self._before, tokens - overhead) - 1
        while exceeds - fits > 1:
            guess = max(fits + 1, min(guess, exceeds - 1))
            count = elsewhere + self._count(before, self._place(inserts, guess), self._ends[guess], after)
            if count <= tokens:
                fits, best = guess, count
            else:
                exceeds = guess
            guess = bisect_right(self._before, self._before[guess] + tokens - count) - 1
            if fits == len(self._ends) - 1 and not self._finished:  # all that was read fits: counts in front of ends are estimates
                self.read(self._before[-1])
                exceeds = len(self._ends)
        if exceeds == len(self._ends):
            have = self._before[-1] if self._before else 0
            raise CorpusTooShort(
                f"corpus {self._corpus.name!r} holds {have:,} tokens, too few for a prompt of {tokens:,}: "
                "ask for shorter lengths, or give it more text"
            )
        if fits < 0 or self._before[fits] < needed:
            raise UsageError(
                f"a prompt of {tokens:,} tokens leaves {max(0, tokens - overhead):,} for the haystack, less than its needles ({needed:,}) "
                f"or its first sentence: ask for lengths of at least {overhead + needed + 100:,}"
            )
        return self._fill(inserts, fits, best)

    def _fill(self, inserts: Sequence[Insert], last: int, tokens: int) -> Filled:
        cut = self._ends[last]
        places = self._place(inserts, last)
        whole = self._count("", [], cut, "")
        parts: list[str] = []
        placed: dict[int, Placed] = {}
        at = 0
        for i, (index, position, literal) in enumerate(places):
            parts += (self.text[at:position], literal)
            at = position
            token = self._count("", places[:i], position, "")
            alone = token if i == 0 else self._count("", [], position, "")
            placed[index] = Placed(token=token, depth=alone / whole)
        parts.append(self.text[at:cut])
        return Filled(
            context="".join(parts), tokens=tokens, placed=tuple(placed[i] for i in range(len(inserts))), shared_characters=places[0][1]
        )

    def _place(self, inserts: Sequence[Insert], last: int) -> list[tuple[int, int, str]]:
        """For each insert its number, its position and the text to put there, in the order of the text."""
        places: list[tuple[int, int, str]] = []
        for index, insert in enumerate(inserts):
            position = self._nearest(insert.depth * self._before[last], last)
            places.append((index, position, f" {insert.text}" if position else f"{insert.text} "))
        return sorted(places, key=lambda place: place[1])

    def _nearest(self, tokens: float, last: int) -> int:
        """The sentence end, up to number `last`, with the number of tokens in front of it nearest to `tokens`."""
        right = min(bisect_left(self._before, tokens, 0, last + 1), last)
        low = self._before[right - 1] if right else 0
        if tokens - low <= self._before[right] - tokens:
            return self._ends[right - 1] if right else 0
        return self._ends[right]

    def _count(self, before: str, places: Sequence[tuple[int, int, str]], cut: int, after: str) -> int:
        """Tokens of `before`, the stream up to `cut` with the texts of `places` in it, and `after`, as one text."""
        total, at, window = 0, 0, before
        for _, position, literal in (*places, (0, cut, after)):
            first, last = bisect_right(self._cuts, at), bisect_left(self._cuts, position) - 1
            if self._tokenizer.splits_at_words and first < last:
                total += self._tokenizer.count(window + self.text[at : self._cuts[first]]) + self._upto[last] - self._upto[first]
                window = self.text[self._cuts[last] : position] + literal
            else:
                window += self.text[at:position] + literal
            at = position
        return total + self._tokenizer.count(window)

    def _add_up(self, joints: list[tuple[int, list[int], list[int]]]) -> None:
        """Running token counts at the safe places; only the words between two documents are encoded for it."""
        for start, cuts, tokens in joints:
            if not cuts:
                continue
            running = 0
            if start:
                running = self._upto[-1] + self._tokenizer.count(self.text[self._cuts[start - 1] : cuts[0]])
            self._upto.append(running)
            for count in tokens:
                running += count
                self._upto.append(running)
