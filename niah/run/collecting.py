"""What a batch brought: results are fetched, matched to their trials by id, and recorded as if the trials had been asked live."""

import asyncio
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from niah.backends.batch_format import KEY_CHARACTERS, Format, Result, Status, lines_of, outcome
from niah.backends.remote import Channel
from niah.errors import BadRequest, BadResponse, FatalError, ProviderError, RetryableError
from niah.run.budget import Budget, Meter
from niah.run.journal import Batch
from niah.run.limits import Patience, patiently
from niah.run.runner import Progress, Runner
from niah.trial import Prompt, Reply, Trial

ATTEMPTS = 3
"""So many batches of one session may fail to run a trial; then it is recorded as failed, and the next session asks again."""
_AT_ONCE = 64
"""Records that are put to the disk together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between two looks at the provider, growing from `first` to `longest`.

    A batch that may have come to be unheard is looked for until `grace` is over: lists of batches lag behind.
    """

    first: float = 5.0
    longest: float = 60.0
    growth: float = 1.5
    grace: float = 60.0
    clock: Callable[[], float] = time.time
    patience: Patience = field(default_factory=Patience)


@dataclass(slots=True, kw_only=True)
class Work:
    """All that asking one model in batches needs. `settled` are the keys of trials that this session asks no more."""

    model: str
    channel: Channel
    format: Format
    runner: Runner
    trials: Callable[[], Iterator[Trial]]
    make: Callable[[Trial], Prompt]
    settled: set[str]
    budget: Budget
    meter: Meter
    progress: Progress
    begin: Callable[[], None]
    stop: asyncio.Event
    folder: Path
    pace: Pace
    attempts: Counter[str] = field(default_factory=Counter[str])
    fatal: ProviderError | None = None
    """What made a request of a batch fail that would make every further one fail."""

    def note(self, text: str) -> None:
        self.progress.note(f"{self.model}: {text}")

    async def patiently(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """`ask` with the waits of the run. Raises Stopped, or the last error."""
        return await patiently(ask, self.pace.patience, self.stop)

    def scratch(self) -> BinaryIO:
        """A file without a name that is gone when it is closed."""
        return tempfile.TemporaryFile(dir=self.folder)


def gone(error: ProviderError) -> bool:
    """Whether results are no longer kept (404 and 410)."""
    return isinstance(error, BadRequest) or (isinstance(error, FatalError) and error.kind == "unknown_model")


async def collect(work: Work, batch: Batch, status: Status) -> None:
    """Record everything that a batch brought; when this returns it is on the disk.

    Raises ProviderError when the results cannot be had: `gone` says whether for ever.
    """
    with work.scratch() as file:
        if status.files:
            await work.patiently(lambda: _download(work, status, file))
        found = _results(work, batch, status, file)
        brought, seen, troubles, strange = Counter[str](), set[str](), dict[str, ProviderError](), 0
        keys = frozenset(batch.keys)
        trials = {trial.key: trial for trial in work.trials() if trial.key in keys}
        waiting: list[Coroutine[Any, Any, None]] = []
        for result in found:
            key = result.custom_id[:KEY_CHARACTERS]
            if key not in trials or key in seen or result.custom_id != work.format.custom_id(key, batch.label):
                strange += 1
                continue
            came = outcome(result, work.channel.wire.reply)
            if isinstance(came, RetryableError | FatalError):
                troubles[key] = came
                continue
            seen.add(key)
            if key not in work.settled:
                brought["answers" if isinstance(came, Reply) else "errors"] += 1
                waiting.append(_keep(work, trials[key], came))
            if len(waiting) == _AT_ONCE:
                await _all(waiting)
        await _all(waiting)
    left = [trials[key] for key in batch.keys if key in trials and key not in work.settled]
    await _leave(work, left, troubles, cancelled=status.state == "cancelled")
    told = [f"{number:,} {what}" for what, number in brought.items()]
    told += [f"{len(left):,} not run"] if left else []
    told += [f"{strange:,} results that are doubled or nobody's"] if strange else []
    work.note(f"batch {batch.id} is collected: {', '.join(told) or 'nothing new'}")


async def _download(work: Work, status: Status, into: BinaryIO) -> None:
    """All results in one file; RetryableError when it is torn, or holds fewer answers than the provider says that there are."""
    into.seek(0)
    into.truncate()
    for path in status.files:
        await work.channel.sender.download(path, into)
        into.write(b"\n")
    answers = sum(200 <= result.status < 300 for result in _read(work, into))
    if answers < (status.answered or 0):
        raise RetryableError(
            f"batch {status.id} has {status.answered:,} answers, and its results only {answers:,}", kind="connection", billed=True
        )


def _read(work: Work, file: BinaryIO) -> Iterator[Result]:
    file.seek(0)
    return map(work.format.result, lines_of(file, work.channel.sender.without_key))


def _results(work: Work, batch: Batch, status: Status, file: BinaryIO) -> Iterable[Result]:
    """The results of a file, or those inside the status: these may lack their ids."""
    inline = [work.format.result(each) for each in status.inline]
    nameless = sum(not result.custom_id for result in inline)
    if len(inline) == len(batch.keys) == 1:
        (only,) = inline
        return [Result(custom_id=batch.keys[0], status=only.status, body=only.body, not_run=only.not_run)]
    if nameless:
        raise BadResponse(
            f"{nameless:,} results of batch {batch.id} came without ids, so nobody knows to which trials they belong: none is recorded. "
            "To ask live instead, delete batches.jsonl in the run's folder and sweep without --batch"
        )
    return itertools.chain(inline, _read(work, file))


async def _all(waiting: list[Coroutine[Any, Any, None]]) -> None:
    """Run all of them to their ends; then the first error, if any."""
    done = await asyncio.gather(*waiting, return_exceptions=True)
    waiting.clear()
    for error in done:
        if error is not None:
            raise error


async def _keep(work: Work, trial: Trial, came: Reply | ProviderError) -> None:
    prompt = work.make(trial)
    await work.runner.take(trial, prompt, came)
    work.settled.add(trial.key)
    if isinstance(came, Reply):
        work.meter.learn(prompt.tokens, came.usage)
        work.budget.spent += work.meter.cost(prompt.tokens, came, work.meter.cap(prompt))


async def _leave(work: Work, trials: list[Trial], troubles: Mapping[str, ProviderError], *, cancelled: bool) -> None:
    """Trials that a batch did not run are asked again by the next batch, those that somebody cancelled by the next session."""
    for trial in trials:
        trouble = troubles.get(trial.key)
        if isinstance(trouble, FatalError):
            work.fatal = trouble
        elif trouble.kind == "cancelled" if trouble else cancelled:
            work.settled.add(trial.key)
        else:
            work.attempts[trial.key] += 1
            if work.attempts[trial.key] >= ATTEMPTS:
                await _keep(work, trial, trouble or RetryableError("the batch ended without a result of this request", kind="server"))
