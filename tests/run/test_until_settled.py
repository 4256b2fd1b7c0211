"""niah sweep --until-settled over real HTTP: what is asked, in which order, when it stops, and what it ends with."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from niah.run.order import balanced
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.run.command import found, here, lines, write_config

GRID = {"lengths": [300, 500], "depths": [0.0, 0.5, 1.0], "reshuffles": 20}
TRIALS = 120
MARGIN = ("--margin", "0.1")


@dataclass
class Place:
    url: str = ""
    configs: dict[str, Path] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def sweep(self, model: str, out: str, *words: str, config: str = "small") -> tuple[int, str, str]:
        done = here(
            "sweep", self.configs[config], "--model", f"server/{model}", "--base-url", self.url, "--out", out, "--concurrency", "1", *words
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def settle(self, model: str, out: str, *words: str, config: str = "small", base: str = "base.json") -> tuple[int, str, str]:
        return self.sweep(model, out, "--until-settled", "--baseline", base, *MARGIN, *words, config=config)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A working directory with the baseline of a good model, and a server with good, worse and broken ones."""
    folder, before, made = tmp_path_factory.mktemp("settle"), Path.cwd(), Place()
    os.chdir(folder)

    def answer(asked: Asked) -> Answer:
        model = asked.body["model"]
        made.asked[model] += 1
        if model == "stops" and made.asked[model] == 31:
            return failure(401)
        if model == "flaky" and made.asked[model] % 10 == 0:
            return failure(400)
        wrong = model == "worse" and made.asked[model] % 3 == 0
        return completion("Nobody knows." if wrong else found(asked))

    try:
        with ChatServer(answer) as server:
            made.url = server.url
            made.configs["small"] = write_config(folder, name="small", **GRID)
            made.configs["off"] = write_config(folder, name="off", **GRID, cue=["off"])
            made.configs["long"] = write_config(folder, name="long", **GRID | {"lengths": [400]})
            made.configs["cues"] = write_config(folder, name="cues", **GRID, cue=["off", "user"])
            assert made.sweep("good", "good")[0] == 0
            assert here("baseline", "save", "good", "base.json").returncode == 0
            yield made
    finally:
        os.chdir(before)


def test_an_equal_model_passes_early_and_is_not_asked_again(place: Place) -> None:
    code, out, _ = place.settle("equal", "equal")
    assert code == 0 and "PASS: stopped after 80 of 120 trials, certain enough: recall differs" in out
    assert place.asked["equal"] == 80 == len(lines(Path("equal")))
    there = json.loads(Path("equal/run.json").read_text(encoding="utf-8"))
    assert there["until_settled"] == {"margin": 0.1, "alpha": 0.05, "max_lost": 0.05} and "finished" in there
    code, out, _ = place.settle("equal", "equal")
    assert code == 0 and "settled after 80 of 120" in out and place.asked["equal"] == 80


def test_trials_are_asked_in_an_order_that_is_fair_to_all(place: Place) -> None:
    asked = [line["trial"] for line in lines(Path("equal"))]
    assert [(GRID["lengths"].index(t["length"]), GRID["depths"].index(t["depths"][0]), t["reshuffle"]) for t in asked] == balanced(
        2, 3, 20, 0
    )[:80]
    assert set(Counter(t["reshuffle"] for t in asked).values()) == {4}
    assert max(Counter(t["length"] for t in asked).values()) <= 44


def test_a_worse_model_fails_early_and_compare_says_the_same(place: Place) -> None:
    code, out, _ = place.settle("worse", "worse")
    assert code == 1 and out.index("REGRESSED: stopped after ") < out.index("The gate")
    assert place.asked["worse"] < TRIALS
    compared = here("compare", "base.json", "worse", *MARGIN, "--format", "json")
    data = json.loads(compared.stdout)
    assert compared.returncode == 1 and data["until_settled"]["state"] == "fail" and data["until_settled"]["high"] < 0
    assert data["until_settled"]["asked"] == place.asked["worse"] and data["until_settled"]["planned"] == TRIALS
    assert "not finished" not in " ".join(data["notes"]) and "missing" not in data["headline"]
    other = here("compare", "base.json", "worse")
    assert other.returncode == 2 and "worse was swept --until-settled with --margin 0.1 --alpha 0.05" in other.stderr
    saved = here("baseline", "save", "worse", "no.json")
    assert saved.returncode == 3 and "worse is not finished" in saved.stderr


def test_an_interrupted_sweep_goes_on_where_it_stopped(place: Place) -> None:
    code, out, err = place.settle("stops", "stops")
    assert code == 4 and "INCONCLUSIVE: open after 30 of 120 trials" in out and "not settled yet" in out and "401" in err
    code, out, _ = place.settle("stops", "stops")
    assert code == 0 and "PASS: stopped after 80 of 120" in out
    keys = [line["key"] for line in lines(Path("stops")) if line["reply"]]
    assert len(keys) == len(set(keys)) == 80


def test_where_too_much_is_lost_nothing_passes(place: Place) -> None:
    code, out, _ = place.settle("flaky", "flaky")
    assert code == 3 and place.asked["flaky"] == TRIALS and "all 120 of 120 trials asked" in out
    assert "INCONCLUSIVE" in out and "10.0% of the candidate's trials are not scored" in out


def test_several_models_each_have_a_verdict(place: Place) -> None:
    before = Counter(place.asked)
    code, out, _ = place.settle("worse", "two", "--model", "server/equal")
    headlines = [line.partition(" trials")[0] for line in out.splitlines() if line.startswith(("PASS: ", "REGRESSED: "))]
    assert code == 1 and headlines == ["REGRESSED: stopped after 60 of 120", "PASS: stopped after 80 of 120"]
    assert place.asked["equal"] - before["equal"] == 80


@pytest.mark.parametrize(
    ("out", "config", "words", "told"),
    [
        ("good", "small", (), "good was begun without --until-settled, which cannot be changed now"),
        ("equal", "small", ("--alpha", "0.01"), "equal was begun with --margin 0.1 --alpha 0.05"),
        ("new", "off", (), "the prompts of this sweep are others than those of base.json"),
        ("new", "long", (), "no trial of this sweep stands in base.json"),
        ("new", "cues", (), "name one cue mode"),
        ("new", "small", ("--margin", "1.5"), "--margin 1.5 is no share of recall"),
        ("new", "small", ("--baseline", "none.json"), "none.json is neither"),
    ],
)
def test_what_cannot_be_settled_is_told_before_anything_is_asked(
    out: str, config: str, words: tuple[str, ...], told: str, place: Place
) -> None:
    before = Counter(place.asked)
    code, _, err = place.settle("equal", out, *words, config=config)
    assert code == 2 and told in err and place.asked == before and (out != "new" or not Path("new").exists() or not lines(Path("new")))


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--until-settled",), "give --baseline FILE too"), (("--baseline", "base.json"), "--baseline belongs to --until-settled")],
)
def test_the_two_options_go_together(words: tuple[str, ...], told: str, place: Place) -> None:
    code, _, err = place.sweep("equal", "new", *words)
    assert code == 2 and told in err


def test_a_cap_on_money_still_holds(place: Place) -> None:
    code, out, err = place.settle("capped", "capped", "--max-tokens", "20000")
    assert code == 4 and "max-tokens" in err and "open after" in out and place.asked["capped"] < 80
