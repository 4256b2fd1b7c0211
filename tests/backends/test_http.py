"""What servers answer when they do not answer: each shape becomes one error of the tree. A real server, real connections."""

import asyncio
import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from niah.backends import Connection, open_backend
from niah.backends.http import Sender
from niah.backends.rates import wait_seconds
from niah.errors import BadRequest, BadResponse, ContextOverflow, FatalError, ProviderError, RetryableError
from niah.trial import Prompt, Sampling
from tests.chat_server import Answer, ChatServer, closed_port, completion, failure

HTML = {"content-type": "text/html; charset=utf-8"}
VLLM_OVERFLOW = "This model's maximum context length is 4096 tokens. However, you requested 6013 tokens. Please reduce the length."
SOON = "Wed, 21 Oct 2099 07:28:00 GMT"


def post(answer: Answer, *, key: str = "", timeout_seconds: float = 5, times: int = 1) -> Any:
    """The body of the last of some answers, or the error as it is raised; `post.connections` of the server are in the second place."""

    async def ask(url: str) -> Any:
        sender = Sender(url, headers={"authorization": f"Bearer {key}"} if key else {}, secret=key, timeout_seconds=timeout_seconds)
        try:
            return [await sender.post("/chat/completions", {"messages": []}) for _ in range(times)][-1][0]
        finally:
            await sender.close()

    with ChatServer(lambda _: answer) as server:
        return asyncio.run(ask(server.url))


def error_of(answer: Answer, **options: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        post(answer, **options)
    return caught.value


TABLE: list[tuple[Answer, type[ProviderError], str]] = [
    # credentials and money: every further request would fail as well
    (failure(401, {"error": {"message": "Incorrect API key provided."}}), FatalError, "credentials"),
    (failure(401, {"error": "Unauthorized"}), FatalError, "credentials"),
    (failure(401, {"detail": "Invalid API key"}), FatalError, "credentials"),
    (failure(401, "go away"), FatalError, "credentials"),
    (failure(403, {"detail": "Forbidden"}), FatalError, "credentials"),
    (failure(402, {"error": {"message": "Insufficient credits"}}), FatalError, "quota"),
    (failure(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}), FatalError, "quota"),
    # unknown models
    (failure(404, {"error": {"message": "The model `x` does not exist.", "code": 404}}), FatalError, "unknown_model"),
    (failure(404, "not found"), FatalError, "unknown_model"),
    (failure(400, {"detail": "Model 'x' not found"}), FatalError, "unknown_model"),
    (failure(400, {"error": {"message": "Invalid model name passed in model=x."}}), FatalError, "unknown_model"),
    (failure(400, {"error": {"message": "no access", "code": "model_not_found"}}), FatalError, "unknown_model"),
    # may go away
    (failure(408), RetryableError, "server"),
    (failure(409), RetryableError, "server"),
    (failure(429), RetryableError, "rate_limit"),
    (failure(500), RetryableError, "server"),
    (failure(500, "Internal Server Error"), RetryableError, "server"),
    (Answer(status=502, body="<html><h1>502 Bad Gateway</h1></html>", headers=HTML), RetryableError, "server"),
    (failure(503), RetryableError, "overloaded"),
    (failure(504, ""), RetryableError, "server"),
    (failure(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), RetryableError, "overloaded"),
    (Answer(body='{"choices": [', headers={"content-type": "application/json"}), RetryableError, "server"),
    (Answer(body="[" * 100_000, headers={"content-type": "application/json"}), RetryableError, "server"),
    (Answer(body="1" * 5_000, headers={"content-type": "application/json"}), RetryableError, "server"),
    (failure(500, "[" * 100_000), RetryableError, "server"),
    (Answer(body=b"not gzip", headers={"content-encoding": "gzip"}), RetryableError, "connection"),
    (Answer(body={"choices": []}, cut=5), RetryableError, "connection"),
    # the prompt does not fit
    (failure(400, {"error": {"message": VLLM_OVERFLOW, "type": "BadRequestError", "param": "input_tokens"}}), ContextOverflow, ""),
    (failure(400, {"error": {"message": "too long", "code": "context_length_exceeded"}}), ContextOverflow, ""),
    (failure(400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}), ContextOverflow, ""),
    (failure(400, [{"error": {"message": "The input token count (70000) exceeds the maximum"}}]), ContextOverflow, ""),
    (failure(400, {"error": {"type": "exceed_context_size_error", "message": "the request exceeds", "n_ctx": 4096}}), ContextOverflow, ""),
    (failure(400, {"error": {"message": "you requested 6013 tokens", "code": "context_length_exceeded"}}), ContextOverflow, ""),
    (failure(422, {"detail": "Input validation error: `inputs` must have less than 4096 tokens: too many tokens"}), ContextOverflow, ""),
    (failure(413, "Payload Too Large"), ContextOverflow, ""),
    # this request is wrong
    (failure(400, {"error": {"message": "temperature must be below 2", "type": "invalid_request_error"}}), BadRequest, ""),
    (failure(400, {"error": {"message": "This model does not support prefill.", "type": "invalid_request_error"}}), BadRequest, ""),
    (failure(400, {"error": {"message": "Requests ending with a model turn are not supported."}}), BadRequest, ""),
    (failure(422, {"detail": "Unexpected fields: top_k"}), BadRequest, ""),
    (failure(422, {"detail": [{"msg": "extra", "input": "a context window of the model was not found"}]}), BadRequest, ""),
    (failure(418, {"message": "teapot"}), BadRequest, ""),
    (failure(400, None), BadRequest, ""),
    # no model there at all
    (Answer(body="<!doctype html>", headers=HTML), BadResponse, ""),
    (Answer(body="\n <html>"), BadResponse, ""),
    (Answer(status=405, body="<html>Not Allowed</html>", headers=HTML), BadResponse, ""),
    (Answer(status=501, body="<html>Unsupported method ('POST')</html>", headers=HTML), BadResponse, ""),
    (Answer(status=301, headers={"location": "https://example.org/v1/chat/completions"}), BadResponse, ""),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind_of_error", "kind"), TABLE, ids=lambda value: str(getattr(value, "status", value))[:20])
