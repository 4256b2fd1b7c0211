"""Needle sets. `pytest tests/task/test_needles.py`"""

from pathlib import Path

import pytest

from niah.errors import UsageError
from niah.task.needles import NeedleSet, check, given_away, load_needles, set_names

GOOD = '[[needle]]\nid = "a"\ntext = "The Veldt mill turns 4,712 times."\nquestion = "How often does it turn?"\nanswers = [["4,712"]]\n'
REAL = Path(__file__).parents[3] / "shared" / "data"


def from_text(tmp_path: Path, text: str) -> NeedleSet:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_needles(str(path))


def test_the_default_set_has_30_good_needles_of_many_kinds() -> None:
    needles = load_needles("default")
    assert len(needles.needles) == 30
    assert list(check(needles)) == []
    assert all(len(needle.distractors) == 4 for needle in needles.needles)
    assert {len(needle.answers) for needle in needles.needles} == {1, 2, 3}


@pytest.mark.parametrize("name", ["san-francisco", "passkey", "words", "numbers", "uuids:7"])
def test_the_other_sets_are_good(name: str) -> None:
    assert list(check(load_needles(name))) == []


def test_generated_sets_are_seeded_and_of_any_size() -> None:
    assert load_needles("numbers:50", seed=1) == load_needles("numbers:50", seed=1)
    assert load_needles("numbers:50", seed=1).fingerprint != load_needles("numbers:50", seed=2).fingerprint
    assert len({needle.id for needle in load_needles("uuids:500").needles}) == 500
    with pytest.raises(UsageError, match="from 1 to"):
        load_needles("words:1000000")
    with pytest.raises(UsageError, match="words:50"):
        load_needles("words:many")


def test_a_users_set_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's path, or its name when it lies in needles/ of the working directory."""
    assert from_text(tmp_path, GOOD).name == "mine"
    (tmp_path / "needles").mkdir()
    (tmp_path / "needles" / "own.toml").write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_needles("own").needles[0].answers == (("4,712",),)
    assert "own" in set_names()
    assert "default" in set_names()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("id =", "idd ="), "needle 1: unknown key 'idd'; did you mean 'id'"),
        (('question = "How often does it turn?"', ""), "'question' is missing"),
        (('[["4,712"]]', '["4,712"]'), "answers is a list of key facts"),
        (('[["4,712"]]', "[]"), "answers is a list of key facts"),
        (('[["4,712"]]', '[["--"]]'), "answers is a list of key facts"),
        (('id = "a"', "id = 3"), "'id' is missing or empty"),
        (("[[needle]]", "[[needles]]"), "at least one"),
        (("[[needle]]", "[[needle"), "no valid TOML"),
        (("\nanswers", "\ndistractors = 'x'\nanswers"), "distractors is a list"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_text(tmp_path, GOOD.replace(*change))


def test_the_same_id_twice_and_unknown_sets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="id 'a' is used twice"):
        from_text(tmp_path, GOOD + GOOD)
    with pytest.raises(UsageError, match="did you mean 'default'"):
        load_needles("defualt")
    with pytest.raises(UsageError, match="cannot be read"):
        load_needles(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("4,712 times.", "4,712 times"), "does not end like a sentence"),
        (("turns 4,712 times", "turns often"), "no variant of the key fact"),
        (("How often", "How often, 4712 times,"), "gives away the key fact"),
        (('[["4,712"]]', '[["4,712"]]\ndistractors = ["Others turn 4712 times."]'), "a distractor holds all its key facts"),
        (("4,712 times.", "4,712 times. The town is Veldt."), ""),
        (('times."', 'times. It is red."\n'), ""),
    ],
)
def test_check_finds_what_spoils_a_needle(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    problems = list(check(from_text(tmp_path, GOOD.replace(*change))))
    assert any(problem in line for line in problems) if problem else problems == []


def test_check_finds_facts_torn_apart_and_needles_that_answer_each_other(tmp_path: Path) -> None:
    torn = GOOD.replace("4,712 times.", "4,712 times. It is ochre.").replace('[["4,712"]]', '[["4,712"], ["ochre"]]')
    assert "no single sentence" in next(iter(check(from_text(tmp_path, torn))))
    twin = GOOD + GOOD.replace('"a"', '"b"').replace('[["4,712"]]', '[["Veldt"]]')
    assert any("answers its question too" in problem for problem in check(from_text(tmp_path, twin)))


def test_documents_that_give_a_needle_away_are_found() -> None:
    needles = load_needles("san-francisco").needles
    text = "They EAT a  sandwich in Dolores\nPark on a sunny day."
    assert list(given_away(needles, [("x", text), ("y", "A sunny day.")])) == [("x", needles[0].id)]


@pytest.mark.skipif(not REAL.exists(), reason=f"real text is not there: {REAL}")
def test_no_real_document_gives_a_default_needle_away() -> None:
    pandas = pytest.importorskip("pandas")
    needles = load_needles("default").needles
    for path in sorted(REAL.glob("*.parquet")):
        rows = pandas.read_parquet(path, columns=["id", "text"]).itertuples(index=False)
        assert list(given_away(needles, rows)) == []
