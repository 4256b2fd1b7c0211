"""What answers took, by length: dollars, seconds, and of local models tokens a second and memory. No text, a few numbers an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from niah.trial import Cue, Record

STATE_BYTES = "state_bytes"
"""Under this name a local engine tells what it keeps of a text: keys and values, or a memory of constant size."""


class Measure(NamedTuple):
    """Of one answer; None for what is not known of it. Answers out of batches have no seconds."""

    model: str
    cue: Cue
    length: int
    dollars: float | None
    seconds: float | None
    read_speed: float | None
    write_speed: float | None
    memory: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a picture is made of: its title, its unit, and where it stands in a measure."""

    title: str
    unit: str
    read: Callable[[Measure], float | None]


KINDS: Sequence[Kind] = (
    Kind(title="cost", unit="dollars an answer", read=lambda one: one.dollars),
    Kind(title="latency", unit="seconds an answer", read=lambda one: one.seconds),
    Kind(title="reading", unit="prompt tokens a second", read=lambda one: one.read_speed),
    Kind(title="writing", unit="answer tokens a second", read=lambda one: one.write_speed),
    Kind(title="memory for the text", unit="megabytes", read=lambda one: None if one.memory is None else one.memory / 1e6),
)


class Spread(NamedTuple):
    """Of the answers at one length: the median, and what 10% and 90% of them stay below."""

    low: float
    median: float
    high: float


def measure(record: Record, dollars: float | None) -> Measure | None:
    """What there is to know of a record's answer; None where it has none."""
    reply = record.reply
    if reply is None:
        return None
    told, usage = reply.measured or {}, reply.usage
    fresh = None if usage.input is None else usage.input - (usage.cached or 0)
    return Measure(
        model=record.model,
        cue=record.trial.cue,
        length=record.trial.length,
        dollars=dollars,
        seconds=reply.seconds or None,
        read_speed=_speed(fresh, told.get("prefill_seconds")),
        write_speed=_speed(usage.output, told.get("decode_seconds")),
        memory=told.get(STATE_BYTES) or None,
    )


def spreads(measures: Sequence[Measure], kind: Kind) -> Mapping[float, Spread]:
    """By length, in its order; empty where nothing is known, or all of it is nothing."""
    import numpy

    values: dict[float, list[float]] = {}
    for one in measures:
        if (value := kind.read(one)) is not None:
            values.setdefault(one.length, []).append(value)
    if not any(any(there) for there in values.values()):
        return {}
    return {length: Spread(*map(float, numpy.quantile(values[length], (0.1, 0.5, 0.9)))) for length in sorted(values)}


def _speed(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens and seconds else None
