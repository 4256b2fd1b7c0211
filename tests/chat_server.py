"""A chat completions server on loopback: real HTTP/1.1 with kept connections, a thread of its own, thousands of requests a second.

    with ChatServer(lambda asked: "The bell tower was finished in 1687.") as server:
        run("--base-url", server.url)
    assert server.times_asked == {...}

`answer` gets what was asked and gives the text of the answer, or an `Answer`: any status, body, headers and delay, or a
connection that is cut. `server.log` holds every request that arrived, in that order; `server.times_asked` counts per prompt.
"""

import asyncio
import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any


def prompt_id(messages: Sequence[Mapping[str, str]]) -> str:
    """A short name of a prompt: the same for what a client sends and for what `Prompt.messages()` gives."""
    text = "\x1f".join(f"{message['role']}\x1e{message['content']}" for message in messages)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(slots=True)
class Asked:
    """One request. `session` is what `server.session` was when it came; `answered` is set when all of the answer was sent."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    session: int
    at: float = field(default_factory=time.monotonic)
    answered: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body.get("messages", [])

    @property
    def id(self) -> str:
        return prompt_id(self.messages)

    @property
    def user(self) -> str:
        """The user's message: context and question."""
        return next((message["content"] for message in self.messages if message["role"] == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server sends. `body` is JSON, or text or bytes as they are; `cut` closes the connection after so many bytes of the body.

    `reset` breaks the connection before anything is sent, and `trickle` sends the body evenly over so many seconds.
    """

    body: Any = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    cut: int | None = None
    reset: bool = False
    trickle: float = 0.0


def completion(text: Any, *, finish: str | None = "stop", usage: Any = None, delay: float = 0.0, **message: Any) -> Answer:
    """A chat completion; further keywords are fields of the message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "served-model", "choices": [choice]}
    return Answer(body=body | ({} if usage is None else {"usage": usage}), delay=delay)


def failure(status: int, body: Any = None, *, delay: float = 0.0, **headers: str) -> Answer:
    """An error; `retry_after="3"` becomes the header retry-after."""
    told = {"error": {"message": "it failed", "type": "server_error"}} if body is None else body
    return Answer(status=status, body=told, delay=delay, headers={name.replace("_", "-"): value for name, value in headers.items()})


class ChatServer:
    """The server; a context manager. `url` is the base URL, ending in /v1. `answer` may be replaced while it runs."""

    def __init__(self, answer: Callable[[Asked], str | Answer] | str = "I do not know.", *, port: int = 0):
        self.answer: Callable[[Asked], str | Answer] = answer if callable(answer) else lambda _: answer
        self.log: list[Asked] = []
        self.session = 0
        self.connections = 0
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._dying: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def times_asked(self) -> Counter[str]:
        return Counter(asked.id for asked in self.log)

    @property
    def in_flight(self) -> int:
        return sum(not asked.answered for asked in list(self.log))

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def start(self) -> None:
        """Listen, after `stop` on the same port as before."""

        async def listen() -> None:
            self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port, backlog=512)
            self._port = self._server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)

    def stop(self) -> None:
        """Die: refuse new connections and cut the open ones."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)

    def die(self) -> None:
        """The same as `stop`, to be called by `answer`: before this answer is sent, if that has a delay."""
        self._dying = self._loop.create_task(self._close())

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)

    def wait_for(self, requests: int, *, seconds: float = 30.0, alive: Callable[[], bool] = lambda: True) -> bool:
        """Whether so many requests have come in time, and while `alive`."""
        until = time.monotonic() + seconds
        while len(self.log) < requests:
            if time.monotonic() > until or not alive():
                return False
            time.sleep(0.002)
        return True


class _Connection(asyncio.Protocol):
    """One kept connection: requests are answered in the order in which they come."""

    def __init__(self, server: ChatServer):
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections += 1
        self._server._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server._open.discard(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            size = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._asked(head[0].split(" ")[1], headers, body)

    def _asked(self, path: str, headers: dict[str, str], body: bytes) -> None:
        server = self._server
        asked = Asked(len(server.log), path, headers, json.loads(body) if body else {}, server.session)
        server.log.append(asked)
        try:
            answer = server.answer(asked)
        except Exception as error:  # a mistake of the test: visible in the client's error
            answer = failure(500, f"the test's own answer failed: {error!r}")
        if not isinstance(answer, Answer):
            answer = completion(answer)
        if answer.delay:
            asyncio.get_running_loop().call_later(answer.delay, self._send, asked, answer)
        else:
            self._send(asked, answer)

    def _send(self, asked: Asked, answer: Answer) -> None:
        if self._transport is None:
            return
        if answer.reset:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it sends a reset
            self._transport.abort()
            return
        content, kind = answer.body, "text/plain"
        if isinstance(content, str):
            content = content.encode()
        elif not isinstance(content, bytes):
            content, kind = json.dumps(content).encode(), "application/json"
        headers = {"content-type": kind, **answer.headers, "content-length": str(len(content))}
        lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        if answer.trickle:
            self._transport.write(head)
            self._trickle(asked, content, answer.trickle / max(1, len(content)))
            return
        self._transport.write(head + content[: answer.cut])
        if answer.cut is not None:
            self._transport.close()
        else:
            asked.answered = True

    def _trickle(self, asked: Asked, content: bytes, pause: float) -> None:
        """Send one byte, and after a pause the others; nothing to a client that has gone away."""
        if self._transport is None:
            return
        self._transport.write(content[:1])
        if len(content) > 1:
            asyncio.get_running_loop().call_later(pause, self._trickle, asked, content[1:], pause)
        else:
            asked.answered = True


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
