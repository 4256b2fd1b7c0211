"""niah compare and niah baseline over real runs: what the command line prints, writes and exits with."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from niah.errors import UsageError
from niah.report.verdict import Gate
from niah.run.sides import compare_sides, open_side
from niah.run.store import TRIALS
from niah.trial import Record
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.report.records import grid, trial
from tests.run.command import found, here, lines, write_config

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).parents[1] / "report/junit.xsd")))
GRID = {"models": ["server/good", "server/worse"], "lengths": [300, 500], "depths": [0.0, 0.5, 1.0], "reshuffles": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the runs `both` (two models of 120 trials), `half` (stopped) and `loud` (another cue)."""
    folder, before = tmp_path_factory.mktemp("compare"), Path.cwd()
    os.chdir(folder)
    asked_of: dict[str, int] = {}

    def answer(asked: Asked) -> Answer:
        model = asked.body["model"]
        asked_of[model] = asked_of.get(model, 0) + 1
        if model == "stops" and asked_of[model] > 50:
            return failure(401)
        if model == "broken":
            return failure(400)
        usage = {"prompt_tokens": len(asked.user) // 3, "completion_tokens": 20}
        return completion("Nobody knows." if model == "worse" and asked_of[model] % 4 == 0 else found(asked), usage=usage)

    try:
        with ChatServer(answer) as server:
            for name, fields in {
                "both": {},
                "half": {"models": ["server/stops"]},
                "loud": {"models": ["server/good"], "cue": ["off"]},
                "broken": {"models": ["server/broken"]},
            }.items():
                config = write_config(folder, name=name, **GRID | fields)
                here("sweep", config, "--base-url", server.url, "--out", name, "--concurrency", "1")
        yield folder
    finally:
        os.chdir(before)


def compared(place: Path, *words: str) -> tuple[int, str, str]:
    done = here("compare", *words)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_worse_model_of_the_same_run_fails_the_gate(place: Path) -> None:
    code, out, _ = compared(place, "both:server/good", "both:server/worse")
    assert code == 1 and out.startswith("REGRESSED: recall differs from the base by -0.")
    assert "120 (20 texts, 3 needles" in out and "input tokens an answer" in out and "unknown" in out
    assert compared(place, "both:server/good", "both:server/good", "--margin", "0.1")[0] == 0
    code, out, _ = compared(place, "both:server/worse", "both:server/good")
    assert code == 0 and out.startswith("PASS: recall differs from the base by +0.")


def test_every_format_says_the_same(place: Path) -> None:
    words = ("both:server/good", "both:server/worse", "--min-recall", "0.5", "--min-effective-length", "300")
    code, out, _ = compared(place, *words, "--format", "json")
    data = json.loads(out)
    assert data["exit_code"] == code == 1 and data["status"] == "regressed"
    assert [check["name"] for check in data["checks"]][1:] == ["complete", "recall at least 0.5", "effective length at least 300"]
    assert data["base"]["costs"]["output_tokens"] == 2_400 and data["base"]["costs"]["median_seconds"] > 0
    assert compared(place, *words, "--format", "md")[1].startswith("**REGRESSED: ")
    code, out, _ = compared(place, *words, "--format", "junit", "--out", "made/gate.xml")
    assert code == 1 and out.startswith("REGRESSED"), "people still see the table"
    root = etree.parse("made/gate.xml")
    SCHEMA.assertValid(root)
    assert int(root.find("testsuite").get("failures")) >= 1


def test_what_cannot_be_told_has_its_own_exit_code_and_a_choice(place: Path) -> None:
    words = ("both:server/good", "both:server/good", "--margin", "0.001")
    assert [compared(place, *words, *more)[0] for more in ((), ("--inconclusive", "fail"), ("--inconclusive", "pass"))] == [3, 1, 0]


def test_the_baseline_stands_for_the_run(place: Path) -> None:
    done = here("baseline", "save", "both:server/good", "kept/good.json")
    assert done.returncode == 0 and "120 trials of server/good" in done.stdout and "a trial)" in done.stdout
    text = Path("kept/good.json").read_text(encoding="utf-8")
    assert len(text) / 120 < 60 and "Quessenby" not in text and "127.0.0.1" not in text
    here("baseline", "save", "both:server/good", "kept/again.json")
    assert Path("kept/again.json").read_text(encoding="utf-8") == text
    with_run, with_file = (
        compared(place, base, "both:server/worse", "--format", "json") for base in ("both:server/good", "kept/good.json")
    )
    one, two = (json.loads(out) for _, out, _ in (with_run, with_file))
    assert with_run[0] == with_file[0] == 1
    assert (one["base"].pop("name"), two["base"].pop("name")) == ("both:server/good", "kept/good.json")
    assert one == two
    shown = here("baseline", "show", "kept/good.json")
    assert shown.returncode == 0 and "server/good" in shown.stdout and "contains" in shown.stdout and "1.000" in shown.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere", "both:server/good"), "nowhere is neither a run's folder, nor RUN:MODEL, nor a baseline file"),
        (("kept/none.json", "both:server/good"), "kept/none.json is neither"),
        (("both", "both:server/good"), "both holds 2 models: name one, as in both:server/good"),
        (("both:server/god", "both:server/good"), "has no model 'server/god'; did you mean 'server/good'?"),
        (("both.toml", "both:server/good"), "both.toml is no baseline"),
        (("corpus", "both:server/good"), "corpus is no run"),
        (("both:server/good", "loud"), "cue: user in the base, off in the candidate"),
        (("broken", "both:server/good"), "broken has no scored trial (3 errors)"),
        (("both:server/good", "both:server/worse", "--margin", "2"), "--margin 2 is no share"),
        (("both:server/good", "both:server/worse", "--min-effective-length", "long"), "--min-effective-length: 'long' is no length"),
        (("both:server/good", "both:server/worse", "--scorer", "exat"), "no record is scored by 'exat'; known: contains"),
        (("both:server/good", "both:server/worse", "--out", "both.toml/x"), "both.toml/x cannot be written"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(words: tuple[str, ...], told: str, place: Path) -> None:
    code, _, err = compared(place, *words)
    assert (code, err.count("\n")) == (2, 1) and told in err


def test_forced_sides_are_compared_and_say_so(place: Path) -> None:
    code, out, _ = compared(place, "both:server/good", "loud", "--force", "--margin", "0.2")
    assert code == 0 and "compared by force although not alike: cue: user in the base, off in the candidate" in out
    assert "120 (20 texts, 3 needles" in out


def test_a_half_done_candidate_is_incomplete_and_no_baseline(place: Path) -> None:
    side = open_side("half")
    assert side.missing == 70 and len(side.points) == 50
    code, out, _ = compared(place, "both:server/good", "half", "--margin", "0.5")
    assert code == 3 and "70 missing" in out and "half is not finished: 70 planned trials are missing" in out
    done = here("baseline", "save", "half", "kept/half.json")
    assert (done.returncode, done.stderr) == (
        3,
        "error: half is not finished: 70 trials are missing. Run its sweep again, then save the baseline\n",
    )
    assert not Path("kept/half.json").exists()


def test_a_candidate_without_any_answer_is_the_providers_failure(place: Path) -> None:
    code, out, _ = compared(place, "both:server/good", "broken", "--inconclusive", "pass")
    assert code == 4 and out.startswith("UNMEASURED: no trial is scored on both sides (the candidate: 3 errors, 117 missing)")
    done = here("baseline", "save", "broken", "kept/broken.json")
    assert done.returncode == 2 and "broken has no scored trial" in done.stderr


def copied(place: Path, name: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> str:
    """The run `both` with other lines."""
    folder = place / name
    folder.mkdir()
    (folder / "run.json").write_bytes((place / "both/run.json").read_bytes())
    (folder / TRIALS).write_text("".join(json.dumps(line) + "\n" for line in change(lines(place / "both"))), encoding="utf-8")
    return name


def test_an_empty_run_and_one_of_another_format_are_told(place: Path) -> None:
    empty = copied(place, "empty", lambda there: [])
    code, _, err = compared(place, "both:server/good", f"{empty}:server/good")
    assert code == 2 and "empty:server/good holds no records of server/good" in err
    newer = copied(place, "newer", lambda there: [{**there[0], "format": 9}])
    code, _, err = compared(place, "both:server/good", f"{newer}:server/good")
    assert code == 2 and "written by a newer niah" in err


def test_one_trial_and_other_lengths(place: Path) -> None:
    one = copied(place, "one", lambda there: there[:1])
    code, out, _ = compared(place, "both:server/good", f"{one}:server/good")
    assert code == 3 and "one text and one needle are one sample" in out
    other = copied(
        place,
        "other",
        lambda there: [{**line, "trial": {**line["trial"], "length": 900}} if line["trial"]["length"] == 500 else line for line in there],
    )
    code, out, _ = compared(place, "both:server/good", f"{other}:server/good", "--margin", "0.5")
    assert code == 0 and "60 only in the base, 60 only in the candidate" in out


def test_a_torn_last_line_is_left_out(place: Path) -> None:
    name = copied(place, "torn", lambda there: there)
    with (place / name / TRIALS).open("ab") as file:
        file.write(b'{"format": 1, "mod')
    assert compared(place, "both:server/good", f"{name}:server/good", "--margin", "0.1")[0] == 0


def test_names_with_colons(place: Path) -> None:
    (place / "run:with:colons").symlink_to(place / "both")
    assert open_side("run:with:colons:server/good").model == "server/good"
    assert open_side(str(place / "both") + ":server/worse").model == "server/worse"
    with pytest.raises(UsageError, match="nothing is there"):
        open_side("run:without")


def test_a_hundred_thousand_trials(place: Path, tmp_path: Path) -> None:
    """Less than ten seconds of CPU; here a tenth of the trials. Measured: 0.8 s, and 1.8 with coverage; the bound is for busy machines."""
    count, place_of = 10_000, {}
    for name, misses in (("left", 1), ("right", 2)):
        folder = tmp_path / name
        folder.mkdir()
        there = json.loads((place / "both/run.json").read_text(encoding="utf-8"))
        there["experiment"] |= {
            "models": ["server/m"],
            "lengths": list(range(1_000, 26_000, 1_000)),
            "depths": [i / 19 for i in range(20)],
            "reshuffles": 20,
        }
        there["cues"] = {"server/m": ["off"]}
        (folder / "run.json").write_text(json.dumps(there), encoding="utf-8")
        with (folder / TRIALS).open("w", encoding="utf-8") as file:
            for number, each in enumerate(_many(count)):
                value = 0.0 if number % 20 < misses else 1.0
                made = replace(each, model="server/m", scores=(replace(each.scores[0], value=value),))
                file.write(json.dumps(made.to_json()) + "\n")
        place_of[name] = str(folder)
    began = time.process_time()
    verdict = compare_sides(place_of["left"], place_of["right"], Gate())
    assert time.process_time() - began < 8
    assert verdict.comparison.difference is not None and verdict.comparison.difference.trials == count
    assert verdict.comparison.difference.mean == pytest.approx(-0.05)


def _many(count: int) -> Iterator[Record]:
    one = next(grid([4_000], [0.5], lambda *_: 1, reshuffles=1))
    for number in range(count):
        length, depth, reshuffle = number // 400, number // 20 % 20, number % 20
        yield replace(one, trial=trial(1_000 * (length + 1), depth / 19, reshuffle=reshuffle, needles=[f"n{number % 30}"]))


def test_help_names_the_exit_codes() -> None:
    out = here("compare", "--help").stdout
    assert re.search(r"Exit code 0: .*1: .*3: .*4: ", out, re.DOTALL)
