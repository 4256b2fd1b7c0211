"""The page in headless Chromium: by mouse and by keyboard, filtered, hostile, dark, narrow and printed. Live: test_page_live.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from niah.report.clusters import estimate
from niah.report.labels import depth_labels, length_labels, recall_label
from niah.report.page import page as page_of
from niah.report.page_data import Details, Excerpt, Fact, NeedleText, Texts, page_data
from niah.report.stats import LOST, Results, aggregate, cells_of
from niah.trial import Failure, Record, Reply, Score
from tests.browser import Watched, cell, needs_browser, read
from tests.report.records import FINGERPRINTS, grid, record, trial

pytestmark = needs_browser

HOSTILE = (
    "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script></script><!--",
    "\u202egnorw\u2066 and \x07\x1b[31m bells \u2028 \ud83d half",
    "<b>bold</b> " + "x" * 1_000_000 + " the end",
    "javascript:window.hacked=1 http://example.com/steal",
)
"""Answers that try to be more than text."""
NEEDLE = NeedleText(
    id="needle-0",
    text="The lens holds 3,846 prisms, the lowest scratched by Zoë Brask-Öl.",
    question="How many prisms, and who?",
    facts=(Fact(name="3,846", forms=("3846",)), Fact(name="Zoë Brask-Öl", forms=("zoë brask öl",))),
)
HOSTILE_NAME = "server/<img src=x onerror=window.hacked=1>"


def made() -> tuple[list[Record], Texts]:
    """Two models, one of them with a hostile name; errors, refusals, hostile answers, and one whose key facts are found."""
    corpora = ("a", "b", "c", "d")
    one = list(
        grid(
            [1000, 4000, 8000],
            [0.0, 0.5, 1.0],
            lambda length, depth: 7 if length == 1000 else 4,
            reshuffles=8,
            corpora=corpora,
            model="server/one",
        )
    )
    two = list(grid([1000, 4000, 8000], [0.0, 0.5, 1.0], lambda length, depth: 2, reshuffles=8, corpora=corpora, model=HOSTILE_NAME))
    for number, text in enumerate(HOSTILE):
        two[number] = replace(two[number], reply=Reply(text=text))
    two[9] = record(error="server", of=two[9].trial, model=HOSTILE_NAME)
    two[10] = record(0.0, stop="refusal", of=two[10].trial, model=HOSTILE_NAME)
    two[11] = record(0.5, of=two[11].trial, model=HOSTILE_NAME)
    found = Score(scorer="contains", value=1.0, found=(True, True), why="all key facts found")
    answer = "<think>3846 perhaps</think> It holds **3,846** prisms,\nscratched by zoe\u0308 brask\u2011o\u0308l."
    one[0] = replace(one[0], reply=Reply(text=answer), scores=(found,))
    needles = [replace(NEEDLE, id=f"needle-{number}") for number in range(30)]
    excerpts = {each.trial.key: [Excerpt("in front </script> of it. ", " <i>behind</i> it.")] for each in one[:20]}
    return one + two, Texts(needles={FINGERPRINTS.needles: needles}, excerpts=excerpts, absent={"d": "the corpus is gone"})


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A page in a file, and the results that it shows."""
    kept, texts = made()
    details, results = Details(), aggregate(kept)
    for each in kept:
        details.add(each, 0.001)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(page_of(page_data(results, details, texts, title=[("corpora", "<b>a</b>")])))
    return path, results


def expected(results: Results, keep: Any = lambda point: True) -> dict[str, str]:
    """What the cells should say, reckoned by niah/report/stats.py."""
    said: dict[str, str] = {}
    for series, points in results.points.items():
        places = {(one.length, one.depth): f"cell/{series.name}/{one.length}/{one.depth:g}" for one in results.cells[series]}
        there = {(one.length, one.depth): one for one in cells_of(point for point in points if keep(point))}
        lengths, depths = sorted({length for length, _ in places}), sorted({depth for _, depth in places})
        for (length, depth), name in places.items():
            head = f"length {length_labels(lengths)[lengths.index(length)]}, depth {depth_labels(depths)[depths.index(depth)]}"
            one = there.get((length, depth))
            if one is None or one.recall is None:
                parts = [head, "no scored trial"]
            else:
                assert one.low is not None
                assert one.high is not None
                trials = f"{one.trials} trial{'s' * (one.trials != 1)}"
                parts = [
                    head,
                    f"recall {recall_label(one.recall)}",
                    f"95% interval {recall_label(one.low)} to {recall_label(one.high)}",
                    trials,
                ]
            if one is not None and one.lost:
                counts = (f"{count} {'error' if (kind, count) == ('errors', 1) else kind}" for kind, count in one.lost.items())
                parts.append(f"not scored: {', '.join(counts)}")
            said[name] = ", ".join(parts)
    return said


