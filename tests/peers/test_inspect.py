"""The logs of niah export in the hands of inspect_ai itself: its readers take them, and its numbers are ours."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from niah.report.stats import aggregate
from niah.run.exporting import export_run
from niah.run.store import TRIALS, read
from niah.trial import SCORED, outcome

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("NIAH_INSPECT_PYTHON") or ROOT / ".venv-inspect" / "bin" / "python")
ABSENT = f"no inspect_ai: `make peers` makes its environment, or NIAH_INSPECT_PYTHON names its python ({PYTHON} is not there)"

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT), pytest.mark.timeout(600)]

HOSTILE = 'half \ud83d of <b>"it"</b>\x00\x1b[31m\u202e\n' + "x" * 1_000_000
READ = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_sample, read_eval_log_sample_summaries
told = []
for path in sys.argv[1:]:
    log, summaries = read_eval_log(path), read_eval_log_sample_summaries(path)
    own = {one.id: one.model_dump() for one in summaries}
    told.append({
        "status": log.status,
        "model": log.eval.model,
        "metrics": {name: one.value for name, one in log.results.scores[0].metrics.items()},
        "scored": [log.results.scores[0].scored_samples, log.results.scores[0].unscored_samples],
        "samples": {
            one.id: {
                "outcome": one.metadata["outcome"],
                "text": one.output.completion,
                "scores": {name: score.value for name, score in (one.scores or {}).items()},
                "error": one.error.message if one.error else None,
                "limit": one.limit.type if one.limit else None,
                "question": one.input,
                "target": one.target,
                "tokens": one.output.usage.total_tokens if one.output.usage else None,
            }
            for one in log.samples
        },
        "differing": [one.id for one in log.samples if one.summary().model_dump() != own[one.id]],
        "single": read_eval_log_sample(path, id=log.samples[0].id, epoch=1).id == log.samples[0].id,
        "header": read_eval_log(path, header_only=True).results.total_samples,
    })
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The frozen run of the present format, with an answer that no JSON likes, and its logs."""
    run = Path(shutil.copytree(ROOT / "tests" / "report" / "formats" / "1", tmp_path_factory.mktemp("inspect") / "run"))
    lines = [json.loads(line) for line in (run / TRIALS).read_text(encoding="utf-8").splitlines()]
    lines[0]["reply"]["text"] = HOSTILE
    (run / TRIALS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run, export_run(run, "inspect")


@pytest.fixture(scope="module")
def logs(exported: tuple[Path, list[Path]]) -> list[dict[str, Any]]:
    """What inspect_ai reads in each."""
    made = subprocess.run([PYTHON, "-c", READ, *exported[1]], capture_output=True, text=True, timeout=500, check=False)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def test_its_results_are_ours(exported: tuple[Path, list[Path]], logs: list[dict[str, Any]]) -> None:
    ours = aggregate(read(exported[0])).summaries
    for (series, one), log in zip(ours.items(), logs, strict=True):
        assert log["model"] == series.model and log["status"] == "success"
        assert log["metrics"] == pytest.approx({"recall": one.recall, "low": one.low, "high": one.high})
        assert log["scored"] == [one.trials, 16 - one.trials] and log["header"] == 16


def test_its_samples_are_our_trials(exported: tuple[Path, list[Path]], logs: list[dict[str, Any]]) -> None:
    for record in read(exported[0]):
        log = next(log for log in logs if log["model"] == record.model)
        sample = log["samples"][record.trial.key]
        if record.error is not None and sample["error"] is None:
            continue  # asked again later, and answered
        assert sample["outcome"] == outcome(record) and sample["question"].endswith("?") and sample["target"]
        assert (sample["error"] is not None) == (record.error is not None)
        assert (sample["limit"] == "token") == (outcome(record) == "cut")
        counts = outcome(record) in SCORED
        assert sample["scores"] == ({score.scorer: score.value for score in record.scores} if counts else {})
        if record.reply is not None and "half" not in record.reply.text[:5]:
            assert sample["text"] == record.reply.text
            assert sample["tokens"] == (record.reply.usage.input or 0) + (record.reply.usage.output or 0)


def test_summaries_are_those_that_it_would_make(logs: list[dict[str, Any]]) -> None:
    assert [log["differing"] for log in logs] == [[], []] and all(log["single"] for log in logs)


def test_text_that_no_json_likes_survives(logs: list[dict[str, Any]]) -> None:
    texts = [sample["text"] for sample in logs[0]["samples"].values()]
    assert HOSTILE.replace("\ud83d", "\\ud83d") in texts


def test_equal_runs_give_equal_logs(exported: tuple[Path, list[Path]], tmp_path: Path) -> None:
    again = export_run(exported[0], "inspect", tmp_path / "trials.eval")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in exported[1]]
