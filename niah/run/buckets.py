"""What a provider lets through in a minute: buckets that refill evenly, told of by headers or guessed from refusals.

A bucket holds at most one period's limit. So in any span of t seconds it gives out no more than limit * (1 + t / period),
and beyond that only the excess of one request that is larger than the limit itself.
"""

from dataclasses import dataclass
from typing import NamedTuple

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
_TELLING_SHARE = 0.05
"""So much of a limit must be used before the time of its reset says anything of its period."""
_MARGIN = 1.0
"""Seconds after a reset, which servers tell in whole ones."""
_RESERVE, _MOST_RESERVE = 0.01, 0.08
_MOST_SCALE = 4.0
_ENOUGH = 8
"""So many requests between two refusals, and the time between them tells a rate."""
_MANY = 20
"""With so many requests before it, the first guess is near enough to go on in small steps."""
_PATIENCE, _MOST_PATIENCE = 32, 512
"""After so many successes a higher limit is tried."""
_STEP = 1.25


class Said(NamedTuple):
    """What headers say of one limit."""

    limit: float | None
    remaining: float | None
    reset: float | None


class Mark(NamedTuple):
    """When a request was let through, and how much had been by then, itself included."""

    at: float
    spent: float


@dataclass(slots=True, kw_only=True)
class Bucket:
    """One limit. `limit` is None while nothing is known: then nothing is held back."""

    limit: float | None = None
    period: float = MINUTE
    told: bool = False
    spent: float = 0.0
    scales: bool = False
    """The provider may count more than `amount`: by how much more is learnt."""
    scale: float = 1.0
    held: int = 0
    """How often this bucket made somebody wait since its guess was last looked at."""
    _level: float = 0.0
    _at: float = 0.0
    _reserve: float = 0.0
    """The share of the limit that is left alone, because what was heard of the level is old when the next request arrives."""
    _implied: float = float("inf")
    _windowed: bool = False
    _window_ends: float = 0.0
    _anchor: tuple[Mark, float] | None = None
    """An earlier answer, from which what the provider counts is compared with what was sent, and what remained then."""

    def wait(self, amount: float, now: float) -> float:
        """The seconds until there is room for `amount`; for more than the limit, until the bucket is full."""
        if self.limit is None:
            return 0.0
        self._refill(now)
        reserve = self._reserve * self.limit if self.period == MINUTE else 0.0
        missing = min(amount * self.scale + reserve, self.limit) - self._level
        if missing <= 0:
            return 0.0
        refilled = self._at - now + missing * self.period / self.limit
        return min(refilled, self._window_ends - now) if self._window_ends > now else refilled

    def take(self, amount: float) -> None:
        self.spent += amount
        self._level -= amount * self.scale

    def put_back(self, amount: float) -> None:
        self.take(-amount)

    def observe(self, said: Said, mark: Mark, now: float) -> None:
        """Take what an answer says. It may have been counted when its request came (`mark`) or when the answer went out, so
        the level is only moved as far as to agree with one of the two. Who names no limit has at least what remains.
        """
        limit, first = said.limit, not self.told
        if limit is None and said.remaining is not None:
            limit = max(said.remaining, (self.limit or 0.0) if self.told else 0.0)
        if not limit:
            return
        self._refill(now)
        self.limit, self.told = limit, True
        self._reserve = self._reserve or _RESERVE
        if said.remaining is None:
            self._level = max(0.0, limit - self.spent) if first else min(self._level, limit)
            return
        self._learn_period(limit, said, now)
        if self.scales:
            self._learn_scale(limit, said.remaining, mark)
        later = (self.spent - mark.spent) * self.scale
        refilled = 0.0 if self._windowed else (now - mark.at) * limit / self.period
        low, high = sorted((said.remaining, said.remaining + refilled - later))
        self._level = min(limit, low if first else min(max(self._level, low), high))

    def empty(self, now: float) -> None:
        """A refusal of which nothing is known says that nothing is left."""
        self._refill(now)
        self._level = min(self._level, 0.0)

    def refuse(self, amount: float, remaining: float | None, now: float) -> None:
        """A refusal whose headers were observed: `amount` was not counted, and no more than `remaining` is left."""
        if remaining is not None:
            self._refill(now)
            self._level = min(self._level, remaining)
            self._reserve = min(_MOST_RESERVE, 2 * self._reserve)
            self.spent -= amount

    def forget(self) -> None:
        """A guess is given up: somebody told of the limits, and this is not among them."""
        if not self.told:
            self.limit = None

    def guess(self, limit: float, now: float) -> None:
        """Go by `limit` from now on."""
        self._refill(now)
        if self.limit is None:
            self._level = 0.0
        self.limit = max(1.0, limit)
        self._level = min(self._level, self.limit)

    def _refill(self, now: float) -> None:
        if self.limit is None:
            self._at = now
            return
        if self._window_ends:
            if now < self._window_ends:
                self._at = now
                return
            self._level, self._at, self._window_ends = self.limit, self._window_ends, 0.0
        if now > self._at:
            self._level = min(self.limit, self._level + (now - self._at) * self.limit / self.period)
            self._at = now

    def _learn_period(self, limit: float, said: Said, now: float) -> None:
        """An even refill is done after used / limit of a period; where the reset is later than that, limits come back all at
        once. Nearly all limits are a minute's, but some headers speak of a day's (Groq, OpenAI's lowest tiers).
        """
        assert said.remaining is not None
        used = limit - said.remaining
        if said.reset is None or used < _TELLING_SHARE * limit or used <= 0:
            return
        self._implied = min(self._implied, said.reset * limit / used)
        self.period = MINUTE if self._implied < (MINUTE * HOUR) ** 0.5 else HOUR if self._implied < (HOUR * DAY) ** 0.5 else DAY
        if said.reset > self.period * (used / limit + 0.25):
            self._windowed = True
        self._window_ends = now + min(said.reset, self.period) + _MARGIN if self._windowed else 0.0

    def _learn_scale(self, limit: float, remaining: float, mark: Mark) -> None:
        if self._anchor is None or self._windowed or remaining > 0.9 * limit:
            self._anchor = mark, remaining
            return
        then, remained = self._anchor
        sent = mark.spent - then.spent
        if sent > 0.25 * limit:
            counted = remained - remaining + (mark.at - then.at) * limit / self.period
            self.scale = min(_MOST_SCALE, max(1.0, counted / sent))
        if sent > 4 * limit:
            self._anchor = mark, remaining


