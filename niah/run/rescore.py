"""Stored answers, looked at again: reports over several runs, and other scorers."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from niah.backends import Backend, Connection, open_backend
from niah.backends.remote import RemoteBackend
from niah.errors import UsageError
from niah.report import write as report
from niah.report.pictures import KINDS
from niah.report.spending import Spent
from niah.report.stats import Gathering, Results, Where, where
from niah.report.write import Written
from niah.run.budget import Budget, Meter
from niah.run.gate import Gate
from niah.run.limits import Patience, patiently
from niah.run.pacing import Pacer
from niah.run.pages import Showing
from niah.run.sides import no_collection
from niah.run.spent import spent_in
from niah.run.store import Store, describe, read
from niah.run.sweep import about, planned
from niah.task.needles import NeedleSet
from niah.task.score import Scorer, judge_question, judged, scorer
from niah.trial import Needle, Prompt, Record, Sampling, Score, canonical

JUDGED_AT_A_TIME = 16
CHARACTERS_A_TOKEN = 4
"""Of a question to the judge, for its pacing and the cap on its cost; what the provider counts corrects it."""


Asked: TypeAlias = tuple[Where, str]
"""A trial that has a record: its cell and its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The model that judges, how it is reached, and the dollars that it may cost in one call."""

    model: str
    connection: Connection = field(default_factory=Connection)
    max_cost: float | None = None


def report_runs(  # noqa: PLR0913
    folders: Sequence[Path],
    out: Path,
    *,
    scorer: str | None = None,
    html: bool = False,
    kinds: Sequence[str] = KINDS,
    all_pictures: bool = False,
) -> Written:
    """Reports over the records of some runs, written into `out`. Trials that a run's plan has and its records have not are missing.

    The records are read once, and what each cost is reckoned on the way.
    """
    folders = list(dict.fromkeys(folders))
    showing = Showing(folders, scorer) if html else None
    needles = {about(folder)["needles"] for folder in folders}
    with no_collection():
        results, spent = gathered(folders, scorer=scorer, showing=showing)
        facts = {"needles": ", ".join(sorted(needles))}
        written = report.write_results(results, out, about=facts, spent=spent, kinds=kinds, all_pictures=all_pictures)
        return replace(written, files=[*written.files, showing.write(out, written)]) if showing else written


def gathered(folders: Sequence[Path], *, scorer: str | None = None, showing: Showing | None = None) -> tuple[Results, Spent]:
    """The results of runs and what they cost, from one reading of their records, which a page may watch."""
    gathering, asked = Gathering(scorer), {folder: set[Asked]() for folder in folders}

    def seen(folder: Path, record: Record, dollars: float | None) -> None:
        gathering.add(record, dollars)
        asked[folder].add(_asked(record))
        if showing is not None:
            showing.add(record, dollars)

    spent = spent_in(folders, read, seen)
    return gathering.results(planned_in(folders, asked)), spent


def planned_in(folders: Sequence[Path], asked: Mapping[Path, Set[Asked]] | None = None) -> Counter[Where]:
    """How many trials the runs have in each cell, asked or not: what two runs share counts once, as it does in the report.

    `asked` are the trials that have records, by folder, where these have been read already.
    """
    plans: dict[str, dict[Where, int]] = {}
    there: dict[str, set[Asked]] = {}
    for folder in folders:
        run = describe(folder)
        experiment = canonical([{**run["identity"], "models": None}, run["fingerprints"]])
        plans.setdefault(experiment, {}).update(planned(folder))
        there.setdefault(experiment, set()).update(asked[folder] if asked is not None else map(_asked, read(folder)))
    total = Counter(place for place, _ in set().union(*there.values()))
    for experiment, plan in plans.items():
        total.update(Counter(plan) - Counter(place for place, _ in there[experiment]))
    return total


def _asked(record: Record) -> Asked:
    return where(record.model, record.trial), record.trial.key


def rescore_run(folder: Path, scorers: Sequence[str], *, judge: Judge | None = None) -> Written:
    """Put the scores of `scorers` in front of those that each record has, and report. Replies stay as they are.

    The judge is paced as a tested model is. Verdicts are kept also when it fails or stops in the middle; the same command again
    asks it for the others.
    """
    needles = NeedleSet.from_json(describe(folder)["needles"]).by_id()
    plain = {name: scorer(name) for name in scorers if name != "judge"}
    order = list(dict.fromkeys(scorers))
    with Store(folder) as store:
        records, verdicts = list(read(folder)), dict[int, Score]()
        try:
            if "judge" in scorers:
                if judge is None:
                    raise UsageError("scorer 'judge' needs a model that judges: --judge backend/model")
                _judge_all(records, needles, judge, _open_judge(records, judge), verdicts)
        finally:
            if verdicts or plain:
                store.rewrite(_rescored(records, needles, order, plain, verdicts))
    return report_runs([folder], folder, scorer=order[0])


def _rescored(
    records: Sequence[Record], needles: dict[str, Needle], order: list[str], plain: Mapping[str, Scorer], verdicts: Mapping[int, Score]
) -> Iterator[Record]:
    for number, record in enumerate(records):
        if record.reply is None or not record.scores:
            yield record
            continue
        asked = [needles[id_] for id_ in record.trial.needles]
        have = {score.scorer: score for score in record.scores}
        have |= {name: score(asked, record.reply) for name, score in plain.items()}
        have |= {"judge": verdicts[number]} if number in verdicts else {}
        names = [name for name in order if name in have] + [name for name in have if name not in order]
        yield replace(record, scores=tuple(have[name] for name in names))


def _open_judge(records: Sequence[Record], judge: Judge) -> Backend:
    if judge.model in {record.model for record in records}:
        raise UsageError(f"{judge.model!r} was tested in this run and cannot judge itself: choose another --judge")
    backend = open_backend(judge.model, judge.connection)
    backend.ready()
    return backend


def _judge_all(records: Sequence[Record], needles: dict[str, Needle], judge: Judge, backend: Backend, verdicts: dict[int, Score]) -> None:
    """Put the verdicts that this judge has not given yet into `verdicts`, by the record's number."""
    mark = f"{judge.model}: "

    def is_judged(record: Record) -> bool:
        return any(score.scorer == "judge" and score.why.startswith(mark) for score in record.scores)

    async def judge_each() -> None:
        stop = asyncio.Event()
        paced = _paced(judge, backend, stop)
        waiting = ((number, record) for number, record in enumerate(records) if record.scores and not is_judged(record))

        async def work() -> None:
            for number, record in waiting:
                if stop.is_set():
                    return
                assert record.reply is not None, "a record with scores has a reply"
                asked = [needles[id_] for id_ in record.trial.needles]
                prompt = _plain_prompt(judge_question(asked, record.reply))
                verdict = await patiently(lambda prompt=prompt: paced.ask(prompt), Patience(), stop)
                if score := judged(asked, verdict.text):
                    verdicts[number] = replace(score, why=mark + score.why)

        workers = [asyncio.create_task(work()) for _ in range(JUDGED_AT_A_TIME)]
        try:
            await asyncio.gather(*workers)
        finally:
            stop.set()  # after a failure the others finish what they have asked
            await asyncio.gather(*workers, return_exceptions=True)
            await backend.close()

    asyncio.run(judge_each())


def _paced(judge: Judge, backend: Backend, stop: asyncio.Event) -> Backend:
    if not isinstance(backend, RemoteBackend):
        return backend
    budget = Budget(max_dollars=judge.max_cost)
    budget.check(judge.model, backend.capabilities)
    return Gate(backend, Pacer(most=JUDGED_AT_A_TIME, stop=stop, doubling=True), budget, Meter(backend.capabilities))


def _plain_prompt(question: str) -> Prompt:
    return Prompt(
        system="",
        context="",
        question=question,
        cue="",
        cue_mode="off",
        layout="{context}{question}",
        tokens=max(1, len(question) // CHARACTERS_A_TOKEN),
        placements=(),
        sampling=Sampling(),
    )
