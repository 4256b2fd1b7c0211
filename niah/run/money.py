"""What a sweep will cost, before anything is sent: tokens, the share that prompt caches can take, dollars, minutes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from niah.backends.models import Capabilities, cost_dollars
from niah.config import Experiment
from niah.trial import Usage

ANSWER_TOKENS = 100
"""Assumed of an answer: a sentence or two."""
THINKING_TOKENS = 1000
"""Assumed on top of it where a model thinks unless told not to."""
CACHE_MIN_TOKENS = 1024
"""Assumed of providers that do not say from which length on they cache."""
ASK_FROM_DOLLARS = 5.0
"""A sweep that may cost more than this asks first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One model's part of a sweep. Dollars are None where a price is unknown, never 0. `cached_tokens` is the part of the input
    that a prompt cache can serve."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    live_dollars: float | None
    cached_dollars: float | None
    batch_dollars: float | None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def minutes(self, tokens_per_minute: int) -> float:
        """How long the sweep takes at a limit of so many tokens a minute, cached ones counted."""
        return (self.input_tokens + self.output_tokens) / tokens_per_minute


def estimate(experiment: Experiment, cues: int, known: Capabilities) -> Estimate:
    """Prices a model's trials, with so many cue modes, by their asked lengths. The assumptions are the constants above."""
    thinking = THINKING_TOKENS if known.thinking in ("always", "default") else 0
    output = min(ANSWER_TOKENS + thinking, experiment.sampling.max_output_tokens)
    minimum = known.cache_min_tokens or CACHE_MIN_TOKENS
    cells = [(length, shared if shared >= minimum else 0) for length, shared in _cells(experiment, cues)]
    plain = [Usage(input=length, output=output) for length, _ in cells]
    cached = [Usage(input=length, cached=shared, output=output) for length, shared in cells]
    return Estimate(
        requests=len(cells) * experiment.reshuffles,
        input_tokens=sum(length for length, _ in cells) * experiment.reshuffles,
        cached_tokens=sum(shared for _, shared in cells) * experiment.reshuffles,
        output_tokens=output * len(cells) * experiment.reshuffles,
        live_dollars=_dollars((cost_dollars(usage, known) for usage in plain), experiment.reshuffles),
        cached_dollars=_dollars((cost_dollars(usage, known) for usage in cached), experiment.reshuffles),
        batch_dollars=_dollars((cost_dollars(usage, known, batch=True) for usage in plain), experiment.reshuffles) if known.batch else None,
    )


def _cells(experiment: Experiment, cues: int) -> list[tuple[int, int]]:
    """(length, tokens in front of the needle that an earlier trial of the reshuffle has sent) for the trials of one reshuffle.

    The deepest needle goes first and pays for all; every other trial finds what stands in front of its own needle in the cache.
    """
    cells = [(length, int(length * depth)) for length in experiment.lengths for depth in experiment.depths for _ in range(cues)]
    if experiment.haystack == "independent" or experiment.template == "question-first":
        return [(length, 0) for length, _ in cells]
    cells.sort(key=lambda cell: cell[1], reverse=True)
    return [(cells[0][0], 0), *cells[1:]]


def _dollars(costs: Iterable[float | None], times: int) -> float | None:
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total * times
