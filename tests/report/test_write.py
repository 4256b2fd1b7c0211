"""The files of a report and the tables in the terminal."""

import json
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import matplotlib
import pandas
import pytest
from matplotlib.colors import to_hex
from rich.console import Console

from niah.errors import IncompleteError, UsageError
from niah.report import heatmap
from niah.report.clusters import wilson
from niah.report.pictures import slugs
from niah.report.stats import aggregate
from niah.report.write import COLUMNS, VIRIDIS, grids, table, write
from niah.trial import Record
from tests.report.records import grid, plan_counts, record, trial

LENGTHS, DEPTHS = [4_000, 32_000], [0.0, 0.5, 1.0]


def two_models() -> list[Record]:
    return list(
        chain(
            grid(LENGTHS, DEPTHS, lambda length, depth: 10, reshuffles=10, model="a/good"),
            grid(LENGTHS, DEPTHS, lambda length, depth: 5 if length > 4_000 else 10, reshuffles=10, model="b/weak"),
        )
    )


def shown(*tables: object, width: int = 120) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(*tables)
    return capture.get()


def test_a_run_of_one_model_makes_four_files(tmp_path: Path) -> None:
    written = write(grid(LENGTHS, DEPTHS, lambda length, depth: 9, reshuffles=10), tmp_path / "run")
    names = ["heatmap.png", "heatmap.svg", "cells.csv", "summary.json"]
    assert [path.name for path in written.files] == names
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(names), "and leaves nothing unfinished behind"
    assert written.results.records == 60


def test_several_models_share_a_heatmap_and_have_their_own(tmp_path: Path) -> None:
    names = {path.name for path in write(two_models(), tmp_path).files}
    assert names >= {f"heatmap{which}.{kind}" for which in ("", "-a-good", "-b-weak") for kind in ("png", "svg")}


