"""Sweeps with the command line against `transformers serve` over a checkpoint, and what they left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from niah.config import load_experiment
from niah.run.plan import Plan, gather
from niah.run.store import read
from niah.trial import Cue, Prompt, Record, Trial
from tests.peers.process import offline
from tests.peers.server import Server
from tests.run.command import uncovered

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
PYTHON = Path(os.environ.get("NIAH_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
ABSENT = f"no peers' environment: `make peers` makes it, or NIAH_PEERS_PYTHON names its python ({PYTHON} is not there)"
MAKE_CHECKPOINT = Path(__file__).with_name("tiny_checkpoint.py")

peers = [pytest.mark.peers, pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT), pytest.mark.timeout(1200)]

CAP = 12
IN_FLIGHT = 8
CUE: Cue = "user"
REAL = [str(SHARED / f"{name}.parquet") for name in ("medical", "wikipedia") if (SHARED / f"{name}.parquet").is_file()]
CORPORA = ["builtin/wikipedia", "builtin/legal", *REAL]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A finished sweep: what was planned, what is on the disk, and the requests that the server logged for it."""

    config: Path
    folder: Path
    ended: Ended
    plan: Plan
    planned: Mapping[str, tuple[Trial, Prompt]]
    records: list[Record]
    statuses: list[int]

    @property
    def pairs(self) -> Iterator[tuple[Record, Trial, Prompt]]:
        for record in self.records:
            yield record, *self.planned[record.trial.key]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    path = folder / "tiny"
    subprocess.run([PYTHON, MAKE_CHECKPOINT, "make", path], env=offline(), check=True, capture_output=True, timeout=600)
    return path


@pytest.fixture(scope="module")
def server(folder: Path, checkpoint: Path) -> Iterator[Server]:
    with Server(PYTHON, checkpoint, folder / "server.log") as running:
        yield running


def experiment(
    path: Path,
    *,
    lengths: list[int],
    reshuffles: int,
    depths: tuple[float, ...] = (0, 0.5, 1),
    models: Sequence[str] = ("server/tiny",),
    cap: int = CAP,
) -> Path:
    """Write a config. JSON's lists, strings and numbers are TOML's."""
    fields = {
        "models": models,
        "corpora": CORPORA,
        "lengths": lengths,
        "depths": depths,
        "reshuffles": reshuffles,
        "cue": CUE,
        "concurrency": IN_FLIGHT,
    }
    top = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    path.write_text("\n".join([*top, "[sampling]", f"max_output_tokens = {cap}", "temperature = 0", ""]), encoding="utf-8")
    return path


def niah(*arguments: object, cwd: Path) -> Ended:
    """Run the command line as a user does."""
    with start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=600)
    return Ended(code=process.returncode, out=out, err=err)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in uncovered().items() if name != "NIAH_SERVER_KEY"}
    environment |= {"NIAH_CACHE": str(cwd / "cache"), "NO_PROXY": "127.0.0.1", "COLUMNS": "120", "OMP_NUM_THREADS": "1", "CI": "1"}
    command = [sys.executable, "-m", "niah", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_sweep(config: Path, out: Path, server: Server, **options: str) -> Sweep:
    before = len(server.statuses())
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    ended = niah("sweep", config, *given, "--base-url", server.url, "--out", out, cwd=config.parent)
    assert ended.code == 0, f"{ended.out}\n{ended.err}\n{server.tail()}"
    planned = open_plan(config, **options)
    return Sweep(
        config=config,
        folder=out,
        ended=ended,
        plan=planned,
        planned={trial.key: (trial, planned.materials.maker.make(trial)) for trial in planned.trials((CUE,))},
        records=list(read(out)),
        statuses=server.statuses()[before:],
    )


def open_plan(config: Path, **options: str) -> Plan:
    """The plan of an experiment, made here and not by the command."""
    loaded = load_experiment(str(config), options)
    return Plan(loaded, gather(loaded))


def summary(out: Path, model: str = "server/tiny") -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))[model]


def lines(text: str) -> list[str]:
    return text.strip().splitlines()
