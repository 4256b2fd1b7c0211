"""niah export, report and compare over whole folders: frozen runs of each format, and runs that are not as they should be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from niah.report.stats import aggregate
from niah.run.exporting import KINDS, export_run
from niah.run.store import RUN, TRIALS, read
from niah.trial import FORMAT
from tests.run.command import here

FORMATS = Path(__file__).parents[1] / "report" / "formats"
PRESENT = FORMATS / str(FORMAT)
Line = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the frozen run: two models, 16 trials each, one of the first with an error before its answer."""
    return Path(shutil.copytree(PRESENT, tmp_path / "run"))


def changed(run: Path, change: Callable[[list[Line]], list[Line]]) -> Path:
    lines = [json.loads(line) for line in (run / TRIALS).read_text(encoding="utf-8").splitlines()]
    (run / TRIALS).write_text("".join(json.dumps(line) + "\n" for line in change(lines)), encoding="utf-8")
    return run


def scored(line: Line, value: float) -> Line:
    return {
        **line,
        "error": None,
        "reply": {**GOOD, "stop": "end"},
        "scores": [{"scorer": "contains", "value": value, "found": [], "why": ""}],
    }


GOOD: Line = json.loads((PRESENT / TRIALS).read_text(encoding="utf-8").splitlines()[0])["reply"]


# formats


@pytest.mark.parametrize("folder", sorted(FORMATS.iterdir()), ids=lambda folder: folder.name)
def test_every_format_that_ever_was_can_be_read(folder: Path) -> None:
    """What a run once said it always says: these files are never made anew."""
    results = aggregate(read(folder))
    one, two = results.summaries.values()
    assert (results.records, one.trials, one.recall) == (32, 16, 1.0)
    assert (two.trials, two.errors, two.refused, two.cut, two.truncated, two.overflow) == (11, 1, 1, 1, 1, 1)
    assert two.recall == pytest.approx(9.5 / 11)
    assert len({record.trial.key for record in read(folder)}) == 16
    lines = (folder / TRIALS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == [record.trial.key for record in read(folder)]


@pytest.mark.parametrize("name", [RUN, TRIALS])
def test_a_newer_format_is_refused_in_one_line(run: Path, name: str) -> None:
    text = (run / name).read_text(encoding="utf-8")
    (run / name).write_text(text.replace('"format": 1', '"format": 9').replace('"format":1', '"format":9'), encoding="utf-8")
    for command in (["report", str(run)], ["export", str(run), "--format", "csv"], ["compare", f"{run}:server/one", f"{run}:server/two"]):
        done = here(*command)
        assert done.returncode == 2 and done.stdout == ""
        assert "written by a newer niah (format 9, this one reads up to 1)" in done.stderr and done.stderr.count("\n") == 1


# niah export


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_command_writes_one_whole_file(run: Path, kind: str) -> None:
    before = {path.name for path in run.iterdir()}
    done = here("export", str(run), "--format", kind)
    made = {path.name for path in run.iterdir()} - before
    assert done.returncode == 0, done.stderr
    models = ("-server-one", "-server-two") if kind == "inspect" else ("",)
    assert made == {KINDS[kind].replace(".", f"{model}.") for model in models}
    assert done.stdout.split() == [str(run / KINDS[kind].replace(".", f"{model}.")) for model in models]


def test_a_trial_is_one_line_with_the_record_that_stands(run: Path) -> None:
    (path,) = export_run(run, "parquet", run / "new folder" / "out.parquet")
    frame = pandas.read_parquet(path)
    assert len(frame) == 32 and not frame.duplicated(["model", "key"]).any()
    two = frame[frame["model"] == "server/two"]
    counts = two["outcome"].value_counts().to_dict()
    assert counts == {"hit": 9, "miss": 1, "partial": 1, "cut": 1, "refused": 1, "truncated": 1, "error": 1, "overflow": 1}
    assert two["value"].mean() == pytest.approx(9.5 / 11), "pandas leaves out what is not scored"
    assert frame["dollars"].isna().sum() == 32, "the price of a server is unknown"
    assert (frame.groupby("model")["outcome"].count() == 16).all()
    assert [path.name for path in path.parent.iterdir()] == ["out.parquet"]


def test_a_failed_export_leaves_the_old_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = export_run(run, "csv")
    before = path.read_bytes()
    changed(run, lambda lines: [*lines[:5], {"nothing": 1}])
    assert here("export", str(run), "--format", "csv").returncode == 2
    assert path.read_bytes() == before and not [one for one in run.iterdir() if one.name.startswith(".export")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "--format", "csv"], "nowhere is no run"),
        (["RUN", "--format", "xlsx"], "xlsx"),
        (["RUN", "--format", "csv", "--out", "RUN/trials.jsonl/x.csv"], "cannot be written"),
    ],
)
def test_wrong_exports_are_told(run: Path, words: list[str], told: str) -> None:
    done = here("export", *(word.replace("RUN", str(run)) for word in words))
    assert done.returncode in (2, 3) and told in done.stderr and "Traceback" not in done.stderr


