"""Asks one model all trials that are missing: prompts are made just in time, every answer is on disk before it counts."""

import asyncio
import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from niah.backends import Backend
from niah.errors import BadRequest, ContextOverflow, FatalError, ProviderError
from niah.run.limits import Patience, Stopped, patiently
from niah.run.store import Store
from niah.run.truncation import Truncation
from niah.task.score import Scorer
from niah.trial import Failure, Needle, Prompt, Record, Reply, Score, Trial

HOPELESS_FAILURES = 8
"""So many trials in a row without one answer, and the model counts as out of reach."""
REFUSED_AT_FIRST = 3
"""So many requests refused before there is any answer, and it is not the single trial that is wrong."""
CONNECTING_AT_FIRST = 3
"""So many tries to reach a server that has not answered yet: a wrong address shows within seconds."""

_OBJECTS_TO_COLLECT = 5000
"""Those of about a hundred requests. Cycles that failed ones leave may hold prompts, and must not pile up."""


class Progress(Protocol):
    """Who is told how the sweep goes."""

    def begin(self, model: str, total: int, done: int) -> None: ...
    def watch(self, spending: Callable[[], str]) -> None: ...
    def recorded(self, record: Record) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


class Runner:
    """One model's part of a sweep."""

    def __init__(  # noqa: PLR0913
        self,
        model: str,
        backend: Backend,
        *,
        make: Callable[[Trial], Prompt],
        needles: dict[str, Needle],
        scorers: Sequence[Scorer],
        store: Store,
        progress: Progress,
        stop: asyncio.Event,
        patience: Patience | None = None,
        truncation: Truncation | None = None,
        warm_up: bool = False,
        answered_before: bool = False,
    ):
        self._model = model
        self._backend = backend
        self._make = make
        self._needles = needles
        self._scorers = scorers
        self._store = store
        self._progress = progress
        self._stop = stop
        self._patience = patience or Patience()
        self._truncation = truncation or Truncation()
        self._warm_up = warm_up
        self._warmed: dict[int, asyncio.Event] = {}
        self._failures = 0
        self._answered = False
        self._answered_before = answered_before
        self._hopeless: FatalError | None = None

    async def run(self, trials: Iterator[Trial], concurrency: int) -> None:
        """Ask all of `trials`, `concurrency` at a time; returns early when stopped. Raises FatalError, UsageError or IncompleteError.

        Until there is a first answer trials go alone: what is wrong with the address, the key or the model's name then
        costs one request.
        """
        try:
            while not self._answered and not self._stop.is_set():
                trial = next(trials, None)
                if trial is None:
                    return
                if self._hopeless is not None:
                    raise self._hopeless
                await self._in_turn(trial)
        except Stopped:
            return
        with _collecting_little():
            tasks = [asyncio.create_task(self._work(trials)) for _ in range(concurrency)]
            try:
                await asyncio.gather(*tasks)
            except BaseException as error:
                self._stop.set()
                if isinstance(error, asyncio.CancelledError):
                    for task in tasks:
                        task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    async def _work(self, trials: Iterator[Trial]) -> None:
        for trial in trials:
            if self._stop.is_set():
                return
            if self._hopeless is not None:  # raised only now: with nothing left to ask, the failed trials tell all that is to tell
                raise self._hopeless
            try:
                await self._in_turn(trial)
            except Stopped:
                return

    async def _in_turn(self, trial: Trial) -> None:
        """Ask a trial; of those that share their text the first one goes ahead, and the others find it in the provider's cache."""
        ahead = self._warmed.get(trial.reshuffle) if self._warm_up else None
        if ahead is not None or not self._warm_up:
            if ahead is not None:
                await ahead.wait()
            await self._trial(trial)
            return
        self._warmed[trial.reshuffle] = asyncio.Event()
        try:
            await self._trial(trial)
        finally:
            self._warmed[trial.reshuffle].set()

    async def _trial(self, trial: Trial) -> None:
        prompt = self._make(trial)
        try:
            patience = self._patience if self._answered else replace(self._patience, attempts_to_connect=CONNECTING_AT_FIRST)
            reply = await patiently(lambda: self._backend.ask(prompt), patience, self._stop)
        except FatalError:
            raise
        except ProviderError as error:
            await self._failed(trial, prompt, error)
            return
        self._failures, self._answered, self._hopeless = 0, True, None
        await self.take(trial, prompt, reply)

    async def take(self, trial: Trial, prompt: Prompt, came: Reply | ProviderError) -> None:
        """Score and record what came of a trial; batches bring it here by themselves."""
        if isinstance(came, ProviderError):
            await self._keep(self._record(trial, prompt, error=Failure(kind=came.kind, message=str(came))))
        else:
            await self._keep(self._record(trial, prompt, reply=came, scores=self._score(trial, prompt, came)))

    async def _failed(self, trial: Trial, prompt: Prompt, error: ProviderError) -> None:
        await self.take(trial, prompt, error)
        answers = self._answered or self._answered_before
        if isinstance(error, ContextOverflow) or (answers and isinstance(error, BadRequest)):
            return  # the model answers others, so it is the prompt
        self._failures += 1
        refused = isinstance(error, BadRequest)
        known = self._answered or (self._answered_before and error.kind != "connection")
        if self._failures < (HOPELESS_FAILURES if known else REFUSED_AT_FIRST if refused else 1):
            return
        what = f"{self._failures} trials in a row" if self._failures > 1 else "the first trial"
        self._hopeless = FatalError(f"{self._model}: {what} failed. {error}", kind="unreachable")
        if not answers:
            raise self._hopeless

    def _score(self, trial: Trial, prompt: Prompt, reply: Reply) -> tuple[Score, ...]:
        characters = sum(len(message["content"]) for message in prompt.messages())
        if reply.stop in ("filter", "refusal") or self._truncation.happened(trial, prompt.tokens, characters, reply):
            return ()
        needles = [self._needles[id_] for id_ in trial.needles]
        return tuple(score(needles, reply) for score in self._scorers)

    async def _keep(self, record: Record) -> None:
        await self._store.append(record)
        self._progress.recorded(record)

    def _record(
        self, trial: Trial, prompt: Prompt, *, reply: Reply | None = None, scores: tuple[Score, ...] = (), error: Failure | None = None
    ) -> Record:
        return Record(
            model=self._model,
            trial=trial,
            tokens=prompt.tokens,
            placements=prompt.placements,
            reply=reply,
            scores=scores,
            error=error,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


@contextmanager
def _collecting_little() -> Generator[None]:
    """Corpora and encodings live to the end of a sweep and requests leave hardly a cycle, yet the collector went through them all
    again and again: a sixth of the CPU time of a request.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_OBJECTS_TO_COLLECT, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
