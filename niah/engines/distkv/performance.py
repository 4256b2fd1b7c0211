"""How long things take: the performance model of the paper's second version, with coefficients that are fitted or, so labelled, assumed.

    T_layer(b, S) = W(b) / f(b) + sum over the requests r of S_r / g(S_r)

W(b) / f(b), all but attention, is taken as a line in the batch size b: reading the weights, and what each request adds, so that the rate f
grows with the batch. S / g(S) is taken as a line in the tokens S, whose constant cannot be told from the former's slope and is in it. One
step of decoding is then three numbers for all layers together: `step_seconds + request_seconds b + token_seconds sum(S)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil, log2
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Link:
    """`seconds` one way for the smallest message, and `bytes_per_second` beyond that."""

    seconds: float
    bytes_per_second: float

    def transfer_seconds(self, size_bytes: float) -> float:
        return self.seconds + size_bytes / self.bytes_per_second


LINKS = {"nvlink": Link(5e-6, 600e9), "ethernet": Link(50e-6, 125e6)}
"""The bandwidths of the paper's evaluation, within a node and between nodes; the latencies are assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """One instance's speed and sizes, all layers together.

    `query_bytes`: what goes to a holder and comes back for one token of one request (query, output, log-sum-exp). `source`: where the
    numbers come from, for people.
    """

    step_seconds: float
    request_seconds: float
    token_seconds: float
    prefill_token_seconds: float
    prefill_pair_seconds: float
    """Of one query and one key of a prompt."""
    layers: int
    kv_bytes_per_token: int
    query_bytes: int
    kind: Literal["assumed", "measured"]
    source: str

    def decode_seconds(self, batch: int, tokens: float) -> float:
        """One token for each of `batch` requests that attend to `tokens` tokens in sum, all of them here."""
        return self.step_seconds + self.request_seconds * batch + self.token_seconds * tokens

    def remote_seconds(self, requests: int, tokens: float, link: Link) -> float:
        """One step's attention to `tokens` tokens of `requests` requests at one other instance, with the way there and back."""
        return self.token_seconds * tokens + 2 * self.layers * link.seconds + requests * self.query_bytes / link.bytes_per_second

    def prefill_seconds(self, tokens: float) -> float:
        """A whole prompt by one instance."""
        return self.prefill_token_seconds * tokens + self.prefill_pair_seconds * tokens * tokens / 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a measurement leaves behind, as JSON: speeds, and the link between the processes that were measured."""

    performance: Performance
    link: Link

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Fitted:
        """Other keys are passed over. Raises ValueError for what is missing or no number that can be."""
        parts: Mapping[str, Any] = data if isinstance(data, dict) else {}
        performance = _read(Performance, parts.get("performance"), texts=("kind", "source"))
        if performance.kind not in ("assumed", "measured"):
            raise ValueError(f"kind {performance.kind!r} is neither assumed nor measured")
        link = _read(Link, parts.get("link"))
        if not link.bytes_per_second or not performance.step_seconds + performance.request_seconds or not performance.prefill_token_seconds:
            raise ValueError("a speed without bounds is not measured")
        return Fitted(performance, link)


def _read(kind: type[Any], data: Any, texts: Sequence[str] = ()) -> Any:
    """An object of a class whose fields are numbers from 0 on, but for `texts`."""
    given: dict[str, Any] = {}
    for each in fields(kind):
        value = data.get(each.name) if isinstance(data, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
        if not (isinstance(value, str) if each.name in texts else number):
            raise ValueError(f"{kind.__name__.lower()}.{each.name}: {value!r}")
        given[each.name] = value
    return kind(**given)


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """A measured step of decoding: requests, the tokens that they attended to in sum, seconds."""

    batch: int
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class PrefillPoint:
    """A measured prefill: tokens of the prompt, seconds."""

    tokens: float
    seconds: float


def parallel(one: Performance, instances: int, link: Link) -> Performance:
    """So many instances as one (tensor parallel): each does its share of everything; two all-reduces a layer bring the shares together."""
    if instances == 1:
        return one
    passing = 2 * one.query_bytes / link.bytes_per_second
    return replace(
        one,
        step_seconds=one.step_seconds / instances + 2 * one.layers * ceil(log2(instances)) * link.seconds,
        request_seconds=one.request_seconds / instances + passing,
        token_seconds=one.token_seconds / instances,
        prefill_token_seconds=one.prefill_token_seconds / instances + passing,
        prefill_pair_seconds=one.prefill_pair_seconds / instances,
    )


def fitted(sizes: Performance, decode: Iterable[DecodePoint], prefill: Iterable[PrefillPoint], *, source: str) -> Performance:
    """`sizes` with the speeds that fit the measured points best, each by its share of error, none below 0.

    Raises ValueError where the points do not tell them apart: there must be several batch sizes and several lengths.
    """
    steps = _least_squares([((1.0, point.batch, point.tokens), point.seconds) for point in decode])
    reads = _least_squares([((point.tokens, point.tokens * point.tokens / 2), point.seconds) for point in prefill])
    return replace(
        sizes,
        step_seconds=steps[0],
        request_seconds=steps[1],
        token_seconds=steps[2],
        prefill_token_seconds=reads[0],
        prefill_pair_seconds=reads[1],
        kind="measured",
        source=source,
    )


def _least_squares(points: Sequence[tuple[Sequence[float], float]]) -> list[float]:
    """Non-negative coefficients of terms that make relative errors least: columns that would be negative are left out, worst first."""
    size = len(points[0][0]) if points else 0
    used = [*range(size)]
    while used:
        # Each row in parts of what was measured, each column in parts of its size: lengths squared stand beside ones.
        rows = [[terms[n] / seconds for n in used] for terms, seconds in points]
        scales = [max((abs(row[n]) for row in rows), default=0) or 1 for n in range(len(used))]
        rows = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
        columns = range(len(used))
        normal = [[sum(row[i] * row[j] for row in rows) for j in columns] + [sum(row[i] for row in rows)] for i in columns]
        found = [value / scale for value, scale in zip(_solve(normal), scales, strict=True)]
        if min(found) >= 0:
            return [found[used.index(n)] if n in used else 0.0 for n in range(size)]
        used.pop(min(range(len(used)), key=lambda n: found[n] * scales[n]))
    raise ValueError("no points to fit")


def _solve(rows: list[list[float]]) -> list[float]:
    """A small system of equations, by elimination; each row ends with its right side. Raises ValueError for one without one solution."""
    size = len(rows)
    for column in range(size):
        best = max(range(column, size), key=lambda n: abs(rows[n][column]))
        if abs(rows[best][column]) < 1e-12:
            raise ValueError("too few different points to fit")
        rows[column], rows[best] = rows[best], rows[column]
        for n in range(size):
            if n != column:
                factor = rows[n][column] / rows[column][column]
                rows[n] = [a - factor * b for a, b in zip(rows[n], rows[column], strict=True)]
    return [rows[n][-1] / rows[n][n] for n in range(size)]


ASSUMED = Performance(
    step_seconds=0.017,
    request_seconds=0.00013,
    token_seconds=5.5e-7,
    prefill_token_seconds=0.00013,
    prefill_pair_seconds=8e-9,
    layers=40,
    kv_bytes_per_token=819_200,
    query_bytes=2 * 40 * 5120 * 2,
    kind="assumed",
    source="reckoned for a 13B model with 16 bits a number on an accelerator of 1.5 TB/s and 200 TFLOP/s; nothing was measured",
)
"""26 GB of weights and 819,200 bytes of KV a token at 1.5 TB/s; 26 GFLOP a token at 200 TFLOP/s; 0.8 MFLOP a pair at 100 TFLOP/s."""
