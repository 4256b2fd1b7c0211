"""Stored answers, looked at again: reports over several runs, and other scorers."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from niah.backends import Backend, open_backend
from niah.errors import UsageError
from niah.report import write as report
from niah.report.stats import Where
from niah.report.write import Written
from niah.run.limits import Patience, patiently
from niah.run.store import Store, describe, read
from niah.run.sweep import about, planned
from niah.task.needles import NeedleSet
from niah.task.score import Scorer, judge_question, judged, scorer
from niah.trial import Needle, Prompt, Record, Sampling, Score

JUDGED_AT_A_TIME = 16


def report_runs(folders: Sequence[Path], out: Path, *, scorer: str | None = None) -> Written:
    """Reports over the records of some runs, written into `out`. Trials that a run's plan has and its records have not are missing."""
    needles = {about(folder)["needles"] for folder in folders}
    records = chain.from_iterable(read(folder) for folder in folders)
    plans: Counter[Where] = Counter()
    for folder in folders:
        plans.update(planned(folder))
    return report.write(records, out, scorer=scorer, planned=plans, about={"needles": ", ".join(sorted(needles))})


def rescore_run(folder: Path, scorers: Sequence[str], *, judge: str | None = None, base_url: str | None = None) -> Written:
    """Put the scores of `scorers` in front of those that each record has, and report. Replies stay as they are."""
    needles = NeedleSet.from_json(describe(folder)["needles"]).by_id()
    plain = {name: scorer(name) for name in scorers if name != "judge"}
    order = list(dict.fromkeys(scorers))
    with Store(folder) as store:
        records = read(folder)
        if "judge" in scorers:
            records = iter(_judge_all(list(records), needles, _open_judge(folder, judge, base_url)))
        store.rewrite(_rescored(records, needles, order, plain))
    return report_runs([folder], folder)


def _rescored(records: Iterable[Record], needles: dict[str, Needle], order: list[str], plain: Mapping[str, Scorer]) -> Iterator[Record]:
    for record in records:
        if record.reply is None or not record.scores:
            yield record
            continue
        asked = [needles[id_] for id_ in record.trial.needles]
        have = {score.scorer: score for score in record.scores}
        have |= {name: score(asked, record.reply) for name, score in plain.items()}
        names = [name for name in order if name in have] + [name for name in have if name not in order]
        yield replace(record, scores=tuple(have[name] for name in names))


def _open_judge(folder: Path, judge: str | None, base_url: str | None) -> Backend:
    if judge is None:
        raise UsageError("scorer 'judge' needs a model that judges: --judge backend/model")
    tested = {record.model for record in read(folder)}
    if judge in tested:
        raise UsageError(f"{judge!r} was tested in this run and cannot judge itself: choose another --judge")
    return open_backend(judge, base_url=base_url)


def _judge_all(records: list[Record], needles: dict[str, Needle], backend: Backend) -> list[Record]:
    """All records with a judge's score in front where the judge answered as asked."""

    async def judge_each() -> list[Record]:
        gate = asyncio.Semaphore(JUDGED_AT_A_TIME)
        stop = asyncio.Event()

        async def one(record: Record) -> Record:
            if record.reply is None or not record.scores:
                return record
            asked = [needles[id_] for id_ in record.trial.needles]
            prompt = _plain_prompt(judge_question(asked, record.reply))
            async with gate:
                verdict = await patiently(lambda: backend.ask(prompt), Patience(), stop)
            score: Score | None = judged(asked, verdict.text)
            return replace(record, scores=(score, *(s for s in record.scores if s.scorer != "judge"))) if score else record

        try:
            return await asyncio.gather(*(one(record) for record in records))
        finally:
            await backend.close()

    return asyncio.run(judge_each())


def _plain_prompt(question: str) -> Prompt:
    return Prompt(
        system="",
        context="",
        question=question,
        cue="",
        cue_mode="off",
        layout="{context}{question}",
        tokens=0,
        placements=(),
        sampling=Sampling(),
    )
