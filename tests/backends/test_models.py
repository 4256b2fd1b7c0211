"""What is known of models: published prices, what they take, other snapshots, and that nothing is guessed."""

import json
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from niah.backends.model_facts import merged
from niah.backends.models import Capabilities, Prices, capabilities, cost_dollars, most_dollars, packaged
from niah.trial import Usage
from tests.backends.facts_file import FILE, no_file_of_the_tester

__all__ = ["no_file_of_the_tester"]


MILLION = 1_000_000


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


# models.json


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


def test_help_does_not_read_the_file():
    script = "import sys; sys.argv = ['niah', '--help']\nfrom niah.cli import main\ntry:\n  main()\nexcept SystemExit:\n  pass\n"
    check = "m = sys.modules.get('niah.backends.models')\nassert m is None or m.packaged.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", script + check], check=True, capture_output=True)
