"""What reports over 100,000 trials cost: CPU seconds and memory of each command, in a process of its own.

`python benchmarks/report.py [--trials 100000] [--html]`. Two runs of synthetic records (25 lengths x 20 depths, 4 corpora, 30 needles, a
priced model with answers of 200 characters) are written into a temporary folder; the second misses twice as often as the first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from niah.trial import Fingerprints, Placement, Record, Reply, Sampling, Score, Trial, Usage

ROOT = Path(__file__).parents[1]
MODEL = "openai/gpt-4o-mini"
LENGTHS, DEPTHS = [1_000 * (i + 1) for i in range(25)], [i / 19 for i in range(20)]
CORPORA = ("builtin/wikipedia", "builtin/legal", "builtin/financial", "builtin/medical")
MOST_CPU_SECONDS, MOST_BYTES = 10.0, 1_000_000_000
ANSWER = "Asked where the beekeepers gather, the text says that they meet each autumn in the covered market. " * 2


def write_run(folder: Path, trials: int, misses: int) -> None:
    """`misses` of 20 trials miss."""
    folder.mkdir(parents=True)
    run: dict[str, Any] = json.loads((ROOT / "results" / "example" / "run.json").read_text(encoding="utf-8"))
    reshuffles = trials // len(LENGTHS) // len(DEPTHS)
    grid = {"models": [MODEL], "lengths": LENGTHS, "depths": DEPTHS, "reshuffles": reshuffles, "distractors": 0}
    for part in ("identity", "experiment"):
        run[part] |= grid
    run["cues"] = {MODEL: ["off"]}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    needles = [needle["id"] for needle in run["needles"]["needle"]]
    marks = run["fingerprints"]
    one = Trial(
        corpus="", needles=(), length=1, depths=(0.0,), reshuffle=0, seed=0, template="default", cue="off", sampling=Sampling(),
        tokenizer="niah-8k", haystack="shared", distractors=0,
        fingerprints=Fingerprints(corpus="", needles=marks["needles"], tokenizer=marks["tokenizer"], template=marks["template"]),
    )  # fmt: skip
    with (folder / "trials.jsonl").open("w", encoding="utf-8") as file:
        number = 0
        for length in LENGTHS:
            for depth in DEPTHS:
                for reshuffle in range(reshuffles):
                    corpus, needle = CORPORA[reshuffle % len(CORPORA)], needles[number % len(needles)]
                    prints = replace(one.fingerprints, corpus=marks["corpora"][corpus])
                    of = replace(
                        one, corpus=corpus, needles=(needle,), length=length, depths=(depth,), reshuffle=reshuffle, fingerprints=prints
                    )
                    file.write(json.dumps(_record(of, hit=number % 20 >= misses).to_json()) + "\n")
                    number += 1


def _record(trial: Trial, *, hit: bool) -> Record:
    usage = Usage(input=trial.length + 20, cached=0, output=40, reasoning=0)
    return Record(
        model=MODEL,
        trial=trial,
        tokens=trial.length - 9,
        placements=(
            Placement(needle=trial.needles[0], asked=trial.depths[0], actual=trial.depths[0], token=int(trial.depths[0] * trial.length)),
        ),
        reply=Reply(text=ANSWER, usage=usage, seconds=0.5 + trial.length / 20_000, model="gpt-4o-mini"),
        scores=(Score(scorer="contains", value=float(hit), found=(hit,), why="all key facts found" if hit else "missing: Plessowick"),),
        error=None,
        at="2026-11-23T10:00:00.000+00:00",
    )


def cost_of(*words: str | Path) -> tuple[float, int]:
    """CPU seconds and the most bytes of memory that a command took."""
    command = [sys.executable, "-m", "niah", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1, 3):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--html", action="store_true", help="the HTML page too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, misses in (("base", 1), ("candidate", 2)):
            write_run(folder / name, asked.trials, misses)
        print(f"{asked.trials:,} trials a run; {(folder / 'base' / 'trials.jsonl').stat().st_size / 1e6:,.0f} MB")
        commands = {
            "niah report": ("report", folder / "base"),
            "niah compare": ("compare", folder / "base", folder / "candidate"),
            **{f"niah export --format {kind}": ("export", folder / "base", "--format", kind) for kind in ("parquet", "csv", "inspect")},
            **({"niah report --html": ("report", folder / "base", "--html")} if asked.html else {}),
        }
        for name, words in commands.items():
            seconds, most = cost_of(*words)
            bound = "" if "export" in name else " (bound: 10 s, 1 GB)"
            over = bool(bound) and (seconds > MOST_CPU_SECONDS or most > MOST_BYTES)
            print(f"{name:32} {seconds:6.1f} s of CPU {most / 1e6:7.0f} MB{bound}{' OVER' if over else ''}", flush=True)


if __name__ == "__main__":
    main()
