"""The sides of a comparison, from where the user has them: a run's folder, one model of it, or a baseline file."""

import gc
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from niah.errors import IncompleteError, UsageError, did_you_mean
from niah.report.baseline import dumps, loads
from niah.report.compare import matched_trials
from niah.report.difference import draw_difference
from niah.report.pictures import difference_note, kinds_of
from niah.report.side import Collector, Costs, Side
from niah.report.verdict import Gate, Verdict, check_gate, judge, judge_alone
from niah.run.settling import agenda_of
from niah.run.spent import spent_in
from niah.run.store import describe, read, write_whole
from niah.run.sweep import planned
from niah.trial import Record


def compare_sides(  # noqa: PLR0913
    base: str, candidate: str, gate: Gate, *, force: bool = False, scorer: str | None = None, picture: Path | None = None
) -> Verdict:
    """The gate's verdict over two sides as the user names them. Their difference by length and depth is drawn as `picture`."""
    check_gate(gate)
    kinds = kinds_of(picture.suffix) if picture else ()
    with no_collection():
        sides = open_side(base, scorer=scorer), open_side(candidate, scorer=scorer)
        verdict = judge(*sides, gate, force=force)
    if picture:
        _draw(picture, kinds, *sides, verdict)
    return verdict


def verdicts_of(  # noqa: PLR0913
    base: str | None, candidate: str, gate: Gate, *, force: bool = False, scorer: str | None = None, picture: Path | None = None
) -> list[Verdict]:
    """The verdict on each model that `candidate` names: all of a run's, if it names none. Without a base by the gate's floors only."""
    names = _models_of(candidate)
    if picture and (base is None or len(names) > 1):
        raise UsageError("--picture shows the difference of two models: give a base, and name one model of the run, as in RUN:MODEL")
    if base is not None:
        return [compare_sides(base, name, gate, force=force, scorer=scorer, picture=picture) for name in names]
    check_gate(gate)
    return [judge_alone(open_side(name, scorer=scorer), gate) for name in names]


def _models_of(name: str) -> list[str]:
    path, model = _split(name)
    models = describe(path)["experiment"]["models"] if path.is_dir() and not model else []
    return [f"{path}:{each}" for each in models] if len(models) > 1 else [name]


def _draw(picture: Path, kinds: Sequence[str], base: Side, candidate: Side, verdict: Verdict) -> None:
    pairs = matched_trials(base, candidate, verdict.comparison.differences)
    names = (f"{base.model} ({base.name})", f"{candidate.model} ({candidate.name})")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_difference(
            base.points, candidate.points, pairs, picture.with_suffix(""), names=names, note=difference_note(pairs), kinds=kinds
        )
    except OSError as error:
        raise UsageError(f"{picture} cannot be written: {error.strerror or error}") from None


def open_side(name: str, *, scorer: str | None = None) -> Side:
    """`name` is a run's folder, RUN:MODEL, or a baseline file; UsageError where it is none of them."""
    path, model = _split(name)
    if path.is_dir():
        return _of_run(path, model, name, scorer)
    try:
        side = loads(path.read_text(encoding="utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read as a baseline: {error}") from None
    if model and model != side.model:
        raise UsageError(f"{path} is a baseline of {side.model}, not of {model}")
    if scorer and (scorer,) != side.conditions["scorer"]:
        raise UsageError(f"{path} is a baseline of the scorer {', '.join(side.conditions['scorer'])}, not of {scorer}")
    return side


def save_baseline(run: str, file: Path, *, scorer: str | None = None) -> Side:
    """Write the baseline of a finished run into `file` and return what it holds; IncompleteError where trials are missing."""
    side = open_side(run, scorer=scorer)
    if not any(point.scored for point in side.points):
        raise UsageError(f"{run} has no scored trial: nothing could be compared with it")
    if side.missing:
        raise IncompleteError(f"{run} is not finished: {side.missing:,} trials are missing. Run its sweep again, then save the baseline")
    text = dumps(side)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}") from None
    return side


@contextmanager
def no_collection() -> Generator[None]:
    """Points hold no cycles, and to look through 200,000 of them for garbage again and again takes a fifth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _split(name: str) -> tuple[Path, str]:
    """The path and, behind a colon, the model. Both may hold colons themselves: the longest path that exists counts."""
    ends = [len(name), *(number for number in range(len(name) - 1, 0, -1) if name[number] == ":")]
    for end in ends:
        if Path(name[:end]).exists():
            return Path(name[:end]), name[end + 1 :]
    raise UsageError(f"{name} is neither a run's folder, nor RUN:MODEL, nor a baseline file: nothing is there")


def _of_run(folder: Path, model: str, name: str, scorer: str | None) -> Side:
    there = describe(folder)
    models = list(there["experiment"]["models"])
    if not model and len(models) > 1:
        raise UsageError(f"{folder} holds {len(models)} models: name one, as in {folder}:{models[0]} (there are {', '.join(models)})")
    model = model or models[0]
    if model not in models:
        raise UsageError(f"{folder} has no model {model!r}; {did_you_mean(model, models)}")
    collector = Collector(scorer)

    def watched(path: Path) -> Iterator[Record]:
        """The model's records, seen by the collector on their way, so that they are read once only."""
        for record in read(path):
            if record.model == model:
                collector.add(record)
                yield record

    spent = spent_in([folder], watched).models.get(model)
    points = collector.points()
    median, slow = collector.seconds()
    return Side(
        name=name,
        model=model,
        points=points,
        conditions=collector.conditions(raw=bool(there["identity"].get("raw", False))),
        costs=Costs(
            answers=spent.answers if spent else 0,
            dollars=spent.dollars if spent else 0.0,
            input_tokens=spent.input_tokens if spent else 0,
            output_tokens=spent.output_tokens if spent else 0,
            median_seconds=median,
            slow_seconds=slow,
        ),
        missing=max(0, sum(count for place, count in planned(folder).items() if place[0] == model) - len(points)),
        origin={"niah": str(there.get("niah", "")), "created": str(there.get("created", ""))},
        agenda=agenda_of(there),
    )
