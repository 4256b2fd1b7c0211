"""Batch APIs: many requests at half the price, answered within a day. Pure formats of OpenAI, Anthropic and Gemini; run/batch.py sends.

| | OpenAI | Anthropic | Gemini |
|---|---|---|---|
| create | POST /files (JSONL), then POST /batches | POST /messages/batches | POST /models/M:batchGenerateContent |
| most in one | 50,000 requests, 200 MB, one model | 100,000 requests, 256 MB | 20 MB inline |
| our label | metadata | none: behind each custom_id | displayName |
| results | output and error files (JSONL) | JSONL under the batch | inside the batch |
| time | 24 h, the rest expires | 24 h, the rest expires | 24 h as a rule, expires after 48 h without results |
| kept | output files 30 days as a rule | 29 days | told nowhere: fetch them soon |

Sources: https://platform.openai.com/docs/guides/batch and /api-reference/batch, https://docs.claude.com/en/api/creating-message-batches,
https://ai.google.dev/gemini-api/docs/batch-api and https://ai.google.dev/api/batch-api.

Traps:
- Results come in any order and are matched by id. Gemini documents the order of its inline results, but was seen to break it
  (googleapis/python-genai#1909), and to leave out the ids (#2008): answers without ids are nobody's, unless there is only one.
- OpenAI refuses what is too much for the account's queue only after it has taken the batch: it is `failed`, `token_limit_exceeded`.
- OpenAI splits files into lines: U+2028 and its like go out as JSON escapes.
- OpenAI writes each refused request to a second file, where `error` is null and the status stands in `response`.
- Anthropic counts everything as `processing` until the whole batch has ended, and gives its results no label.
- Gemini's errors bear codes of gRPC, not of HTTP.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from niah.backends.batch_format import CROWDED, Format, Result, State, Status, checked, encoded, short
from niah.backends.bodies import count, objects, text
from niah.backends.classify import message_of
from niah.backends.wire import Body
from niah.errors import RetryableError, UsageError

_GRPC: Mapping[int, int] = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    13: 500,
    14: 503,
    16: 401,
}
_ANTHROPIC: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Kinds of errors and the status with which they come live."""


def supports_batch(model: str) -> bool:
    """Whether `backend/model` can be asked in batches."""
    return model.partition("/")[0] in FORMATS


def batch_format(model: str) -> Format:
    """How a model is asked in batches; UsageError for one that cannot be."""
    if not supports_batch(model):
        having = ", ".join(f"{prefix}/" for prefix in FORMATS)
        raise UsageError(f"model {model!r} has no batches: leave out --batch (models of {having} have them)")
    return FORMATS[model.partition("/")[0]]


def order(file: str, url: str, label: str) -> Body:
    """What creates a batch of OpenAI from an uploaded file."""
    return {"input_file_id": file, "endpoint": url, "completion_window": "24h", "metadata": {"niah": label}}


def _object(body: Any, *needed: str) -> Mapping[str, Any]:
    if not isinstance(body, dict) or any(name not in body for name in needed):
        raise RetryableError(f"the answer is no batch: {short(json.dumps(body, default=str))}", kind="server", billed=True)
    return body


def _part(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _when(value: Any) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None


_OPENAI_STATES: Mapping[str, State] = {"completed": "ended", "expired": "ended", "cancelled": "cancelled", "failed": "failed"}


def _openai_status(body: Any) -> Status:
    batch = _object(body, "id", "status")
    errors = list(objects(_part(batch, "errors", "data")))
    why = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors[:3])
    files = [batch[name] for name in ("output_file_id", "error_file_id") if batch.get(name)]
    return Status(
        id=checked(batch["id"]),
        state=_OPENAI_STATES.get(text(batch["status"]), "working"),
        label=text(_part(batch, "metadata", "niah")),
        requests=count(batch, "request_counts", "total"),
        answered=count(batch, "request_counts", "completed"),
        created=count(batch, "created_at"),
        files=tuple(f"/files/{checked(file)}/content" for file in files),
        why=short(why),
        crowded=batch["status"] == "failed" and bool(CROWDED.search(why)),
    )


def _openai_result(line: Any) -> Result:
    answer, error = _part(line, "response"), _part(line, "error")
    name = text(_part(line, "custom_id"))
    if isinstance(answer, dict):
        return Result(custom_id=name, status=count(answer, "status_code") or 500, body=answer.get("body"))
    code = text(_part(error, "code"))
    not_run = {"batch_expired": "expired", "batch_cancelled": "cancelled"}.get(code, "")
    return Result(custom_id=name, status=500, body={"error": error}, not_run=not_run)  # pyright: ignore[reportArgumentType]


def _openai_page(body: Any) -> tuple[list[Status], str]:
    page = _object(body, "data")
    found = [_openai_status(each) for each in objects(page["data"])]
    return found, found[-1].id if found and page.get("has_more") else ""


