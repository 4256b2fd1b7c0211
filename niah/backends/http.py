"""The one place that sends requests. Nothing is retried here; errors become niah's own (classify.py).

httpx's own connection pool costs milliseconds a request at concurrency 64 (its idle scan is quadratic), so httpx's requests go out
over aiohttp's connections, by a transport of our own.
"""

import asyncio
import json
import os
import ssl
import time
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from pydantic_core import to_json

from niah.backends.classify import classify, decoded, message_of
from niah.backends.rates import hear
from niah.errors import BadResponse, FatalError, IncompleteError, RetryableError

_CONNECT_SECONDS = 10.0
_SHOWN_CHARACTERS = 200
_LEAST_HIDDEN_CHARACTERS, _LEAST_KEY_CHARACTERS = 4, 12
"""A key of so many characters is shown in no message. One that is shorter than the second number is left in answers,
where its letters may stand by chance, and with them what is scored."""
_STAND_INS = frozenset({"none", "null", "empty", "dummy", "test", "token", "fake", "no-key", "nokey"})
"""What servers without keys are given in place of one: no secrets."""
_PIECE = 1 << 20
_SLOWEST_UPLOAD = 100_000
"""Bytes a second: a file gets as much more time than a question."""
_LONGEST_DOWNLOAD_SECONDS = 3600.0
_address = lru_cache(httpx.URL)  # parsing one costs as much as sending
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
        self._headers = httpx.Headers({"content-type": "application/json", **headers})
        self._secrets: set[str] = set()
        self._short: set[str] = set()
        self._hide(secret)
        self._seconds = timeout_seconds
        self._sign = sign
        self._transport: _Aiohttp | None = None

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[Any, float]:
        """The decoded answer to one POST, and the seconds that it took. Raises ProviderError in its kinds."""
        request = self._request(self._base_url + path, _encoded(body))
        started = time.perf_counter()
        response = await self._exchange(request, self._seconds)
        seconds = time.perf_counter() - started
        return self._decode(response), seconds

    async def get(self, path: str) -> Any:
        """The decoded answer to one GET. Raises ProviderError in its kinds."""
        request = self._request(self._base_url + path, b"", "GET")
        return self._decode(await self._exchange(request, self._seconds))

    async def download(self, path: str, into: BinaryIO) -> None:
        """Write what is at `path` into a file, piece by piece. The key, should it be in there, is: see `without_key`."""
        await self._exchange(self._request(self._base_url + path, b"", "GET"), _LONGEST_DOWNLOAD_SECONDS, into)

    async def post_file(self, path: str, file: BinaryIO, *, media: str, form: Mapping[str, str] | None = None) -> Any:
        """The decoded answer to a POST of a file, as it is or as the part "file" of a form. It is never whole in memory."""
        head, tail = b"", b""
        if form is not None:
            head, tail, media = _form(form, media)
        size = len(head) + file.seek(0, os.SEEK_END) + len(tail)
        request = self._request(
            self._base_url + path, _pieces(head, file, tail), headers={"content-type": media, "content-length": str(size)}
        )
        response = await self._exchange(request, self._seconds + size / _SLOWEST_UPLOAD)
        return self._decode(response)

    async def _exchange(self, request: httpx.Request, seconds: float, into: BinaryIO | None = None) -> httpx.Response:
        """One request and the whole of a successful answer, which goes `into` a file where one is given."""
        request.extensions["pieces"] = into is not None
        try:
            async with asyncio.timeout(seconds):  # a limit of aiohttp's would start anew with every piece of an answer
                response = await self._opened().handle_async_request(request)
                if into is not None:
                    try:
                        await (_write(response, into) if response.is_success else response.aread())
                    finally:
                        await response.aclose()
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            if type(error) is TimeoutError:  # aiohttp's kinds of it are connections that did not come about
                raise RetryableError(f"{request.url} did not answer within {seconds:g} seconds", kind="timeout", billed=True) from None
            raise self._broken(error, request.url) from None
        hear(response.headers)
        if not response.is_success:
            raise self._refused(response)
        return response

    async def close(self) -> None:
        """Close all connections."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    def _opened(self) -> "_Aiohttp":
        """The transport, opened within the event loop that uses it."""
        if self._transport is None:
            self._transport = _Aiohttp(self._base_url, min(_CONNECT_SECONDS, self._seconds))
        return self._transport

    def _request(
        self, url: str, content: bytes | AsyncIterator[bytes], method: str = "POST", headers: Mapping[str, str] | None = None
    ) -> httpx.Request:
        # A stream goes out as it is, without the headers that httpx would add and aiohttp adds anyway.
        stream = httpx.ByteStream(content) if isinstance(content, bytes) else None
        all_headers = {**self._headers, **headers} if headers else self._headers
        request = httpx.Request(method, _address(url), headers=all_headers, content=content, stream=stream)
        if self._sign is not None:
            assert isinstance(content, bytes), "files are not sent where requests are signed"
            request.headers.update(self._sign(method, str(request.url), content))
            self._hide(request.headers.get("x-amz-security-token", ""))  # AWS repeats it where a signature is wrong
        return request

    def _hide(self, secret: str) -> None:
        """From now on shown nowhere: not as it is, and not as JSON or addresses spell it."""
        if len(secret) < _LEAST_HIDDEN_CHARACTERS or secret.lower() in _STAND_INS or secret in self._secrets | self._short:
            return
        hidden = self._secrets if len(secret) >= _LEAST_KEY_CHARACTERS else self._short
        hidden |= {secret, secret.replace("/", "\\/"), quote(secret), quote(secret, safe="")}

    def _broken(self, error: Exception, url: httpx.URL) -> RetryableError:
        why = self._shown(str(error)) or type(error).__name__
        if isinstance(error, _UNREACHABLE):
            return RetryableError(f"{url} could not be reached ({why}): check that the server runs, and --base-url", kind="connection")
        if isinstance(error, aiohttp.ClientPayloadError):
            why = "the answer ended too early"
        return RetryableError(f"{url} broke off: {why}", kind="connection", billed=True)

    def _decode(self, response: httpx.Response) -> Any:
        url, media = response.request.url, response.headers.get("content-type", "")
        if "charset" not in media:
            response.encoding = "utf-8"  # to search the header for one costs more than to decode the answer
        text = self.without_key(response.text).lstrip()
        if "html" in media or text[:1] == "<":
            raise BadResponse(f"{url} answers a web page, not a model: check --base-url (it usually ends in /v1)")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise RetryableError(f"{url} answered broken JSON: {self._shown(text)}", kind="server", billed=True) from None

    def _refused(self, response: httpx.Response) -> Exception:
        url = response.request.url
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
        line = " ".join(self.hidden(text).split())
        return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"

    def without_key(self, text: str) -> str:
        """An answer of the server's without the key, should it repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text

    def hidden(self, text: str) -> str:
        """A message without the key, short ones included."""
        text = self.without_key(text)
        for secret in self._short:
            text = text.replace(secret, "[key]")
        return text


