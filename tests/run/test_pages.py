"""`niah report --html` and `--serve` over runs in folders: the text around needles, what is gone, and who is answered."""

import json
import os
import shutil
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from niah.config import load_experiment
from niah.errors import UsageError
from niah.run.plan import Plan
from niah.run.serve import open_server
from niah.trial import Failure
from tests.report.test_page_data import carried
from tests.run.command import here, start, write_config
from tests.run.made import begin, lines, records


@pytest.fixture
def run(folder: Path) -> tuple[Path, Plan]:
    """A finished run of 36 trials of two models: all of one reshuffle are misses, and one call failed."""
    plan = begin(load_experiment(str(write_config(folder, models=["server/m", "baseline/bm25"])), {}), folder / "run")
    every = list(records(plan, lambda model, asked, needle: "no idea" if asked.reshuffle == 2 else needle.text))
    failed = next(records(plan, lambda *_: Failure(kind="server", message="503")))
    (folder / "run/trials.jsonl").write_text(lines([failed, *every[1:]]), encoding="utf-8")
    return folder / "run", plan


def written(run: Path) -> dict[str, Any]:
    done = here("report", run, "--html")
    assert done.returncode == 0, done.stderr
    assert str(run / "report.html") in done.stdout
    return carried((run / "report.html").read_bytes())


def test_the_text_around_a_needle_is_that_of_the_prompt(run: tuple[Path, Plan]) -> None:
    folder, plan = run
    data = written(folder)
    columns, needles = data["trials"], plan.materials.needles.by_id()
    prompts = {trial.key[:8]: (trial, plan.materials.maker.make(trial).context) for trial in plan.trials(("user",))}
    assert len(columns["key"]) == 36
    for key, number in zip(columns["key"], columns["prompt"], strict=True):
        trial, context = prompts[key]
        [[before, after]] = data["prompts"][number]
        assert before + needles[trial.needles[0]].text + after in context
        assert len(before) + len(after) > 200
    assert data["prompts_absent"] == {}
    assert sorted(data["answers"]) == sorted({"503", "no idea", *(needle.text for needle in needles.values())})
    assert [one["facts"] for one in data["needles"] if one["id"] == "prisms"] == [
        [["3,846", "3846", "3846"], ["Ottilwe Brask", "ottilwe brask", "brask"]]
    ]
    first = (folder / "report.html").read_bytes()
    assert carried(first) == written(folder)
    assert (folder / "report.html").read_bytes() == first


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_text_that_is_not_at_hand_is_told_by_its_reason(run: tuple[Path, Plan], how: str) -> None:
    folder, _ = run
    if how == "gone":
        shutil.rmtree(folder.parent / "corpus")
    else:
        (folder.parent / "corpus/00.txt").write_text("Another text.", encoding="utf-8")
    data = written(folder)
    assert set(data["trials"]["prompt"]) == {-1}
    assert data["prompts"] == []
    assert ("the corpus' text changed" if how == "changed" else "neither a known corpus nor an existing path") in data["prompts_absent"][
        "corpus"
    ]


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    with open_server(folders) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def fetched(address: str, **headers: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return answer.status, answer.read(), answer.headers.get("ETag", "")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), ""


def test_only_this_machine_is_answered_and_only_what_is_new_is_sent(run: tuple[Path, Plan]) -> None:
    folder, _ = run
    with served(folder) as address:
        status, content, mark = fetched(f"{address}data?have=")
        assert status == 200
        assert len(json.loads(content)["trials"]["key"]) == 36
        assert fetched(f"{address}data?have={mark}")[:2] == (204, b"")
        with (folder / "trials.jsonl").open("ab") as file:
            file.write(b'{"format": 1, "torn')
        status, again, newer = fetched(f"{address}data?have={mark}")
        assert (status, again) == (200, content)
        assert newer != mark
        assert fetched(address, Host="niah.example.com")[0] == 403
        assert fetched(f"{address}run.json")[0] == 404
        assert fetched(f"{address}../../etc/passwd")[0] == 404


def test_a_run_that_has_not_begun_or_cannot_be_read_is_told(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert "Waiting" in json.loads(fetched(f"{address}data")[1])["error"]
        (tmp_path / "run.json").write_text("{", encoding="utf-8")
        (tmp_path / "trials.jsonl").touch()
        assert "cannot be read" in json.loads(fetched(f"{address}data")[1])["error"]
    with pytest.raises(UsageError, match="no folder"):
        open_server([tmp_path / "none"])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="--port"):
        open_server([tmp_path], port=taken.getsockname()[1])


def test_ctrl_c_ends_the_server(run: tuple[Path, Plan]) -> None:
    with start("report", run[0], "--serve") as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told.startswith("http://127.0.0.1:"), told
        assert fetched(told.split()[0])[0] == 200
        os.kill(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in complaint
