"""The facts about a model, and how they are read from a table: a line of models.json, or a table of the user's file.

None always means "not known", never "no" and never 0.
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from niah.errors import UsageError, did_you_mean

Thinking: TypeAlias = Literal["always", "default", "optional", "none"]
Caching: TypeAlias = Literal["5m", "1h"]
"""How long a cache that a request asks for is kept: the price of writing it depends on that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars per million tokens; `cache_write` is for five minutes (or the provider's only kind), `cache_write_1h` for an hour."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Prices of a whole request whose prompt has more than `above_tokens` tokens."""

    above_tokens: int
    prices: Prices
    batch: Prices | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What is known of one model, None where it is not.

    `window_tokens` is the longest prompt. `prefill`: continues a beginning of its answer. `sampling`: accepts temperature and
    top_p. `thinking`: cannot be switched off (always), is on unless switched off (default), off unless switched on (optional),
    does not exist (none). `cache_min_tokens`: shorter beginnings are not cached. `batch`: prices in batches. `retires`: a date.
    """

    model: str
    source: str = "unknown"
    window_tokens: int | None = None
    max_output_tokens: int | None = None
    prefill: bool | None = None
    sampling: bool | None = None
    thinking: Thinking | None = None
    cache_min_tokens: int | None = None
    prices: Prices | None = None
    tiers: tuple[Tier, ...] = ()
    batch: Prices | None = None
    retires: str | None = None

    def without_prices(self) -> "Capabilities":
        return replace(self, prices=None, tiers=(), batch=None)


_PRICES = tuple(field.name for field in fields(Prices))
_WHOLE = ("window_tokens", "max_output_tokens", "cache_min_tokens")
_CHOICES = {"prefill": (True, False), "sampling": (True, False), "thinking": get_args(Thinking)}
KEYS = ("like", *_WHOLE, *_CHOICES, "retires", "price", "tiers", "batch", "batch_discount")
"""What may be said of a model, in the user's file; models.json has no `like` and no `batch_discount`."""


def merged(base: Capabilities, table: Any, where: str) -> Capabilities:
    """`base` with the facts of a table. A `price` replaces all that was known of money: old tiers do not belong to new prices."""
    table = table_of(table, KEYS, where)
    made = base.without_prices() if "price" in table else base
    facts: dict[str, Any] = {key: _whole(table[key], f"{where} {key}") for key in _WHOLE if key in table}
    for key, choices in _CHOICES.items():
        if key in table:
            facts[key] = _one_of(table[key], choices, f"{where} {key}")
    if "retires" in table:
        facts["retires"] = _date(table["retires"], f"{where} retires")
    if "price" in table:
        facts["prices"] = _prices(table_of(table["price"], _PRICES, f"{where} price"), f"{where} price")
    if "batch" in table:
        facts["batch"] = _prices(table_of(table["batch"], _PRICES, f"{where} batch"), f"{where} batch", needed=())
        facts["tiers"] = tuple(replace(tier, batch=None) for tier in made.tiers)
    if "tiers" in table:
        facts["tiers"] = _tiers(table["tiers"], f"{where} tiers")
    made = replace(made, **facts)
    return _discounted(made, table, f"{where} batch_discount") if "batch_discount" in table else made


def _discounted(made: Capabilities, table: Mapping[str, Any], where: str) -> Capabilities:
    kept = 1 - _number(table["batch_discount"], where, most=1)
    if made.prices is None or "batch" in table:
        raise UsageError(f"{where}: give it or batch, not both" if "batch" in table else f"{where}: it needs a price")

    def cut(prices: Prices) -> Prices:
        return Prices(input=round((prices.input or 0) * kept, 9), output=round((prices.output or 0) * kept, 9))

    return replace(made, batch=cut(made.prices), tiers=tuple(replace(tier, batch=cut(tier.prices)) for tier in made.tiers))


def _prices(table: Mapping[str, Any], where: str, needed: tuple[str, ...] = ("input", "output")) -> Prices:
    for key in needed:
        if key not in table:
            raise UsageError(f"{where}: {key!r} is missing; prices are dollars per million tokens")
    return Prices(**{key: _number(table[key], f"{where}.{key}", most=1_000_000) for key in _PRICES if key in table})


def _tiers(value: Any, where: str) -> tuple[Tier, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: {value!r} is no list of tables as in [{{above_tokens = 200_000, input = 4, output = 15}}]")
    tiers: list[Tier] = []
    for each in value:
        table = table_of(each, ("above_tokens", *_PRICES, "batch"), where)
        batch = _prices(table_of(table["batch"], _PRICES, f"{where} batch"), f"{where} batch", needed=()) if "batch" in table else None
        above = _whole(table.get("above_tokens"), f"{where} above_tokens")
        tiers.append(Tier(above_tokens=above, prices=_prices(table, where), batch=batch))
    return tuple(sorted(tiers, key=lambda tier: tier.above_tokens))


def table_of(value: Any, known: Iterable[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {value!r} is no table")
    for key in value:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{where}: {value!r} is no number of tokens")
    return value


def _number(value: Any, where: str, *, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise UsageError(f"{where}: {value!r} is no number from 0 to {most:,}")
    return value


def _one_of(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if type(value) is not type(choices[0]) or value not in choices:
        raise UsageError(f"{where}: {value!r} is none of {', '.join(str(choice).lower() for choice in choices)}")
    return value


def _date(value: Any, where: str) -> str:
    try:
        return datetime.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise UsageError(f"{where}: {value!r} is no date as in 2026-11-30") from None
