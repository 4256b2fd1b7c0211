"""What the HTML page is made of: nothing is lost, nothing of it is code, equal results give equal bytes, and it stays small."""

import base64
import hashlib
import html.parser
import json
import random
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from niah.report import page_data as module
from niah.report.page import SCRIPTS, live_page, page
from niah.report.page_data import HEAD_CHARACTERS, TAIL_CHARACTERS, Details, Excerpt, Fact, NeedleText, Texts, page_data, shortened
from niah.report.stats import aggregate
from niah.task.corpus import open_corpus
from niah.trial import Record, Reply, Score
from tests.report.records import FINGERPRINTS, grid, record, trial

WEB = Path(module.__file__).parent / "web"
TEXT = st.text(st.characters(), max_size=60) | st.sampled_from(
    [
        "</script><script>1</script>",
        "<!--",
        "\u2028\u2029",
        "\ud800",
        "a\ud83d",
        "]]>",
        "\x00\x1b[2J",
        "\u202egnp",
        "{{data}}",
        '"><img src=x>',
        "\\",
    ]
)

NAME = TEXT.filter(lambda text: not re.search("[\ud800-\udfff]", text))
"""A corpus or a needle has a name in UTF-8, for a trial's key is made of it."""


def told(records: Iterable[Record], *, texts: Texts | None = None, planned: Any = None) -> dict[str, Any]:
    """The page's data."""
    details, kept = Details(), list(records)
    for each in kept:
        details.add(each, 0.25)
    return page_data(aggregate(kept, planned=planned), details, texts or Texts(needles={}))


def carried(content: bytes) -> Any:
    """The data in a page."""
    found = re.search(rb'id="data">([A-Za-z0-9+/=]*)</script>', content)
    assert found
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def elements(content: bytes) -> list[str]:
    """The page's elements in their order."""
    tags: list[str] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(content.decode())
    parser.close()
    return tags


def answered(text: str, **fields: Any) -> Record:
    made = record(0.0, **fields)
    return replace(made, reply=Reply(text=text, model="m"))


def test_every_trial_is_there_with_its_numbers() -> None:
    records = list(grid([1000, 4000], [0.0, 0.5], lambda *_: 2, reshuffles=3, corpora=("a", "b")))
    data = told(records)
    columns = data["trials"]
    assert {len(column) for column in columns.values()} == {12}
    at = [(data["lengths"][length], data["depths"][depth]) for length, depth in zip(columns["length"], columns["depth"], strict=True)]
    assert sorted(set(at)) == [(1000, 0.0), (1000, 0.5), (4000, 0.0), (4000, 0.5)]
    by_key = {each.trial.key[:8]: each for each in records}
    for i in range(12):
        mine = by_key[columns["key"][i]]
        assert at[i] == (mine.trial.length, mine.trial.depths[0])
        assert data["corpora"][columns["corpus"][i]] == mine.trial.corpus
        assert data["asked"][columns["asked"][i]]["label"] == mine.trial.needles[0]
        assert data["outcomes"][columns["outcome"][i]] == ("hit" if mine.scores[0].value else "miss")
        assert (columns["reshuffle"][i], columns["tokens"][i], columns["cost"][i]) == (mine.trial.reshuffle, mine.tokens, 0.25)
        assert data["answers"][columns["answer"][i]] == "an answer"


def test_a_trial_asked_again_counts_as_its_last_answer() -> None:
    first, later = record(error="server"), answered("second")
    for order in ([first, later], [later, first]):
        data = told(order)
        assert [data["answers"][n] for n in data["trials"]["answer"]] == ["second"]
        assert [data["outcomes"][n] for n in data["trials"]["outcome"]] == ["miss"]


def test_another_scorer_brings_its_own_reason() -> None:
    scores = (
        Score(scorer="contains", value=1.0, found=(True,), why="all"),
        Score(scorer="exact", value=0.0, found=(False,), why="not bare"),
    )
    details, kept = Details("exact"), [record(scores=scores)]
    details.add(kept[0], None)
    data = page_data(aggregate(kept, scorer="exact"), details, Texts(needles={}))
    assert [data["whys"][n] for n in data["trials"]["why"]] == ["not bare"]
    assert [data["outcomes"][n] for n in data["trials"]["outcome"]] == ["miss"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answer=TEXT, model=TEXT, corpus=NAME, needle=NAME.filter(bool), around=TEXT)
def test_no_text_is_code(answer: str, model: str, corpus: str, needle: str, around: str) -> None:
    """Whatever a model, a corpus or a user wrote: the page has the same elements, and the text is there as it was."""
    asked = trial(corpus=corpus, needles=[needle])
    wanted = NeedleText(id=needle, text=answer, question=around, facts=(Fact(name=around, forms=(around,)),))
    texts = Texts(needles={FINGERPRINTS.needles: [wanted]}, excerpts={asked.key: [Excerpt(around, answer)]}, absent={corpus: around})
    content = page(told([replace(answered(answer, of=asked), model=model)], texts=texts))
    assert elements(content) == elements(page(told([])))
    data = carried(content)
    assert data["answers"] == [answer]
    assert (data["series"][0]["model"], data["corpora"]) == (model, [corpus])
    assert data["prompts"] == [[[around, answer]]]
    assert data["needles"] == [{"id": needle, "text": answer, "question": around, "facts": [[around, around]]}]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_equal_results_give_equal_bytes(draw: random.Random) -> None:
    """The order in which answers came does not show."""
    records = [replace(each, reply=Reply(text=each.trial.key[:5])) for each in grid([1000, 2000], [0.0, 1.0], lambda *_: 1, reshuffles=3)]
    mixed = records.copy()
    draw.shuffle(mixed)
    assert page(told(mixed)) == page(told(records))


