"""The asking part of a sweep: one model after the other, through its gate, until nothing is missing or somebody says stop."""

import asyncio
import json
import signal
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

from niah.backends import Backend
from niah.backends.batching import batch_format
from niah.backends.local import LocalBackend
from niah.backends.remote import RemoteBackend
from niah.errors import NiahError
from niah.run.batch import run_batches
from niah.run.budget import Budget, Meter, Spend
from niah.run.collecting import Pace, Work
from niah.run.gate import Gate
from niah.run.journal import Journal, batched, held
from niah.run.pacing import Pacer
from niah.run.plan import Plan
from niah.run.runner import Progress, Runner
from niah.run.settling import Settling
from niah.run.store import Store, read, write_whole
from niah.run.truncation import Truncation
from niah.task.score import scorer
from niah.trial import Cue, Failure

PERMANENT = ("context_overflow",)
"""Failures that asking again cannot mend: a resumed run leaves these trials alone."""
Batches: TypeAlias = Literal["no", "wait", "leave"]
"""How a sweep asks: live, in batches that it waits for, or in batches that it leaves at work."""
State: TypeAlias = Mapping[tuple[str, str], Failure | None]
LOST = "lost.json"
"""In a run's folder: what may have been charged for answers that never came. No record tells of it."""


def state_of(folder: Path) -> dict[tuple[str, str], Failure | None]:
    """For each (model, key) that was asked the failure that a resume tries to mend by asking again; None: it is done."""
    state: dict[tuple[str, str], Failure | None] = {}
    for record in read(folder):
        identity, done = (record.model, record.trial.key), record.error is None or record.error.kind in PERMANENT
        if done or state.get(identity, record.error) is not None:
            state[identity] = None if done else record.error
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of one sweep."""

    plans: Mapping[str, Plan]
    backends: Mapping[str, Backend]
    cues: Mapping[str, tuple[Cue, ...]]
    store: Store
    progress: Progress
    budget: Budget
    meters: dict[str, Meter] = field(default_factory=dict[str, Meter])
    truncation: dict[str, Truncation] = field(default_factory=dict[str, Truncation])
    batches: Batches = "no"
    settling: Mapping[str, Settling] = field(default_factory=dict[str, Settling])
    """By model, where a sweep stops as soon as its verdict is certain."""

    async def ask_all(self) -> tuple[NiahError | None, bool]:
        """(What stopped it, whether it was interrupted)."""
        stop = asyncio.Event()
        interrupts = _Interrupts(stop, self.progress)
        state = state_of(self.store.folder)
        try:
            self._remember()
            if self.batches == "no":
                await self._ask_each(state, stop)
            else:
                works = [self._work(model, state, stop) for model in self.backends]
                await run_batches(works, Journal(self.store.folder), wait=self.batches == "wait")
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

    async def _ask_each(self, state: State, stop: asyncio.Event) -> None:
        at_work = held(self.store.folder)
        for model in self.backends:
            there = at_work.get(model, set[str]())
            if there:
                self.progress.note(f"{model}: {len(there):,} trials are in unfinished batches and not asked live: --batch collects them")
            await self._ask(model, state, there, stop)
            if isinstance(backend := self.backends[model], LocalBackend):
                self._show_memory(model, backend)
                await backend.close()  # the next model needs the memory
            if stop.is_set():
                break

    def _show_memory(self, model: str, backend: LocalBackend) -> None:
        if told := backend.memory_map():
            self.progress.note(f"{model}: who holds what of the KV cache at the end\n{told}")

    def _begin(self, model: str, done: int) -> None:
        settling = self.settling.get(model)
        self.progress.begin(model, settling.planned if settling else self.plans[model].count(self.cues[model]), done)

    def _work(self, model: str, state: State, stop: asyncio.Event) -> Work:
        plan, backend, cues = self.plans[model], self.backends[model], self.cues[model]
        assert isinstance(backend, RemoteBackend), "only remote models have batches"
        settled = {key for (name, key), failure in state.items() if name == model and failure is None}
        return Work(
            model=model,
            channel=backend.channel(),
            format=batch_format(model),
            runner=self._runner(model, backend, stop),
            trials=lambda: plan.trials(cues),
            make=plan.materials.maker.make,
            settled=settled,
            budget=self.budget,
            meter=self.meters[model],
            progress=self.progress,
            begin=lambda: self._begin(model, len(settled)),
            stop=stop,
            folder=self.store.folder,
            pace=Pace(),
        )

    async def _ask(self, model: str, state: State, there: Set[str], stop: asyncio.Event) -> None:
        plan, backend, cues = self.plans[model], self.backends[model], self.cues[model]
        done = sum(name == model and not failure for (name, _), failure in state.items())
        self._begin(model, done)
        concurrency, settling = plan.experiment.concurrency or backend.concurrency, self.settling.get(model)
        if settling is not None:
            concurrency = min(concurrency, settling.round_trials)  # what is in flight when it settles was asked for nothing
        remote = isinstance(backend, RemoteBackend)
        shared = plan.experiment.haystack == "shared"
        caching = remote and shared
        trials = plan.trials_for_caches if caching else plan.trials
        if isinstance(backend, LocalBackend):
            trials = partial(plan.trials_for_caches, ahead=False) if shared else trials
            self._watch(model, backend)
        if remote:
            pacer = Pacer(most=concurrency, stop=stop, doubling=True)
            self.progress.watch(lambda: ", ".join(filter(None, (self.budget.status(), pacer.waiting()))))
            backend = Gate(backend, pacer, self.budget, self.meters[model], lambda text: self.progress.note(f"{model}: {text}"))
        runner = self._runner(model, backend, stop, warm_up=caching, answered_before=done > 0)
        new = (trial for trial in trials(cues) if (model, trial.key) not in state and trial.key not in there)
        failures = {key for (name, key), failure in state.items() if name == model and failure is not None} - set(there)
        failed = (trial for trial in (trials(cues) if failures else ()) if trial.key in failures)
        # What failed before comes last: where it fails again, it does not keep the rest from being asked.
        asked = chain(new, failed)
        if settling is not None:
            done_before = {key for (name, key), failure in state.items() if name == model and failure is None}
            asked = (trial for trial in settling.trials() if trial.key not in done_before)
        await runner.run(asked, concurrency)
        if settling is not None:
            self.progress.note(f"{model}: {settling.status()}")

    def _watch(self, model: str, backend: LocalBackend) -> None:
        for note in backend.notes:
            self.progress.note(f"{model}: {note}")
        self.progress.watch(lambda: ", ".join(filter(None, (self.budget.status(), backend.status()))))

    def _runner(self, model: str, backend: Backend, stop: asyncio.Event, *, warm_up: bool = False, answered_before: bool = False) -> Runner:
        plan, settling = self.plans[model], self.settling.get(model)
        return Runner(
            model,
            backend,
            make=plan.materials.maker.make,
            needles=plan.materials.needles.by_id(),
            scorers=[scorer(name) for name in plan.experiment.scorers],
            store=self.store,
            progress=settling.heard(self.progress) if settling else self.progress,
            stop=stop,
            truncation=self.truncation[model],
            warm_up=warm_up,
            answered_before=answered_before,
        )

    def _remember(self) -> None:
        """Take earlier answers of the run as examples of how each server counts, as money spent, and as steps to a verdict."""
        for model, backend in self.backends.items():
            self.truncation[model] = Truncation()
            if isinstance(backend, RemoteBackend):
                self.meters[model] = Meter(backend.capabilities, batch=self.batches != "no")
        for model, settling in self.settling.items():
            settling.begin(record for record in read(self.store.folder) if record.model == model)
        from_batch = batched(self.store.folder)
        for record in read(self.store.folder):
            if record.reply is not None and record.model in self.backends:
                self.truncation[record.model].learn(record.trial.corpus, record.tokens, record.reply)
                if record.model in self.meters:
                    self.budget.spent += self.meters[record.model].spent(record, batch=from_batch(record))


def lost_in(folder: Path) -> Spend:
    """What may have been charged in a run for answers that never came."""
    path = folder / LOST
    return Spend(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Spend()


def budget_of(folder: Path, max_dollars: float | None, max_tokens: int | None) -> Budget:
    """The caps of a run; what was lost in earlier sessions counts as spent, and what is lost in this one is noted in the folder."""
    path = folder / LOST
    before = lost = lost_in(folder)

    def note(spend: Spend) -> None:
        nonlocal lost
        lost += spend
        write_whole(path, (json.dumps({"dollars": lost.dollars, "tokens": lost.tokens}) + "\n").encode())

    return Budget(max_dollars=max_dollars, max_tokens=max_tokens, spent=before, lost=note)


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
