"""The litellm proxy: one real third-party server that speaks the formats of OpenAI, Anthropic and Gemini, and checks its key.

Its models are mocks, which answer a fixed text with invented counts of tokens, and passages to a server behind it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.process import Peer, free_port

KEY = "sk-the-proxys-master-key-0123456789"


@dataclass(frozen=True, kw_only=True)
class Mock:
    """A model that always says the same; `litellm.RateLimitError` and its like are errors instead."""

    name: str
    says: str
    of: str = "openai/gpt-4o-mini"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A model for which another server answers. Asked as this `provider`, it gets chat completions whatever format the proxy was asked in."""

    name: str
    url: str
    model: str = "m"
    provider: str = "lm_studio"


class Proxy(Peer):
    """A proxy with these models."""

    def __init__(self, python: Path, models: Sequence[Mock | Passage], folder: Path):
        config = folder / "litellm.json"  # JSON is YAML
        config.write_text(json.dumps(_config(models), indent=1), encoding="utf-8")
        port = free_port()
        command = [python.with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        super().__init__(
            command,
            port=port,
            ready="/health/liveliness",
            log=folder / "litellm.log",
            environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            folder=folder,
        )

    @property
    def gemini_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1beta"


def _config(models: Sequence[Mock | Passage]) -> Mapping[str, Any]:
    return {
        "model_list": [{"model_name": model.name, "litellm_params": {"api_key": "sk-upstream", **_parameters(model)}} for model in models],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "router_settings": {"disable_cooldowns": True, "num_retries": 0},
    }


def _parameters(model: Mock | Passage) -> Mapping[str, Any]:
    if isinstance(model, Mock):
        return {"model": model.of, "mock_response": model.says}
    return {"model": f"{model.provider}/{model.model}", "api_base": model.url}
