"""Chat completions as OpenAI defined them: `openai/NAME`, and `server/NAME` for every server that speaks them.

Two pure functions, `request` and `reply`, hold the format; no optional field is sent that the experiment did not ask for,
because real servers refuse fields that they do not know.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from niah.backends.http import Sender
from niah.errors import BadRequest, BadResponse, FatalError, RetryableError, UsageError
from niah.trial import Cue, Prompt, Reply, Stop, Usage

_STOPS: Mapping[str, Stop] = {
    "stop": "end",
    "eos": "end",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "filter",
    "safety": "filter",
    "refusal": "refusal",
}
_BROKEN = ("error", "abort", "insufficient_system_resource")
"""Finish reasons of answers that broke off at the server: no answers, however much text came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Where servers differ: the name of the output cap, and how a last assistant turn is continued (None: it is not)."""

    output_cap: str
    prefill: Mapping[str, Any] | None
    needs_key: bool


OPENAI = Dialect(output_cap="max_completion_tokens", prefill=None, needs_key=True)
SERVER = Dialect(output_cap="max_tokens", prefill={"continue_final_message": True, "add_generation_prompt": False}, needs_key=False)


def request(prompt: Prompt, model: str, dialect: Dialect) -> dict[str, Any]:
    """The body of a chat completion request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": prompt.messages(),
        "stream": False,
        dialect.output_cap: prompt.sampling.max_output_tokens,
    }
    if prompt.sampling.temperature is not None:
        body["temperature"] = prompt.sampling.temperature
    if prompt.sampling.top_p is not None:
        body["top_p"] = prompt.sampling.top_p
    if prompt.cue_mode == "prefill":
        assert dialect.prefill is not None, "the plan lets no prefill through to a backend that does not take it"
        body |= dialect.prefill
    return body


def reply(body: Any, seconds: float) -> Reply:
    """The Reply in a chat completion; RetryableError when the body is not one."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, finish, error = message.get("content"), str(choice.get("finish_reason")).lower(), choice.get("error")
    except (KeyError, IndexError, TypeError, AttributeError):
        error = body.get("error") if isinstance(body, dict) else None
        what = f"an error inside a successful answer: {error}" if error else f"the answer is no chat completion: {body}"
        raise RetryableError(what[:250], kind="server") from None
    if error or finish in _BROKEN:
        raise RetryableError(f"the answer broke off at the server: {error or finish}"[:250], kind="server")
    stop: Stop = _STOPS.get(finish, "unknown")
    text = _text(content)
    if refusal := message.get("refusal"):
        text, stop = text or str(refusal), "refusal"
    return Reply(text=text, stop=stop, usage=_usage(body.get("usage")), seconds=round(seconds, 4), model=str(body.get("model") or ""))


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        input=_count(usage, "prompt_tokens"),
        cached=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        output=_count(usage, "completion_tokens"),
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


class ChatBackend:
    """A model behind a chat completions endpoint."""

    concurrency = 64
    preferred_cue: Cue = "user"

    def __init__(self, model: str, dialect: Dialect, sender: Sender, *, missing_key: str = ""):
        self._model = model
        self._missing_key = missing_key
        self._dialect = dialect
        self._sender = sender
        self.cues: frozenset[Cue] = frozenset(("off", "user", "prefill") if dialect.prefill else ("off", "user"))

    def ready(self) -> None:
        if self._missing_key:
            raise FatalError(f"model {self._model!r} needs a key in the environment variable {self._missing_key}", kind="credentials")

    async def ask(self, prompt: Prompt) -> Reply:
        try:
            body, seconds = await self._sender.post("/chat/completions", request(prompt, self._model, self._dialect))
        except BadRequest as error:
            if prompt.cue_mode != "prefill":
                raise
            raise BadRequest(f"{error} Perhaps this server does not go on with an assistant's turn: try --cue user.") from None
        if not isinstance(body, dict):
            raise BadResponse(f"the server answered JSON that is no chat completion: {str(body)[:100]}")
        return reply(body, seconds)

    async def close(self) -> None:
        await self._sender.close()


def open_openai(name: str, *, base_url: str | None, timeout_seconds: float) -> ChatBackend:
    """OpenAI itself (or `base_url`); the key is OPENAI_API_KEY."""
    return _open(name, OPENAI, base_url or "https://api.openai.com/v1", "OPENAI_API_KEY", timeout_seconds)


def open_server(name: str, *, base_url: str | None, timeout_seconds: float) -> ChatBackend:
    """An OpenAI-compatible server at `base_url`; its key, if it wants one, is NIAH_SERVER_KEY."""
    if not base_url:
        raise UsageError(f"model 'server/{name}' needs --base-url, as in --base-url http://127.0.0.1:8000/v1")
    return _open(name, SERVER, base_url, "NIAH_SERVER_KEY", timeout_seconds)


def _is_address(base_url: str) -> bool:
    try:
        parts = urlsplit(base_url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and re.search(r"[\s\x00-\x1f]", base_url) is None
        )
    except ValueError:
        return False


def _open(name: str, dialect: Dialect, base_url: str, variable: str, timeout_seconds: float) -> ChatBackend:
    if not _is_address(base_url):
        raise UsageError(f"--base-url {base_url!r} is no address: write it as http://HOST:PORT/v1")
    if "@" in urlsplit(base_url).netloc:
        raise UsageError("--base-url holds a user name or a password, which would stand in files and logs: keys come from the environment")
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the key in the environment variable {variable} holds characters that no key has: copy it again")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    sender = Sender(base_url, headers=headers, secret=key, secret_name=variable, timeout_seconds=timeout_seconds)
    return ChatBackend(name, dialect, sender, missing_key=variable if dialect.needs_key and not key else "")
