"""Connections, limits of time, encodings, files and proxies of the one place that sends. A real server, real connections."""

import asyncio
import gzip
import io
import json
from typing import Any

import pytest

from niah.backends.http import Sender
from niah.errors import RetryableError
from tests.backends.posting import error_of, post
from tests.chat_server import Answer, ChatServer, closed_port, completion


def test_a_closed_port_is_a_connection_error_that_names_the_option() -> None:
    """Nobody listens: retryable, and the message says --base-url."""

    async def ask() -> None:
        sender = Sender(f"http://127.0.0.1:{closed_port()}/v1", headers={})
        await sender.post("/chat/completions", {})

    with pytest.raises(RetryableError, match="--base-url") as caught:
        asyncio.run(ask())
    assert caught.value.kind == "connection"


def test_a_port_that_speaks_no_http_is_a_connection_error() -> None:
    """Whatever answers there: an error of the tree."""

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        sender = Sender(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", headers={})
        try:
            await sender.post("/chat/completions", {})
        finally:
            server.close()
            await sender.close()

    with pytest.raises(RetryableError) as caught:
        asyncio.run(ask())
    assert caught.value.kind == "connection"


def test_a_slow_answer_times_out_as_a_whole() -> None:
    """The limit holds for the whole answer, also where the server sends a blank now and then to keep the line open."""
    error = error_of(completion("late", delay=3), timeout_seconds=0.2)
    assert (type(error), error.kind) == (RetryableError, "timeout")

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n")
        for _n in range(40):
            writer.write(b" ")
            await asyncio.sleep(0.05)
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        sender = Sender(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", headers={}, timeout_seconds=0.3)
        try:
            await sender.post("/chat/completions", {})
        finally:
            server.close()
            await sender.close()

    with pytest.raises(RetryableError) as caught:
        asyncio.run(ask())
    assert caught.value.kind == "timeout"


def test_connections_are_kept_and_one_request_uses_each() -> None:
    """Thirty requests one after the other need one connection, thirty at once at most thirty, for two rounds."""

    async def ask(url: str) -> None:
        sender = Sender(url, headers={})
        for _ in range(30):
            await sender.post("/chat/completions", {})
        assert server.connections == 1
        for _ in range(2):
            await asyncio.gather(*(sender.post("/chat/completions", {}) for _ in range(30)))
        assert server.connections <= 30
        await sender.close()

    with ChatServer(lambda _: completion("yes", delay=0.005)) as server:
        asyncio.run(ask(server.url))
        assert len(server.log) == 90


def test_half_a_surrogate_pair_can_be_sent() -> None:
    """A judge is shown answers as they are; JSON has an escape for it."""

    async def ask(url: str) -> None:
        sender = Sender(url, headers={})
        await sender.post("/chat/completions", {"messages": [{"role": "user", "content": "half \ud83d a pair"}]})
        await sender.close()

    with ChatServer("yes") as server:
        asyncio.run(ask(server.url))
        assert server.log[0].user == "half \ud83d a pair"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("charset", "encoding"), [("", "utf-8"), ("; charset=utf-8", "utf-8"), ("; charset=iso-8859-1", "latin-1")])
def test_answers_are_unpacked_and_read_in_their_encoding(charset: str, encoding: str, packed: bool) -> None:
    """Whole ones and those that go into a file."""
    body = json.dumps({"said": "naïve café"}, ensure_ascii=False).encode(encoding)
    headers = {"content-type": f"application/json{charset}"} | ({"content-encoding": "gzip"} if packed else {})
    answer = Answer(body=gzip.compress(body) if packed else body, headers=headers)
    assert post(answer) == {"said": "naïve café"}

    async def download(url: str, into: io.BytesIO) -> None:
        sender = Sender(url, headers={})
        await sender.download("/files/1/content", into)
        await sender.close()

    with ChatServer(lambda _: answer) as server:
        asyncio.run(download(server.url, file := io.BytesIO()))
    assert file.getvalue() == body


def test_a_file_goes_out_with_its_size() -> None:
    """In one piece as far as the server can tell: not every provider takes chunks."""

    async def ask(url: str) -> None:
        sender = Sender(url, headers={"authorization": "Bearer k"})
        await sender.post_file("/files", io.BytesIO(b'{"line": 1}'), media="application/jsonl")
        await sender.close()

    with ChatServer("yes") as server:
        asyncio.run(ask(server.url))
        (asked,) = server.log
    assert asked.body == {"line": 1}
    assert "transfer-encoding" not in asked.headers
    told = {name: asked.headers[name] for name in ("content-length", "content-type", "authorization")}
    assert told == {"content-length": "11", "content-type": "application/jsonl", "authorization": "Bearer k"}


def test_requests_go_through_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its password, which models do not get; and not where no_proxy names the model's host."""

    async def ask() -> Any:
        sender = Sender("http://model.invalid/v1", headers={"authorization": "Bearer k"})
        try:
            return (await sender.post("/chat/completions", {}))[0]
        finally:
            await sender.close()

    with ChatServer(lambda _: completion("by the proxy")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("127.0.0.1", "user:word@127.0.0.1"))
        assert asyncio.run(ask())["choices"][0]["message"]["content"] == "by the proxy"
        (asked,) = proxy.log
        assert asked.path == "http://model.invalid/v1/chat/completions"
        assert asked.headers["host"] == "model.invalid"
        assert asked.headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"
        monkeypatch.setenv("no_proxy", "model.invalid")
        with pytest.raises(RetryableError, match="could not be reached"):
            asyncio.run(ask())
        assert len(proxy.log) == 1


def test_a_tunnel_is_asked_for_with_the_proxys_password_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model is behind TLS the proxy sees neither the request nor its key; its refusal is an error of the tree."""
    heads: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        sender = Sender("https://model.invalid/v1", headers={"authorization": "Bearer a-key-of-the-model"})
        try:
            await sender.post("/chat/completions", {})
        finally:
            server.close()
            await sender.close()

    with pytest.raises(RetryableError):
        asyncio.run(ask())
    (head,) = (head.lower() for head in heads)
    assert head.startswith(b"connect model.invalid:443 ")
    assert b"proxy-authorization: basic dxnlcjp3b3jk" in head
    assert b"a-key-of-the-model" not in head


def test_a_body_goes_out_as_json_whatever_is_in_it() -> None:
    """Control characters, quotes, letters of every plane, numbers large and small."""
    body = {
        "messages": [{"role": "user", "content": '\0\x1f\x7f\u2028"\\\ud7ff\U0010ffff“é”\r\n'}],
        "n": [1e-7, 1e22, -0.0, 10**30, True, None],
    }

    async def ask(url: str) -> None:
        sender = Sender(url, headers={})
        await sender.post("/chat/completions", body)
        await sender.close()

    with ChatServer("yes") as server:
        asyncio.run(ask(server.url))
        assert server.log[0].body == body
        assert server.log[0].headers["content-type"] == "application/json"
