"""A backend for tests: answers from a function, without a network."""

from collections.abc import Awaitable, Callable

from niah.trial import Cue, Prompt, Reply


class FakeBackend:
    """Asks `answer` (which may be async, and may raise) and remembers the prompts it was given."""

    cues: frozenset[Cue] = frozenset(("off", "user", "prefill"))
    preferred_cue: Cue = "user"

    def __init__(self, answer: Callable[[Prompt], Reply | Awaitable[Reply]], *, concurrency: int = 4):
        self._answer = answer
        self.concurrency = concurrency
        self.asked: list[Prompt] = []

    async def ask(self, prompt: Prompt) -> Reply:
        self.asked.append(prompt)
        reply = self._answer(prompt)
        return reply if isinstance(reply, Reply) else await reply

    def ready(self) -> None:
        """Always."""

    async def close(self) -> None:
        """Nothing is held."""
