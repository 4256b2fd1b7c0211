"""A sweep from its experiment to its report: gather, plan, check, ask what is missing, report."""

import asyncio
import platform
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from niah import __version__
from niah.backends import Backend, Connection, open_backend
from niah.config import Experiment
from niah.errors import IncompleteError, NiahError, UsageError
from niah.report import write as report
from niah.report.stats import Results, Where
from niah.run.plan import Materials, Plan, gather
from niah.run.runner import Progress, Runner
from niah.run.store import Store, describe, read
from niah.run.truncation import Truncation, cut_at_the_window
from niah.task.needles import NeedleSet
from niah.task.prompt import resolve_cue
from niah.task.score import scorer
from niah.task.snapshot import cache_folder
from niah.trial import Cue, Failure, fingerprint

PERMANENT = ("context_overflow",)
"""Failures that asking again cannot mend: a resumed run leaves these trials alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How a sweep ended. `stopped` is None when every trial was asked.

    `failed` counts trials that a resume would ask again, and `why` is the error of the last one.
    """

    folder: Path
    results: Results | None
    files: tuple[Path, ...]
    missing: int
    failed: int
    why: str = ""
    stopped: NiahError | None = None
    interrupted: bool = False


def cues_of(experiment: Experiment, model: str, backend: Backend) -> tuple[Cue, ...]:
    """The cue modes that a model is asked with; UsageError for one that it does not take."""
    cues: tuple[Cue, ...] = tuple(dict.fromkeys(resolve_cue(cue, backend.preferred_cue) for cue in experiment.cue))
    for cue in cues:
        if cue not in backend.cues:
            raise UsageError(f"model {model!r} does not take a prefilled answer: use the cue modes off, user or auto")
    return cues


def open_backends(experiment: Experiment) -> dict[str, Backend]:
    """All models of an experiment, opened before anything is asked of the first."""
    connection = Connection(
        base_url=experiment.base_url,
        timeout_seconds=experiment.timeout_seconds,
        key_variable=experiment.key_variable,
        raw=experiment.raw,
    )
    return {model: open_backend(model, connection) for model in experiment.models}


def choose_folder(experiment: Experiment, results: Path) -> Path:
    """The run's folder under `results`: an unfinished run of the same experiment if there is one, else a new one of today.

    The name holds the date, the experiment's name and a hash of what it measures; the same command on the same day comes
    back to the same run.
    """
    mark = fingerprint(experiment.identity())[:8]
    today = results / f"{datetime.now(UTC).date().isoformat()}-{experiment.name}-{mark}"
    unfinished = [path for path in sorted(results.glob(f"*-{mark}")) if _unfinished(path)]
    return unfinished[-1] if unfinished and not today.exists() else today


def _unfinished(folder: Path) -> bool:
    try:
        return "finished" not in describe(folder)
    except UsageError:  # somebody's folder, or a damaged one: not ours to go on with
        return False


def sweep(experiment: Experiment, folder: Path, progress: Progress) -> Swept:
    """Ask all missing trials of an experiment and write the reports into `folder`.

    Raises NiahError only before the first request; what stops it later stands in the result, with everything kept.
    """
    materials = gather(experiment, cache=cache_folder())
    plan = Plan(experiment, materials)
    backends = open_backends(experiment)
    for backend in backends.values():
        backend.ready()
    cues = {model: cues_of(experiment, model, backend) for model, backend in backends.items()}
    progress.note(f"reading the haystacks: {', '.join(materials.corpora)}")
    for warning in plan.check(tuple(dict.fromkeys(cue for modes in cues.values() for cue in modes))):
        progress.note(f"warning: {warning}")
    with Store(folder) as store:
        store.begin(description(experiment, materials, {model: list(modes) for model, modes in cues.items()}))
        session = _Session(plan=plan, backends=backends, cues=cues, store=store, progress=progress)
        stopped, interrupted = asyncio.run(session.ask_all())
        _withhold(store, progress)
        swept = conclude(folder, stopped=stopped, interrupted=interrupted)
        if not swept.missing and not swept.failed:
            store.finish()
    return swept


def _withhold(store: Store, progress: Progress) -> None:
    """Take the scores from answers whose prompts, as it showed later, had been cut by the server."""
    cut = cut_at_the_window(read(store.folder))
    if cut:
        store.rewrite(replace(record, scores=()) if (record.model, record.trial.key) in cut else record for record in read(store.folder))
        progress.note(f"{len(cut)} earlier answers are not scored after all: the server had cut their prompts too")


def description(experiment: Experiment, materials: Materials, cues: Mapping[str, list[str]]) -> dict[str, Any]:
    """What run.json holds: enough to know what was measured, and to score and report it again anywhere."""
    import tiktoken

    return {
        "format": 1,
        "niah": __version__,
        "identity": experiment.identity(),
        "fingerprints": materials.fingerprints(),
        "experiment": experiment.model_dump(mode="json"),
        "cues": dict(cues),
        "corpora": {name: corpus.about for name, corpus in materials.corpora.items()},
        "versions": {"python": platform.python_version(), "tiktoken": tiktoken.__version__, "platform": platform.platform(terse=True)},
        "needles": materials.needles.to_json(),
    }