# runs that are not as they should be


def test_a_run_without_records_is_told_by_all_three(run: Path) -> None:
    changed(run, lambda _: [])
    assert (here("report", str(run)).returncode, here("export", str(run), "--format", "csv").returncode) == (2, 2)
    done = here("compare", f"{run}:server/one", f"{run}:server/two")
    assert done.returncode == 2 and "holds no records of server/one" in done.stderr


CASES: dict[str, Callable[[list[Line]], list[Line]]] = {
    "half done": lambda lines: lines[:9],
    "one model": lambda lines: [line for line in lines if line["model"] == "server/one"],
    "one trial": lambda lines: lines[:1],
    "all errors": lambda lines: [{**line, "reply": None, "scores": [], "error": {"kind": "server", "message": "500"}} for line in lines],
    "recall 0": lambda lines: [scored(line, 0.0) for line in lines],
    "recall 1": lambda lines: [scored(line, 1.0) for line in lines],
    "other lengths and depths": lambda lines: [
        {**line, "trial": {**line["trial"], "length": 999, "depths": [0.3]}} if line["model"] == "server/two" else line for line in lines
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_report_and_export_take_what_there_is(run: Path, name: str) -> None:
    changed(run, CASES[name])
    done = here("report", str(run), "--format", "svg")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    text = (run / "curves.svg").read_text(encoding="utf-8") + (run / "heatmap.svg").read_text(encoding="utf-8")
    if name == "all errors":
        assert found["server/one"]["recall"] is None and found["server/one"]["errors"] == 16
        assert ">0.00<" not in text and "16 errors" in text
    if name in ("recall 0", "recall 1"):
        assert {model["recall"] for key, model in found.items() if key != "total"} == {float(name[-1])}
    if name in ("half done", "one trial"):
        assert "planned trials still missing" in text
    if name == "other lengths and depths":
        assert not (run / "difference.svg").exists() and "999" in text
    paths = export_run(run, "csv")
    frame = pandas.read_csv(paths[0])
    assert len(frame) == len({(record.model, record.trial.key) for record in read(run)})
    assert all(path.stat().st_size for path in export_run(run, "inspect"))


@pytest.mark.parametrize(
    ("name", "code"),
    [("one model", 2), ("all errors", 2), ("recall 0", 3), ("recall 1", 3), ("half done", 2), ("other lengths and depths", 2)],
)
def test_compare_tells_or_refuses(run: Path, name: str, code: int, tmp_path: Path) -> None:
    changed(run, CASES[name])
    picture = tmp_path / "pictures" / "difference.svg"
    done = here("compare", f"{run}:server/one", f"{run}:server/two", "--picture", str(picture))
    assert done.returncode == code and "Traceback" not in done.stderr
    assert picture.exists() == (code == 3)


def test_compare_draws_what_it_says(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "difference.pdf"
    done = here("compare", f"{run}:server/one", f"{run}:server/two", "--picture", str(picture), "--format", "json")
    assert picture.read_bytes().startswith(b"%PDF") and json.loads(done.stdout)["difference"]["mean"] < 0
    wrong = here("compare", f"{run}:server/one", f"{run}:server/two", "--picture", str(tmp_path / "difference.jpg"))
    assert wrong.returncode == 2 and "jpg" in wrong.stderr and wrong.stdout == ""
