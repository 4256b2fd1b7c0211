"""What is known of models and what their tokens cost: `models.json` (dated, made by make_models.py) under the user's own file.

What is not known is None: an unknown price makes an unknown cost, never 0. Where a fact is in doubt the dearer reading counts, so
that a cap on money holds: `most_dollars` of a request is never below its `cost_dollars`.
"""

import difflib
import functools
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from niah.backends.model_facts import Caching, Capabilities, Prices, Thinking, Tier, merged, table_of
from niah.errors import UsageError
from niah.trial import Usage

__all__ = [
    "Caching",
    "Capabilities",
    "Prices",
    "Thinking",
    "Tier",
    "capabilities",
    "cost_dollars",
    "most_dollars",
    "overrides_path",
    "packaged",
]


def capabilities(model: str) -> Capabilities:
    """What is known of `backend/model`: the user's file over models.json. UsageError where that file is wrong."""
    path = overrides_path()
    own = _overrides(path) if path else {}
    return own.get(model) or _known(model)


def cost_dollars(
    usage: Usage, capabilities: Capabilities, *, batch: bool = False, cache_write_tokens: int = 0, caching: Caching = "5m"
) -> float | None:
    """What a request cost; None where a count or a needed price is unknown. `usage.input` includes cached and written tokens.

    The prompt's length decides which tier bills the whole request. Cached tokens whose price is unknown cost as much as others.
    """
    if usage.input is None or usage.output is None:
        return None
    cached, written = max(usage.cached or 0, 0), max(cache_write_tokens, 0)
    prompt = max(usage.input, cached + written)
    rates = _rates(capabilities, prompt, batch)
    if not rates:
        return None
    at = rates[-1]
    return _dollars(
        (prompt - cached - written, at.input), (cached, at.cache_read), (written, _writing(at, caching)), (usage.output, at.output)
    )


def most_dollars(
    input_tokens: int, output_tokens: int, capabilities: Capabilities, *, batch: bool = False, caching: Caching | None = None
) -> float | None:
    """The most that a request of at most so many tokens can cost, before it is sent; None where that is unknown.

    Nothing is expected to come out of a cache. `caching` says which cache the request asks for: the price of writing it must be
    known then. A known price of writing counts in any case, for some providers write unasked.
    """
    costs: list[float] = []
    for at in _rates(capabilities, input_tokens, batch):
        writing = _writing(at, caching or "5m")
        known = [price for price in (at.input, at.cache_read, writing) if price is not None]
        cost = _dollars((input_tokens, max(known) if at.input is not None else None), (output_tokens, at.output))
        if cost is None or (caching and writing is None):
            return None
        costs.append(cost)
    return max(costs, default=None)


def _dollars(*parts: tuple[int, float | None]) -> float | None:
    """The sum of tokens times price. Exact until the one rounding at its end, so that more tokens are never cheaper."""
    above, below = 0, 1  # a fraction in whole numbers: a report prices 100,000 answers, and Fraction takes ten times as long
    for tokens, price in parts:
        if tokens > 0:
            if price is None:
                return None
            dollars, per = _exact(price)
            above, below = above * per + tokens * dollars * below, below * per
    return above / (below * 1_000_000)


@functools.cache
def _exact(price: float) -> tuple[int, int]:
    """The price as it is written, as a fraction."""
    return Fraction(str(price)).as_integer_ratio()


def _writing(prices: Prices, caching: Caching) -> float | None:
    return prices.cache_write_1h if caching == "1h" else prices.cache_write


def _rates(capabilities: Capabilities, input_tokens: int, batch: bool) -> list[Prices]:
    """The prices of the tiers up to a prompt's length; the last one bills it. Empty where prices are unknown."""
    if capabilities.prices is None or (batch and capabilities.batch is None):
        return []
    if not capabilities.tiers:  # as of most models; a report asks for every answer
        return [_rate(capabilities.prices, (capabilities.batch or Prices()) if batch else None)]
    tiers = [(0, capabilities.prices, capabilities.batch)]
    tiers += sorted(((tier.above_tokens, tier.prices, tier.batch) for tier in capabilities.tiers), key=lambda tier: tier[0])
    return [
        _rate(prices, (discounted or Prices()) if batch else None) for above, prices, discounted in tiers if above < max(input_tokens, 1)
    ]


def _rate(live: Prices, batch: Prices | None) -> Prices:
    """Prices in which no discount is assumed that is not known: in a batch, neither the batch's nor the cache's on top of it."""
    if batch is not None:
        given = {field.name: price for field in fields(Prices) if (price := getattr(batch, field.name)) is not None}
        live = replace(live, **{"cache_read": None, **given})
    return replace(live, cache_read=live.input) if live.cache_read is None else live


