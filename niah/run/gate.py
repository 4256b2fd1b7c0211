"""A backend behind pacing and a budget: what every request passes on its way out, however often it is tried."""

from collections.abc import Callable
from dataclasses import dataclass, field

from niah.backends import Backend
from niah.backends.rates import RateLimit, heard_by
from niah.errors import BadRequest, RetryableError
from niah.run.budget import Budget, Meter
from niah.run.pacing import Pacer, Turn
from niah.trial import Cue, Prompt, Reply

_DOUBTFUL, _OVER_TOLD, _OVER_UNTOLD = 3, 3, 5
"""Refusals of one prompt after which they are its own affair, and after which it is given up as larger than a limit: one that
headers tell of, and one that shows only by what else goes through."""
_LONG_SECONDS = 10.0
"""A pause of which people are told."""
_SAME_SIZE = 0.98
"""Prompts of one length differ by a sentence."""


@dataclass(slots=True)
class _Oversize:
    """Tells a prompt that no minute's limit will ever let through from one that came at a bad time.

    The first is refused again and again while others go through, and nothing of its size ever does. Waiting for it would hold up all.
    """

    succeeded: int = 0
    largest: int = 0
    smallest_over: float = float("inf")
    told: float = float("inf")
    """The limit in headers, once a prompt above it was given up."""
    _refused: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """By prompt: its refusals, and the successes of others before the first."""

    def went_through(self, prompt: Prompt) -> None:
        self.succeeded += 1
        self.largest = max(self.largest, prompt.tokens)
        if prompt.tokens >= self.smallest_over * _SAME_SIZE:
            self.smallest_over = self.told = float("inf")
        if self._refused:  # the name of a long prompt takes as long as reading it
            self._refused.pop(_name(prompt), None)

    def in_doubt(self, prompt: Prompt) -> bool:
        """Whether nothing as large has gone through so far, but smaller ones have: a refusal then tells no rate."""
        return self.succeeded > 0 and prompt.tokens > self.largest / _SAME_SIZE

    def refused(self, prompt: Prompt, heard: RateLimit | None) -> tuple[bool, str]:
        """(Whether this refusal concerns nobody else, why the prompt is to be given up or "")."""
        count, before = self._refused.get(_name(prompt), (0, self.succeeded))
        self._refused[_name(prompt)] = count + 1, before
        others = self.succeeded - before
        known = prompt.tokens >= self.smallest_over * _SAME_SIZE
        why = ""
        if heard is not None and heard.limit_tokens is not None and prompt.tokens > heard.limit_tokens:
            if known or count + 1 >= _OVER_TOLD:
                why, self.told = f"the limit is {heard.limit_tokens:,.0f} tokens a minute", heard.limit_tokens
        elif prompt.tokens > self.largest and (known or min(count + 1, others) >= _OVER_UNTOLD):
            why = "smaller prompts go through, and none of its size does"
        if why:
            self.smallest_over = min(self.smallest_over, prompt.tokens)
            del self._refused[_name(prompt)]
        return bool(why) or min(count + 1, others) >= _DOUBTFUL, why


def _too_large(prompt: Prompt, why: str) -> str:
    told = f"a prompt of {prompt.tokens:,} tokens is refused again and again for a rate limit, and {why}"
    return f"{told}: leave this length out, or have the limit raised."


def _name(prompt: Prompt) -> int:
    return hash((prompt.context, prompt.question, prompt.cue_mode))


class Gate:
    """Asks `backend` when the pacer says so and the budget has room; both learn from the answer.

    A prompt that is larger than what a provider lets through in a minute becomes a BadRequest: others are not held up by it.
    `note` is told of long pauses, in words.
    """

    def __init__(self, backend: Backend, pacer: Pacer, budget: Budget, meter: Meter, note: Callable[[str], None] = lambda _: None):
        self._backend = backend
        self._pacer = pacer
        self._budget = budget
        self._meter = meter
        self._note = note
        self._oversize = _Oversize()

    @property
    def cues(self) -> frozenset[Cue]:
        return self._backend.cues

    @property
    def preferred_cue(self) -> Cue:
        return self._backend.preferred_cue

    @property
    def concurrency(self) -> int:
        return self._backend.concurrency

    def ready(self) -> None:
        self._backend.ready()

    async def ask(self, prompt: Prompt) -> Reply:
        if prompt.tokens > self._oversize.told:
            raise BadRequest(f"not asked: {_too_large(prompt, f'the limit is {self._oversize.told:,.0f} tokens a minute')}")
        async with self._pacer.turn(prompt.tokens) as turn, self._budget.hold(self._meter, prompt) as settle:
            with heard_by(turn.observed):
                try:
                    reply = await self._backend.ask(prompt)
                except RetryableError as error:
                    if error.kind in ("overloaded", "rate_limit"):
                        self._refused(prompt, turn, error)
                    raise
            settle(reply)
            turn.succeeded()
            self._oversize.went_through(prompt)
        return reply

    def _refused(self, prompt: Prompt, turn: Turn, error: RetryableError) -> None:
        """Slow down for a rate limit, unless it is this prompt alone. Raises BadRequest for one that is too large for it."""
        limited = error.kind == "rate_limit"
        alone, why = self._oversize.refused(prompt, turn.heard) if limited else (False, "")
        if not alone:
            before = self._pacer.pause_seconds()
            telling = limited and (turn.heard is not None or not self._oversize.in_doubt(prompt))
            turn.overloaded(error.wait_seconds, limited=telling, why="rate limit" if limited else "the provider is overloaded")
            if before < _LONG_SECONDS <= self._pacer.pause_seconds():
                self._note(self._pacer.waiting())
            return
        turn.dropped()
        if why:
            raise BadRequest(f"{error} {_too_large(prompt, why)}") from None

    async def close(self) -> None:
        await self._backend.close()
