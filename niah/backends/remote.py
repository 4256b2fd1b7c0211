"""Models behind an HTTP API: a Wire, an address, a key, and what is known of the model."""

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from niah.backends import Connection
from niah.backends.classify import FILTERED
from niah.backends.http import Sender
from niah.backends.models import Capabilities, capabilities
from niah.backends.wire import Wire
from niah.errors import BadRequest, BadResponse, FatalError, ProviderError, Refused, RetryableError, UsageError
from niah.trial import Cue, Prompt, Reply

_BEARER = "authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A row of the table. `wire` is "module:CONSTANT"; `keys` are environment variables, of which the first that is set is taken."""

    wire: str
    base_url: str = ""
    base_url_variable: str = ""
    keys: tuple[str, ...] = ()
    needs_key: bool = True
    key_header: str = _BEARER
    described_as: str = ""
    """The prefix under which models.json knows the models, where that is another one."""


_CHAT, _ROUTER = "niah.backends.openai:OPENAI", "niah.backends.openai:OPENROUTER"
PROVIDERS: Mapping[str, Provider] = {
    "anthropic": Provider(
        wire="niah.backends.anthropic:WIRE", base_url="https://api.anthropic.com/v1", keys=("ANTHROPIC_API_KEY",), key_header="x-api-key"
    ),
    "azure": Provider(wire=_CHAT, base_url_variable="AZURE_OPENAI_ENDPOINT", keys=("AZURE_OPENAI_API_KEY",), key_header="api-key"),
    "bedrock": Provider(wire="niah.backends.bedrock:CONVERSE", keys=("AWS_BEARER_TOKEN_BEDROCK",), needs_key=False),
    "bedrock-invoke": Provider(
        wire="niah.backends.bedrock:INVOKE", keys=("AWS_BEARER_TOKEN_BEDROCK",), needs_key=False, described_as="bedrock"
    ),
    "gemini": Provider(
        wire="niah.backends.gemini:WIRE",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        key_header="x-goog-api-key",
    ),
    "ollama": Provider(wire="niah.backends.ollama:WIRE", base_url="http://127.0.0.1:11434", keys=("OLLAMA_API_KEY",), needs_key=False),
    "openai": Provider(wire=_CHAT, base_url="https://api.openai.com/v1", keys=("OPENAI_API_KEY",)),
    "openrouter": Provider(wire=_ROUTER, base_url="https://openrouter.ai/api/v1", keys=("OPENROUTER_API_KEY",)),
    "responses": Provider(
        wire="niah.backends.responses:WIRE", base_url="https://api.openai.com/v1", keys=("OPENAI_API_KEY",), described_as="openai"
    ),
    "server": Provider(wire="niah.backends.openai:SERVER", keys=("NIAH_SERVER_KEY",), needs_key=False),
}
"""prefix of a model's name -> how it is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A model's format, the connection to its provider, and what is known of it."""

    model: str
    wire: Wire
    sender: Sender
    capabilities: Capabilities


class RemoteBackend:
    """One model behind an API. `missing_key` names the variable in which its key should be, where it is not."""

    concurrency = 64

    def __init__(self, model: str, wire: Wire, sender: Sender, known: Capabilities, *, missing_key: str = ""):
        self._model = model
        self._wire = wire
        self._sender = sender
        self._missing_key = missing_key
        self.capabilities = known
        self.counts = wire.counting is not None
        prefill = wire.prefill and known.prefill is not False
        self.cues: frozenset[Cue] = frozenset(("off", "user", "prefill") if prefill else ("off", "user"))
        self.preferred_cue: Cue = "prefill" if prefill and known.prefill else "user"

    def ready(self) -> None:
        if self._missing_key:
            raise FatalError(f"model {self._model!r} needs a key in the environment variable {self._missing_key}", kind="credentials")

    async def ask(self, prompt: Prompt) -> Reply:
        try:
            body, seconds = await self._sender.post(
                self._wire.path(self._model), self._wire.request(prompt, self._model, self.capabilities)
            )
        except Refused:
            return FILTERED
        except BadRequest as error:
            if prompt.cue_mode != "prefill":
                raise
            raise BadRequest(f"{error} Perhaps this server does not go on with an assistant's turn: try --cue user.") from None
        try:
            return self._wire.reply(body, seconds)
        except ProviderError as error:
            error.args = (self._sender.hidden(str(error)),)
            raise

    async def count(self, prompt: Prompt) -> int | None:
        """The provider's own count of a prompt's tokens; None where it has no way to ask.

        Raises ProviderError in its kinds; BadResponse for an answer in which no count is, as of a server that knows the path otherwise.
        """
        counting = self._wire.counting
        if counting is None:
            return None
        body, _ = await self._sender.post(counting.path(self._model), counting.request(prompt, self._model, self.capabilities))
        try:
            return counting.tokens(body)
        except RetryableError as error:
            told = self._sender.hidden(str(error))
            raise BadResponse(told) if error.kind == "server" else RetryableError(told, kind=error.kind) from None

    def channel(self) -> Channel:
        """What else than `ask` needs to send the model's requests: batches."""
        return Channel(model=self._model, wire=self._wire, sender=self._sender, capabilities=self.capabilities)

    async def close(self) -> None:
        await self._sender.close()


