"""The one place that sends requests. Nothing is retried here; errors become niah's own (classify.py).

httpx's own connection pool costs milliseconds a request at concurrency 64 (its idle scan is quadratic), so httpx requests go out
over aiohttp's connections, a transport that httpx-aiohttp provides.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from niah.backends.classify import classify, decoded, message_of
from niah.backends.rates import hear
from niah.errors import BadResponse, FatalError, RetryableError

_CONNECT_SECONDS = 10.0
_SHOWN_CHARACTERS = 200
_LEAST_KEY_CHARACTERS = 12
_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


class Sender:
    """Posts JSON to one base URL and gives back JSON; knows the key and never shows it.

    `sign` gives the headers of one try for (method, url, body), for providers that want each request signed.
    """

    def __init__(  # noqa: PLR0913
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        secret: str = "",
        secret_name: str = "",
        timeout_seconds: float = 600,
        sign: Callable[[str, str, bytes], Mapping[str, str]] | None = None,
    ):
        self._base_url = base_url.rstrip("/")
        self._secret_name = secret_name
        self._headers = {"content-type": "application/json", **headers}
        # A stand-in such as "none" or "EMPTY" is no secret, and may stand in an answer by itself.
        self._secrets = {secret, secret.replace("/", "\\/")} if len(secret) >= _LEAST_KEY_CHARACTERS else set[str]()
        self._seconds = timeout_seconds
        self._sign = sign
        self._transport: AiohttpTransport | None = None
        self._urls: dict[str, httpx.URL] = {}

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[Any, float]:
        """The decoded answer to one POST, and the seconds that it took. Raises ProviderError in its kinds."""
        # Half a surrogate pair, which a judge may be shown in an answer, goes out as its JSON escape.
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        request = self._request(self._base_url + path, content)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._seconds):  # a limit of aiohttp's would start anew with every piece of an answer
                response = await self._opened().handle_async_request(request)
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        except TimeoutError:
            raise RetryableError(f"{request.url} did not answer within {self._seconds:g} seconds", kind="timeout", billed=True) from None
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            raise self._broken(error, str(request.url)) from None
        seconds = time.perf_counter() - started
        hear(response.headers)
        if not response.is_success:
            raise self._refused(response, str(request.url))
        return self._decode(response, str(request.url)), seconds

    async def close(self) -> None:
        """Close all connections."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    def _opened(self) -> AiohttpTransport:
        """The transport, opened within the event loop that uses it."""
        if self._transport is None:
            # The context of the standard library honours SSL_CERT_FILE, which corporate networks set.
            tls = ssl.create_default_context() if self._base_url.startswith("https") else False
            connector = aiohttp.TCPConnector(limit=0, ssl=tls)
            session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            self._transport = AiohttpTransport(client=session, verify=False, proxy=_proxy(self._base_url))
        return self._transport

    def _request(self, url: str, content: bytes) -> httpx.Request:
        timeout = {"connect": min(_CONNECT_SECONDS, self._seconds)}
        if url not in self._urls:
            self._urls[url] = httpx.URL(url)  # parsing it costs as much as sending
        request = httpx.Request("POST", self._urls[url], content=content, headers=self._headers, extensions={"timeout": timeout})
        if self._sign is not None:
            request.headers.update(self._sign("POST", str(request.url), content))
        return request

    def _broken(self, error: Exception, url: str) -> RetryableError:
        cause = error.__cause__ or error
        why = self._shown(str(cause)) or type(cause).__name__
        if isinstance(cause, _UNREACHABLE):
            return RetryableError(f"{url} could not be reached ({why}): check that the server runs, and --base-url", kind="connection")
        if isinstance(cause, aiohttp.ClientPayloadError):
            why = "the answer ended too early"
        return RetryableError(f"{url} broke off: {why}", kind="connection", billed=True)

    def _decode(self, response: httpx.Response, url: str) -> Any:
        try:
            text = self._without_key(response.text).lstrip()
        except httpx.DecodingError:
            raise RetryableError(f"{url} answered what cannot be unpacked", kind="server", billed=True) from None
        if "html" in response.headers.get("content-type", "") or text[:1] == "<":
            raise BadResponse(f"{url} answers a web page, not a model: check --base-url (it usually ends in /v1)")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise RetryableError(f"{url} answered broken JSON: {self._shown(text)}", kind="server", billed=True) from None

    def _refused(self, response: httpx.Response, url: str) -> Exception:
        if response.is_redirect:
            to = self._shown(response.headers.get("location", "?"))
            return BadResponse(f"{url} redirects to {to}: give the address there as --base-url, without the path behind /v1")
        body = decoded(response.text, response.reason_phrase, response.headers.get("content-type", ""))
        said = self._shown(message_of(body)).rstrip(".")
        error = classify(response.status_code, response.headers, body, f"{url} answered {response.status_code}: {said}.")
        if isinstance(error, FatalError) and error.kind == "credentials" and self._secret_name:
            return FatalError(f"{error} Check the key in the environment variable {self._secret_name}.", kind="credentials")
        return error

    def _shown(self, text: str) -> str:
        """A short piece of a server's text for a message: one line, and without the key if a server echoes it."""
        line = " ".join(self._without_key(text).split())
        return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"

    def _without_key(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _proxy(url: str) -> httpx.Proxy | None:
    """The proxy that the environment names for a URL. Looked up once: aiohttp's own look-up costs two threads' turns a request."""
    parts = urlsplit(url)
    found = getproxies().get(parts.scheme)
    return httpx.Proxy(found) if found and not proxy_bypass(parts.netloc) else None
