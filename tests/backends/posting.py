"""One request to a server that gives one answer."""

import asyncio
from typing import Any

import pytest

from niah.backends.http import Sender
from niah.errors import ProviderError
from tests.chat_server import Answer, ChatServer


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