@dataclass(slots=True)
class _Guess:
    """What is held of one bucket: how many successes it takes to try a higher limit, and the limit before the trial."""

    bucket: Bucket
    patience: int
    before: float | None = None
    counted_from: float = 0.0
    """What the bucket had spent at the last telling refusal."""

    def cut(self, measured: float | None, now: float) -> None:
        """A refusal came: to what was measured, as far as that is between what held before and what was tried."""
        limit = self.bucket.limit
        if limit is None:
            return
        if self.before is not None:
            limit = self.before if measured is None else min(max(measured, 0.8 * self.before), limit)
            self.patience, self.before = min(_MOST_PATIENCE, 2 * self.patience), None
        else:
            limit = 0.9 * limit if measured is None else min(max(measured, 0.8 * limit), limit)
        self.bucket.guess(limit, now)

    def raise_(self, step: float, now: float) -> None:
        if self.bucket.limit is not None:
            self.before = self.bucket.limit
            self.bucket.guess(self.before * step, now)


class Guesses:
    """Limits of providers that name none, from when their refusals come.

    At a refusal a bucket was empty, so what went through since the last one is the rate at which it refills; before the
    first one, a full bucket went through besides. Which of the two limits it was is not said: both are guessed, and the one
    that holds requests back is raised step by step, more seldom after each time that it turns out to have been right. A first
    guess from few requests (others had used up the minute) is doubled until there is a second refusal.
    """

    def __init__(self, requests: Bucket, tokens: Bucket):
        self._requests = _Guess(requests, _PATIENCE)
        self._tokens = _Guess(tokens, _PATIENCE)
        self._both = (self._requests, self._tokens)
        self._refusals = 0
        self._successes = 0
        self._doubling = True
        self._since = 0.0
        self._first_seconds: float | None = None

    def began(self, now: float) -> None:
        """The first request of all goes out."""
        self._since = now

    def refused(self, tokens: float, now: float, *, fresh: bool) -> None:
        """A request was refused for a limit; it is not `fresh` if it went out before an earlier refusal was known."""
        for guess, amount in ((self._requests, 1.0), (self._tokens, tokens)):
            guess.bucket.put_back(amount)
            if not fresh:
                guess.counted_from -= amount
                if self._first_seconds and guess.bucket.limit is not None:  # it had been counted as let through
                    guess.bucket.guess(guess.bucket.limit - MINUTE * amount / self._first_seconds, now)
        if fresh:
            self._learn(now)
        for guess in self._both:
            if guess.bucket.limit is not None:
                guess.bucket.empty(now)

    def succeeded(self, now: float) -> None:
        """A request went through: after enough of them the limit that holds back is raised."""
        if self._requests.bucket.limit is None:
            return
        self._successes += 1
        holding = max(self._both, key=lambda guess: guess.bucket.held)
        if not holding.bucket.held or self._successes < (_ENOUGH if self._doubling else holding.patience):
            return
        for guess in self._both:
            if guess.before is not None:
                guess.before, guess.patience = None, max(_PATIENCE, guess.patience // 2)
        for guess in self._both if self._doubling else (holding,):
            guess.raise_(2.0 if self._doubling else _STEP, now)
        self._count_anew()

    def _learn(self, now: float) -> None:
        first, known = not self._refusals, self._requests.bucket.limit is not None
        self._refusals += 1
        seconds = now - self._since + (MINUTE if first else 0.0)
        requests = self._requests.bucket.spent - self._requests.counted_from
        enough = requests >= _ENOUGH and seconds > 0
        tried = [guess for guess in self._both if guess.before is not None] or self._both
        for guess in tried if known else self._both:
            measured = MINUTE * (guess.bucket.spent - guess.counted_from) / seconds if enough else None
            if known:
                guess.cut(measured, now)
            elif measured is not None:
                guess.bucket.guess(measured, now)
        self._first_seconds = seconds if enough and not known else None
        self._doubling = self._doubling and not known and requests < _MANY
        if enough or first:
            self._since = now
            for guess in self._both:
                guess.counted_from = guess.bucket.spent
        self._count_anew()

    def _count_anew(self) -> None:
        self._successes = 0
        for guess in self._both:
            guess.bucket.held = 0