def test_summary_says_what_the_records_say(tmp_path: Path) -> None:
    write(two_models(), tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    # by hand: ten texts of six trials make t = 2.262157. 60 of 60: n / (n + t^2). 45 of 60, where all misses are in five texts: sums of
    # deviations +-1.5, variance 10/9 * 22.5 / 3600, which makes the 60 trials worth 27
    rest = {"errors": 0, "refused": 0, "cut": 0, "truncated": 0, "overflow": 0, "missing": None, "trials": 60, "texts": 10, "needles": 10}
    lengths = {"effective_length_95": None, "effective_length_worst_depth": None, "effective_length_worst_depth_95": None}
    by, trend = ({model: entry.pop(name) for model, entry in found.items()} for name in ("by", "trend"))
    assert found == {
        "a/good": {"recall": 1.0, "low": 0.921413, "high": 1.0, "effective_length": 32_000, **lengths, **rest},
        "b/weak": {"recall": 0.75, "low": 0.532792, "high": 0.887541, "effective_length": 4_000, **lengths, **rest},
    }
    assert {name: set(groups) for name, groups in by["b/weak"].items()} == {
        "corpus": {"builtin/wikipedia"},
        "needle": {f"needle-{i}" for i in range(10)},
        "depth": {"0.0", "0.5", "1.0"},
        "length": {"4000", "32000"},
        "cue": {"off"},
    }
    assert by["b/weak"]["length"]["32000"]["recall"] == 0.5 and by["b/weak"]["needle"]["needle-7"]["recall"] == 0.5
    assert trend["a/good"] is None, "where nothing is missed there is no trend"
    assert trend["b/weak"]["doubling"]["high"] < 1 and trend["b/weak"]["depth"]["low"] < 1 < trend["b/weak"]["depth"]["high"]


def test_groups_tell_what_is_not_scored(tmp_path: Path) -> None:
    records = [
        record(1.0),
        record(of=trial(reshuffle=1), error="timeout"),
        record(0.0, of=trial(reshuffle=2, corpus="legal"), stop="length"),
    ]
    write(records, tmp_path)
    by = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["server/test"]["by"]["corpus"]
    assert by["builtin/wikipedia"]["trials"] == by["builtin/wikipedia"]["errors"] == 1
    assert by["legal"] == {"recall": None, "low": None, "high": None, "trials": 0, "cut": 1}


def test_summary_tells_cues_apart(tmp_path: Path) -> None:
    records = chain(
        grid([4_000], DEPTHS, lambda length, depth: 0, reshuffles=4, cue="off"),
        grid([4_000], DEPTHS, lambda length, depth: 4, reshuffles=4, cue="user"),
        grid([4_000], DEPTHS, lambda length, depth: 4, reshuffles=4, cue="user", model="b/one-cue"),
    )
    write(records, tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert found["server/test"]["recall"] == 0.5 and found["server/test"]["trials"] == 24
    assert {cue: entry["recall"] for cue, entry in found["server/test"]["cues"].items()} == {"off": 0, "user": 1}
    assert set(found["server/test"]["cues"]["off"]) == set(found["b/one-cue"])


def test_cells_are_tidy(tmp_path: Path) -> None:
    plan = [trial(4_000, 0.5, reshuffle=i) for i in range(5)]
    records = [record(1.0, of=plan[0]), record(0.5, of=plan[1]), record(of=plan[2], error="timeout"), record(None, of=trial(8_000))]
    write(records, tmp_path, planned=plan_counts(("server/test", one) for one in plan))
    frame = pandas.read_csv(tmp_path / "cells.csv")
    assert tuple(frame.columns) == COLUMNS
    first, second = frame.to_dict("records")
    low, high = wilson(2, 2)
    assert first == {
        **{
            "model": "server/test",
            "cue": "off",
            "length": 4_000,
            "depth": 0.5,
            "trials": 2,
            "recall": 0.75,
            "low": round(low, 6),
            "high": high,
        },
        **{"errors": 1, "cut": 0, "refused": 0, "truncated": 0, "overflow": 0, "missing": 2},
    }
    assert second["truncated"] == 1 and second["trials"] == 0 and pandas.isna(second["recall"]) and pandas.isna(second["missing"])
    assert (tmp_path / "cells.csv").read_text().splitlines()[1].endswith(",1,0,0,0,0,2")


def test_nothing_known_is_null_and_never_nan(tmp_path: Path) -> None:
    write([record(error="timeout", of=trial(4_000, depth)) for depth in DEPTHS], tmp_path)
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    entry = json.loads(text)["server/test"]
    assert (entry["recall"], entry["low"], entry["effective_length"], entry["trials"], entry["errors"]) == (None, None, None, 0, 3)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_recall_the_same_everywhere(value: float, tmp_path: Path) -> None:
    results = write(grid(LENGTHS, DEPTHS, lambda length, depth: int(3 * value), reshuffles=3), tmp_path).results
    assert {cell.recall for row in results.cells.values() for cell in row} == {value}
    assert shown(*grids(results)).count(f"{value:.2f}") == 6


def test_one_trial(tmp_path: Path) -> None:
    results = write([record()], tmp_path).results
    assert "1.000" in shown(table(results)) and "0.207 to 1.000" in shown(table(results))


def test_no_records_are_an_error_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / 'run'} holds no records")):
        write([], tmp_path / "run", planned={("server/test", "off", 4_000, 0.5): 3})
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IncompleteError, match=r"the report cannot be written to .*file: File exists"):
        write([record()], tmp_path / "file")


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write([record(0.0)], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def disk_full(*_: object, **__: object) -> list[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heatmap, "draw", disk_full)
    with pytest.raises(IncompleteError, match="No space left on device"):
        write([record(1.0)], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_equal_records_in_any_order_make_equal_files(tmp_path: Path) -> None:
    write(two_models(), tmp_path / "one")
    write(reversed(two_models()), tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    "name", ["a/b/c", 'say "hi", <b>it\'s</b>', "x" * 100, "模型/é", "[bold]not markup[/bold]", "..", "lone \udce9", "line\nbreak", "=1+1"]
)
def test_any_model_name(name: str, tmp_path: Path) -> None:
    written = write([record(model=name), record(model="other/model")], tmp_path)
    assert len({path.name.lower() for path in written.files}) == 8 and all(path.parent == tmp_path for path in written.files)
    assert set(json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))) == {name, "other/model"}
    frame = pandas.read_csv(tmp_path / "cells.csv", keep_default_na=False)
    assert set(frame["model"]) == {name.encode("utf-8", "backslashreplace").decode(), "other/model"}
    if name.isprintable():
        assert name.replace(" ", "") in re.sub(r"[\s│┃]", "", shown(table(written.results), width=200))


