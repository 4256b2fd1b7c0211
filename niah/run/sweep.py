"""A sweep from its experiment to its report: gather, plan, check, ask what is missing, report."""

import asyncio
import platform
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from niah import __version__
from niah.backends import Backend, open_backend
from niah.config import Experiment
from niah.errors import NiahError, UsageError
from niah.report import write as report
from niah.report.stats import Results, plan_counts
from niah.run.plan import Materials, Plan, gather
from niah.run.runner import Progress, Runner
from niah.run.store import Store, describe, read
from niah.task.needles import NeedleSet
from niah.task.prompt import resolve_cue
from niah.task.score import scorer
from niah.task.snapshot import cache_folder
from niah.trial import Cue, Record, fingerprint

PERMANENT = ("context_overflow",)
"""Failures that asking again cannot mend: a resumed run leaves these trials alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How a sweep ended. `stopped` is None when every trial was asked; `failed` counts trials that a resume would ask again."""

    folder: Path
    results: Results | None
    files: tuple[Path, ...]
    missing: int
    failed: int
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
    return {
        model: open_backend(model, base_url=experiment.base_url, timeout_seconds=experiment.timeout_seconds) for model in experiment.models
    }


def choose_folder(experiment: Experiment, results: Path) -> Path:
    """The run's folder under `results`: an unfinished run of the same experiment if there is one, else a new one of today.

    The name holds the date, the experiment's name and a hash of what it measures; the same command on the same day comes
    back to the same run.
    """
    mark = fingerprint(experiment.identity())[:8]
    today = results / f"{datetime.now(UTC).date().isoformat()}-{experiment.name}-{mark}"
    unfinished = [path for path in sorted(results.glob(f"*-{mark}")) if (path / "run.json").exists() and "finished" not in describe(path)]
    return unfinished[-1] if unfinished and not today.exists() else today


def sweep(experiment: Experiment, folder: Path, progress: Progress) -> Swept:
    """Ask all missing trials of an experiment and write the reports into `folder`.

    Raises NiahError only before the first request; what stops it later stands in the result, with everything kept.
    """
    materials = gather(experiment, cache=cache_folder())
    plan = Plan(experiment, materials)
    backends = open_backends(experiment)
    cues = {model: cues_of(experiment, model, backend) for model, backend in backends.items()}
    for warning in plan.check(tuple(dict.fromkeys(cue for modes in cues.values() for cue in modes))):
        progress.note(f"warning: {warning}")
    with Store(folder) as store:
        store.begin(description(experiment, materials, {model: list(modes) for model, modes in cues.items()}))
        session = _Session(plan=plan, backends=backends, cues=cues, store=store, progress=progress)
        stopped, interrupted = asyncio.run(session.ask_all())
        planned = plan_counts((model, trial) for model, modes in cues.items() for trial in plan.trials(modes))
        swept = conclude(folder, planned=planned, stopped=stopped, interrupted=interrupted)
        if not swept.missing and not swept.failed:
            store.finish()
    return swept


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


def conclude(folder: Path, *, planned: Mapping[Any, int], stopped: NiahError | None, interrupted: bool) -> Swept:
    """Write the reports of what is there, and count what is not."""
    failed = sum(1 for _ in _failed(folder))
    if next(read(folder), None) is None:
        return Swept(
            folder=folder, results=None, files=(), missing=sum(planned.values()), failed=failed, stopped=stopped, interrupted=interrupted
        )
    written = report.write(read(folder), folder, planned=planned, about=about(folder))
    missing = sum(summary.missing or 0 for summary in written.results.summaries.values())
    return Swept(
        folder=folder,
        results=written.results,
        files=tuple(written.files),
        missing=missing,
        failed=failed,
        stopped=stopped,
        interrupted=interrupted,
    )


def _failed(folder: Path) -> Iterator[tuple[str, str]]:
    """(model, key) of the trials whose last word is a failure that a resume would ask again."""
    state: dict[tuple[str, str], bool] = {}
    for record in read(folder):
        state[record.model, record.trial.key] = record.error is not None and record.error.kind not in PERMANENT
    return (identity for identity, failed in state.items() if failed)


def _done(record: Record) -> bool:
    return record.error is None or record.error.kind in PERMANENT


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
        interrupts = _listen(stop, self.progress)
        done = {(record.model, record.trial.key) for record in read(self.store.folder) if _done(record)}
        try:
            for model in self.backends:
                await self._ask(model, done, stop)
                if stop.is_set():
                    break
        except NiahError as error:
            return error, False
        except asyncio.CancelledError:
            if not interrupts:
                raise
        finally:
            await self.store.flush()
            for backend in self.backends.values():
                await backend.close()
            self.progress.end()
        return None, bool(interrupts)

    async def _ask(self, model: str, done: set[tuple[str, str]], stop: asyncio.Event) -> None:
        plan, backend, cues = self.plan, self.backends[model], self.cues[model]
        self.progress.begin(model, plan.count(cues), sum(1 for name, _ in done if name == model))
        runner = Runner(
            model,
            backend,
            make=plan.materials.maker.make,
            needles=plan.materials.needles.by_id(),
            scorers=[scorer(name) for name in plan.experiment.scorers],
            store=self.store,
            progress=self.progress,
            stop=stop,
        )
        missing = (trial for trial in plan.trials(cues) if (model, trial.key) not in done)
        await runner.run(missing, plan.experiment.concurrency or backend.concurrency)


def _listen(stop: asyncio.Event, progress: Progress) -> list[int]:
    """Take interrupts: the first lets what is in flight finish, the second cancels it. Returns the list of those received."""
    received: list[int] = []
    loop, main = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal(number: int) -> None:
        received.append(number)
        stop.set()
        if len(received) == 1:
            progress.note("interrupted: waiting for the answers in flight (press Ctrl-C again to leave them)")
        elif main is not None:
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, on_signal, number)
        except (NotImplementedError, RuntimeError):  # Windows, or not the main thread: Ctrl-C then stops at once
            break
    return received
