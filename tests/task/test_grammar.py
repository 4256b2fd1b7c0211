"""Grammars of the built-in corpora. `pytest tests/task/test_grammar.py`"""

import tomllib

import pytest

from niah.errors import CorpusError
from niah.task.english import NUMBER_FORMS, PHRASE_FORMS
from niah.task.grammar import Grammar

EXAMPLE = """
[lexicon]
town = "Arlen | Bexford | Corrow"
colour = '''ochre
apple green | red'''
[rules]
mill = ["{colour:a} mill", "{colour:a} granary"]
person = ["{town} the {2..9:ordinal}"]
body = [
  "{name} was founded in {founded} by {p=person}, and {p} built {mill}.",
  "It held {old:,} people, later {pop:,}, a rise of {= pop * 100 / old - 100 :.1} percent.",
  "one in {5..5:words} left.",
]
[[kind]]
name = "town"
title = ["{name:upper}"]
facts = {name = "{town}", founded = "{1120..1780}", old = "{1200..1900}", pop = "{= old + between(100, 400)}"}
[[kind.section]]
heading = ["Part {turn}"]
repeat = "2"
body = "body"
paragraphs = "1"
sentences = "3"
"""


def document(text: str, number: int = 0) -> str:
    return Grammar.load("test", tomllib.loads(text)).document(number)[1]


def test_a_document_agrees_with_itself_and_uses_each_sentence_before_any_comes_again() -> None:
    text = document(EXAMPLE)
    title, *rest = text.split("\n\n")
    assert title.isupper()
    assert [rest[0], rest[2]] == ["Part 1", "Part 2"]
    for paragraph in (rest[1], rest[3]):
        assert paragraph.lower().count(f"{title.lower()} was founded in") == 1
        assert paragraph.count("One in five left.") == 1
        founder = paragraph.split(" by ")[1].split(",")[0]
        assert f"and {founder} built a" in paragraph
        old, pop = (
            int(number.replace(",", ""))
            for number in paragraph.split("It held ")[1].split(" a rise")[0].replace(" people, later", "").rstrip(",").split()
        )
        assert f"a rise of {pop * 100 / old - 100:.1f} percent" in paragraph
    assert len({rest[1].split(" founded in ")[1][:4], rest[3].split(" founded in ")[1][:4]}) == 1
    assert document(EXAMPLE) == text != document(EXAMPLE, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{mill}", "{mil}"), "rule body: unknown slot 'mil'; did you mean 'mill'"),
        (("{old:,}", "{old:capp}"), "unknown modifier 'capp'"),
        (("= pop * 100", "= pop ** 100"), "cannot compute"),
        (("{5..5:words}", "{5-5}"), "neither a name, a range"),
        (('repeat = "2"', 'repeet = "2"'), "unknown key 'repeet'"),
        (('paragraphs = "1"', 'paragraphs = "x"'), "'x' is not a number or a range"),
        (('body = "body"', 'body = "bodyy"'), "unknown slot 'bodyy'"),
        (('mill = ["{colour:a} mill", "{colour:a} granary"]', 'mill = "one"'), "rule mill: a rule is a list"),
        (("apple green | red", "{town} red"), "lexicon colour: words hold no slots"),
        (('name = "{town}", founded', 'name = "{founded}", founded'), "'founded' is used before it is drawn"),
        (("[[kind]]", "[[kinds]]"), "no \\[\\[kind\\]\\]"),
    ],
)
def test_a_wrong_grammar_says_where(change: tuple[str, str], message: str) -> None:
    text = EXAMPLE.replace(*change).replace("[[kind.section]]", "[[kinds.section]]" if change[1] == "[[kinds]]" else "[[kind.section]]")
    with pytest.raises(CorpusError, match=message):
        document(text)


@pytest.mark.parametrize(
    ("form", "given", "expected"),
    [
        ("a", "hour", "an hour"), ("a", "unit", "a unit"), ("a", "uninvited guest", "an uninvited guest"), ("a", "European", "a European"),
        ("a", "8 mile", "an 8 mile"), ("a", "18-year", "an 18-year"), ("a", "one-off", "a one-off"), ("a", "$8 million", "an $8 million"), ("a", "unanimous", "a unanimous"), ("plural", "city", "cities"),
        ("plural", "box", "boxes"), ("plural", "day", "days"), ("poss", "Jones", "Jones'"), ("title", "old mill", "Old Mill"),
    ],
)  # fmt: skip
def test_forms_of_phrases(form: str, given: str, expected: str) -> None:
    assert PHRASE_FORMS[form](given) == expected


@pytest.mark.parametrize(
    ("form", "given", "expected"),
    [
        ("words", 0, "zero"), ("words", 42, "forty-two"), ("words", 115, "one hundred and fifteen"), ("words", -3, "minus three"),
        ("words", 4200, "4,200"), ("ordinal", 1, "first"), ("ordinal", 12, "twelfth"), ("ordinal", 20, "twentieth"), ("ordinal", 23, "twenty-third"),
        ("nth", 11, "11th"), ("nth", 22, "22nd"), ("nth", 103, "103rd"),
    ],
)  # fmt: skip
def test_forms_of_numbers(form: str, given: int, expected: str) -> None:
    assert NUMBER_FORMS[form](given) == expected