def open_remote(prefix: str, name: str, connection: Connection) -> RemoteBackend:
    """The backend of prefix/name; UsageError for an address or a key that cannot be one."""
    provider = PROVIDERS[prefix]
    if connection.raw and prefix != "server":
        raise UsageError(f"model '{prefix}/{name}': --raw is for base models on a server/ or hf/")
    wire = _wire("niah.backends.completions:WIRE" if connection.raw else provider.wire)
    base_url = connection.base_url or _default_url(prefix, provider, name)
    _check_url(base_url)
    variables = (connection.key_variable,) if connection.key_variable else provider.keys
    variable = next((variable for variable in variables if os.environ.get(variable)), variables[0])
    if not os.environ.get(variable) and not re.fullmatch(r"[A-Z][A-Z0-9_]*", variable):  # perhaps it is the key: not shown
        raise UsageError("--key-variable takes the name of an environment variable, not the key itself, and none of that name is set")
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the key in the environment variable {variable} holds characters that no key has: copy it again")
    headers = dict(wire.headers or {})
    if key:
        headers[provider.key_header] = f"Bearer {key}" if provider.key_header == _BEARER else key
    sender = Sender(
        base_url,
        headers=headers,
        secret=key,
        secret_name=variable,
        timeout_seconds=connection.timeout_seconds,
        sign=_signer() if prefix.startswith("bedrock") and not key else None,
    )
    known = facts(f"{prefix}/{name}")
    needs_key = provider.needs_key or connection.key_variable is not None
    return RemoteBackend(name, wire, sender, known, missing_key=variable if needs_key and not key else "")


def facts(model: str) -> Capabilities:
    """What is known of a remote model; UsageError where the user's own file is wrong."""
    prefix, _, name = model.partition("/")
    return capabilities(f"{PROVIDERS[prefix].described_as or prefix}/{name}")


def _wire(address: str) -> Wire:
    module, _, constant = address.partition(":")
    return getattr(importlib.import_module(module), constant)


def _default_url(prefix: str, provider: Provider, name: str) -> str:
    if prefix.startswith("bedrock"):
        from niah.backends.bedrock import endpoint, region

        return endpoint(region())
    if provider.base_url_variable:
        found = os.environ.get(provider.base_url_variable, "")
        if not found:
            raise UsageError(f"model '{prefix}/{name}' needs its resource's address in {provider.base_url_variable}, or --base-url")
        return found if found.rstrip("/").endswith("/v1") else f"{found.rstrip('/')}/openai/v1"
    if not provider.base_url:
        raise UsageError(f"model '{prefix}/{name}' needs --base-url, as in --base-url http://127.0.0.1:8000/v1")
    return provider.base_url


def _signer() -> Callable[[str, str, bytes], Mapping[str, str]]:
    from niah.backends.bedrock import region, signed_headers

    here = region()
    return lambda method, url, body: signed_headers(method, url, body, here)


def _check_url(base_url: str) -> None:
    try:
        parts: Any = urlsplit(base_url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    fine = fine and re.search(r"[\s\x00-\x1f]", base_url) is None
    if re.search(r"[@?#]", base_url):
        raise UsageError(
            "--base-url holds a user name, a password or a query, which would stand in files and logs: keys come from the environment"
        )
    if not fine:
        raise UsageError(f"--base-url {base_url!r} is no address: write it as http://HOST:PORT/v1")
