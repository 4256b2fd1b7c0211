"""Makes models.json from litellm's list of prices and windows, and from a small table of what that list lacks.

    python -m niah.backends.make_models PRICES.json --date 2026-11-23 --source "litellm 1.109.1" --out niah/backends/models.json

PRICES.json is `litellm/model_prices_and_context_window_backup.json` in litellm's wheel (`pip download --no-deps litellm`). The same
input gives the same bytes. Where two sources differ, the more careful one wins: prefill and sampling refused, the dearer price,
the shorter window, the earlier retirement. Nothing is guessed: a fact without a source is left out, and a price of 0 in the list
is a free trial or a gap, not a price.
"""

import argparse
import json
import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]

LICENCE = """\
MIT License

Copyright (c) 2023 Berri AI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE."""

_DATED = r"(-\d{4}-\d\d-\d\d)?$"
BY_HAND: tuple[tuple[str, dict[str, Any]], ...] = (
    # OpenAI and Azure: a last turn of the assistant is history (API reference). Their models on Bedrock are the same ones.
    (r"^(openai|azure)/|[/.]openai\.gpt-[56]", {"prefill": False}),
    # Claude since 4.6: 400 "This model does not support assistant message prefill" (anthropics/skills of 2026-07-01;
    # strands-agents/sdk-python#1694, seen on Bedrock).
    (r"claude-(opus-4-[678]|sonnet-4-6|(opus|sonnet|fable|mythos|haiku)-5|mythos)", {"prefill": False}),
    # Gemini: 400 "Requests ending with a model turn are not supported." (LibreChat-AI/agents#323, opencode#47034, pipecat#5821).
    # What -latest means moves on to the newest model, which refuses.
    (r"^gemini/gemini-(3\.5-flash-lite|3\.[678]-|[4-9]|flash-latest|flash-lite-latest|pro-latest)", {"prefill": False}),
    (r"^gemini/gemini-(2\.|3-|3\.1-|3\.5-flash$)", {"prefill": True}),  # the same threads
    # Claude: other values than the default for temperature, top_p and top_k are a 400 since Opus 4.7, Sonnet 5, Haiku 5.5
    # (anthropics/skills); before, temperature or top_p, not both.
    (r"claude-(opus-4-[78]|(opus|sonnet|fable|mythos|haiku)-5|mythos)", {"sampling": False}),
    (r"claude-(opus|sonnet|haiku)-4(?!-[78])", {"sampling": True}),
    (r"^gemini/gemini-(flash|flash-lite|pro)-latest", {"sampling": False}),  # the newest of them refuses: litellm, 3.8-flash
    # Claude: cannot be switched off (anthropics/skills); on when the request says nothing about it (the same). Of Haiku 5.5
    # nothing is said: taken to think like its siblings, for a plan that forgets thinking is too cheap.
    (r"claude-(fable-5|opus-5-5|sonnet-5-5)", {"thinking": "always"}),
    (r"claude-(opus-5|sonnet-5|haiku-5-5)", {"thinking": "default"}),
    # Claude 4.6 to 4.8: litellm says 1024 to 4096, anthropics/skills 4096.
    (r"claude-(opus|sonnet)-4-[678]", {"cache_min_tokens": 4096}),
    (r"[/.]openai\.gpt-6\.1-sol", {"window_tokens": 922_000}),  # OpenAI's own window; Bedrock's entry says 1,000,000
    # All of OpenAI's since 5.4 cost twice the input and 1.5 times the output above 272k; this entry forgot it.
    (r"^openai/gpt-6-astra-law$", {"tiers": [{"above_tokens": 272_000, "input": 20, "output": 75, "cache_read": 2}]}),
    # Retirements: the clients anthropic 2.12.0 (DEPRECATED_MODELS) and openai 3.54.0.
    (r"^anthropic/claude-sonnet-4-5", {"retires": "2026-11-30"}),
    (rf"^openai/(gpt-3\.5-turbo|gpt-4|gpt-4-turbo|o1|o3-mini|o4-mini|gpt-4\.1-nano){_DATED}", {"retires": "2026-10-23"}),
    (rf"^openai/(gpt-5|gpt-5-mini|gpt-5-nano|o3){_DATED}", {"retires": "2026-12-11"}),
    (rf"^openai/(gpt-4o|gpt-4o-mini|gpt-4\.1|gpt-4\.1-mini){_DATED}", {"retires": "2027-01-14"}),
)
"""(models, facts) that litellm's list lacks or has less carefully; every pattern that is found in a model's name counts."""

