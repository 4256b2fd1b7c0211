"""English forms of phrases and numbers, for the grammars of the built-in corpora: articles, plurals, numbers in words."""

import re
from collections.abc import Callable


def _article(phrase: str) -> str:
    word = phrase.split(maxsplit=1)[0].lower().lstrip("$€£(\"'") if phrase.split() else ""
    vowel = word[:1] in "aeiou" and not re.match(r"(uni([^nm]|$)|unanim|use|usu|usa|eu|one\b|once|ubiq|uter|util)", word)
    vowel = vowel or bool(re.match(r"(hour|honou?r|heir|honest|8|1[18](\D|$))", word))
    return f"{'an' if vowel else 'a'} {phrase}"


def _plural(phrase: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", phrase):
        return phrase + "es"
    if re.search(r"[^aeiou]y$", phrase):
        return phrase[:-1] + "ies"
    return phrase + "s"


def _possessive(phrase: str) -> str:
    return phrase + ("'" if phrase.endswith("s") else "'s")


PHRASE_FORMS: dict[str, Callable[[str], str]] = {
    "a": _article,
    "cap": lambda phrase: phrase[:1].upper() + phrase[1:],
    "lower": str.lower,
    "plural": _plural,
    "poss": _possessive,
    "title": lambda phrase: " ".join(word[:1].upper() + word[1:] for word in phrase.split(" ")),
    "upper": str.upper,
}

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}


def _words(number: int) -> str:
    if number < 0:
        return "minus " + _words(-number)
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{_SMALL[number // 100]} hundred" + (f" and {_words(number % 100)}" if number % 100 else "")
    return f"{number:,}"


def _ordinal(number: int) -> str:
    head, dash, tail = _words(number).rpartition("-")
    tail = _ORDINALS.get(tail) or (tail[:-1] + "ieth" if tail.endswith("y") else tail + "th")
    return head + dash + tail


def _nth(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


NUMBER_FORMS: dict[str, Callable[[int], str]] = {"words": _words, "ordinal": _ordinal, "nth": _nth}
