"""A provider that enforces so many requests and tokens a minute, and clocks on which a minute takes no time.

`RateLimiter` is the arithmetic alone. `run_virtually` runs a coroutine on an event loop whose time jumps to the next timer
whenever nothing is ready: no test waits, and one that would wait for ever fails at once. `BucketServer` is the same
limiter behind real HTTP on loopback, its clock (`server.now`) running `speed` times as fast as the wall's.
"""

import asyncio
import math
import selectors
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, TypeVar

from tests.chat_server import Answer, Asked, ChatServer

T = TypeVar("T")
Style: TypeAlias = Literal["openai", "anthropic", "retry-after", "bare"]
STYLES: tuple[Style, ...] = ("openai", "anthropic", "retry-after", "bare")
EPOCH = datetime(2026, 11, 23, tzinfo=UTC)
"""The time of second 0 of a virtual clock."""


class _Jumping(selectors.DefaultSelector):
    """Never waits: what it would have waited is added to `time`."""

    time = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing will ever happen")
            self.time += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.time


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual_now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class RateLimiter:
    """Token buckets of one minute's depth, full at the beginning; what does not fit is refused and costs nothing.

    With `windows` the limits come back all at once on the minute instead. `factor` is by how much more tokens are counted here
    than the client thinks. A prompt larger than the limit passes only when the bucket is full.
    """

    requests: float = 50
    tokens: float = 200_000
    style: Style = "openai"
    windows: bool = False
    factor: float = 1.0
    granted: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    refused: list[float] = field(default_factory=list[float])
    emptied: float | None = None
    """When one of the buckets first was nearly empty: from then on the limit is what counts, and not the first minute's burst."""
    _levels: list[float] = field(default_factory=list[float])
    _at: float = 0.0

    def ask(self, tokens: float, now: float) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer to one request."""
        limits, needs = (self.requests, self.tokens), (1.0, tokens * self.factor)
        self._levels = self._levels or list(limits)
        if self.windows:
            if now // 60 > self._at // 60:
                self._levels = list(limits)
        else:
            self._levels = [min(limit, level + (now - self._at) * limit / 60) for level, limit in zip(self._levels, limits, strict=True)]
        self._at = now
        fits = all(level >= min(need, limit) - 1e-6 for level, need, limit in zip(self._levels, needs, limits, strict=True))
        if fits:
            self._levels = [level - need for level, need in zip(self._levels, needs, strict=True)]
            self.granted.append((now, needs[1]))
        else:
            self.refused.append(now)
        if self.emptied is None and (not fits or any(level < 0.1 * limit for level, limit in zip(self._levels, limits, strict=True))):
            self.emptied = now
        return (200 if fits else 429), self._headers(limits, needs, now, fits)

    def throughput(self) -> float:
        """The share of the tighter limit that was used from the moment when a bucket was empty to the last request."""
        after = self.emptied if self.emptied is not None else self.granted[0][0]
        late = [tokens for at, tokens in self.granted if at > after]
        minutes = (self.granted[-1][0] - after) / 60
        return max(len(late) / self.requests, sum(late) / self.tokens) / minutes

    def refused_share(self) -> float:
        return len(self.refused) / (len(self.granted) + len(self.refused))

    def _headers(self, limits: tuple[float, float], needs: tuple[float, float], now: float, fits: bool) -> dict[str, str]:
        resets = [
            60 - now % 60 if self.windows else (limit - level) * 60 / limit for level, limit in zip(self._levels, limits, strict=True)
        ]
        lacking = [(min(need, limit) - level) * 60 / limit for need, level, limit in zip(needs, self._levels, limits, strict=True)]
        wait = 60 - now % 60 if self.windows else max(lacking)
        left = [max(0, math.floor(level)) for level in self._levels]
        headers: dict[str, str] = {}
        for name, limit, remaining, reset in zip(("requests", "tokens"), limits, left, resets, strict=True):
            if self.style == "openai":
                headers[f"x-ratelimit-limit-{name}"] = f"{limit:.0f}"
                headers[f"x-ratelimit-remaining-{name}"] = str(remaining)
                headers[f"x-ratelimit-reset-{name}"] = go_duration(reset)
            elif self.style == "anthropic":
                family = "input-tokens" if name == "tokens" else name
                when = EPOCH + timedelta(seconds=math.ceil(now + reset))
                headers[f"anthropic-ratelimit-{family}-limit"] = f"{limit:.0f}"
                headers[f"anthropic-ratelimit-{family}-remaining"] = str(remaining)
                headers[f"anthropic-ratelimit-{family}-reset"] = when.isoformat().replace("+00:00", "Z")
        if not fits and self.style in ("anthropic", "retry-after"):
            headers["retry-after"] = str(max(1, math.ceil(wait)))
        return headers


def go_duration(seconds: float) -> str:
    """As Go prints it: `6m0s`, `1.2s`, `12ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, seconds = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{seconds:g}s" if minutes else f"{seconds:g}s"


class BucketServer(ChatServer):
    """The limiter behind HTTP: a body's `tokens` are its tokens, and an answer takes `seconds` of the fast clock."""

    def __init__(self, limiter: RateLimiter, *, speed: float = 40.0, seconds: float = 2.0):
        super().__init__(self._limited)
        self.limiter = limiter
        self.speed = speed
        self._seconds = seconds
        self._began = time.monotonic()

    def now(self) -> float:
        return (time.monotonic() - self._began) * self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)

    def _limited(self, asked: Asked) -> Answer:
        status, headers = self.limiter.ask(asked.body["tokens"], self.now())
        body: Mapping[str, Any] = {"ok": True} if status == 200 else {"error": {"message": "slow down"}}
        return Answer(status=status, headers=headers, body=body, delay=self._seconds / self.speed if status == 200 else 0.0)
