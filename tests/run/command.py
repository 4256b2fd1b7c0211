"""The command line in processes of its own, and small experiments for it."""

import contextlib
import csv
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from niah.config import Experiment, load_experiment
from niah.run.plan import Plan, gather
from niah.trial import Cue, Trial
from tests.chat_server import Asked, prompt_id
from tests.run import drawn

WORDS = (
    "the river mill keeper carried grain over old stone bridge while weather held and nobody in village asked why market closed "
    "early because rain had filled every barrel behind small church near northern gate where children used to wait for evening boats"
)

NEEDLES = """
name = "three"
[[needle]]
id = "bell"
text = "The bell tower of Quessenby was finished by a mason called Hob Grindrel."
question = "Which mason finished the bell tower of Quessenby?"
answers = [["Hob Grindrel", "Grindrel"]]
[[needle]]
id = "prisms"
text = "The lens at Tarrowmere holds 3,846 prisms, the lowest scratched by Ottilwe Brask."
question = "How many prisms does the lens at Tarrowmere hold, and who scratched the lowest?"
answers = [["3,846", "3846"], ["Ottilwe Brask", "Brask"]]
[[needle]]
id = "bees"
text = "The beekeepers of Corvane gather each autumn in the covered market of Plessowick."
question = "Where do the beekeepers of Corvane gather each autumn?"
answers = [["Plessowick"]]
"""
TEXTS = {
    "bell": "The bell tower of Quessenby was finished by a mason called Hob Grindrel.",
    "prisms": "The lens at Tarrowmere holds 3,846 prisms, the lowest scratched by Ottilwe Brask.",
    "bees": "The beekeepers of Corvane gather each autumn in the covered market of Plessowick.",
}
QUESTIONS = {"bell": "Which mason finished", "prisms": "How many prisms does", "bees": "Where do the beekeepers"}


def write_corpus(folder: Path, *, documents: int = 90, seed: int = 1) -> Path:
    """A corpus of plain sentences, about 80 words a document."""
    folder.mkdir(parents=True)
    draw, words = random.Random(seed), WORDS.split()
    for number in range(documents):
        sentences = (" ".join(draw.choices(words, k=draw.randint(6, 14))).capitalize() + "." for _ in range(8))
        (folder / f"{number:02}.txt").write_text(" ".join(sentences), encoding="utf-8")
    return folder


def write_config(folder: Path, *, name: str = "small", corpora: Sequence[str] = ("corpus",), **fields: Any) -> Path:
    """An experiment file in `folder`, with its needles and its corpora beside it."""
    for corpus in corpora:
        if not (folder / corpus).exists():
            write_corpus(folder / corpus, seed=len(corpus) + sum(map(ord, corpus)))
    (folder / "three.toml").write_text(NEEDLES, encoding="utf-8")
    table: dict[str, Any] = {
        "models": ["server/m"],
        "corpora": list(corpora),
        "needles": "three.toml",
        "lengths": [300, 500],
        "depths": [0.0, 0.5, 1.0],
        "reshuffles": 3,
    }
    sampling = fields.pop("sampling", None)
    lines = [f"{key} = {json.dumps(value)}" for key, value in (table | fields).items()]
    if sampling:
        lines += ["[sampling]", *(f"{key} = {json.dumps(value)}" for key, value in sampling.items())]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def experiment(path: Path, **overrides: Any) -> Experiment:
    return load_experiment(str(path), overrides)


def prompts(made: Experiment, cues: tuple[Cue, ...] = ("user",)) -> dict[str, Trial]:
    """The trial of each prompt of an experiment, by the prompt's id; to be called in the experiment's folder."""
    plan = Plan(made, gather(made))
    return {prompt_id(plan.materials.maker.make(trial).messages()): trial for trial in plan.trials(cues)}


def found(asked: Asked) -> str:
    """The needle's sentence that a good reader finds: read from the prompt alone."""
    needle = next(id_ for id_, question in QUESTIONS.items() if question in asked.user)
    assert TEXTS[needle] in asked.user
    return TEXTS[needle]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "niah", *map(str, words)]


def uncovered() -> dict[str, str]:
    """The environment without coverage: a command that runs all of its life in a process of its own starts in half the time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def niah(*words: str | Path, seconds: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, timeout=seconds, env={**uncovered(), **PLAIN, **environment}, check=False
    )


def here(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same as `niah` in this process: quicker, as everything is imported already, and what was drawn once is not drawn again."""
    from niah.cli import _run

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**PLAIN, **environment}),
        mock.patch.object(sys, "argv", ["niah", *map(str, words)]),
        drawn.once(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = _run()
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def start(*words: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """The command line in the background."""
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**uncovered(), **PLAIN, **environment}
    )


PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "CI": "1"}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of trials.jsonl."""
    path = folder / "trials.jsonl"
    content = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def answered(folder: Path) -> list[tuple[str, str]]:
    """(model, key) of every record with a reply, as often as it is there."""
    return [(line["model"], line["key"]) for line in lines(folder) if line["reply"]]


def cells(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "cells.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))