@given(st.integers(0, 3), st.integers(0, 4000))
def test_a_long_answer_is_shortened_by_what_it_says(extra: int, length: int) -> None:
    text = "abc\u00e9" * (length + extra)
    short = shortened(text)
    if isinstance(short, str):
        assert short == text
        assert len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS
    else:
        head, left_out, tail = short
        assert len(head) + left_out + len(tail) == len(text)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert left_out > 0


def test_a_megabyte_of_text_makes_no_megabyte() -> None:
    assert len(page(told([answered("x" * 1_000_000 + str(n), of=trial(reshuffle=n)) for n in range(20)]))) < 100_000


def test_answers_beyond_the_budget_go_and_hits_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_CHARACTERS", 450)
    hits = [replace(record(1.0, of=trial(reshuffle=n)), reply=Reply(text=f"{n:0100}")) for n in range(5)]
    misses = [answered(f"{n:0100}", of=trial(reshuffle=n)) for n in range(5, 8)]
    data = told([*hits, *misses])
    kept = {
        data["outcomes"][outcome] for outcome, answer in zip(data["trials"]["outcome"], data["trials"]["answer"], strict=True) if answer < 0
    }
    assert kept == {"hit"}
    assert len(data["answers"]) == 4
    assert data["answers_left_out"] == 4


def protocol(answers: Sequence[str]) -> tuple[list[Record], Texts]:
    """As many trials as the anthropic protocol has, answers of the usual length, and excerpts of real documents."""
    corpus, draw = open_corpus("builtin/legal"), random.Random(1)
    text = " ".join(corpus.document(number).text for number in range(300))
    lengths = [1000, 4000, 8000, 16000, 32000, 64000, 128000, 200000]
    asked = [
        trial(length, step / 10, reshuffle=n, corpus=f"builtin/{n % 4}") for length in lengths for step in range(11) for n in range(20)
    ]
    excerpts: dict[str, list[Excerpt]] = {}
    made: list[Record] = []
    for number, each in enumerate(asked):
        at = draw.randrange(len(text) - 600)
        excerpts[each.key] = [Excerpt(text[at : at + 260], text[at + 260 : at + 520])]
        words = " ".join(draw.choices(text[:20_000].split(), k=25))
        made.append(replace(answered(f"{answers[number % len(answers)]} {words}", of=each), at=str(number)))
    needles = [NeedleText(id=f"needle-{n}", text=text[n * 150 : n * 150 + 140], question=text[:80], facts=()) for n in range(30)]
    return made, Texts(needles={FINGERPRINTS.needles: needles}, excerpts=excerpts)


def test_the_anthropic_protocol_is_below_a_megabyte() -> None:
    """1,760 trials with answers of about 200 characters that all differ, and the text around every needle."""
    made, texts = protocol(["The documents say that the bell tower was finished by a mason from the next village,"])
    data = told(made, texts=texts)
    assert len(data["trials"]["key"]) == 1760
    assert data["answers_left_out"] == 0
    assert len(data["prompts"]) == 1760
    assert len(page(data)) < 1_000_000


def test_the_policy_names_what_is_there_and_no_address() -> None:
    for content, connect in ((page(told([])), "'none'"), (live_page(), "'self'")):
        text = content.decode()
        found = re.search(r'Security-Policy" content="([^"]*)"', text)
        assert found
        policy = dict(part.split(" ", 1) for part in found[1].split("; "))
        for tag, name in (("style", "style-src"), ("script", "script-src")):
            inside = re.findall(rf"<{tag}(?: type=\"module\")?>(.*?)</{tag}>", text, re.DOTALL)
            assert len(inside) == 1
            assert policy[name] == f"'sha256-{base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()}'"
        assert (policy["default-src"], policy["connect-src"], policy["form-action"]) == ("'none'", connect, "'none'")
        assert not re.search(r"https?:|//[a-z]+\.[a-z]", re.sub(r'id="data">[^<]*', "", text))


def test_the_program_puts_text_into_the_page_as_text_only() -> None:
    for name in SCRIPTS:
        source = (WEB / name).read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|</script|<!--", source
        ), name
        assert len(source.splitlines()) <= 400


def test_the_colours_are_those_of_the_heatmap() -> None:
    """Between the stops that the page has, it is always nearer to matplotlib's than four of 255."""
    from matplotlib import colormaps

    from niah.report.heatmap import COLOURS

    found = re.search(r'VIRIDIS = "([^"]*)"\s*\+ "([^"]*)"', (WEB / "heatmap.js").read_text(encoding="utf-8"))
    assert found
    stops = [[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in (found[1] + found[2]).split()]
    for step in range(256):
        at = step / 255 * (len(stops) - 1)
        low = min(int(at), len(stops) - 2)
        mine = [a + (b - a) * (at - low) for a, b in zip(stops[low], stops[low + 1], strict=True)]
        theirs = [255 * value for value in colormaps[COLOURS](step / 255)[:3]]
        assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 4
