"""What batches of all providers have in common: a batch's status, a request's result, and what a provider's format has to say.

The formats themselves stand in batching.py. Nothing here sends.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from niah.backends.classify import FILTERED, classify, message_of
from niah.backends.wire import Body
from niah.errors import BadResponse, ProviderError, Refused, RetryableError
from niah.trial import Reply

KEY_CHARACTERS = 32
"""Of a custom_id: the trial's key."""
_SHOWN_CHARACTERS = 200
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}(/[A-Za-z0-9_-]{1,128})?")
CROWDED = re.compile(r"token_limit_exceeded|enqueued token", re.IGNORECASE)

State: TypeAlias = Literal["working", "ended", "cancelled", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a provider says of a batch. `files` are paths of results, `inline` results themselves; `answered` may be unknown.

    `crowded`: it failed only because too many tokens wait already. `gone`: its results are no longer kept.
    """

    id: str
    state: State
    label: str = ""
    requests: int | None = None
    answered: int | None = None
    created: float | None = None
    files: tuple[str, ...] = ()
    inline: tuple[Mapping[str, Any], ...] = ()
    why: str = ""
    crowded: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one request: a status of HTTP with a body, or that it was not run."""

    custom_id: str
    status: int = 0
    body: Any = None
    not_run: Literal["", "expired", "cancelled"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One provider's batches. A batch's content is `head`, the lines with `between` between them, and `tail`.

    `filed`: the content is uploaded first, and `order` makes the body that creates the batch. `labelled`: a batch bears our label.
    """

    most_requests: int
    most_bytes: int
    create: Callable[[str], str]
    head: Callable[[str], bytes]
    line: Callable[[str, Body, str], bytes]
    between: bytes
    tail: bytes
    listing: Callable[[str], str]
    page: Callable[[Any], tuple[list[Status], str]]
    show: Callable[[str], str]
    status: Callable[[Any], Status]
    result: Callable[[Any], Result]
    labelled: bool = True
    filed: bool = False

    def custom_id(self, key: str, label: str) -> str:
        """The id of a request: the trial's key, and the batch's label where that can stand nowhere else."""
        return key if self.labelled else f"{key}-{label}"


def outcome(result: Result, reply: Callable[[Any, float], Reply]) -> Reply | ProviderError:
    """The reply in a result, or what is wrong, in the same kinds as when a model is asked live."""
    if result.not_run:
        return RetryableError(f"the batch was {result.not_run} before this request was run", kind=result.not_run)
    try:
        if 200 <= result.status < 300:
            return reply(result.body, 0.0)
        said = short(message_of(result.body)).rstrip(".")
        error = classify(result.status, {}, result.body, f"the batch answered {result.status}: {said}.")
        return FILTERED if isinstance(error, Refused) else error
    except ProviderError as error:
        return error


def crowded(why: str) -> bool:
    """Whether a batch was refused because too many tokens wait already."""
    return bool(CROWDED.search(why))


def checked(name: Any) -> str:
    """An id that may stand in a path."""
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise BadResponse(f"the server calls a batch or a file {short(str(name))!r}, which is no id")
    return name


def encoded(value: Any) -> bytes:
    """JSON on one line, whatever takes itself for a line's end."""
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "\x85\u2028\u2029":
        line = line.replace(character, f"\\u{ord(character):04x}")
    return line.encode("utf-8", "backslashreplace")


def short(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"


def lines_of(content: Iterable[bytes], clean: Callable[[str], str]) -> Iterable[Any]:
    """The JSON values of a file of lines. RetryableError for a line that is torn, when it comes."""
    for line in content:
        if line.strip():
            try:
                yield json.loads(clean(line.decode("utf-8", "replace")))
            except (ValueError, RecursionError):
                raise RetryableError("the file of results is torn", kind="connection", billed=True) from None
