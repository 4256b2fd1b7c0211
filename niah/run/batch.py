"""A sweep in batches: everything that is missing is sent in a few large pieces, waited for, and collected.

Money is spent when a provider takes a batch, so three things are kept apart. Before anything is sent, the intention is in the journal
(journal.py). Once the provider has named the batch, its name is. What happens between the two, a crash or a lost answer, leaves a
batch of which nobody knows whether it exists: it is looked for in the provider's list by its label, and sent anew only when it is
not there. Anthropic's batches bear no label; theirs stands in each custom_id, which shows only in results. So there an unknown batch of
the same size is waited for until it has ended and can be told. See docs/batches.md for what can still go wrong.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import BinaryIO

from niah.backends.batch_format import Status, crowded
from niah.errors import (
    BudgetError,
    ContextOverflow,
    FatalError,
    IncompleteError,
    ProviderError,
    RetryableError,
    UsageError,
)
from niah.run.budget import Spend
from niah.run.collecting import Work, collect, gone
from niah.run.journal import Batch, End, Journal
from niah.run.limits import Stopped
from niah.run.locating import search
from niah.run.sending import Unheard, create, upload
from niah.trial import Trial

_KEPT_SECONDS = timedelta(days=29).total_seconds()
"""So long the providers keep results at least."""
_MOST_BLIPS = 20
"""So many looks in a row without an answer, and the provider counts as out of reach."""
_MOST_UNHEARD = 3
_GIVE_UP = "To give it up, delete batches.jsonl in the run's folder: its trials are then asked, and paid, again"


async def run_batches(works: Sequence[Work], journal: Journal, *, wait: bool) -> None:
    """Ask everything that is missing; returns when all of it is recorded, or when stopped.

    With `wait` off it returns after one look at each batch. Raises NiahError for what stops it, with nothing lost.
    """
    desks = [_Desk(work, journal, many=len(works) > 1) for work in works]
    if not desks:
        return
    stop, pace = works[0].stop, works[0].pace
    seconds = pace.first
    for work in works:
        work.begin()
    while not stop.is_set():
        moved = [await desk.look() for desk in desks]
        for trouble in [work.fatal for work in works if work.fatal is not None]:
            raise trouble  # only now: what has come for the other models is recorded
        moved += [await desk.submit() for desk in desks]
        waiting = [batch for desk in desks for batch in desk.unfinished]
        unsent = sum(desk.unsent() for desk in desks)
        if stop.is_set() or not (waiting or unsent):
            return
        trials = sum(len(batch.keys) for batch in waiting)
        if not wait:
            more = f"; {unsent:,} more are sent when there is room" if unsent else ""
            raise IncompleteError(f"{len(waiting)} batches with {trials:,} trials are at the provider, answers come within a day{more}")
        if any(moved):
            seconds = pace.first
            works[0].progress.note(f"waiting for {len(waiting)} batches with {trials:,} trials (Ctrl-C leaves them at work)")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
        seconds = min(pace.longest, seconds * pace.growth)


class _Desk:
    """One model's batches."""

    def __init__(self, work: Work, journal: Journal, *, many: bool):
        self._work = work
        self._journal = journal
        self._many = many
        self._url = "/v1" + work.channel.wire.path(work.channel.model)
        self._most_bytes = work.format.most_bytes
        self._one_by_one = False
        self._full = False
        self._blips = self._unheard = 0
        self._tried: dict[str, float] = {}
        self._foreign: set[str] = set()
        for batch in self.unfinished:
            work.budget.spent += batch.most
        for batch, why in journal.failed:
            if batch.model == work.model and crowded(why):
                self._one_by_one, self._most_bytes = True, min(self._most_bytes, batch.size // 2)

    @property
    def unfinished(self) -> list[Batch]:
        return [batch for batch in self._journal.unfinished.values() if batch.model == self._work.model]

    def unsent(self) -> int:
        """How many trials are still to be sent."""
        return sum(1 for _ in self._missing())

    def _missing(self) -> Iterator[Trial]:
        """The trials that are neither settled nor at the provider."""
        held = {key for batch in self.unfinished for key in batch.keys}
        return (trial for trial in self._work.trials() if trial.key not in self._work.settled and trial.key not in held)

    async def look(self) -> bool:
        """Look at each unfinished batch and collect what is there; whether anything changed."""
        moved = False
        for batch in self.unfinished:
            if self._work.stop.is_set():
                break
            with contextlib.suppress(Stopped):
                try:
                    moved |= await (self._check(batch) if batch.id else self._locate(batch))
                    self._blips = 0
                except RetryableError as error:
                    self._blips += 1
                    if self._blips >= _MOST_BLIPS:
                        raise
                    self._work.note(f"{error} Looking again later.")
                except ProviderError as error:
                    self._work.fatal = self._work.fatal or error
        return moved

    async def _check(self, batch: Batch) -> bool:
        """Ask what became of a batch, and take what it brought."""
        work = self._work
        status = await self._status(batch)
        if status is None or status.gone:
            return self._end(batch, "gone", "its results are no longer kept: its trials are asked again")
        if status.state == "working":
            return False
        if status.state == "failed":
            return self._failed(batch, status)
        if self._many:
            work.begin()
        try:
            await collect(work, batch, status)
        except RetryableError as error:
            raise ProviderError(f"{error} The results are not all here: run the same command again. {_GIVE_UP}") from None
        except ProviderError as error:
            if not gone(error):
                raise
            return self._end(batch, "gone", "its results are no longer kept: its trials are asked again")
        return self._end(batch, "collected")

    async def _status(self, batch: Batch) -> Status | None:
        """None for a batch that is too old to be known."""
        work = self._work
        try:
            return work.format.status(await work.channel.sender.get(work.format.show(batch.id)))
        except ProviderError as error:
            if not gone(error):
                raise
            if work.pace.clock() - batch.at > _KEPT_SECONDS:
                return None
            raise FatalError(f"{error} Is this the key that batch {batch.id} was sent with? {_GIVE_UP}", kind="batch") from None

    def _failed(self, batch: Batch, status: Status) -> bool:
        """A batch of which nothing was run."""
        alone = len(self.unfinished) == 1
        self._end(batch, "failed", status.why)
        if not status.crowded:
            raise FatalError(f"the provider refused batch {batch.id} as a whole, and ran nothing of it: {status.why}", kind="batch")
        self._crowded(batch, status.why, alone=alone)
        return True

    def _crowded(self, batch: Batch, why: str, *, alone: bool) -> None:
        """Too many tokens wait at the provider: from now on one batch after the other, and smaller ones where one alone was too much."""
        self._one_by_one = True
        if not alone:
            return
        if len(batch.keys) == 1:
            raise FatalError(f"one prompt is more than the account's batches may hold: {why}. Sweep without --batch", kind="batch")
        self._most_bytes = min(self._most_bytes, batch.size // 2)

    def _end(self, batch: Batch, end: End, why: str = "") -> bool:
        self._journal.ended(batch.label, end, why)
        self._work.budget.spent -= batch.most
        self._full = False
        if why:
            self._work.note(f"batch {batch.id or batch.label}: {why}")
        return True

    async def _locate(self, batch: Batch) -> bool:
        """Find out whether a batch that was being sent came to be."""
        found, perhaps = await search(self._work, self._journal, batch, self._foreign)
        if found:
            self._journal.submitted(batch.label, found)
            self._full = False
            self._work.note(f"batch {found} had come to be without our hearing of it")
            return True
        since = self._work.pace.clock() - self._tried.get(batch.label, batch.at)
        if perhaps or 0 <= since < self._work.pace.grace:
            return False
        return self._end(batch, "abandoned", "it never came to be: its trials are sent again")

    async def submit(self) -> bool:
        """Send what is missing and not at the provider yet; whether anything was sent."""
        sent = False
        while not self._work.stop.is_set() and not (self.unfinished and (self._one_by_one or self._full)):
            with self._work.scratch() as file:
                batch = await self._compose(file)
                if batch is None:
                    break
                sent = True
                with contextlib.suppress(Stopped):
                    await self._send(batch, file)
        return sent

    async def _compose(self, file: BinaryIO) -> Batch | None:
        """Write the requests of as many trials as one batch may hold, prompt by prompt; None where nothing is to be sent now."""
        work, form, label = self._work, self._work.format, f"niah-{secrets.token_hex(8)}"
        keys: list[str] = []
        most = Spend()
        size = file.write(form.head(label))
        for trial in self._missing():
            await asyncio.sleep(0)
            prompt = work.make(trial)
            body = work.channel.wire.request(prompt, work.channel.model, work.channel.capabilities)
            line = (form.between if keys else b"") + form.line(form.custom_id(trial.key, label), body, self._url)
            room = self._most_bytes if keys else form.most_bytes
            if len(keys) == form.most_requests or size + len(line) + len(form.tail) > room:
                if not keys:
                    raise UsageError(f"a prompt of {work.model} is larger than the {room:,} bytes of a batch: sweep without --batch")
                break
            cost = work.meter.most(prompt)
            if not self._affordable(most + cost):
                if not keys and not self.unfinished:
                    raise BudgetError(f"the next request could pass the run's cap on what it may spend ({work.budget.status()})")
                self._full = True
                break
            most += cost
            keys.append(trial.key)
            size += _written(file, line)
        if not keys or work.stop.is_set():
            return None
        size += _written(file, form.tail)
        return Batch(label=label, model=work.model, keys=tuple(keys), size=size, most=most, at=work.pace.clock())

    def _affordable(self, most: Spend) -> bool:
        budget, after = self._work.budget, self._work.budget.spent + most
        return (budget.max_dollars is None or after.dollars <= budget.max_dollars) and (
            budget.max_tokens is None or after.tokens <= budget.max_tokens
        )

    async def _send(self, batch: Batch, file: BinaryIO) -> None:
        """Note a batch, then send it, then note its name. Raises Stopped and ProviderError."""
        work = self._work
        others = bool(self.unfinished)
        self._journal.submitting(batch)
        work.budget.spent += batch.most
        try:
            source = await work.patiently(lambda: upload(work, file)) if work.format.filed else ""
            status = await work.patiently(lambda: create(work, batch, file, source, self._url))
        except Unheard as error:
            self._tried[batch.label] = work.pace.clock()
            self._unheard += 1
            if self._unheard >= _MOST_UNHEARD:
                raise error.error from None
            work.note(f"{error.error} Looking whether the batch has come to be all the same.")
            self._full = True
            return
        except (Stopped, ProviderError) as error:
            self._end(batch, "abandoned", "" if isinstance(error, Stopped) else str(error))
            if not self._goes_on(batch, error, others=others):
                raise
            return
        self._unheard = 0
        self._journal.submitted(batch.label, status)
        work.note(f"batch {status} with {len(batch.keys):,} trials is at the provider")

    def _goes_on(self, batch: Batch, error: Exception, *, others: bool) -> bool:
        """Whether a refused batch is no reason to end: it was too large, or too much is waiting already."""
        if isinstance(error, ContextOverflow) and len(batch.keys) > 1:
            self._most_bytes = min(self._most_bytes, batch.size // 2)
            return True
        if isinstance(error, ProviderError) and crowded(str(error)):
            self._crowded(batch, str(error), alone=not others)
            return True
        self._full = others and isinstance(error, RetryableError) and error.kind == "rate_limit"
        return self._full


def _written(file: BinaryIO, content: bytes) -> int:
    try:
        return file.write(content)
    except OSError as error:
        raise IncompleteError(
            f"the run's folder cannot hold a batch ({error.strerror}): make room and run the same command again"
        ) from None
