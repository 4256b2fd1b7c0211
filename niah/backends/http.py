"""The one place that sends requests. Statuses become errors of niah's tree; nothing is retried here.

One shared httpx pool costs milliseconds a request at concurrency 64 (its idle scan is quadratic), so each request in
flight has a client of its own with one connection; they share one TLS context.
"""

import asyncio
import json
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from niah.errors import BadRequest, BadResponse, ContextOverflow, FatalError, ProviderError, RetryableError

_OVERFLOW = re.compile(
    r"context.{0,12}(length|window|size)|context_length_exceeded|exceed_context_size|prompt is too long|input token count|"
    r"too many tokens|maximum.{0,20}tokens|requested tokens",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model\b(?! turn).{0,80}(not found|does not exist|not exist|unknown|invalid|no such|not supported)|(unknown|invalid|no such) model|"
    r"pinned to",  # transformers serve
    re.IGNORECASE,
)
_CONNECT_SECONDS = 10.0
_SHOWN_CHARACTERS = 200
_LEAST_KEY_CHARACTERS = 12


class Sender:
    """Posts JSON to one base URL and gives back JSON; knows the key and never shows it."""

    def __init__(self, base_url: str, *, headers: Mapping[str, str], secret: str = "", secret_name: str = "", timeout_seconds: float = 600):
        self._base_url = base_url.rstrip("/")
        self._secret_name = secret_name
        self._headers = {"content-type": "application/json", **headers}
        # A stand-in such as "none" or "EMPTY" is no secret, and may stand in an answer by itself.
        self._secrets = {secret, secret.replace("/", "\\/")} if len(secret) >= _LEAST_KEY_CHARACTERS else set[str]()
        self._seconds = timeout_seconds
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        self._tls = ssl.create_default_context() if base_url.startswith("https") else False
        self._idle: list[httpx.AsyncClient] = []

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[Any, float]:
        """The decoded answer to one POST, and the seconds that it took. Raises ProviderError in its kinds."""
        url = self._base_url + path
        # Half a surrogate pair, which a judge may be shown in an answer, goes out as its JSON escape.
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        client = self._idle.pop() if self._idle else httpx.AsyncClient(timeout=self._timeout, verify=self._tls, trust_env=True)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._seconds):  # httpx's own limit starts anew with every piece of an answer
                response = await client.post(url, content=content, headers=self._headers)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            why = self._shown(str(error)) or type(error).__name__
            raise RetryableError(
                f"{url} could not be reached ({why}): check that the server runs, and --base-url", kind="connection"
            ) from None
        except (httpx.TimeoutException, TimeoutError):
            raise RetryableError(f"{url} did not answer within {self._seconds:g} seconds", kind="timeout") from None
        except httpx.RequestError as error:
            raise RetryableError(f"{url} broke off: {self._shown(str(error)) or type(error).__name__}", kind="connection") from None
        finally:
            self._idle.append(client)
        seconds = time.perf_counter() - started
        if not response.is_success:
            raise self._classify(response, url)
        return self._decode(response, url), seconds

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    def _decode(self, response: httpx.Response, url: str) -> Any:
        text = self._without_key(response.text).lstrip()
        if "html" in response.headers.get("content-type", "") or text[:1] == "<":
            raise BadResponse(f"{url} answers a web page, not a model: check --base-url (it usually ends in /v1)")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise RetryableError(f"{url} answered broken JSON: {self._shown(text)}", kind="server") from None

    def _classify(self, response: httpx.Response, url: str) -> ProviderError:
        status = response.status_code
        body = _body(response)
        message, everything = _message(body), body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        what = f"{url} answered {status}: {self._shown(message).rstrip('.')}."
        if status in (401, 403):
            return FatalError(f"{what} Check the key in the environment variable {self._secret_name}.", kind="credentials")
        if status == 402 or (status == 429 and "insufficient_quota" in everything):
            return FatalError(f"{what} The account is out of funds or quota.", kind="quota")
        if status == 429:
            return RetryableError(what, kind="rate_limit", wait_seconds=retry_after_seconds(response.headers))
        if status in (405, 501):
            return BadResponse(f"{what} Nothing takes chat completions there: check --base-url (it usually ends in /v1).")
        if status in (408, 409, 425) or status >= 500:
            kind = "overloaded" if status in (503, 529) else "server"
            return RetryableError(what, kind=kind, wait_seconds=retry_after_seconds(response.headers))
        if status == 413 or (status in (400, 422) and _OVERFLOW.search(everything)):
            return ContextOverflow(what)
        if status == 404 or (status in (400, 422) and (_NO_MODEL.search(message) or "model_not_found" in everything)):
            return FatalError(
                f"{what} Check the model's name, and that --base-url is right (it usually ends in /v1).", kind="unknown_model"
            )
        if response.is_redirect:
            to = self._shown(response.headers.get("location", "?"))
            return BadResponse(f"{url} redirects to {to}: give the address there as --base-url, without /chat/completions")
        return BadRequest(what)

    def _shown(self, text: str) -> str:
        """A short piece of a server's text for a message: one line, and without the key if a server echoes it."""
        line = " ".join(self._without_key(text).split())
        return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"

    def _without_key(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _body(response: httpx.Response) -> Any:
    """What an error says: decoded JSON, or plain text. What a server repeats of the request ("input") is left out."""
    try:
        body: Any = json.loads(response.text, object_pairs_hook=lambda pairs: {name: value for name, value in pairs if name != "input"})
    except (ValueError, RecursionError):
        return response.reason_phrase if "html" in response.headers.get("content-type", "") else response.text or response.reason_phrase
    return body[0] if isinstance(body, list) and body else body


def _message(body: Any) -> str:
    """What a server says of an error: {"error": {"message"}}, {"error": "..."}, {"detail": ...}, or plain text."""
    if isinstance(body, str):
        return body
    if isinstance(body, dict):
        for key in ("error", "detail", "message"):
            value = body.get(key)
            if isinstance(value, dict) and value.get("message"):
                return str(value["message"])
            if value:
                return value if isinstance(value, str) else json.dumps(value)
    return json.dumps(body)


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The wait that a server asks for: retry-after-ms, or retry-after in seconds or as an HTTP date; None if it names none.

    Some servers say 0 or -1 where they mean that they do not know: that is no wait that was asked for.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                when = parsedate_to_datetime(value)
            except ValueError:
                continue
            seconds = (when.replace(tzinfo=when.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
        if seconds > 0:
            return seconds
    return None