def test_nothing_leaves_the_page_and_nothing_runs(watched: Watched, shown: tuple[Path, Results]) -> None:
    """Every trial of the hostile model opened: its text is shown, none of it is code, and no request goes out."""
    tab = watched.open(shown[0])
    cell(tab, HOSTILE_NAME, 1000, 0).click()
    texts: list[str] = []
    for number in range(8):
        tab.locator("#list tbody button").nth(number).click()
        texts.append(tab.locator(".answer").first.inner_text())
        assert tab.locator(".answer :not(mark, .note)").count() == 0
    joined = "\n".join(texts)
    assert HOSTILE[0] in joined
    assert "\u27e8U+202E\u27e9gnorw\u27e8U+2066\u27e9" in joined
    assert "\u2407\u241b[31m" in joined
    assert "998,020 characters are left out" in joined
    assert joined.count("x" * 1000) == 1
    assert tab.evaluate("[typeof window.hacked, document.querySelectorAll('img, main script').length]") == ["undefined", 0]
    assert HOSTILE_NAME in tab.locator("#overall").inner_text()
    assert watched.requests == [shown[0].as_uri()]
    assert watched.complaints == []


def test_the_cells_say_what_the_statistics_say_with_every_filter(watched: Watched, shown: tuple[Path, Results]) -> None:
    path, results = shown
    tab = watched.open(path)
    assert read(tab) == expected(results)
    tab.locator("#filter-corpus").select_option("b")
    assert read(tab) == expected(results, lambda point: point.corpus == "b")
    tab.locator("#filter-needle").select_option("needle-1")
    assert read(tab) == expected(results, lambda point: (point.corpus, point.needle) == ("b", "needle-1"))
    assert "corpus b, needle needle-1" in tab.locator("#selection caption").inner_text()
    assert "Wilson" in tab.locator("#selection caption").inner_text()
    tab.get_by_role("button", name="Clear").click()
    assert read(tab) == expected(results)
    assert tab.locator("#selection").inner_text() == ""
    tab.locator("#filter-outcome").select_option("error")
    lost = next(iter(points for series, points in results.points.items() if series.model == HOSTILE_NAME))
    there = [point for point in lost if (point.length, point.depth) == (1000, 0.5)]
    share, low, high = estimate(sum(point.outcome == "error" for point in there), len(there))
    assert LOST["error"] == "errors"
    assert share is not None and low is not None and high is not None
    wanted = f"error: {recall_label(share)} (1 of 8 asked), 95% interval {recall_label(low)} to {recall_label(high)}"
    assert wanted in read(tab)[f"cell/{HOSTILE_NAME}/1000/0.5"]
    overall = tab.locator("#overall tbody tr").first.inner_text()
    assert recall_label(next(iter(results.summaries.values())).recall or 0, 3) in overall


def test_what_is_not_scored_has_no_colour_of_a_recall(watched: Watched, shown: tuple[Path, Results]) -> None:
    """A cell without a scored trial is hatched, and one with an error bears a corner."""
    tab = watched.open(shown[0])
    assert cell(tab, HOSTILE_NAME, 1000, 0.5).locator(".lost").count() == 1
    assert cell(tab, "server/one", 1000, 0.5).locator(".lost").count() == 0
    tab.locator("#filter-needle").select_option("needle-1")
    tab.locator("#filter-corpus").select_option("b")
    empty = cell(tab, HOSTILE_NAME, 1000, 0.5)  # its only trial of this needle is the error
    assert empty.get_attribute("class") == "empty"
    assert empty.evaluate("(cell) => cell.style.backgroundColor") == ""


def test_the_keyboard_leads_from_a_cell_to_a_trial_and_back(watched: Watched, shown: tuple[Path, Results]) -> None:
    tab = watched.open(shown[0])
    assert tab.locator("td[role=gridcell][tabindex='0']").count() == 2
    here = "document.activeElement.dataset.at ?? document.activeElement.id"
    cell(tab, "server/one", 1000, 0).focus()
    for key, wanted in (
        ("ArrowRight", "4000/0"),
        ("ArrowDown", "4000/0.5"),
        ("End", "8000/0.5"),
        ("ArrowRight", "8000/0.5"),
        ("Control+Home", "1000/0"),
    ):
        tab.keyboard.press(key)
        assert tab.evaluate(here) == f"cell/server/one/{wanted}"
        assert "recall" in tab.locator("#tip").inner_text()
    tab.keyboard.press("Enter")
    assert tab.evaluate(here) == "list-title"
    while not tab.evaluate(here).startswith("trial/"):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate(here) == "trial-title"
    tab.keyboard.press("Escape")
    assert tab.evaluate(here).startswith("trial/")
    tab.keyboard.press("Escape")
    assert tab.evaluate(here) == "cell/server/one/1000/0"
    assert tab.locator("#list").is_hidden()


