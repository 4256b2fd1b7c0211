"""Runs made without a model: a plan's real trials, and answers from a function."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from niah.config import Experiment
from niah.run.plan import Plan, gather
from niah.run.sweep import description
from niah.task.score import contains
from niah.trial import Failure, Needle, Placement, Record, Reply, Trial, Usage

Answer = Callable[[str, Trial, Needle], str | Failure]
"""What a model answers to a trial: text, or a failure."""


def begin(experiment: Experiment, folder: Path) -> Plan:
    """Write run.json, and an empty trials.jsonl."""
    materials = gather(experiment)
    told = description(experiment, materials, {model: ["user"] for model in experiment.models})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**told, "created": "2026-11-23T10:00:00+00:00"}), encoding="utf-8")
    (folder / "trials.jsonl").touch()
    return Plan(experiment, materials)


def records(plan: Plan, answer: Answer) -> Iterator[Record]:
    """The records of all models."""
    needles = plan.materials.needles.by_id()
    for model in plan.experiment.models:
        for trial in plan.trials(("user",)):
            asked = [needles[id_] for id_ in trial.needles]
            told = answer(model, trial, asked[0])
            reply = (
                Reply(text=told, seconds=1.25, model="served", usage=Usage(input=trial.length, output=9)) if isinstance(told, str) else None
            )
            yield Record(
                model=model,
                trial=trial,
                tokens=trial.length - 3,
                placements=tuple(
                    Placement(needle=one.id, asked=depth, actual=depth, token=7) for one, depth in zip(asked, trial.depths, strict=True)
                ),
                reply=reply,
                scores=(contains(asked, reply),) if reply else (),
                error=told if isinstance(told, Failure) else None,
                at="2026-11-23T10:00:00Z",
            )


def lines(some: Iterable[Record]) -> str:
    """As they stand in trials.jsonl."""
    return "".join(json.dumps(record.to_json()) + "\n" for record in some)