class _Aiohttp(httpx.AsyncBaseTransport):
    """Sends httpx's requests over aiohttp's connections: any number of them, no cookies, no redirects.

    An answer comes whole, unless the request's extensions ask for `pieces`. Errors are aiohttp's own.
    """

    def __init__(self, base_url: str, connect_seconds: float):
        # The context of the standard library honours SSL_CERT_FILE, which corporate networks set.
        tls = ssl.create_default_context() if base_url.startswith("https") else False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
        )
        self._proxy, self._added = _proxy(base_url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = (request.read() or None) if isinstance(request.stream, httpx.ByteStream) else request.stream
        headers = {**dict(request.headers.multi_items()), **self._added}
        answer = await self._session.request(
            request.method, str(request.url), headers=headers, data=content, allow_redirects=False, **self._proxy
        )
        pieces = request.extensions["pieces"]
        return httpx.Response(
            answer.status,
            headers=answer.raw_headers,
            content=None if pieces else await answer.read(),
            stream=_Body(answer) if pieces else None,
            request=request,
            extensions={"reason_phrase": (answer.reason or "").encode("ascii", "ignore")},
        )

    async def aclose(self) -> None:
        await self._session.close()


class _Body(httpx.AsyncByteStream):
    """An answer as it comes."""

    def __init__(self, answer: aiohttp.ClientResponse):
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer.content.iter_any():
            yield piece

    async def aclose(self) -> None:
        self._answer.close()


def _encoded(body: Mapping[str, Any]) -> bytes:
    """A body as JSON, by pydantic's encoder: a long prompt takes a fifth of the time that json needs."""
    try:
        return to_json(body)
    except ValueError:  # half a surrogate pair, which a judge may be shown in an answer, goes out as its JSON escape
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


async def _pieces(head: bytes, file: BinaryIO, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece
    yield tail


async def _write(response: httpx.Response, into: BinaryIO) -> None:
    try:
        async for piece in response.aiter_bytes(_PIECE):
            try:
                into.write(piece)
            except OSError as error:
                raise IncompleteError(f"an answer cannot be kept ({error.strerror}): make room and run the same command again") from None
    except httpx.DecodingError:
        raise RetryableError(f"{response.request.url} answered what cannot be unpacked", kind="server", billed=True) from None


def _form(fields: Mapping[str, str], media: str) -> tuple[bytes, bytes, str]:
    """A form (RFC 7578) in front of the file in it and behind, and its own media type."""
    boundary = uuid.uuid4().hex
    part = f"--{boundary}\r\nContent-Disposition: form-data; name="
    told = "".join(f'{part}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    head = f'{told}{part}"file"; filename="batch.jsonl"\r\nContent-Type: {media}\r\n\r\n'
    return head.encode(), f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _proxy(url: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The proxy that the environment names for a URL, as options of aiohttp's, and headers of every request for it.

    Looked up once: aiohttp's own look-up costs two threads' turns a request.
    """
    parts = urlsplit(url)
    found = getproxies().get(parts.scheme)
    if not found or proxy_bypass(parts.netloc):
        return {}, {}
    proxy = httpx.Proxy(found)
    password = {"proxy-authorization": f"Basic {b64encode(':'.join(proxy.auth).encode()).decode()}"} if proxy.auth else {}
    if parts.scheme == "https":  # a tunnel is asked for with it
        return {"proxy": str(proxy.url), "proxy_headers": password}, {}
    return {"proxy": str(proxy.url)}, password
