"""Requests for the simulator: when they come, how long their prompts and answers are. All of it is drawn, nothing is from a service."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from random import Random

_LONGEST_IS = 3.0902
"""Standard deviations above the median: one length in a thousand is beyond, and drawn again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """`requests` that come at random at `requests_per_second`, all told.

    Prompts are lognormal from 1 to `longest_tokens` tokens; the paper's traces reach from 60,000 to 2,000,000. Answers are lognormal too.
    """

    requests: int
    requests_per_second: float
    longest_tokens: int
    spread: float = 1.6
    """Standard deviation of the logarithm of a prompt's length."""
    answer_tokens: int = 200
    """The median."""
    answer_spread: float = 0.8
    longest_answer_tokens: int = 2000


@dataclass(frozen=True, slots=True)
class Arrival:
    seconds: float
    prompt_tokens: int
    answer_tokens: int


def arrivals(traffic: Traffic, seed: int) -> list[Arrival]:
    """The same for the same seed, in the order of time."""
    random = Random(f"distkv traffic {seed}")
    median = log(traffic.longest_tokens) - _LONGEST_IS * traffic.spread
    found: list[Arrival] = []
    seconds = 0.0
    for _ in range(traffic.requests):
        seconds += random.expovariate(traffic.requests_per_second)
        prompt = _length(random, median, traffic.spread, traffic.longest_tokens)
        answer = _length(random, log(traffic.answer_tokens), traffic.answer_spread, traffic.longest_answer_tokens)
        found.append(Arrival(seconds, prompt, answer))
    return found


def _length(random: Random, median: float, spread: float, longest: int) -> int:
    while (tokens := random.lognormvariate(median, spread)) > longest:
        pass
    return max(1, round(tokens))
