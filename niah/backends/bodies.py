"""What the wire formats share: fields of a request that depend on the model, and careful reading of other people's JSON.

A server may say anything: a count that is negative or a string is no count, and a body that is no completion is the server's
trouble, not the model's answer. An answer with status 200 may still hold an error: these are found here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from niah.backends.models import Capabilities
from niah.backends.wire import Body
from niah.errors import ContextOverflow, ProviderError, RetryableError
from niah.trial import Prompt

_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size|prompt is too long|input is too long|input token count|"
    r"(context|maximum).{0,12}(length|window|size)|exceeds? .{0,20}context",
    re.IGNORECASE,
)
_SHOWN_CHARACTERS = 200


def output_cap(prompt: Prompt, capabilities: Capabilities) -> int:
    """Tokens that may be written: what the experiment asks for, as far as the model goes."""
    asked = prompt.sampling.max_output_tokens
    return asked if capabilities.max_output_tokens is None else min(asked, capabilities.max_output_tokens)


def sampling(prompt: Prompt, capabilities: Capabilities, temperature: str, top_p: str) -> Body:
    """Temperature and top_p under a provider's names: only those asked for, and none to a model that refuses them."""
    asked = {temperature: prompt.sampling.temperature, top_p: prompt.sampling.top_p}
    return {name: value for name, value in asked.items() if value is not None and capabilities.sampling is not False}


def parts(prompt: Prompt) -> tuple[str, str, str]:
    """System, user and assistant text; "" where there is none."""
    texts = {message["role"]: message["content"] for message in prompt.messages()}
    return texts.get("system", ""), texts["user"], texts.get("assistant", "")


def completion(body: Any, *needed: str) -> Body:
    """`body` itself if it is an object with the fields `needed` and no error; otherwise an error of niah's tree."""
    if isinstance(body, dict):
        if error := body.get("error") or body.get("__type") or (body if body.get("type") == "error" else None):
            raise error_inside(error)
        if all(name in body for name in needed):
            return body
    raise no_completion(body)


def no_completion(body: Any) -> RetryableError:
    """The server's trouble, whatever it is that it sent."""
    return RetryableError(f"the answer is no completion: {_shown(body)}", kind="server", billed=True)


def error_inside(error: Any) -> ProviderError:
    """What an error inside a successful answer is: an overflow, or overload that may go away."""
    shown = f"an error inside a successful answer: {_shown(error)}"
    return ContextOverflow(shown) if _OVERFLOW.search(_text(error)) else RetryableError(shown, kind="overloaded", billed=True)


def objects(value: Any) -> Iterable[Mapping[str, Any]]:
    """The objects in a list, and nothing of what is no list or no object."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def count(usage: Any, *path: str) -> int | None:
    """The number of tokens that stands under these names; None where no whole number from 0 on stands there."""
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(usage, bool) or not isinstance(usage, int | float) or usage < 0:
        return None
    return int(usage) if isinstance(usage, int) or usage.is_integer() else None


def total(usage: Any, first: str, *more: str) -> int | None:
    """A sum of counts: None without the first; of the others, those that are not told count 0, and nonsense makes the sum None."""
    counts = [count(usage, first), *(count(usage, name) for name in more if isinstance(usage, dict) and usage.get(name) is not None)]
    return None if None in counts else sum(each for each in counts if each is not None)


def tokens(body: Any, name: str) -> int:
    """The number in a count endpoint's answer."""
    counted = count(completion(body, name), name)
    if counted is None:
        raise RetryableError(f"the answer holds no token count: {_shown(body)}", kind="server", billed=True)
    return counted


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _shown(value: Any) -> str:
    line = " ".join(_text(value).split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"
