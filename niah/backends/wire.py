"""Wire formats: what a provider's HTTP API wants and gives, as pure functions. A provider is a `Wire` and a row in the table.

`request` turns a Prompt into a body and sends nothing optional that the model's capabilities do not allow; `reply` turns a
body into a Reply. Nothing here sends, waits or retries (see http.py and run/limits.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from niah.backends.models import Capabilities
from niah.trial import Prompt, Reply

Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """A provider's own count of a prompt's tokens: where to ask, what to send, and the number in the answer."""

    path: Callable[[str], str]
    request: Callable[[Prompt, str, Capabilities], Body]
    tokens: Callable[[Any], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One wire format. `path` takes the model's name; `prefill` says whether a format can begin the answer at all."""

    path: Callable[[str], str]
    request: Callable[[Prompt, str, Capabilities], Body]
    reply: Callable[[Any, float], Reply]
    prefill: bool
    counting: Counting | None = None
    headers: Mapping[str, str] | None = None
