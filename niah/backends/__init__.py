"""Whom we ask. `open_backend("server/llama", Connection(base_url=...))` gives a Backend; the table says which class a prefix means."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from niah.errors import UsageError, did_you_mean
from niah.trial import Cue, Prompt, Reply


class Backend(Protocol):
    """One model that can be asked.

    `cues` are the cue modes it can be asked with and `preferred_cue` what `auto` means for it; `concurrency` is how many
    prompts it takes at a time unless the experiment says otherwise.
    """

    @property
    def cues(self) -> frozenset[Cue]: ...
    @property
    def preferred_cue(self) -> Cue: ...
    @property
    def concurrency(self) -> int: ...

    def ready(self) -> None:
        """Make sure that it can be asked at all; FatalError when its key is not in the environment."""
        ...

    async def ask(self, prompt: Prompt) -> Reply:
        """The model's reply; ProviderError in one of its kinds when there is none. Never retries by itself."""
        ...

    async def close(self) -> None:
        """Give back connections and memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How a model is reached. `key_variable` names the environment variable with its key, `raw` asks for completions without a chat.

    `instances` and `kv_memory_bytes` are for models whose keys and values lie with several instances: how many, the room of each, and the
    Ray `cluster` that they are on if it is not this process.
    """

    base_url: str | None = None
    timeout_seconds: float = 600
    key_variable: str | None = None
    raw: bool = False
    instances: int = 1
    kv_memory_bytes: int | None = None
    cluster: str | None = None


_REMOTE = "niah.backends.remote:open_remote"
TABLE: Mapping[str, str] = {
    "anthropic": _REMOTE,
    "azure": _REMOTE,
    "baseline": "niah.backends.baseline:open_baseline",
    "bedrock": _REMOTE,
    "bedrock-invoke": _REMOTE,
    "distkv": "niah.backends.local:open_local",
    "gemini": _REMOTE,
    "hf": "niah.backends.local:open_local",
    "infini": "niah.backends.local:open_local",
    "ollama": _REMOTE,
    "openai": _REMOTE,
    "openrouter": _REMOTE,
    "responses": _REMOTE,
    "server": _REMOTE,
}
"""prefix of a model's name -> "module:function" that opens it; imported when it is asked for."""


def open_backend(model: str, connection: Connection | None = None) -> Backend:
    """The backend of `backend/model`. UsageError for an unknown one names the nearest."""
    prefix, slash, name = model.partition("/")
    if prefix not in TABLE:
        raise UsageError(f"model {model!r}: unknown backend {prefix!r}; {did_you_mean(prefix, TABLE)}")
    if not slash or not name:
        raise UsageError(f"model {model!r}: write {prefix}/NAME")
    module, _, function = TABLE[prefix].partition(":")
    return getattr(importlib.import_module(module), function)(prefix, name, connection or Connection())
