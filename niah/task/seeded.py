"""Seeded draws that give the same values on every machine and every Python.

Only `random.Random.random()` is promised by Python to keep its sequence between versions, so every draw here is made from
it alone. A draw is named by what it is for (`Draw("reshuffle", seed, 3)`), never by when it happens: two parts of a
program cannot disturb each other's draws.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of draws named by `parts`; equal parts give equal draws."""

    def __init__(self, *parts: str | int):
        name = "\x1f".join(str(part) for part in parts)
        self._random = random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")).random

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return self._random()

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        return int(self._random() * bound)

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high], both ends included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, each equally likely."""
        return choices[int(self._random() * len(choices))]

    def permutation(self, count: int) -> list[int]:
        """The numbers 0 .. count-1 in drawn order."""
        return list(self.permuted(count))

    def permuted(self, count: int) -> Iterator[int]:
        """The same one by one (Fisher-Yates from the front): who wants only the first few pays only for these."""
        order = list(range(count))
        for i in range(count):
            j = i + int(self._random() * (count - i))
            order[i], order[j] = order[j], order[i]
            yield order[i]