@functools.cache
def packaged() -> Mapping[str, Capabilities]:
    """Every model of models.json."""
    data = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    source = f"models.json of {data['date']}"
    return {model: merged(Capabilities(model=model, source=source), table, model) for model, table in data["models"].items()}


_SNAPSHOT = re.compile(r"(-latest|-20\d\d(-?)[01]\d\2[0-3]\d|-00\d)?(-v1(:0)?)?$")
_REGION = re.compile(r"^bedrock/(?:us|us-gov|eu|apac|au|jp|in|ca|sa|me|global)[.]")
_ARN = re.compile(r"^bedrock/arn:aws:bedrock:[^:]*:\d*:(?:inference-profile|foundation-model)/")


@functools.cache
def _snapshots() -> Mapping[str, list[str]]:
    """The packaged models by their names without date and version; names that move on to other models are left out."""
    found: dict[str, list[str]] = {}
    for model in packaged():
        if not model.endswith("-latest"):
            found.setdefault(_SNAPSHOT.sub("", model), []).append(model)
    return found


@functools.cache
def _known(model: str) -> Capabilities:
    """The packaged facts of a model, or of another snapshot of the same model where all its snapshots cost the same.

    A name on Azure is the name of somebody's deployment and says nothing.
    """
    nothing = Capabilities(model=model)
    if model.startswith("azure/"):
        return nothing
    if model in packaged():
        return packaged()[model]
    name = _ARN.sub("bedrock/", model)
    if snapshots := _snapshots().get(_SNAPSHOT.sub("", name)):
        plain = _SNAPSHOT.sub("", name)
        found = packaged()[name if name in packaged() else plain if plain in packaged() else max(snapshots)]
        same = name in packaged() or len({(each.prices, each.tiers, each.batch) for each in map(packaged().__getitem__, snapshots)}) == 1
        return _borrowed(nothing, found if same else found.without_prices())
    if _REGION.match(name):
        return _borrowed(nothing, _known(_REGION.sub("bedrock/", name)).without_prices())
    if name.startswith("openrouter/"):
        return _routed(nothing, name.removeprefix("openrouter/"))
    return nothing


def _borrowed(nothing: Capabilities, found: Capabilities) -> Capabilities:
    """The facts of the model's nearest relative, which the source names."""
    return nothing if found.source == "unknown" else replace(found, model=nothing.model, source=_named(found))


def _named(found: Capabilities) -> str:
    """Source and model of facts that count for another model."""
    return f"{found.source.partition(' (')[0]} ({found.model}{'' if found.prices else ', without prices'})"


def _routed(nothing: Capabilities, name: str) -> Capabilities:
    """OpenRouter may ask any seller of a model: only what the model itself does or refuses carries over, no price and no window."""
    vendor, _, model = name.partition("/")
    vendor = {"google": "gemini"}.get(vendor, vendor)
    found = _known(f"{vendor}/{model.replace('.', '-') if vendor == 'anthropic' else model}").without_prices()
    if vendor not in ("openai", "anthropic", "gemini") or found.source == "unknown":
        return nothing
    refused = {key: False for key in ("prefill", "sampling") if getattr(found, key) is False}
    return replace(nothing, source=_named(found), thinking=found.thinking, retires=found.retires, **refused)


def overrides_path() -> Path | None:
    """The user's file: $NIAH_MODELS, else niah/models.toml in the config folder of this platform if it is there."""
    if chosen := os.environ.get("NIAH_MODELS"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = folder / "niah" / "models.toml"
    return path if path.is_file() else None


def _overrides(path: Path) -> Mapping[str, Capabilities]:
    try:
        return _read_overrides(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(f"models file {path} cannot be read: {error.strerror}") from None


@functools.lru_cache(maxsize=4)
def _read_overrides(path: Path, _changed_at: int) -> Mapping[str, Capabilities]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"models file {path} is no valid TOML: {error}") from None
    tables = table_of(data, ("models",), str(path)).get("models", {})
    return {model: _overridden(model, table, path) for model, table in table_of(tables, tables, f"{path}: models").items()}


def _overridden(model: str, table: Any, path: Path) -> Capabilities:
    where = f'{path}: [models."{model}"]'
    if "/" not in model:
        raise UsageError(f'{where}: a model is named with its backend, as in [models."server/{model}"]')
    base = _known(model)
    if isinstance(table, dict) and "like" in table:
        like = str(table["like"])
        base = packaged().get(like) or _known(like)
        if base.source == "unknown":
            near = difflib.get_close_matches(like, packaged(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name a known model, as in 'openai/gpt-4.1'"
            raise UsageError(f"{where} like: nothing is known of {like!r}; {hint}")
        base = replace(base, source=_named(base))
    over = "" if base.source == "unknown" else f" over {base.source}"
    return replace(merged(base, table, where), model=model, source=f"override {path}{over}")
