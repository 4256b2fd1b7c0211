"""A backend behind pacing and a budget: what every request passes on its way out, however often it is tried."""

from niah.backends import Backend
from niah.backends.rates import heard_by
from niah.errors import RetryableError
from niah.run.budget import Budget, Meter
from niah.run.pacing import Pacer
from niah.trial import Cue, Prompt, Reply


class Gate:
    """Asks `backend` when the pacer says so and the budget has room; both learn from the answer."""

    def __init__(self, backend: Backend, pacer: Pacer, budget: Budget, meter: Meter):
        self._backend = backend
        self._pacer = pacer
        self._budget = budget
        self._meter = meter

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
        async with self._pacer.turn(prompt.tokens) as turn, self._budget.hold(self._meter, prompt) as settle:
            with heard_by(turn.observed):
                try:
                    reply = await self._backend.ask(prompt)
                except RetryableError as error:
                    if error.kind in ("rate_limit", "overloaded"):
                        turn.overloaded(error.wait_seconds, limited=error.kind == "rate_limit")
                    raise
            settle(reply)
            turn.succeeded()
        return reply

    async def close(self) -> None:
        await self._backend.close()
