"""Caps on what a run may spend, in dollars and in tokens. A cap is a cap: before a request goes out, the most that it can cost is
held back, and what it did cost takes the place of that when the answer is there.

How many tokens a provider will count is not known before it has said so. The bound is the planned count times the highest ratio
seen so far with a tenth on top; before the first answer it is twice the planned count, and the first request goes alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from niah.backends.models import Capabilities, cost_dollars, most_dollars
from niah.errors import BudgetError, RetryableError, UsageError
from niah.trial import Prompt, Record, Reply, Usage

_MARGIN, _UNSEEN, _ADDED_TOKENS = 1.1, 2.0, 128
"""On the highest ratio of reported to planned input tokens, that ratio before any answer, and for what a provider's template adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Dollars (0 where prices are unknown) and tokens, input and output together."""

    dollars: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(dollars=self.dollars + other.dollars, tokens=self.tokens + other.tokens)

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(dollars=self.dollars - other.dollars, tokens=self.tokens - other.tokens)


@dataclass(slots=True)
class Meter:
    """Prices one model's requests: before they are sent at most, afterwards by what the provider reported.

    In a `batch` at the prices of batches, as far as these are known.
    """

    capabilities: Capabilities
    batch: bool = False
    _ratio: float = 0.0

    def learn(self, tokens: int, usage: Usage) -> None:
        """Take an answer as an example of how the provider counts."""
        if usage.input:
            self._ratio = max(self._ratio, (usage.input - _ADDED_TOKENS) / tokens)

    def most(self, prompt: Prompt) -> Spend:
        """The most that one request can cost."""
        planned = int(prompt.tokens * (self._ratio * _MARGIN if self._ratio else _UNSEEN))
        given, answer = planned + _ADDED_TOKENS, self.cap(prompt)
        most = most_dollars(given, answer, self.capabilities, batch=self._discounted(self.batch))
        return Spend(dollars=most or 0.0, tokens=given + answer)

    def cap(self, prompt: Prompt) -> int:
        """Tokens that the answer may have, thinking included."""
        most = self.capabilities.max_output_tokens
        return min(prompt.sampling.max_output_tokens, most) if most else prompt.sampling.max_output_tokens

    def _discounted(self, batch: bool) -> bool:
        return batch and self.capabilities.batch is not None

    def cost(self, prompt_tokens: int, reply: Reply, cap: int, *, batch: bool | None = None) -> Spend:
        """What an answer cost; where the provider reports no tokens, the planned ones and the whole cap."""
        discounted = self._discounted(self.batch if batch is None else batch)
        usage = reply.usage
        given = usage.input if usage.input is not None else prompt_tokens
        answer = usage.output if usage.output is not None else cap
        if usage.input is None or usage.output is None:
            usage = replace(usage, input=given, output=answer)
        dollars = cost_dollars(usage, self.capabilities, batch=discounted, cache_write_tokens=usage.cache_write or 0)
        return Spend(dollars=dollars or 0.0, tokens=given + answer)

    def spent(self, record: Record, *, batch: bool = False) -> Spend:
        """What a stored record cost, that came live or in a batch."""
        if record.reply is None:
            return Spend()
        self.learn(record.tokens, record.reply.usage)
        return self.cost(record.tokens, record.reply, record.trial.sampling.max_output_tokens, batch=batch)


@dataclass(slots=True, kw_only=True)
class Budget:
    """The caps of a run and what is spent of them. `lost` is told of money that may have gone for answers that never came."""

    max_dollars: float | None = None
    max_tokens: int | None = None
    spent: Spend = Spend()
    lost: Callable[[Spend], None] = lambda _: None
    _held: Spend = Spend()
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self, model: str, capabilities: Capabilities) -> None:
        """UsageError for a cap in dollars on a model whose price is unknown."""
        if self.max_dollars is not None and most_dollars(1, 1, capabilities) is None:
            raise UsageError(
                f"the price of {model} is unknown, so --max-cost cannot be kept: state it (see docs/models.md), or use --max-tokens"
            )

    @asynccontextmanager
    async def hold(self, meter: Meter, prompt: Prompt) -> AsyncGenerator[Callable[[Reply], None]]:
        """Room for one request; the function given takes its reply. Waits while requests in flight may still give room back.

        Raises BudgetError when nothing in flight is left and the request could still pass a cap.
        """
        most = meter.most(prompt)
        while not self._fits(most):
            if not self._held.tokens:
                raise BudgetError(self._message(most))
            self._changed.clear()
            await self._changed.wait()
            most = meter.most(prompt)
        self._held += most
        final = Spend()

        def settle(reply: Reply) -> None:
            nonlocal final
            meter.learn(prompt.tokens, reply.usage)
            final = meter.cost(prompt.tokens, reply, meter.cap(prompt))

        try:
            yield settle
        except (RetryableError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) or error.billed:
                final = most
                self.lost(most)
            raise
        finally:
            self._held -= most
            self.spent += final
            self._changed.set()

    def status(self) -> str:
        """Spent so far, for people; "" where nothing that costs is known."""
        if not self.spent.dollars and self.max_dollars is None:
            return ""
        limit = f" of ${self.max_dollars:,.2f}" if self.max_dollars is not None else ""
        return f"${self.spent.dollars:,.2f}{limit} spent"

    def _fits(self, most: Spend) -> bool:
        after = self.spent + self._held + most
        return (self.max_dollars is None or after.dollars <= self.max_dollars) and (
            self.max_tokens is None or after.tokens <= self.max_tokens
        )

    def _message(self, most: Spend) -> str:
        if self.max_dollars is not None and self.spent.dollars + most.dollars > self.max_dollars:
            spent = f"${self.spent.dollars:,.4f} is spent"
            return f"--max-cost ${self.max_dollars:,.2f}: {spent}, and the next request could cost ${most.dollars:,.4f}"
        return f"--max-tokens {self.max_tokens:,}: {self.spent.tokens:,} are used, and the next request could take {most.tokens:,}"