def test_a_trial_shows_its_needle_its_key_facts_and_its_numbers(watched: Watched, shown: tuple[Path, Results]) -> None:
    tab = watched.open(shown[0])
    cell(tab, "server/one", 1000, 0).click()
    tab.locator("#list tbody button", has_text="needle-0").click()
    assert tab.locator(".answer mark").all_inner_texts() == ["3,846", "zoe\u0308 brask\u2011o\u0308l"]
    assert "3,846: found" in tab.locator(".facts").inner_text()
    assert tab.locator("mark.needle").inner_text() == NEEDLE.text
    assert "in front </script> of it. The lens" in tab.locator("blockquote:has(mark.needle)").inner_text()
    numbers = tab.locator("#trial dl").inner_text()
    assert "all key facts found" in numbers
    assert "$0.0010" in numbers
    assert HOSTILE_NAME in tab.locator(".others").inner_text()
    tab.get_by_role("button", name="next").click()
    tab.locator("#list tbody button", has_text="needle-3").click()
    assert "not here" not in tab.locator("#trial").inner_text()
    tab.locator(".others button").click()
    assert tab.locator("#trial > .note").first.inner_text() == HOSTILE_NAME


def test_text_that_is_gone_is_told(watched: Watched, shown: tuple[Path, Results]) -> None:
    tab = watched.open(shown[0])
    cell(tab, "server/one", 8000, 1).click()
    tab.locator("#list tbody tr", has_text="d").locator("button").first.click()
    assert "The text around is not here" in tab.locator("#trial").inner_text()


def test_tables_have_captions_and_heads(watched: Watched, shown: tuple[Path, Results]) -> None:
    tab = watched.open(shown[0])
    counts = tab.evaluate(
        "[...document.querySelectorAll('table')].map((table) => [table.querySelectorAll('caption, [aria-labelledby]').length + (table.getAttribute('aria-labelledby') ? 1 : 0), table.querySelectorAll('thead th[scope=col]').length, table.querySelectorAll('tbody tr').length - table.querySelectorAll('tbody th[scope=row]').length])"
    )
    assert len(counts) >= 6
    assert all(names and heads and rest == 0 for names, heads, rest in counts)
    assert tab.evaluate("document.documentElement.lang") == "en"


def test_one_trial_is_no_trials(watched: Watched, tmp_path: Path) -> None:
    kept, details = [record()], Details()
    details.add(kept[0], None)
    (tmp_path / "one.html").write_bytes(page_of(page_data(aggregate(kept), details, Texts(needles={}))))
    tab = watched.open(tmp_path / "one.html")
    tab.get_by_role("button", name="List trials").click()
    said = tab.locator("main").inner_text()
    assert "recall 1.000, 1 trial" in said and "1 trial. A needle's name" in said
    assert "1 trials" not in said + "".join(read(tab).values())


def test_dark_narrow_and_printed(watched: Watched, shown: tuple[Path, Results]) -> None:
    """No page is wider than a phone; the dark one is dark; what is printed has the numbers and no controls."""
    tab = watched.open(shown[0])
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(ground) == "rgb(22, 24, 28)"
    tab.locator("#theme").select_option("light")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    tab.locator("#theme").select_option("dark")
    tab.emulate_media(color_scheme="light")
    assert tab.evaluate(ground) == "rgb(22, 24, 28)"
    cell(tab, HOSTILE_NAME, 1000, 0).click()
    tab.locator("#list tbody button").first.click()
    for details in tab.locator("details").all():
        details.evaluate("(each) => { each.open = true; }")
    tab.set_viewport_size({"width": 360, "height": 740})
    assert tab.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
    tab.emulate_media(media="print")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    assert tab.locator("#filters").is_hidden()
    assert tab.locator("table.grid").first.is_visible()
    assert tab.locator(".answer").is_visible()


def test_errors_are_told_as_errors(watched: Watched, tmp_path: Path) -> None:
    one = replace(record(error="server", of=trial()), error=Failure(kind="server", message="503 <b>overloaded</b>"))
    details = Details()
    details.add(one, None)
    (tmp_path / "page.html").write_bytes(page_of(page_data(aggregate([one]), details, Texts(needles={}))))
    tab = watched.open(tmp_path / "page.html")
    tab.locator("td[role=gridcell]").click()
    tab.locator("#list tbody button").click()
    assert tab.locator(".answer").inner_text() == "503 <b>overloaded</b>"
    assert "error" in tab.locator("#trial dl").inner_text()
    assert watched.complaints == []
