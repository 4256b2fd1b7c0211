"""Patience: which failures are tried again, how often, and after what wait. Backends classify, this loop retries."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from niah.errors import RetryableError

T = TypeVar("T")


class Stopped(Exception):
    """The run was asked to stop while a request waited for its next try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Up to `attempts` tries; waits are drawn evenly from 0 to base * 2^tries (full jitter), unless the server names one.

    A rate limit is no fault of the server, and many requests share it: it has `attempts_when_limited`, counted apart from all
    else. Where it is given, `attempts_to_connect` is the number of tries for a server that cannot even be reached.
    """

    attempts: int = 6
    attempts_when_limited: int = 30
    attempts_to_connect: int | None = None
    base_seconds: float = 0.5
    longest_seconds: float = 30.0
    longest_asked_seconds: float = 120.0
    jitter: Callable[[], float] = field(default=random.random)

    def wait_seconds(self, error: RetryableError, tries: int) -> float | None:
        """How long to wait after the `tries`-th failure of its sort, rate limits or others; None: give up."""
        if tries >= self._attempts(error.kind):
            return None
        if error.wait_seconds is not None:
            # A server that wants more than this is out of order for the run; the jitter lets its callers come back one by one.
            return None if error.wait_seconds > self.longest_asked_seconds else error.wait_seconds + self.jitter() * self.base_seconds
        return self.jitter() * min(self.longest_seconds, self.base_seconds * 2**tries)

    def _attempts(self, kind: str) -> int:
        if kind == "rate_limit":
            return self.attempts_when_limited
        return self.attempts if self.attempts_to_connect is None or kind != "connection" else self.attempts_to_connect


async def patiently(ask: Callable[[], Awaitable[T]], patience: Patience, stop: asyncio.Event) -> T:
    """The result of `ask`, tried again while its failure is retryable; the last error when patience is at its end.

    Raises Stopped when `stop` is set during a wait.
    """
    tries = Counter[bool]()
    while True:
        try:
            return await ask()
        except RetryableError as error:
            limited = error.kind == "rate_limit"
            tries[limited] += 1
            wait = patience.wait_seconds(error, tries[limited])
            if wait is None:
                raise
            try:
                await asyncio.wait_for(stop.wait(), wait)
            except TimeoutError:
                continue
            raise Stopped from error