_PROVIDERS = ("openai", "anthropic", "gemini", "bedrock", "bedrock_converse", "openrouter", "azure")
_NO_TEXT_CHAT = re.compile(
    r"audio|search|computer-use|deep-research|container|tts|lyria|robotics|omni|image|vision|voxtral|pegasus|model-router|safeguard|^ft:|[@*]"
)
_BEDROCK_REGION = re.compile(r"^bedrock/(?P<region>[a-z]+(?:-[a-z]+)+-\d)/(?P<id>[^/]+)$")
_WINDOW_WITH_ANSWER = {(400_000, 128_000): 272_000, (1_050_000, 128_000): 922_000}
"""OpenAI's windows that include the answer (and its most tokens) -> the longest prompt, as the list has it for the sibling models."""

_INPUT, _OUTPUT = "input_cost_per_token", "output_cost_per_token"
_PRICES = {
    "input": _INPUT,
    "output": _OUTPUT,
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
}


def models(data: Mapping[str, Entry]) -> dict[str, dict[str, Any]]:
    """The tables of all text chat models by niah's names, sorted."""
    entries: dict[str, dict[str, Any]] = {}
    regional: list[tuple[str, Entry]] = []
    for key, entry in sorted(data.items()):
        if entry.get("litellm_provider") not in _PROVIDERS or entry.get("mode") not in ("chat", "responses") or _NO_TEXT_CHAT.search(key):
            continue
        if match := _BEDROCK_REGION.match(key):
            if not match["region"].startswith("us-gov"):  # another partition, where the names begin with us-gov.
                regional.append((f"bedrock/{match['id']}", entry))
        elif name := _name(key, str(entry["litellm_provider"])):
            entries[name] = {**entry}
    for name, entry in regional:
        _raise_prices(entries.setdefault(name, {**entry}), entry)
    tables = {name: _table(name, entry) for name, entry in sorted(entries.items())}
    return {name: table for name, table in tables.items() if "price" in table or "window_tokens" in table}


def _name(key: str, provider: str) -> str | None:
    """niah's name of an entry; None for offers that niah does not ask: commitments, other clouds' platforms, doubles."""
    bedrock = provider.startswith("bedrock")
    prefix = "bedrock" if bedrock else provider
    model = key.removeprefix(f"{prefix}/")
    if bedrock and ("/" in model or "." not in model):
        return None
    if provider in ("gemini", "openrouter", "azure") and model == key:
        return None
    return f"{prefix}/{model}"


def _raise_prices(entry: dict[str, Any], other: Entry) -> None:
    """Bedrock's price depends on the region, which is no part of a model's name: the dearest one counts."""
    for key, price in other.items():
        if "_cost" in key and isinstance(price, int | float) and isinstance(entry.get(key), int | float):
            entry[key] = max(entry[key], price)


def _table(name: str, entry: Entry) -> dict[str, Any]:
    """One line of models.json: the keys that niah.backends.model_facts reads, without those that are not known."""
    table: dict[str, Any] = {
        "window_tokens": _window(name, entry),
        "max_output_tokens": _tokens(entry.get("max_output_tokens")),
        "prefill": entry.get("supports_assistant_prefill"),
        "sampling": entry.get("supports_sampling_params"),
        "thinking": _thinking(name, entry),
        "cache_min_tokens": _tokens(entry.get("prompt_cache_min_tokens")),
        "retires": entry.get("deprecation_date"),
        "tiers": None,
        **_money(entry),
    }
    if re.match("openai/|azure/", name):
        if entry.get("supports_prompt_caching") and table["cache_min_tokens"] is None:
            table["cache_min_tokens"] = 1024  # the same for all of OpenAI's models (API guide)
        if table["thinking"]:  # sampling parameters work at effort "none" only (API guide, 2026-10-13)
            table["sampling"] = table["thinking"] in ("none", "optional")
    for pattern, facts in BY_HAND:
        if re.search(pattern, name):
            table |= {key: _careful(key, table[key], value) for key, value in facts.items()}
    if table["retires"]:
        date.fromisoformat(table["retires"])
    return {key: value for key, value in table.items() if value is not None}


def _careful(key: str, one: Any, other: Any) -> Any:
    """The more careful of two statements, None being none."""
    if one is None or other is None:
        return other if one is None else one
    if key == "thinking":
        return max(one, other, key=("none", "optional", "default", "always").index)
    if key == "tiers":
        return one
    return max(one, other) if key == "cache_min_tokens" else min(one, other)


