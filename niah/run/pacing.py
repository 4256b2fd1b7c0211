"""When the next request may go out: one Pacer for all requests to one provider with one key.

    async with pacer.turn(tokens) as turn:
        reply = await send(...)
        turn.succeeded()

Requests go in the order in which they came. What holds them back is the number that may be in flight (it starts low,
grows with success and halves on overload), a pause that is shared by all, and the limits a minute, told of by headers or
guessed from refusals (buckets.py). The clock is injected: tests wait for nothing.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

from niah.backends.rates import RateLimit
from niah.run.buckets import DAY, HOUR, Bucket, Guesses, Mark, Said
from niah.run.limits import Stopped

_NEVER = float("inf")
_INSTANT = 1e-6
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds of a pause of which the provider does not say how long it is to be; it doubles while nothing goes through."""
_ROUND_TRIP, _LONGEST_GAP = 0.25, 1.0
"""Seconds: a round trip before any was measured, and the most between two requests after a pause."""


class Turn:
    """One request's turn. Leaving it without a word counts as neither success nor overload."""

    __slots__ = ("_pacer", "_settled", "heard", "number", "request_mark", "token_mark", "tokens", "waits")

    def __init__(self, pacer: "Pacer", tokens: float):
        self.tokens = tokens
        self.number = 0
        self.heard: RateLimit | None = None
        self.waits: asyncio.Future[None] | None = None
        self.request_mark = self.token_mark = Mark(0.0, 0.0)
        self._pacer = pacer
        self._settled = False

    async def __aenter__(self) -> "Turn":
        if not self._pacer.come(self):
            assert self.waits is not None
            try:
                await self.waits
            except asyncio.CancelledError:
                self._pacer.gave_up(self)
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pacer.leave()

    def observed(self, limit: RateLimit | None) -> None:
        """What the headers of the answer say; to be said before `overloaded`, if both are."""
        if limit is not None:
            self.heard = limit
            self._pacer.observe(self, limit)

    def succeeded(self) -> None:
        if not self._settled:
            self._settled = True
            self._pacer.succeed(self)

    def overloaded(self, wait_seconds: float | None = None, *, limited: bool = True, why: str = "rate limit") -> None:
        """The provider refused: everybody waits, `wait_seconds` if it said so. `limited` is False where that says nothing of
        limits, as when it was only busy (503, 529). `why` is for people.
        """
        if not self._settled:
            self._settled = True
            self._pacer.overload(self, wait_seconds, limited, why)

    def dropped(self) -> None:
        """The request was refused for a reason of its own: nobody else has to wait, and it was not counted."""
        if not self._settled:
            self._settled = True
            self._pacer.drop(self)