def test_each_status_and_shape_becomes_one_error(answer: Answer, kind_of_error: type[ProviderError], kind: str) -> None:
    """Status and body decide the class; only RetryableError is tried again; the message holds the address and no markup."""
    error = error_of(answer)
    assert type(error) is kind_of_error
    assert not kind or error.kind == kind
    assert "/chat/completions" in str(error)
    assert "<" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("status", [429, 503, 529, 500, 408])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read(status: int, headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds first, then seconds; what is no positive wait is no wait that was asked for."""
    error = error_of(Answer(status=status, body={}, headers=headers))
    assert isinstance(error, RetryableError)
    assert error.wait_seconds == seconds


def test_a_wait_may_be_a_date() -> None:
    """An HTTP date, with or without a zone, counts from now."""
    now = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    later = now + timedelta(seconds=90)
    assert wait_seconds({"retry-after": format_datetime(later, usegmt=True)}, {}, now) == 90
    assert wait_seconds({"retry-after": "Sun, 22 Nov 2026 10:01:30 -0000"}, {}, now) == 90
    assert wait_seconds({"retry-after": "Sun, 22 Nov 2026 12:01:30 +0200"}, {}, now) == 90
    error = error_of(failure(429, retry_after=SOON))
    assert isinstance(error, RetryableError)
    assert error.wait_seconds is not None
    assert error.wait_seconds > 10**9


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


@pytest.mark.parametrize("key", ["k3y!", "hunter2", "pass/word1"])
def test_a_short_key_is_in_no_message_and_answers_keep_its_letters(key: str) -> None:
    """From four characters on; in an answer they may stand by chance, and what is scored stays as it is."""
    for shape in (
        failure(401, {"error": {"message": f"key {key} is wrong"}}),
        failure(500, f"Traceback ... Authorization: Bearer {key}"),
        Answer(status=302, headers={"location": f"http://elsewhere/?key={key}"}),
        Answer(body=f"broken {key}"),
    ):
        told = str(error_of(shape, key=key))
        assert key not in told
        assert "[key]" in told
    assert post(completion(f"It is {key}."), key=key)["choices"][0]["message"]["content"] == f"It is {key}."


def test_a_short_key_is_in_no_message_about_an_answer_of_the_wrong_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIAH_SERVER_KEY", "k3y!")
    prompt = Prompt(
        system="", context="x", question="?", cue="", cue_mode="off", layout="{context}{question}", tokens=9, placements=(),
        sampling=Sampling(),
    )  # fmt: skip

    async def ask(url: str) -> None:
        backend = open_backend("server/m", Connection(base_url=url))
        try:
            await backend.ask(prompt)
        finally:
            await backend.close()

    with ChatServer(lambda _: Answer(body={"error": {"message": "the key k3y! is worn out", "code": 500}})) as server:
        with pytest.raises(ProviderError, match="worn out") as caught:
            asyncio.run(ask(server.url))
        assert server.log[0].headers["authorization"] == "Bearer k3y!"
    assert "k3y!" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-0123456789abcdef", "sk/with/slashes/0123456789"])
def test_the_key_is_in_no_message_and_no_answer(key: str) -> None:
    """Errors of every shape that repeat the key, and answers that do, come without it."""
    shapes = [
        failure(401, {"error": {"message": f"key {key} is wrong"}}),
        failure(500, f"Traceback ... Authorization: Bearer {key}"),
        failure(400, {"detail": [{"msg": key}]}),
        Answer(status=302, headers={"location": f"http://elsewhere/?key={key}"}),
        Answer(body=f"broken {key}"),
    ]
    for shape in shapes:
        told = str(error_of(shape, key=key))
        assert key not in told
        assert "[key]" in told
    assert key not in str(post(completion(f"Your key is {key}."), key=key))
    escaped = '{"text": "' + key.replace("/", "\\/") + '"}'
    assert key not in str(post(Answer(body=escaped), key=key))


def test_a_stand_in_for_a_key_does_not_change_answers() -> None:
    """Servers without keys are given "none" or "EMPTY": such words are no secrets."""
    assert post(completion("none of the keys"), key="none")["choices"][0]["message"]["content"] == "none of the keys"


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
