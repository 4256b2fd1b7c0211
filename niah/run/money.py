"""What a sweep will cost, before anything is sent: tokens, the share that prompt caches can take, dollars, minutes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from niah.backends.models import Capabilities, cost_dollars
from niah.config import Experiment
from niah.task.prompt import ASKED_BEFORE
from niah.trial import Usage

ANSWER_TOKENS = 100
"""Assumed of an answer: a sentence or two."""
THINKING_TOKENS = 1000
"""Assumed on top of it where a model thinks unless told not to."""
CACHE_MIN_TOKENS = 1024
"""Assumed of providers that do not say from which length on they cache."""
MARKED = ("anthropic", "bedrock", "bedrock-invoke")
"""Backends whose caches keep a text up to marks that niah sets; others that charge for writing keep every prompt, unasked."""
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


def estimate(experiment: Experiment, cues: int, known: Capabilities, backend: str = "") -> Estimate:
    """Prices a model's trials, with so many cue modes, by their asked lengths. The assumptions are the constants above.

    `backend` is the first part of the model's name: it decides what a cache keeps, and so what is paid for writing it.
    """
    output = output_tokens(experiment, known)
    cells = _cells(experiment, cues, known, marked=backend in MARKED)
    plain = [Usage(input=cell.length, output=output) for cell in cells]
    cached = [Usage(input=cell.length, cached=cell.cached, output=output, cache_write=cell.written) for cell in cells]
    live, reused, batched = (
        _dollars(
            (cost_dollars(usage, known, batch=batch, cache_write_tokens=usage.cache_write or 0), experiment.reshuffles) for usage in each
        )
        for each, batch in ((plain, False), (cached, False), (plain, True))
    )
    return Estimate(
        requests=len(cells) * experiment.reshuffles,
        input_tokens=sum(cell.length for cell in cells) * experiment.reshuffles,
        cached_tokens=sum(cell.cached for cell in cells) * experiment.reshuffles,
        output_tokens=output * len(cells) * experiment.reshuffles,
        live_dollars=live,
        cached_dollars=reused,
        batch_dollars=batched if known.batch else None,
    )


def dollars_for(trials: Mapping[int, int], experiment: Experiment, known: Capabilities, *, batch: bool = False) -> float | None:
    """The price of so many trials of each length with nothing cached; in batches that of batches, where it is known."""
    output, batch = output_tokens(experiment, known), batch and known.batch is not None
    return _dollars((cost_dollars(Usage(input=length, output=output), known, batch=batch), count) for length, count in trials.items())


def output_tokens(experiment: Experiment, known: Capabilities) -> int:
    """Assumed of one answer, thinking included."""
    thinking = THINKING_TOKENS if known.thinking in ("always", "default") else 0
    return min(ANSWER_TOKENS + thinking, experiment.sampling.max_output_tokens)


def tokens_in_front(length: int, depth: float, haystack: str, template: str, known: Capabilities) -> int:
    """The tokens in front of a trial's needle, which others of its reshuffle share: 0 where a cache would not keep them."""
    shared = int(length * depth) if haystack == "shared" and template not in ASKED_BEFORE else 0
    return shared if shared >= (known.cache_min_tokens or CACHE_MIN_TOKENS) else 0


class _Cell(NamedTuple):
    """The input tokens of a trial: all, those that come from the cache, and those that are written to it at a price."""

    length: int
    cached: int
    written: int


def _cells(experiment: Experiment, cues: int, known: Capabilities, *, marked: bool) -> list[_Cell]:
    """The trials of one reshuffle. The deepest needle goes first and pays for all; every other trial finds what stands in front of
    its own needle in the cache, and writes the rest where the provider charges that unasked.
    """
    pairs = [(length, depth) for length in experiment.lengths for depth in experiment.depths for _ in range(cues)]
    shared = [(length, tokens_in_front(length, depth, experiment.haystack, experiment.template, known)) for length, depth in pairs]
    shared.sort(key=lambda pair: pair[1], reverse=True)
    writes = known.prices is not None and known.prices.cache_write is not None
    unasked = writes and not marked
    least = known.cache_min_tokens or CACHE_MIN_TOKENS
    cells = [_Cell(length, front, length - front if unasked and length >= least else 0) for length, front in shared]
    length, front = shared[0]
    first = _Cell(length, 0, (length if length >= least else 0) if unasked else front if writes else 0)
    return [first, *cells[1:]]


def _dollars(costs: Iterable[tuple[float | None, int]]) -> float | None:
    """The sum of costs, each so many times; None where one is unknown."""
    total = 0.0
    for cost, times in costs:
        if cost is None:
            return None
        total += cost * times
    return total