def _anthropic_status(body: Any) -> Status:
    batch = _object(body, "id", "processing_status")
    name, ended = checked(batch["id"]), batch["processing_status"] == "ended"
    counts = _part(batch, "request_counts")
    numbers = [number for number in counts.values() if isinstance(number, int)] if isinstance(counts, dict) else []
    return Status(
        id=name,
        state="ended" if ended else "working",
        requests=sum(numbers) if numbers else None,
        answered=count(counts, "succeeded"),
        created=_when(batch.get("created_at")),
        files=(f"/messages/batches/{name}/results",) if ended else (),
        gone=ended and not batch.get("results_url"),
    )


def _anthropic_result(line: Any) -> Result:
    result, name = _part(line, "result"), text(_part(line, "custom_id"))
    kind = text(_part(result, "type"))
    if kind == "succeeded":
        return Result(custom_id=name, status=200, body=_part(result, "message"))
    if kind in ("expired", "canceled"):
        return Result(custom_id=name, not_run="expired" if kind == "expired" else "cancelled")
    error = _part(result, "error")
    error = error if isinstance(_part(error, "error"), dict) else {"error": error}
    return Result(custom_id=name, status=_ANTHROPIC.get(text(_part(error, "error", "type")), 500), body=error)


def _anthropic_page(body: Any) -> tuple[list[Status], str]:
    page = _object(body, "data")
    return [_anthropic_status(each) for each in objects(page["data"])], text(page.get("last_id")) if page.get("has_more") else ""


_GEMINI_STATES: Mapping[str, State] = {"SUCCEEDED": "ended", "EXPIRED": "ended", "CANCELLED": "cancelled", "FAILED": "failed"}


def _gemini_status(body: Any) -> Status:
    operation = _object(body, "name")
    told, error = operation.get("metadata"), operation.get("error")
    state = _GEMINI_STATES.get(text(_part(told, "state")).rpartition("STATE_")[2], "working")
    if state == "working" and operation.get("done"):
        state = "failed" if error else "ended"
    answers = _part(operation, "response", "inlinedResponses") or _part(told, "output", "inlinedResponses")
    return Status(
        id=checked(operation["name"]),
        state=state,
        label=text(_part(told, "displayName")),
        requests=_number(_part(told, "batchStats", "requestCount")),
        answered=_number(_part(told, "batchStats", "successfulRequestCount")),
        created=_when(_part(told, "createTime")),
        inline=tuple(objects(_part(answers, "inlinedResponses") if isinstance(answers, dict) else answers)),
        why=short(message_of({"error": error})) if error else "",
        crowded=state == "failed" and count(error, "code") in (8, 429),
    )


def _number(value: Any) -> int | None:
    """64-bit numbers come as strings."""
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else None


def _gemini_result(line: Any) -> Result:
    name, error = text(_part(line, "metadata", "key")), _part(line, "error")
    if not error:
        return Result(custom_id=name, status=200, body=_part(line, "response"))
    code = count(error, "code") or 500
    return Result(custom_id=name, status=code if code >= 100 else _GRPC.get(code, 500), body={"error": error})


def _gemini_page(body: Any) -> tuple[list[Status], str]:
    page = _object(body)
    return [_gemini_status(each) for each in objects(page.get("operations"))], text(page.get("nextPageToken"))


def _gemini_path(model: str) -> str:
    from niah.backends.gemini import WIRE

    return WIRE.path(model).rpartition(":")[0] + ":batchGenerateContent"


def _query(path: str, name: str) -> Callable[[str], str]:
    return lambda cursor: f"{path}&{name}={quote(cursor, safe='')}" if cursor else path


_OPENAI = Format(
    most_requests=50_000,
    most_bytes=195_000_000,
    create=lambda _: "/batches",
    head=lambda _: b"",
    line=lambda name, body, url: encoded({"custom_id": name, "method": "POST", "url": url, "body": body}),
    between=b"\n",
    tail=b"\n",
    listing=_query("/batches?limit=100", "after"),
    page=_openai_page,
    show=lambda name: f"/batches/{name}",
    status=_openai_status,
    result=_openai_result,
    filed=True,
)
FORMATS: Mapping[str, Format] = {
    "openai": _OPENAI,
    "responses": _OPENAI,
    "anthropic": Format(
        most_requests=100_000,
        most_bytes=250_000_000,
        create=lambda _: "/messages/batches",
        head=lambda _: b'{"requests":[',
        line=lambda name, body, _: encoded({"custom_id": name, "params": body}),
        between=b",",
        tail=b"]}",
        listing=_query("/messages/batches?limit=1000", "after_id"),
        page=_anthropic_page,
        show=lambda name: f"/messages/batches/{name}",
        status=_anthropic_status,
        result=_anthropic_result,
        labelled=False,
    ),
    "gemini": Format(
        most_requests=50_000,
        most_bytes=19_000_000,
        create=_gemini_path,
        head=lambda label: b'{"batch":{"displayName":' + encoded(label) + b',"inputConfig":{"requests":{"requests":[',
        line=lambda name, body, _: encoded({"request": body, "metadata": {"key": name}}),
        between=b",",
        tail=b"]}}}}",
        listing=_query("/batches?pageSize=100", "pageToken"),
        page=_gemini_page,
        show=lambda name: f"/{name}",
        status=_gemini_status,
        result=_gemini_result,
    ),
}
"""prefix of a model's name -> its batches. Limits are the providers' with a margin."""
