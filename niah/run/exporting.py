"""A run's records as files for other programs: a table, or logs of inspect_ai."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from niah.errors import IncompleteError, UsageError, did_you_mean
from niah.report.export import CsvTable, ParquetTable, Writer
from niah.report.inspect_log import About, InspectLog
from niah.report.pictures import slugs
from niah.run.spent import spent_in
from niah.run.store import describe, read
from niah.task.needles import NeedleSet
from niah.trial import Record

KINDS: Mapping[str, str] = {"parquet": "trials.parquet", "csv": "trials.csv", "inspect": "trials.eval"}
"""What a run can be exported as, and the name of the file in the run's folder."""


def export_run(folder: Path, kind: str, out: Path | None = None) -> list[Path]:
    """Writes the last standing record of each trial into `out` and returns the files: one, or for inspect one a model.

    Raises UsageError where there is nothing to export, IncompleteError where it cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"a run cannot be exported as {kind!r}; {did_you_mean(kind, KINDS)}")
    run, standing = describe(folder), _standing(folder)
    if not standing:
        raise UsageError(f"{folder} holds no records: there is nothing to export before `niah sweep` has asked a model")
    models = list(dict.fromkeys(standing.values()))
    paths = _paths(out or folder / KINDS[kind], models if kind == "inspect" else models[:1])
    try:
        paths[models[0]].parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=paths[models[0]].parent, prefix=".export-") as unfinished:
            made = {model: Path(unfinished) / path.name for model, path in paths.items()}
            with ExitStack() as files:
                writers = {model: files.enter_context(_writer(kind, path, run, model)) for model, path in made.items()}
                _write(folder, standing, lambda record: writers[record.model if kind == "inspect" else models[0]])
            for model, path in made.items():
                path.replace(paths[model])
    except OSError as error:
        raise IncompleteError(f"{paths[models[0]]} cannot be written: {error.strerror or error}") from None
    return list(paths.values())


def _standing(folder: Path) -> dict[int, str]:
    """The numbers and models of the records that stand for their trials: the last with a reply, or else the last."""
    stands: dict[tuple[str, str], tuple[bool, int]] = {}
    for number, record in enumerate(read(folder)):
        identity, answered = (record.model, record.trial.key), record.reply is not None
        if answered or not stands.get(identity, (False, 0))[0]:
            stands[identity] = (answered, number)
    return {number: model for (model, _), (_, number) in stands.items()}


def _write(folder: Path, standing: Mapping[int, str], writer_of: Callable[[Record], Writer]) -> None:
    def those(path: Path) -> Iterator[Record]:
        return (record for number, record in enumerate(read(path)) if number in standing)

    spent_in([folder], those, lambda _, record, dollars: writer_of(record).add(record, dollars))


def _paths(out: Path, models: list[str]) -> dict[str, Path]:
    """The file of each model: `out`, or beside it with the model's name in it where there are several."""
    if len(models) == 1:
        return {models[0]: out}
    return {model: out.with_name(f"{out.stem}-{slug}{out.suffix}") for model, slug in zip(models, slugs(models), strict=True)}


def _writer(kind: str, path: Path, run: Mapping[str, Any], model: str) -> Writer:
    if kind == "csv":
        return CsvTable(path)
    if kind == "parquet":
        return ParquetTable(path)
    needles = NeedleSet.from_json(run["needles"])
    about = About(
        name=str(run["experiment"]["name"]),
        model=model,
        created=str(run["created"]),
        finished="finished" in run,
        needles=needles.by_id(),
        needle_set=needles.name,
        version=str(run.get("niah", "")),
        experiment=run["experiment"],
    )
    return InspectLog(path, about)
