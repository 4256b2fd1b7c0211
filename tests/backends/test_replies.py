"""Wire formats: replies of every kind, and errors.

`bodies/replies.json` and `bodies/errors.json` hold what providers answer, written from their documentation and SDKs.
"""

import asyncio
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.backends.http import Sender
from niah.errors import ProviderError
from niah.trial import Reply, Usage
from tests.backends.wires import BODIES, WIRES
from tests.chat_server import Answer, ChatServer

REPLIES: list[dict[str, Any]] = json.loads((BODIES / "replies.json").read_text(encoding="utf-8"))
ERRORS: list[dict[str, Any]] = json.loads((BODIES / "errors.json").read_text(encoding="utf-8"))


# --- replies


@pytest.mark.parametrize("case", REPLIES, ids=[f"{case['wire']}: {case['name']}" for case in REPLIES])
def test_what_a_body_means(case: dict[str, Any]) -> None:
    """Text, stop, counts and served model of each recorded body; what is no answer is an error of the tree."""
    wire = WIRES[case["wire"]]
    if "error" in case:
        with pytest.raises(ProviderError) as caught:
            wire.reply(case["body"], 1.0)
        assert type(caught.value).__name__ == case["error"]
        assert caught.value.kind == case.get("kind", "context_overflow")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
        return
    usage = Usage(**case["usage"])
    assert wire.reply(case["body"], 1.23456) == Reply(
        text=case["text"], stop=case["stop"], usage=usage, seconds=1.2346, model=case["model"]
    )


def test_every_wire_has_replies_of_each_kind() -> None:
    """The table above would also pass if it were short."""
    for name in WIRES:
        cases = [case for case in REPLIES if case["wire"] == name]
        assert {"error"} <= {key for case in cases for key in case}
        assert {"end"} <= {case.get("stop") for case in cases}
        assert any(case.get("usage", {}).get("input") for case in cases)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "type", "content", "parts", "error"]), inner),
    max_leaves=4,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, each in inner for place in places(each, (*here, key)))]


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(REPLIES), where=st.integers(0, 60), what=JSON)
def test_whatever_stands_in_a_body(case: dict[str, Any], where: int, what: Any) -> None:
    """A body with any part replaced by anything gives a Reply with sound counts, or an error of the tree."""
    ways = places(case["body"])
    way = ways[where % len(ways)]
    body = copy.deepcopy(case["body"]) if way else what
    inner = body
    for key in way[:-1]:
        inner = inner[key]
    if way:
        inner[way[-1]] = what
    try:
        reply = WIRES[case["wire"]].reply(body, 1.0)
    except ProviderError:
        return
    assert isinstance(reply.text, str)
    assert isinstance(reply.model, str)
    counts = [reply.usage.input, reply.usage.cached, reply.usage.output, reply.usage.reasoning, reply.usage.cache_write]
    assert all(each is None or (type(each) is int and each >= 0) for each in counts)


# --- errors: the table that niah/backends/http.py is held against


@pytest.mark.parametrize("case", ERRORS, ids=[f"{case['provider']} {case['status']} {str(case['body'])[:60]}" for case in ERRORS])
def test_error_bodies(case: dict[str, Any]) -> None:
    """Each provider's errors as they are documented or were seen: class, kind and the wait that is asked for."""

    async def ask(url: str) -> None:
        sender = Sender(url, headers={}, timeout_seconds=5)
        try:
            await sender.post("/x", {})
        finally:
            await sender.close()

    answer = Answer(status=case["status"], headers=case["headers"], body=case["body"])
    with ChatServer(lambda _: answer) as server, pytest.raises(ProviderError) as caught:
        asyncio.run(ask(server.url))
    error = caught.value
    assert (type(error).__name__, error.kind) == (case["expected_class"], case["expected_kind"])
    assert getattr(error, "wait_seconds", None) == case["expected_wait_seconds"]