def test_names_of_files_are_told_apart() -> None:
    made = slugs(["a/b", "a b", "A/B", "模型", "другая", "y" * 100, "y" * 101, "plain"])
    assert len({slug.lower() for slug in made}) == 8 and made[-1] == "plain"
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", slug) for slug in made)


def test_the_title_says_needles_corpora_tokenizer_and_cue(tmp_path: Path) -> None:
    records = grid([4_000], DEPTHS, lambda length, depth: 30, reshuffles=30, cue="user", corpora=("legal", "medical"))
    write(records, tmp_path, about={"needles": "default", "run": "2026-11-22"})
    text = (tmp_path / "heatmap.svg").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", " ".join(re.findall(r">([^<]+)</text>", text)))
    for fact in ("server/test", "30 needles (default)", "corpora legal, medical", "tokenizer niah-8k", "cue user", "run 2026-11-22"):
        assert fact in text
    assert "recall 1.000 (95%: 0.956 to 1.000) · 90 trials · effective length 4k" in text


def test_the_title_says_what_is_unusual(tmp_path: Path) -> None:
    write([record(0.5, of=trial(depth=(0.2, 0.8), haystack="independent", distractors=3, needles=("a", "b")))], tmp_path)
    text = " ".join(re.findall(r">([^<]+)</text>", (tmp_path / "heatmap.svg").read_text(encoding="utf-8")))
    for fact in ("2 needles", "2 needles a prompt", "corpus builtin/wikipedia", "independent haystacks", "3 distractors"):
        assert fact in text
    assert "cue" not in text


def test_the_table_has_a_row_a_series_and_columns_only_for_what_happened() -> None:
    text = shown(table(aggregate(two_models())))
    assert "a/good" in text and "1.000" in text and "0.921 to 1.000" in text and "32k" in text
    assert "0.750" in text and "0.533 to 0.888" in text and "4k" in text
    assert "errors" not in text and "missing" not in text
    assert "errors" in shown(table(aggregate([*two_models(), record(error="timeout")])))
    assert "none" in shown(table(aggregate([record(0.0)])))


def test_the_grid_reads_without_colour() -> None:
    records = [one for one in two_models() if one.model == "b/weak"]
    records[0] = record(of=records[0].trial, model="b/weak", error="timeout")
    (made,) = grids(aggregate(records))
    text = shown(made)
    rows = [re.findall(r"[^│┃\s][^│┃]*[^│┃\s]", line) for line in text.splitlines() if "%" in line]
    assert rows == [["0%", "1.00 n=9 +1", "0.50"], ["50%", "1.00", "0.50"], ["100%", "1.00", "0.50"]]
    assert "n=10 unless said" in text


def test_wide_grids_are_left_to_the_picture() -> None:
    assert grids(aggregate(grid(range(1000, 12_000, 1000), [0.5], lambda length, depth: 1, reshuffles=1))) == []


def test_the_terminal_has_the_colours_of_the_picture() -> None:
    assert list(VIRIDIS) == [to_hex(matplotlib.colormaps["viridis"](i / 8)) for i in range(9)]


def test_importing_the_report_imports_nothing_heavy() -> None:
    code = "import sys, niah.report.write; print([m for m in ('pandas', 'scipy', 'matplotlib', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
