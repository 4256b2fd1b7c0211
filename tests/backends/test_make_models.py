"""The script that makes models.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from niah.backends import make_models
from tests.backends.facts_file import FILE

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
