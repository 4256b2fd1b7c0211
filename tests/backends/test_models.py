"""What is known of models, and money: hand-computed bills, bounds that no request breaks, the user's file, the script."""

import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from niah.backends import make_models, models
from niah.backends.model_facts import KEYS, merged
from niah.backends.models import Caching, Capabilities, Prices, Tier, capabilities, cost_dollars, most_dollars, packaged
from niah.errors import UsageError
from niah.trial import Usage

ROOT = Path(__file__).parent.parent.parent
FILE = Path(models.__file__).with_name("models.json")
MILLION = 1_000_000


@pytest.fixture(autouse=True)
def no_file_of_the_tester(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("XDG_CONFIG_HOME", "HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "config"))


# What is known


@pytest.mark.parametrize(
    ("model", "input_price", "output_price", "cache_read", "window_tokens"),
    [
        ("anthropic/claude-opus-5-5", 4, 20, 0.20, 1_000_000),
        ("anthropic/claude-opus-5", 5, 25, 0.50, 1_000_000),
        ("anthropic/claude-sonnet-5-5", 2, 10, 0.10, 1_000_000),
        ("anthropic/claude-haiku-5-5", 0.10, 0.50, 0.01, 1_000_000),
        ("anthropic/claude-haiku-4-5", 1, 5, 0.10, 200_000),
        ("anthropic/claude-fable-5-1", 10, 50, 0.25, 1_000_000),
        ("openai/gpt-6-astra", 10, 50, 1.0, 922_000),
        ("openai/gpt-6.1-sol", 2, 10, 0.10, 922_000),
        ("openai/gpt-6-luna", 0.10, 0.50, 0.01, 922_000),
        ("openai/gpt-5.6-luna", 0.20, 1.20, 0.02, 922_000),
        ("openai/gpt-4.1", 2, 8, 0.50, 1_047_576),
        ("openai/gpt-4o-mini", 0.15, 0.60, 0.075, 128_000),
        ("gemini/gemini-2.5-flash", 0.30, 2.50, 0.03, 1_048_576),
        ("gemini/gemini-3.8-flash", 0.75, 3.75, 0.075, 1_048_576),
        ("gemini/gemini-4-argon", 2, 10, 0.10, 1_048_576),
        ("bedrock/us.anthropic.claude-opus-5-5", 4.4, 22, 0.22, 1_000_000),
    ],
)
def test_published_prices(model: str, input_price: float, output_price: float, cache_read: float, window_tokens: int):
    known = capabilities(model)
    assert known.prices
    assert (known.prices.input, known.prices.output, known.prices.cache_read) == (input_price, output_price, cache_read)
    assert known.window_tokens == window_tokens
    assert (known.model, known.source) == (model, f"models.json of {json.loads(FILE.read_text(encoding='utf-8'))['date']}")


@pytest.mark.parametrize(
    ("model", "above", "factor_input", "factor_output"),
    [
        ("anthropic/claude-haiku-5-5", 100_000, 5, 5),
        ("openai/gpt-6.1-sol", 272_000, 2, 1.5),
        ("openai/gpt-5.6-luna", 272_000, 2, 1.5),
        ("openai/gpt-6-astra-law", 272_000, 2, 1.5),
        ("gemini/gemini-2.5-pro", 200_000, 2, 1.5),
        ("gemini/gemini-3.1-pro-preview", 200_000, 2, 1.5),
        ("bedrock/us.anthropic.claude-haiku-5-5", 100_000, 5, 5),
    ],
)
def test_a_long_prompt_makes_the_whole_request_dearer(model: str, above: int, factor_input: float, factor_output: float):
    known = capabilities(model)
    assert known.prices and known.prices.input and known.prices.output
    at = cost_dollars(Usage(input=above, output=0), known)
    beyond = cost_dollars(Usage(input=above + 1, output=0), known)
    assert at == pytest.approx(above * known.prices.input / MILLION)
    assert beyond == pytest.approx((above + 1) * known.prices.input * factor_input / MILLION)
    answer = cost_dollars(Usage(input=above + 1, output=1000), known)
    assert answer == pytest.approx((beyond or 0) + 1000 * known.prices.output * factor_output / MILLION)


def test_claude_has_no_tiers_since_4_6_but_haiku():
    tiered = [model for model, known in packaged().items() if model.startswith("anthropic/") and known.tiers]
    assert tiered == ["anthropic/claude-haiku-5-5"]


@pytest.mark.parametrize(
    ("model", "prefill", "sampling", "thinking"),
    [
        ("anthropic/claude-opus-5-5", False, False, "always"),
        ("anthropic/claude-sonnet-5-5", False, False, "always"),
        ("anthropic/claude-fable-5-1", False, False, "always"),
        ("anthropic/claude-opus-5", False, False, "default"),
        ("anthropic/claude-sonnet-5", False, False, "default"),
        ("anthropic/claude-haiku-5-5", False, False, "default"),
        ("anthropic/claude-opus-4-8", False, False, "optional"),
        ("anthropic/claude-opus-4-6", False, True, "optional"),
        ("anthropic/claude-haiku-4-5", True, True, "optional"),
        ("bedrock/eu.anthropic.claude-sonnet-4-6", False, True, "optional"),
        ("bedrock/anthropic.claude-haiku-4-5-20251001-v1:0", True, True, "optional"),
        ("openai/gpt-6.1-sol", False, False, "always"),
        ("openai/gpt-6-luna", False, False, "default"),
        ("openai/gpt-5.1", False, True, "optional"),
        ("openai/gpt-4.1", False, True, "none"),
        ("openai/o3", False, False, "always"),
        ("gemini/gemini-2.5-flash", True, None, "default"),
        ("gemini/gemini-3.5-flash", True, None, "always"),
        ("gemini/gemini-3.5-flash-lite", False, False, "always"),
        ("gemini/gemini-3.8-flash", False, False, "always"),
        ("gemini/gemini-flash-latest", False, False, "always"),
    ],
)
def test_what_models_take(model: str, prefill: bool, sampling: bool | None, thinking: str):
    known = capabilities(model)
    assert (known.prefill, known.sampling, known.thinking) == (prefill, sampling, thinking)


def test_the_more_careful_of_two_sources_counts():
    assert capabilities("anthropic/claude-opus-4-8").cache_min_tokens == 4096
    assert capabilities("bedrock/us.openai.gpt-6.1-sol").window_tokens == 922_000
    assert capabilities("openai/gpt-5.5").window_tokens == 922_000
    glm = capabilities("bedrock/deepseek.v3.2").prices
    assert glm and glm.input == 0.74, "the dearest region"


def test_retirements():
    assert capabilities("anthropic/claude-sonnet-4-5").retires == "2026-11-30"
    assert capabilities("openai/gpt-4.1-mini").retires == "2027-01-14"
    assert capabilities("openai/gpt-5-nano").retires == "2026-12-11"
    assert capabilities("openai/gpt-6.1-sol").retires is None


@pytest.mark.parametrize(
    ("model", "relative"),
    [
        ("anthropic/claude-opus-5-5-20260901", "anthropic/claude-opus-5-5"),
        ("anthropic/claude-haiku-4-5-latest", "anthropic/claude-haiku-4-5"),
        ("openai/gpt-6.1-sol-2026-09-29", "openai/gpt-6.1-sol"),
        ("gemini/gemini-2.5-flash-001", "gemini/gemini-2.5-flash"),
        ("bedrock/us.anthropic.claude-opus-5-5-v1:0", "bedrock/us.anthropic.claude-opus-5-5"),
        ("bedrock/anthropic.claude-opus-4-6-v1:0", "bedrock/anthropic.claude-opus-4-6-v1"),
        ("bedrock/global.anthropic.claude-opus-4-6-20260205-v1:0", "bedrock/global.anthropic.claude-opus-4-6-v1"),
        ("bedrock/eu.anthropic.claude-haiku-4-5", "bedrock/eu.anthropic.claude-haiku-4-5-20251001-v1:0"),
        (
            "bedrock/arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-opus-5",
            "bedrock/eu.anthropic.claude-opus-5",
        ),
    ],
)
def test_another_snapshot_of_a_model(model: str, relative: str):
    known, near = capabilities(model), capabilities(relative)
    assert known == replace(near, model=model, source=f"{near.source} ({relative})")
    assert known.prices


@pytest.mark.parametrize(
    "model",
    [
        "anthropic/claude-opus-4",
        "anthropic/claude-opus-6",
        "anthropic/claude-opus-5-6",
        "anthropic/claude-opus-5-5-mini",
        "anthropic/claude-opus",
        "anthropic/claude",
        "anthropic/claude-latest",
        "openai/gpt-6.2-sol",
        "openai/gpt-6.1",
        "openai/gpt-6",
        "openai/gpt",
        "openai/gpt-5.4-chat-latest",
        "openai/gpt-4o-0513",
        "openai/ft:gpt-4o-mini-2024-07-18:me::1",
        "gemini/gemini-2.5",
        "gemini/gemini-3.9-flash",
        "gemini/gemini-flash",
        "gemini/gemini-2.5-pro-preview-05-06",
        "bedrock/anthropic.claude-v2:0",
        "bedrock/anthropic.claude-opus-6",
        "bedrock/us.anthropic.claude-opus-6",
        "bedrock/arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
        "bedrock/arn:aws-us-gov:bedrock:us-gov-west-1:1:foundation-model/anthropic.claude-opus-5",
        "azure/gpt-6.1-sol",
        "azure/my-deployment",
        "ollama/llama3.3",
        "server/llama",
        "server/gpt-6.1-sol",
        "openrouter/meta-llama/llama-4",
        "openrouter/anthropic/claude-opus-6",
        "openrouter/anthropic",
        "baseline/bm25",
        "gpt-6.1-sol",
        "",
    ],
)
def test_nothing_is_guessed(model: str):
    known = capabilities(model)
    assert known == Capabilities(model=model)
    assert known.source == "unknown"
    assert cost_dollars(Usage(input=10, output=1), known) is None
    assert most_dollars(10, 1, known) is None


@pytest.mark.parametrize(
    ("model", "relative"),
    [
        ("openai/gpt-4o-2025-09-01", "openai/gpt-4o"),  # its snapshots have had two prices
        ("bedrock/ca.anthropic.claude-opus-5-5", "bedrock/anthropic.claude-opus-5-5"),  # regions differ in price
    ],
)
def test_facts_without_prices(model: str, relative: str):
    known, near = capabilities(model), capabilities(relative)
    assert known == replace(near.without_prices(), model=model, source=f"{near.source} ({relative}, without prices)")
    assert cost_dollars(Usage(input=10, output=1), known) is None


def test_openrouter_carries_over_refusals_only():
    known = capabilities("openrouter/anthropic/claude-opus-5.5")
    assert (known.prefill, known.sampling, known.thinking) == (False, False, "always")
    assert (known.window_tokens, known.prices, known.cache_min_tokens) == (None, None, None)
    allowed = capabilities("openrouter/anthropic/claude-haiku-4.5")
    assert (allowed.prefill, allowed.sampling) == (None, None)
    assert capabilities("openrouter/google/gemini-3.8-flash").sampling is False


# Money


OPUS = Capabilities(
    model="anthropic/claude-opus-5-5",
    prices=Prices(input=4, output=20, cache_read=0.2, cache_write=5, cache_write_1h=8),
    batch=Prices(input=2, output=10, cache_read=0.1, cache_write=2.5),
)
SOL = Capabilities(
    model="openai/gpt-6.1-sol",
    prices=Prices(input=2, output=10, cache_read=0.1, cache_write=2.5),
    tiers=(Tier(above_tokens=272_000, prices=Prices(input=4, output=15, cache_read=0.2, cache_write=5)),),
    batch=Prices(input=1, output=5, cache_read=0.05),
)


@pytest.mark.parametrize(
    ("usage", "known", "options", "dollars"),
    [
        (Usage(input=100_000, output=1_000), OPUS, {}, 0.42),
        (Usage(input=100_000, cached=90_000, output=1_000), OPUS, {}, 0.04 + 0.018 + 0.02),
        (Usage(input=100_000, output=1_000), OPUS, {"cache_write_tokens": 95_000}, 0.02 + 0.475 + 0.02),
        (Usage(input=100_000, output=1_000), OPUS, {"cache_write_tokens": 95_000, "caching": "1h"}, 0.02 + 0.76 + 0.02),
        (Usage(input=100_000, cached=90_000, output=1_000), OPUS, {"cache_write_tokens": 10_000}, 0.018 + 0.05 + 0.02),
        (Usage(input=100_000, cached=90_000, output=1_000), OPUS, {"batch": True}, 0.039),
        (Usage(input=100_000, output=0), OPUS, {"batch": True, "cache_write_tokens": 100_000, "caching": "1h"}, 0.8),
        (Usage(input=1_000, output=3_000, reasoning=2_900), OPUS, {}, 0.004 + 0.06),  # output includes reasoning
        (Usage(input=272_000, output=1_000), SOL, {}, 0.554),
        (Usage(input=272_001, output=1_000), SOL, {}, 1.088004 + 0.015),
        (Usage(input=300_000, cached=299_000, output=1_000), SOL, {}, 0.004 + 0.0598 + 0.015),
        (Usage(input=300_000, cached=299_000, output=1_000), SOL, {"batch": True}, 1.2 + 0.015),  # no batch price known: no discount
        (Usage(input=0, output=0), SOL, {}, 0),
    ],
)
def test_bills_by_hand(usage: Usage, known: Capabilities, options: dict[str, Any], dollars: float):
    assert cost_dollars(usage, known, **options) == pytest.approx(dollars, rel=1e-12)


def test_a_cached_token_of_unknown_price_costs_as_much_as_another():
    known = Capabilities(model="server/x", prices=Prices(input=3, output=6))
    assert cost_dollars(Usage(input=1_000, cached=900, output=0), known) == 0.003


def test_a_batch_does_not_discount_cached_tokens_unless_it_is_known():
    known = Capabilities(model="openai/x", prices=Prices(input=2, output=6, cache_read=0.2), batch=Prices(input=1, output=3))
    assert cost_dollars(Usage(input=1_000, cached=900, output=0), known, batch=True) == 0.001


@pytest.mark.parametrize(
    ("usage", "known", "options"),
    [
        (Usage(), OPUS, {}),
        (Usage(input=5), OPUS, {}),
        (Usage(output=5), OPUS, {}),
        (Usage(input=5, output=5), replace(OPUS, prices=None), {}),
        (Usage(input=5, output=5), replace(OPUS, batch=None), {"batch": True}),
        (Usage(input=5, output=5), replace(OPUS, prices=Prices(input=1)), {}),
        (Usage(input=5, output=5), replace(SOL, prices=Prices(input=1, output=1)), {"cache_write_tokens": 1}),
        (Usage(input=5, output=5), SOL, {"cache_write_tokens": 1, "caching": "1h"}),
    ],
)
def test_an_unknown_part_makes_an_unknown_cost(usage: Usage, known: Capabilities, options: dict[str, Any]):
    assert cost_dollars(usage, known, **options) is None


def test_the_most_of_a_request():
    assert most_dollars(100_000, 1_000, OPUS) == pytest.approx(0.52)  # all of it written to the cache
    assert most_dollars(100_000, 1_000, OPUS, caching="1h") == pytest.approx(0.82)
    assert most_dollars(300_000, 1_000, SOL) == pytest.approx(1.515)
    assert most_dollars(100_000, 1_000, SOL, caching="1h") is None
    assert most_dollars(100_000, 1_000, replace(OPUS, batch=None), batch=True) is None
    assert most_dollars(100_000, 1_000, replace(SOL, tiers=(Tier(above_tokens=50_000, prices=Prices()),))) is None
    cheaper = replace(SOL, tiers=(Tier(above_tokens=50_000, prices=Prices(input=0.1, output=0.1)),))
    assert most_dollars(60_000, 0, cheaper) == pytest.approx(0.15), "a shorter prompt could cost more"
    odd = Capabilities(model="server/x", prices=Prices(input=1, output=1, cache_read=3))
    assert most_dollars(1_000_000, 0, odd) == 3


@pytest.mark.parametrize("price", [0.1, 0.3, 0.7, 1.1, 1 / 3])
def test_no_rounding_passes_the_bound(price: float):
    """The same tokens in one sum or in three: rounded products would differ in the last digit, and a cap would be passed by it."""
    known = Capabilities(model="server/x", prices=Prices(input=price, output=price, cache_read=price, cache_write=price))
    for prompt in range(10, 2_000, 7):
        for cached in range(0, prompt, 97):
            usage = Usage(input=prompt, cached=cached, output=prompt)
            assert cost_dollars(usage, known, cache_write_tokens=(prompt - cached) // 3) == most_dollars(prompt, prompt, known)


PRICE = st.one_of(st.just(0.0), st.floats(1e-6, 1000), st.sampled_from([0.1, 0.3, 0.075, 1 / 3, 2.5]))
MAYBE = st.one_of(st.none(), PRICE)
PRICES = st.builds(Prices, input=PRICE, output=PRICE, cache_read=MAYBE, cache_write=MAYBE, cache_write_1h=MAYBE)
BATCH = st.one_of(st.none(), st.builds(Prices, input=MAYBE, output=MAYBE, cache_read=MAYBE, cache_write=MAYBE, cache_write_1h=MAYBE))
TIER = st.builds(Tier, above_tokens=st.integers(1, 2_000_000), prices=PRICES, batch=BATCH)
ANY = st.builds(Capabilities, model=st.just("x/y"), prices=PRICES, tiers=st.lists(TIER, max_size=3).map(tuple), batch=BATCH)
PACKAGED = st.sampled_from([known for known in packaged().values() if known.prices])
TOKENS = st.one_of(st.integers(0, 2_000_000), st.sampled_from([99_999, 100_000, 100_001, 200_000, 200_001, 272_000, 272_001]))
CACHING: st.SearchStrategy[Caching] = st.sampled_from(["5m", "1h"])


@settings(max_examples=1000, deadline=None)
@given(st.one_of(ANY, PACKAGED), st.tuples(TOKENS, TOKENS), st.booleans(), CACHING, st.data())
def test_no_request_costs_more_than_its_most(
    known: Capabilities, bounds: tuple[int, int], batch: bool, caching: Caching, data: st.DataObject
):
    prompt, answer = (data.draw(st.one_of(st.just(bound), st.integers(0, bound))) for bound in bounds)  # often the bounds themselves
    cached = data.draw(st.one_of(st.none(), st.just(prompt), st.integers(0, prompt)))
    left = prompt - (cached or 0)
    written = data.draw(st.one_of(st.just(left), st.integers(0, left)))
    usage = Usage(input=prompt, cached=cached, output=answer, reasoning=data.draw(st.integers(0, answer)))
    cost = cost_dollars(usage, known, batch=batch, cache_write_tokens=written, caching=caching)
    most = most_dollars(*bounds, known, batch=batch, caching=caching)
    assert cost is None or cost >= 0
    if most is not None:
        assert cost is not None
        assert cost <= most
    unasked = most_dollars(*bounds, known, batch=batch)
    assert (unasked is None) == (batch and known.batch is None)
    if caching == "5m" and unasked is not None and cost is not None:
        assert cost <= unasked


@settings(deadline=None)
@given(PACKAGED, st.tuples(TOKENS, TOKENS), st.tuples(TOKENS, TOKENS), st.booleans())
def test_more_tokens_are_never_cheaper(known: Capabilities, counts: tuple[int, int], more: tuple[int, int], batch: bool):
    def cost(input_tokens: int, output_tokens: int, cached: int = 0) -> float:
        return cost_dollars(Usage(input=input_tokens, cached=cached, output=output_tokens), known, batch=batch and bool(known.batch)) or 0

    prompt, answer = counts
    assert cost(prompt + more[0], answer) >= cost(prompt, answer)
    assert cost(prompt, answer + more[1]) >= cost(prompt, answer)
    assert cost(prompt + more[0], answer, cached=prompt) >= cost(prompt, answer, cached=prompt)
    assert cost(prompt, answer, cached=prompt // 2) <= cost(prompt, answer)


@settings(deadline=None)
@given(PACKAGED, TOKENS, TOKENS, st.integers(0, 2_000_000))
def test_a_batch_is_never_dearer(known: Capabilities, prompt: int, answer: int, cached: int):
    if known.batch is None:
        return
    discounts = known.batch.cache_read is not None and all(tier.batch and tier.batch.cache_read is not None for tier in known.tiers)
    usage = Usage(input=prompt, cached=min(cached, prompt) if discounts else 0, output=answer)
    live, batch = cost_dollars(usage, known), cost_dollars(usage, known, batch=True)
    assert live is not None and batch is not None
    assert batch <= live
    assert (most_dollars(prompt, answer, known, batch=True) or 0) <= (most_dollars(prompt, answer, known) or 0)


@settings(deadline=None)
@given(ANY, st.integers(-5, 10), st.integers(-5, 10), st.integers(-5, 100), st.integers(-5, 100))
@example(known=OPUS, prompt=10, answer=1, cached=50, written=40)
def test_counts_that_contradict_each_other_are_not_cheap(known: Capabilities, prompt: int, answer: int, cached: int, written: int):
    """A provider that leaves cached tokens out of the input is billed for all of them, and nothing is ever negative."""
    cost = cost_dollars(Usage(input=prompt, cached=cached, output=answer), known, cache_write_tokens=written)
    assert cost is None or cost >= 0
    whole = Usage(input=max(prompt, max(cached, 0) + max(written, 0)), cached=cached, output=answer)
    assert cost == cost_dollars(whole, known, cache_write_tokens=written)


# The user's file


@pytest.fixture
def override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("NIAH_MODELS", str(path))
        models._read_overrides.cache_clear()
        return path

    return write


def test_the_users_facts_of_a_model_that_nobody_knows(override: Any):
    path = override("""
[models."server/llama"]
window_tokens = 131_072
max_output_tokens = 8192
prefill = true
sampling = true
thinking = "optional"
cache_min_tokens = 16
retires = 2027-01-31
price = {input = 0.5, output = 1.5, cache_read = 0.05}
tiers = [{above_tokens = 64_000, input = 1, output = 3, batch = {input = 0.5}}]
batch = {input = 0.25, output = 0.75}
""")
    assert capabilities("server/llama") == Capabilities(
        model="server/llama",
        source=f"override {path}",
        window_tokens=131_072,
        max_output_tokens=8192,
        prefill=True,
        sampling=True,
        thinking="optional",
        cache_min_tokens=16,
        retires="2027-01-31",
        prices=Prices(input=0.5, output=1.5, cache_read=0.05),
        tiers=(Tier(above_tokens=64_000, prices=Prices(input=1, output=3), batch=Prices(input=0.5)),),
        batch=Prices(input=0.25, output=0.75),
    )
    assert capabilities("server/qwen").source == "unknown"


def test_single_facts_replace_packaged_ones(override: Any):
    before = capabilities("anthropic/claude-haiku-5-5")
    path = override('[models."anthropic/claude-haiku-5-5"]\nwindow_tokens = 200_000')
    after = capabilities("anthropic/claude-haiku-5-5")
    assert after == replace(before, window_tokens=200_000, source=f"override {path} over {before.source}")


def test_a_price_replaces_all_that_was_known_of_money(override: Any):
    override('[models."openai/gpt-6.1-sol"]\nprice = {input = 3, output = 12}')
    known = capabilities("openai/gpt-6.1-sol")
    assert (known.prices, known.tiers, known.batch) == (Prices(input=3, output=12), (), None)
    assert known.thinking == "always"


def test_prices_of_batches_alone(override: Any):
    live = capabilities("openai/gpt-6.1-sol")
    override('[models."openai/gpt-6.1-sol"]\nbatch = {input = 1.5, output = 6}')
    known = capabilities("openai/gpt-6.1-sol")
    assert known.prices == live.prices
    assert [tier.prices for tier in known.tiers] == [tier.prices for tier in live.tiers]
    assert known.batch == Prices(input=1.5, output=6)
    assert known.tiers[0].batch is None, "the packaged one does not belong to the user's"


def test_a_batch_discount(override: Any):
    override("""
[models."server/x"]
price = {input = 0.3, output = 2}
tiers = [{above_tokens = 10, input = 1, output = 3}]
batch_discount = 0.4
""")
    known = capabilities("server/x")
    assert known.batch == Prices(input=0.18, output=1.2)
    assert known.tiers[0].batch == Prices(input=0.6, output=1.8)


def test_a_deployment_is_like_a_model(override: Any):
    path = override("""
[models."azure/prod"]
like = "azure/eu/gpt-6.1-sol"
[models."azure/other"]
like = "anthropic/claude-haiku-4-5-latest"
prefill = false
""")
    near = packaged()["azure/eu/gpt-6.1-sol"]
    assert capabilities("azure/prod") == replace(near, model="azure/prod", source=f"override {path} over {near.source} ({near.model})")
    assert capabilities("azure/other").prices == packaged()["anthropic/claude-haiku-4-5"].prices
    assert capabilities("azure/other").prefill is False


def test_free_is_what_the_user_calls_free(override: Any):
    override('[models."server/mine"]\nprice = {input = 0, output = 0}')
    assert cost_dollars(Usage(input=10**6, output=10), capabilities("server/mine")) == 0
    assert most_dollars(10**6, 10, capabilities("server/mine")) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models", "mine.toml is no valid TOML"),
        ('[modles."server/x"]', "unknown key 'modles'; did you mean 'models'?"),
        ("models = 3", "mine.toml: models: 3 is no table"),
        ("[models.llama]\nprefill = true", '[models."server/llama"]'),
        ('[models]\n"server/x" = 3', '[models."server/x"]: 3 is no table'),
        ('[models."server/x"]\nwindow_token = 3', "unknown key 'window_token'; did you mean 'window_tokens'?"),
        ('[models."server/x"]\nwindow_tokens = "3k"', "window_tokens: '3k' is no number of tokens"),
        ('[models."server/x"]\nmax_output_tokens = 0', "max_output_tokens: 0 is no number of tokens"),
        ('[models."server/x"]\ncache_min_tokens = true', "cache_min_tokens: True is no number of tokens"),
        ('[models."server/x"]\nprefill = 1', "prefill: 1 is none of true, false"),
        ('[models."server/x"]\nthinking = "never"', "thinking: 'never' is none of always, default, optional, none"),
        ('[models."server/x"]\nretires = "soon"', "retires: 'soon' is no date as in"),
        ('[models."server/x"]\nprice = 3', "price: 3 is no table"),
        ('[models."server/x"]\nprice = {input = 3}', "price: 'output' is missing"),
        ('[models."server/x"]\nprice = {input = 3, output = 1, cached = 1}', "price: unknown key 'cached'; did you mean 'cache_read'?"),
        ('[models."server/x"]\nprice = {input = -3, output = 1}', "price.input: -3 is no number from 0 to"),
        ('[models."server/x"]\nprice = {input = nan, output = 1}', "price.input: nan is no number"),
        ('[models."server/x"]\nprice = {input = inf, output = 1}', "price.input: inf is no number"),
        ('[models."server/x"]\nprice = {input = true, output = 1}', "price.input: True is no number"),
        ('[models."server/x"]\ntiers = 3', "tiers: 3 is no list"),
        ('[models."server/x"]\ntiers = [{input = 3, output = 1}]', "tiers above_tokens: None is no number of tokens"),
        ('[models."server/x"]\ntiers = [{above_tokens = 3, input = 3}]', "tiers: 'output' is missing"),
        ('[models."server/x"]\nbatch = {inputs = 3}', "batch: unknown key 'inputs'; did you mean 'input'?"),
        ('[models."server/x"]\nbatch_discount = 0.5', "batch_discount: it needs a price"),
        ('[models."server/x"]\nprice = {input=1, output=1}\nbatch = {}\nbatch_discount = 0.5', "give it or batch, not both"),
        ('[models."server/x"]\nprice = {input=1, output=1}\nbatch_discount = 50', "batch_discount: 50 is no number from 0 to 1"),
        (
            '[models."azure/x"]\nlike = "openai/gpt-6.1-soll"',
            "nothing is known of 'openai/gpt-6.1-soll'; did you mean 'openai/gpt-6.1-sol'?",
        ),
        ('[models."azure/x"]\nlike = "zzz"', "nothing is known of 'zzz'; name a known model"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(override: Any, text: str, message: str):
    path = override(text)
    with pytest.raises(UsageError) as caught:
        capabilities("server/anything")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIAH_MODELS", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        capabilities("server/x")
    monkeypatch.setenv("NIAH_MODELS", str(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        capabilities("server/x")


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", "xdg"),
        ("darwin", "home/Library/Application Support"),
        ("win32", "appdata"),
    ],
)
def test_the_config_folder_of_the_platform(platform: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "appdata"))
    assert models.overrides_path() is None
    place = tmp_path / folder / "niah" / "models.toml"
    place.parent.mkdir(parents=True)
    place.write_text('[models."server/x"]\nprefill = true')
    assert models.overrides_path() == place
    assert capabilities("server/x").prefill is True


def test_the_file_is_read_again_when_it_changes(override: Any):
    path = override('[models."server/x"]\nprefill = true')
    assert capabilities("server/x").prefill is True
    path.write_text('[models."server/x"]\nprefill = false')
    assert capabilities("server/x").prefill is False


def test_the_examples_of_the_guide_load(override: Any):
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "[models." in block]
    assert blocks
    override("\n".join(blocks))
    assert capabilities("server/llama").source.startswith("override")
    assert {*KEYS} - set(re.findall(r"`(\w+)`", text)) == set()


# models.json and the script that makes it


def test_every_line_is_a_model():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    start = lines.index('"models": {')
    rows = lines[start + 1 : -1]
    assert len(rows) == len(packaged()) > 500
    for line in rows:
        model, table = next(iter(json.loads("{" + line.rstrip(",") + "}").items()))
        known = merged(Capabilities(model=model), table, model)
        assert replace(known, source=packaged()[model].source) == packaged()[model]
        assert "like" not in table and "batch_discount" not in table
        assert known.window_tokens or known.prices


def test_packaged_prices_are_sound():
    for model, known in packaged().items():
        if known.prices is None:
            assert (known.tiers, known.batch) == ((), None), model
            continue
        assert known.prices.input and known.prices.output, model
        levels = [(known.prices, known.batch), *((tier.prices, tier.batch) for tier in known.tiers)]
        for (live, batch), (beyond, _) in zip(levels, [*levels[1:], levels[-1]], strict=True):
            for field in fields(Prices):
                price, higher = getattr(live, field.name), getattr(beyond, field.name)
                assert (price is None) == (higher is None) and (price or 0) <= (higher or 0), (model, field.name)
                assert not batch or getattr(batch, field.name) is None or price / 2 <= getattr(batch, field.name) <= price, model
            assert (live.cache_read or 0) <= (live.input or 0), model
            assert live.cache_write is None or live.cache_write >= (live.input or 0), model
            assert live.cache_write_1h is None or live.cache_write_1h >= (live.cache_write or 0), model


def test_the_file_is_small_dated_and_bears_the_licence():
    data = json.loads(FILE.read_text(encoding="utf-8"))
    assert FILE.stat().st_size < 250_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", data["date"])
    assert "litellm" in data["source"]
    licence = "\n".join(data["licence of the source"])
    assert "Copyright (c) 2023 Berri AI" in licence
    assert "The above copyright notice and this permission notice shall be included" in licence
    assert {model.split("/")[0] for model in data["models"]} <= {"openai", "anthropic", "gemini", "bedrock", "openrouter", "azure"}
    assert list(data["models"]) == sorted(data["models"])


CHAT = {"mode": "chat", "supports_reasoning": True, "supports_prompt_caching": True}
SOURCE: dict[str, dict[str, Any]] = {
    "sample_spec": {"litellm_provider": "one of them", "mode": "one of them", "input_cost_per_token": 0.0},
    "gemini/gemini-2.5-pro": {
        **CHAT,
        "litellm_provider": "gemini",
        "max_input_tokens": 1_048_576,
        "max_output_tokens": 65_536,
        "prompt_cache_min_tokens": 2048,
        "input_cost_per_token": 1.25e-06,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.25e-07,
        "input_cost_per_token_batches": 6.25e-07,
        "output_cost_per_token_batches": 5e-06,
        "cache_read_input_token_cost_batches": 1.25e-07,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
        "cache_read_input_token_cost_above_200k_tokens": 2.5e-07,
        "input_cost_per_token_above_200k_tokens_batches": 1.25e-06,
        "output_cost_per_token_above_200k_tokens_batches": 7.5e-06,
        "cache_read_input_token_cost_above_200k_tokens_batches": 2.5e-07,
        "input_cost_per_token_priority": 2.25e-06,
    },
    "claude-haiku-5-5": {
        **CHAT,
        "litellm_provider": "anthropic",
        "max_input_tokens": 1_000_000,
        "max_output_tokens": 128_000,
        "prompt_cache_min_tokens": 512,
        "supports_assistant_prefill": False,
        "supports_sampling_params": False,
        "thinking_always_on": False,
        "input_cost_per_token": 1e-07,
        "output_cost_per_token": 5e-07,
        "cache_read_input_token_cost": 1e-08,
        "cache_creation_input_token_cost": 1.25e-07,
        "cache_creation_input_token_cost_above_1hr": 2e-07,
        "input_cost_per_token_batches": 5e-08,
        "output_cost_per_token_batches": 2.5e-07,
        "cache_read_input_token_cost_batches": 5e-09,
        "cache_creation_input_token_cost_batches": 6.25e-08,
        "input_cost_per_token_above_100k_tokens": 5e-07,
        "output_cost_per_token_above_100k_tokens": 2.5e-06,
        "cache_read_input_token_cost_above_100k_tokens": 5e-08,
        "cache_creation_input_token_cost_above_100k_tokens": 6.25e-07,
        "cache_creation_input_token_cost_above_1hr_above_100k_tokens": 1e-06,
        "input_cost_per_token_above_100k_tokens_batches": 2.5e-07,
        "output_cost_per_token_above_100k_tokens_batches": 1.25e-06,
        "cache_read_input_token_cost_above_100k_tokens_batches": 2.5e-08,
        "cache_creation_input_token_cost_above_100k_tokens_batches": 3.125e-07,
    },
    "gpt-4o-mini": {
        "mode": "chat",
        "litellm_provider": "openai",
        "supports_prompt_caching": True,
        "max_input_tokens": 128_000,
        "max_output_tokens": 16_384,
        "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": 6e-07,
        "cache_read_input_token_cost": 7.5e-08,
        "input_cost_per_token_batches": 7.5e-08,
        "output_cost_per_token_batches": 3e-07,
    },
    "zai.glm-5": {
        "mode": "chat",
        "litellm_provider": "bedrock_converse",
        "max_input_tokens": 200_000,
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 3.2e-06,
        "input_cost_per_token_batches": 5e-07,
    },
    "bedrock/eu-west-2/zai.glm-5": {
        "mode": "chat",
        "litellm_provider": "bedrock",
        "input_cost_per_token": 1.5e-06,
        "output_cost_per_token": 3e-06,
    },
    "bedrock/us-gov-west-1/zai.glm-5": {
        "mode": "chat",
        "litellm_provider": "bedrock",
        "input_cost_per_token": 9e-06,
        "output_cost_per_token": 9e-06,
    },
    "azure/us/odd": {
        "mode": "chat",
        "litellm_provider": "azure",
        "max_input_tokens": 100,
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 4e-06,
        "output_cost_per_reasoning_token": 5e-06,
        "cache_creation_input_token_cost": 1e-06,
    },
    "gemini/free-trial": {
        "mode": "chat",
        "litellm_provider": "gemini",
        "max_input_tokens": 9,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
    },
    "gemini/gemini-2.5-pro-preview-tts": {"mode": "chat", "litellm_provider": "gemini", "max_input_tokens": 9},
    "gemini-flash-latest": {"mode": "chat", "litellm_provider": "gemini", "max_input_tokens": 9},
    "ft:gpt-4o": {"mode": "chat", "litellm_provider": "openai", "max_input_tokens": 9},
    "bedrock/us-east-1/1-month-commitment/x.y": {"mode": "chat", "litellm_provider": "bedrock", "max_input_tokens": 9},
    "bedrock/claude_platform/claude-haiku-5-5": {"mode": "chat", "litellm_provider": "bedrock", "max_input_tokens": 9},
    "text-embedding-4": {"mode": "embedding", "litellm_provider": "openai", "max_input_tokens": 9},
    "mistral/x": {"mode": "chat", "litellm_provider": "mistral", "max_input_tokens": 9},
    "openrouter/x/y": {"mode": "chat", "litellm_provider": "openrouter", "max_input_tokens": 9},
    "openai/nothing": {"mode": "chat", "litellm_provider": "openai"},
}


def made(tmp_path: Path, name: str = "models.json") -> str:
    source = tmp_path / "prices.json"
    source.write_text(json.dumps(SOURCE), encoding="utf-8")
    out = tmp_path / name
    make_models.main([str(source), "--date", "2026-11-23", "--source", "litellm 1.109.1", "--out", str(out)])
    return out.read_text(encoding="utf-8")


def test_the_script_makes_the_same_bytes_and_the_committed_lines(tmp_path: Path):
    text = made(tmp_path)
    assert text == made(tmp_path, "again.json")
    committed = {line.rstrip(",") for line in FILE.read_text(encoding="utf-8").splitlines()}
    lines = text.splitlines()
    start = lines.index('"models": {')
    assert {line.rstrip(",") for line in lines[:start] if "date" not in line} <= committed
    for model in ("gemini/gemini-2.5-pro", "anthropic/claude-haiku-5-5", "openai/gpt-4o-mini"):
        assert next(line for line in lines if line.startswith(f'"{model}"')).rstrip(",") in committed
    assert list(json.loads(text)["models"]) == [
        "anthropic/claude-haiku-5-5",
        "azure/us/odd",
        "bedrock/zai.glm-5",
        "gemini/free-trial",
        "gemini/gemini-2.5-pro",
        "openai/gpt-4o-mini",
        "openrouter/x/y",
    ]


def test_the_script_is_careful(tmp_path: Path):
    found = json.loads(made(tmp_path))["models"]
    glm = found["bedrock/zai.glm-5"]
    assert glm["price"] == {"input": 1.5, "output": 3.2}, "the dearest commercial region"
    assert glm["batch"] == {"input": 0.75}, "half of the dearest region's"
    assert found["azure/us/odd"]["price"] == {"input": 2, "output": 5}
    assert "price" not in found["gemini/free-trial"]


def test_the_script_stops_at_what_it_does_not_understand(tmp_path: Path):
    half = {"k": {**SOURCE["gpt-4o-mini"], "input_cost_per_token_above_64k_tokens": 1e-6}}
    with pytest.raises(ValueError, match="without a price of the output"):
        make_models.models(half)
    with pytest.raises(ValueError, match="isoformat"):
        make_models.models({"k": {**SOURCE["gpt-4o-mini"], "deprecation_date": "soon"}})


def test_help_does_not_read_the_file():
    script = "import sys; sys.argv = ['niah', '--help']\nfrom niah.cli import main\ntry:\n  main()\nexcept SystemExit:\n  pass\n"
    check = "m = sys.modules.get('niah.backends.models')\nassert m is None or m.packaged.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", script + check], check=True, capture_output=True)
