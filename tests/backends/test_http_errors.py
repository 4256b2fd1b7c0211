"""What servers answer when they do not answer: each shape becomes one error of the tree, without the key. A real server, real connections."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from niah.backends import Connection, open_backend
from niah.backends.rates import wait_seconds
from niah.errors import BadRequest, BadResponse, ContextOverflow, FatalError, ProviderError, RetryableError
from niah.trial import Prompt, Sampling
from tests.backends.posting import error_of, post
from tests.chat_server import Answer, ChatServer, completion, failure

HTML = {"content-type": "text/html; charset=utf-8"}
VLLM_OVERFLOW = "This model's maximum context length is 4096 tokens. However, you requested 6013 tokens. Please reduce the length."
SOON = "Wed, 21 Oct 2099 07:28:00 GMT"
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
