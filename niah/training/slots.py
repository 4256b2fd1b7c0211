"""Random values for the slots of training sentences: names, numbers and words, made from niah/training/slots.toml.

Everything is drawn with `uniform`, the bound `random()` of a random.Random: a sequence that Python promises to keep.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from niah.errors import UsageError
from niah.task.english import PHRASE_FORMS

T = TypeVar("T")
Uniform = Callable[[], float]
Maker = Callable[[Uniform], str]
Value = tuple[str, ...]
"""A slot's value: (text, plural) from a list or of a nonsense word, (full, first, last) of a person, else (text,)."""
Slot = Callable[[Uniform], Value]

_LISTS = ("things", "mass", "people", "qualities", "fixed", "names")
_NONSENSE_SHARE, _REPLACED_SHARE = 0.08, 0.15
"""Of the draws from a list: below the first a nonsense word, from there to the second a word of another list of its section."""
_SYLLABLES_CUMULATIVE = (0.15, 0.65, 0.93)
"""Shares of nonsense words with at most one, two and three syllables; the others have four."""
_COARSE = re.compile(r"cunt|fuck|shit|cock|dick|twat|piss|slut|tits?$|wank|nigg")
"""What syllables must not make by chance."""
_PART = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"(\d+)(\.\.|~)(\d+)")


@cache
def slot_kinds() -> dict[str, Slot]:
    """Every kind of slot a frame may use, with the function that draws its value."""
    words = _words()
    nonsense = _nonsense(words["syllables"])
    makers: dict[str, Maker] = {"nonsense": nonsense}
    slots: dict[str, Slot] = {"nonsense": lambda uniform: _with_plural(nonsense(uniform))}
    every: list[Value] = []
    for section in _LISTS:
        lists = {kind: _entries(text) for kind, text in words[section].items()}
        for kind, entries in lists.items():
            others = [] if section in ("fixed", "names") else [entry for other in lists if other != kind for entry in lists[other]]
            slots[kind] = _from_list(entries, others, nonsense, capital=section == "names")
            makers |= _list_makers(kind, entries)
        if section in ("things", "mass", "people"):
            every += [entry for entries in lists.values() for entry in entries if entry[0].isalpha()]
    makers |= _list_makers("any", every)
    for kind, text in words["parts"].items():
        makers |= _list_makers(kind, _entries(text))
    for kind, patterns in {**words["patterns"], **words["inner_patterns"]}.items():
        makers[kind] = _one_of([_pattern(pattern, makers) for pattern in patterns])
    for kind in (*words["patterns"], "few", "ordinal"):
        slots[kind] = _text(makers[kind])
    slots["person"] = _person(makers)
    return slots


def value_forms(kind: str) -> Mapping[str, int]:
    """The forms of a kind that are drawn with it, and where they stand in its Value."""
    if kind == "person":
        return {"first": 1, "last": 2}
    return {"plural": 1} if kind == "nonsense" or any(kind in _words()[section] for section in _LISTS) else {}


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "slots.toml").read_text(encoding="utf-8"))


def _pick(uniform: Uniform, choices: Sequence[T]) -> T:
    return choices[int(uniform() * len(choices))]


def _with_plural(text: str) -> Value:
    return text, PHRASE_FORMS["plural"](text)


def _entries(text: str) -> list[Value]:
    pairs = (tuple(entry.strip().split("|")) for entry in text.split(","))
    return [pair if len(pair) == 2 else _with_plural(pair[0]) for pair in pairs]


def _list_makers(kind: str, entries: list[Value]) -> dict[str, Maker]:
    return {kind: lambda uniform: _pick(uniform, entries)[0], f"{kind}.plural": lambda uniform: _pick(uniform, entries)[1]}


def _from_list(entries: list[Value], others: list[Value], nonsense: Maker, *, capital: bool) -> Slot:
    """Mostly an entry; sometimes a word that nobody can guess, so that a reader must look at the text."""

    def draw(uniform: Uniform) -> Value:
        fate = uniform()
        if fate < _NONSENSE_SHARE or (fate < _REPLACED_SHARE and not others):
            word = nonsense(uniform)
            return _with_plural(PHRASE_FORMS["cap"](word) if capital else word)
        return _pick(uniform, others if fate < _REPLACED_SHARE else entries)

    return draw


def _text(maker: Maker) -> Slot:
    return lambda uniform: (maker(uniform),)


def _person(makers: Mapping[str, Maker]) -> Slot:
    before, first, middle, last = (makers[part] for part in ("before", "first", "middle", "last"))

    def draw(uniform: Uniform) -> Value:
        given, family = first(uniform), last(uniform)
        return f"{before(uniform)}{given} {middle(uniform)}{family}", given, family

    return draw


def _one_of(makers: list[Maker]) -> Maker:
    return lambda uniform: _pick(uniform, makers)(uniform)


def _pattern(pattern: str, makers: Mapping[str, Maker]) -> Maker:
    """A maker of texts like `pattern`; `makers` may get the names that it uses later."""
    parts = [_part(text, makers) if number % 2 else _literal(text) for number, text in enumerate(_PART.split(pattern)) if text]
    return parts[0] if len(parts) == 1 else lambda uniform: "".join([part(uniform) for part in parts])


def _literal(text: str) -> Maker:
    return lambda uniform: text


def _part(text: str, makers: Mapping[str, Maker]) -> Maker:
    if number := _NUMBER.fullmatch(text):
        low, high = int(number[1]), int(number[3])
        return _logarithmic(low, high) if number[2] == "~" else lambda uniform: str(low + int(uniform() * (high - low + 1)))
    kind, *forms = text.split(".")
    if forms[:1] == ["plural"] and f"{kind}.plural" in makers:
        kind, forms = f"{kind}.plural", forms[1:]
    if any(form not in PHRASE_FORMS for form in forms):
        raise UsageError(f"niah/training/slots.toml: {{{text}}} has an unknown form")
    return _named(kind, [PHRASE_FORMS[form] for form in forms], makers)


def _named(kind: str, forms: list[Callable[[str], str]], makers: Mapping[str, Maker]) -> Maker:
    def make(uniform: Uniform) -> str:
        text = makers[kind](uniform)
        for form in forms:
            text = form(text)
        return text

    return make


def _logarithmic(low: int, high: int) -> Maker:
    start, span = math.log(low), math.log((high + 1) / low)
    return lambda uniform: f"{min(high, int(math.exp(start + uniform() * span))):,}"


def _nonsense(styles: Mapping[str, list[str]]) -> Maker:
    """Words of one to four syllables (beginning, vowel; an end behind the last and some others), each in one style."""
    tables: list[list[list[str]]] = [[part.split() or [""] for part in style] for style in styles.values()]

    def make(uniform: Uniform) -> str:
        onsets, vowels, ends = _pick(uniform, tables)
        fate = uniform()
        count = 1 + sum(fate >= share for share in _SYLLABLES_CUMULATIVE)
        word = ""
        for left in range(count - 1, -1, -1):
            word += _pick(uniform, onsets) + _pick(uniform, vowels)
            if count == 1 or uniform() < (0.2 if left else 0.6):
                word += _pick(uniform, ends)
        return make(uniform) if _COARSE.search(word) else word

    return make