class Pacer:
    """Lets requests through, one Turn each. `tokens` of a turn are the prompt's, and the output's as far as a provider counts them.

    At first `start` requests may be in flight, and one more after each full window of successes, up to `most`; with
    `doubling` one more after each success until the first overload, so that slow models are not kept waiting. A refusal halves
    the number, but only once for all that were in flight together. Waits above `longest_wait` are the caller's to give up on.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        most: int,
        start: int = 4,
        doubling: bool = False,
        longest_wait: float = 120.0,
        stop: asyncio.Event | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ):
        self.in_flight = 0
        self.allowed = max(1, min(start, most))
        self.requests, self.tokens = Bucket(), Bucket(scales=True)
        self._guesses = Guesses(self.requests, self.tokens)
        self._most, self._doubling, self._longest_wait = most, doubling, longest_wait
        self._stop, self._now, self._sleep, self._jitter = stop, now, sleep, jitter
        self._waiting: deque[Turn] = deque()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = _NEVER
        self._watch: asyncio.Task[None] | None = None
        self._number = 0
        self._credit = 0
        self._round_trip = _ROUND_TRIP
        self._overloads = 0
        self._overloaded_at = 0
        self._paused_until = self._next_at = -_NEVER
        self._pause = ""
        self._held_by: Bucket | None = None
        self._staggered = 0

    def turn(self, tokens: float) -> Turn:
        """`async with` waits until a request of so many tokens may go out. Raises Stopped when `stop` is set."""
        return Turn(self, tokens)

    def pause_seconds(self) -> float:
        """How long the pause that is shared by all still lasts."""
        return max(0.0, self._paused_until - self._now())

    def waiting(self) -> str:
        """For people: how long nothing goes out from now on, and why; "" where that is under a second. Changes nothing, so any
        thread may ask.
        """
        if self.pause_seconds() >= 1:
            return f"waiting {self.pause_seconds():,.0f} s: {self._pause}"
        held, seconds = self._held_by, self._alarm_at - self._now()
        if self._alarm is None or held is None or held.limit is None or seconds < 1:
            return ""
        span = {HOUR: "an hour", DAY: "a day"}.get(held.period, "a minute")
        what = "requests" if held is self.requests else "tokens"
        return f"waiting {seconds:,.0f} s: limit of {'' if held.told else 'about '}{held.limit:,.0f} {what} {span}"

    # What follows is for Turn.

    def come(self, turn: Turn) -> bool:
        """Whether the turn is there at once; otherwise `turn.waits` ends when it is."""
        if self._stop is not None and self._stop.is_set():
            raise Stopped
        if not self._waiting:
            now = self._now()
            if self._delay(turn.tokens, now) <= 0:
                self._let_through(turn, now)
                return True
        turn.waits = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._watch is None and self._stop is not None:
            self._watch = asyncio.create_task(self._end_when_set(self._stop))
        if len(self._waiting) == 1:
            self._pump()
        return False

    def gave_up(self, turn: Turn) -> None:
        """A turn's waiting was cancelled, perhaps when it had just been let through: then nothing was sent."""
        assert turn.waits is not None
        if turn.waits.cancelled():
            self._pump()
        elif turn.waits.exception() is None:
            self.drop(turn)
            self.leave()

    def drop(self, turn: Turn) -> None:
        """A request that was not counted; where headers came with it, they have said what is left."""
        for bucket, amount in ((self.requests, 1.0), (self.tokens, turn.tokens)):
            if turn.heard is None:
                bucket.put_back(amount)
            else:
                bucket.spent -= amount

    def leave(self) -> None:
        self.in_flight -= 1
        if self._waiting:
            self._pump()

    def observe(self, turn: Turn, limit: RateLimit) -> None:
        now = self._now()
        self.requests.observe(Said(limit.limit_requests, limit.remaining_requests, limit.reset_requests_seconds), turn.request_mark, now)
        self.tokens.observe(Said(limit.limit_tokens, limit.remaining_tokens, limit.reset_tokens_seconds), turn.token_mark, now)
        if self.requests.told or self.tokens.told:
            self.requests.forget()
            self.tokens.forget()

    def succeed(self, turn: Turn) -> None:
        now = self._now()
        seconds = now - turn.request_mark.at
        self._round_trip += 0.2 * (seconds - self._round_trip)
        if turn.number > self._overloaded_at:
            self._overloads = 0
        if self.in_flight >= self.allowed < self._most and turn.number > self._overloaded_at:
            self._credit += 1
            if self._credit >= self.allowed or (self._doubling and not self._overloaded_at):
                self.allowed, self._credit = self.allowed + 1, 0
        if not (self.requests.told or self.tokens.told):
            self._guesses.succeeded(now)

    def overload(self, turn: Turn, wait_seconds: float | None, limited: bool, why: str) -> None:
        now = self._now()
        fresh = turn.number > self._overloaded_at
        if fresh:
            self._overloads, self._overloaded_at = self._overloads + 1, self._number
            self.allowed, self._credit = max(1, self.allowed // 2), 0
        if turn.heard is not None:
            self.requests.refuse(1.0, turn.heard.remaining_requests, now)
            self.tokens.refuse(turn.tokens, turn.heard.remaining_tokens, now)
        elif limited and not (self.requests.told or self.tokens.told):
            self._guesses.refused(turn.tokens, now, fresh=fresh)
        if wait_seconds is None:
            wait_seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(10, self._overloads - 1)) * (0.75 + self._jitter() / 2)
        self._paused_until = max(self._paused_until, now + min(wait_seconds, self._longest_wait))
        self._pause = why
        self._staggered = self.allowed

    def _delay(self, tokens: float, now: float) -> float:
        """The seconds until a request may go; _NEVER: not before another one is back."""
        if self.in_flight >= self.allowed:
            return _NEVER
        delay = max(self._paused_until, self._next_at) - now
        if self.requests.limit is not None:
            delay = max(delay, self.requests.wait(1.0, now))
        if self.tokens.limit is not None:
            if tokens > self.tokens.limit and self.in_flight:
                return _NEVER  # it goes alone
            delay = max(delay, self.tokens.wait(tokens, now))
        return delay if delay > _INSTANT else 0.0

    def _let_through(self, turn: Turn, now: float) -> None:
        if not self._number:
            self._guesses.began(now)
        self._number += 1
        turn.number = self._number
        self.in_flight += 1
        self.requests.take(1.0)
        self.tokens.take(turn.tokens)
        turn.request_mark, turn.token_mark = Mark(now, self.requests.spent), Mark(now, self.tokens.spent)
        if self._staggered:  # after a pause not all at once, but over one round trip
            self._staggered -= 1
            self._next_at = now + min(_LONGEST_GAP, self._round_trip / self.allowed)

    def _pump(self) -> None:
        """Let through who may go, in order; if the first one has to wait for time to pass, be woken then."""
        now = self._now()
        while self._waiting:
            turn = self._waiting[0]
            assert turn.waits is not None
            if not turn.waits.done():
                delay = self._delay(turn.tokens, now)
                if delay > 0:
                    if delay < _NEVER:
                        self._wake_after(delay, now)
                        self._held_by = None
                        for bucket, amount in ((self.requests, 1.0), (self.tokens, turn.tokens)):
                            if bucket.wait(amount, now) >= delay - _INSTANT:
                                bucket.held += 1
                                self._held_by = bucket
                    return
                self._let_through(turn, now)
                turn.waits.set_result(None)
            self._waiting.popleft()
        self._rest()

    def _wake_after(self, delay: float, now: float) -> None:
        if self._alarm is not None:
            if self._alarm_at <= now + delay + _INSTANT:
                return
            self._alarm.cancel()
        self._alarm_at = now + delay
        self._alarm = asyncio.create_task(self._ring_after(delay))

    async def _ring_after(self, delay: float) -> None:
        await self._sleep(delay)
        self._alarm = None
        self._pump()

    async def _end_when_set(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._watch = None
        for turn in self._waiting:
            if turn.waits is not None and not turn.waits.done():
                turn.waits.set_exception(Stopped())
        self._waiting.clear()
        self._rest()

    def _rest(self) -> None:
        """Nobody waits: no task is left behind."""
        for task in (self._alarm, self._watch):
            if task is not None:
                task.cancel()
        self._alarm = self._watch = None