def about(folder: Path) -> dict[str, str]:
    """What a heatmap's title says that the records do not know."""
    needles = NeedleSet.from_json(describe(folder)["needles"])
    return {"needles": needles.name}


def planned(folder: Path) -> dict[Where, int]:
    """How many trials the run's experiment has in each cell of each model and cue mode."""
    there = describe(folder)
    experiment = there["experiment"]
    cells = [(length, depth) for length in experiment["lengths"] for depth in experiment["depths"]]
    return {
        (model, cue, length, depth): experiment["reshuffles"]
        for model, cues in there["cues"].items()
        for cue in cues
        for length, depth in cells
    }


def conclude(folder: Path, *, stopped: NiahError | None, interrupted: bool) -> Swept:
    """Write the reports of what is there, and count what is not."""
    state = _state(folder)
    failures = [failure for failure in state.values() if failure is not None]
    swept = Swept(
        folder=folder,
        results=None,
        files=(),
        missing=max(0, sum(planned(folder).values()) - len(state)),
        failed=len(failures),
        why=failures[-1].message if failures else "",
        stopped=stopped,
        interrupted=interrupted,
    )
    if not state:
        return swept
    try:
        written = report.write(read(folder), folder, planned=planned(folder), about=about(folder))
    except IncompleteError:
        if stopped is None and not interrupted:
            raise
        return swept  # what stopped the sweep, a full disk say, is the news
    missing = sum(summary.missing or 0 for summary in written.results.summaries.values())
    return replace(swept, results=written.results, files=tuple(written.files), missing=missing)


def _state(folder: Path) -> dict[tuple[str, str], Failure | None]:
    """For each (model, key) that was asked the failure that a resume tries to mend by asking again; None: it is done."""
    state: dict[tuple[str, str], Failure | None] = {}
    for record in read(folder):
        identity, done = (record.model, record.trial.key), record.error is None or record.error.kind in PERMANENT
        if done or state.get(identity, record.error) is not None:
            state[identity] = None if done else record.error
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """One run of one sweep: models are asked one after the other."""

    plan: Plan
    backends: Mapping[str, Backend]
    cues: Mapping[str, tuple[Cue, ...]]
    store: Store
    progress: Progress

    async def ask_all(self) -> tuple[NiahError | None, bool]:
        """(What stopped it, whether it was interrupted)."""
        stop = asyncio.Event()
        interrupts = _Interrupts(stop, self.progress)
        state, truncation = _state(self.store.folder), self._truncation()
        try:
            for model in self.backends:
                await self._ask(model, state, truncation[model], stop)
                if stop.is_set():
                    break
        except NiahError as error:
            return error, False
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
        finally:
            interrupts.cancel_nothing_more()
            await self.store.flush()
            for backend in self.backends.values():
                await backend.close()
            self.progress.end()
        return None, interrupts.count > 0

    async def _ask(self, model: str, state: Mapping[tuple[str, str], Failure | None], truncation: Truncation, stop: asyncio.Event) -> None:
        plan, backend, cues = self.plan, self.backends[model], self.cues[model]
        self.progress.begin(model, plan.count(cues), sum(name == model and not failure for (name, _), failure in state.items()))
        runner = Runner(
            model,
            backend,
            make=plan.materials.maker.make,
            needles=plan.materials.needles.by_id(),
            scorers=[scorer(name) for name in plan.experiment.scorers],
            store=self.store,
            progress=self.progress,
            stop=stop,
            truncation=truncation,
        )
        new = (trial for trial in plan.trials(cues) if (model, trial.key) not in state)
        failed = (trial for trial in plan.trials(cues) if state.get((model, trial.key)) is not None)
        # What failed before comes last: where it fails again, it does not keep the rest from being asked.
        await runner.run(chain(new, failed), plan.experiment.concurrency or backend.concurrency)

    def _truncation(self) -> dict[str, Truncation]:
        """For each model what its earlier answers say of how the server counts."""
        known = {model: Truncation() for model in self.backends}
        for record in read(self.store.folder):
            if record.reply is not None and record.model in known:
                known[record.model].learn(record.trial.corpus, record.tokens, record.reply)
        return known


class _Interrupts:
    """Takes interrupts: the first lets what is in flight finish, the second cancels it, and further ones change nothing."""

    def __init__(self, stop: asyncio.Event, progress: Progress):
        self.count = 0
        self._stop = stop
        self._progress = progress
        self._asking = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                asyncio.get_running_loop().add_signal_handler(number, self._take)
            except (NotImplementedError, RuntimeError):  # Windows, or not the main thread: Ctrl-C then stops at once
                break

    def cancel_nothing_more(self) -> None:
        """From now on answers are only being written."""
        self._asking = None

    def _take(self) -> None:
        self.count += 1
        self._stop.set()
        if self.count == 1:
            self._progress.note("interrupted: waiting for the answers in flight (press Ctrl-C again to leave them)")
        elif self._asking is not None:
            self._asking.cancel()
            self._asking = None