def _tokens(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 1 else None


def _window(name: str, entry: Entry) -> int | None:
    window, answer = _tokens(entry.get("max_input_tokens")), _tokens(entry.get("max_output_tokens"))
    if window and answer and re.match("openai/|azure/", name):
        return _WINDOW_WITH_ANSWER.get((window, answer), window)
    return window


def _thinking(name: str, entry: Entry) -> str | None:
    """Whether a model thinks; for OpenAI's after the efforts that it takes. None where the list says nothing that tells."""
    reasons = bool(entry.get("supports_reasoning"))
    if entry.get("thinking_always_on"):
        return "always"
    if "claude" in name:
        return "optional" if reasons else "none"
    if re.search(r"^(openai|azure)/|[/.]openai\.gpt-[56]", name):
        if not reasons:
            return "none" if re.search(r"gpt-(3|4)", name) else None
        if not entry.get("supports_none_reasoning_effort"):
            return "always"
        return "optional" if entry.get("default_reasoning_effort") == "none" else "default"
    if name.startswith("gemini/") and reasons:  # thinkingBudget 0 switches 2.5 Flash off (google-genai 3.4.0); of others no switch is known
        return "default" if "2.5-flash" in name else "always"
    return None


def _money(entry: Entry) -> dict[str, Any]:
    """price, tiers and batch, in dollars per million tokens; nothing where input or output has no price."""
    if not entry.get(_INPUT) or not entry.get(_OUTPUT):
        return {}
    money: dict[str, Any] = {"price": (price := _prices(entry, ""))}
    tiers: list[dict[str, Any]] = []
    for above in sorted(int(match[1]) for key in entry if (match := re.fullmatch(rf"{_INPUT}_above_(\d+)k_tokens", key))):
        tier = _prices(entry, f"_above_{above}k_tokens")
        if "output" not in tier:
            raise ValueError(f"a tier above {above}k tokens without a price of the output: {entry}")
        batch = _batch(entry, f"_above_{above}k_tokens", tier)
        tiers.append({"above_tokens": above * 1000, **tier, **({"batch": batch} if batch else {})})
    return money | {"tiers": tiers or None, "batch": _batch(entry, "", price) or None}


def _prices(entry: Entry, suffix: str) -> dict[str, int | float]:
    prices = {name: _per_million(entry[key + suffix]) for name, key in _PRICES.items() if entry.get(key + suffix)}
    thought = entry.get("output_cost_per_reasoning_token")
    if thought and not suffix:
        prices["output"] = max(prices["output"], _per_million(thought))
    if prices.get("cache_write", prices.get("input", 0)) < prices.get("input", 0):
        del prices["cache_write"]  # a price of reading in the wrong field: nobody writes for less than the input's price
    return prices


def _batch(entry: Entry, suffix: str, live: Mapping[str, int | float]) -> dict[str, int | float]:
    """Prices in batches. Every batch is half off, so that less than half is a rounding of the list, or another region's price."""
    prices = _prices({**entry, "output_cost_per_reasoning_token": None}, f"{suffix}_batches")
    return {name: max(price, _plain(Decimal(str(live[name])) / 2)) for name, price in prices.items() if name in live}


def _per_million(dollars: float) -> int | float:
    return _plain(Decimal(str(dollars)) * 1_000_000)


def _plain(price: Decimal) -> int | float:
    return int(price) if price == int(price) else float(price)


def text(tables: Mapping[str, Mapping[str, Any]], *, day: str, source: str) -> str:
    """The file: one model a line, so that a change of one model is a change of one line."""
    header = {
        "date": date.fromisoformat(day).isoformat(),
        "source": f"{source}: model_prices_and_context_window_backup.json, reduced to what niah needs, with additions of niah's",
        "prices": "US dollars per million tokens",
        "licence of the source": LICENCE.splitlines(),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value, indent=1, ensure_ascii=False)}," for key, value in header.items()]
    rows = [f"{json.dumps(name)}: {json.dumps(table, separators=(',', ':'))}" for name, table in tables.items()]
    return "{\n" + "\n".join(lines) + '\n"models": {\n' + ",\n".join(rows) + "\n}}\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m niah.backends.make_models", description="Make models.json.")
    parser.add_argument("prices", type=Path, help="litellm's model_prices_and_context_window_backup.json")
    parser.add_argument("--date", required=True, help="the day of the prices, as in 2026-11-23")
    parser.add_argument("--source", required=True, help='where they come from, as in "litellm 1.109.1"')
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    data = json.loads(options.prices.read_text(encoding="utf-8"))
    options.out.write_text(text(models(data), day=options.date, source=options.source), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
