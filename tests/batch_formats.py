"""What the batch APIs of OpenAI, Anthropic and Gemini send: answers, errors, and batches as they show them."""

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_MODEL = "served-model"
_ANTHROPIC_KINDS = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}
_GRPC = {400: 3, 429: 8, 503: 14}


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not answered: a status, or "expired" or "cancelled" in the place of one."""

    status: int | str
    message: str = "no"


@dataclass(slots=True)
class Stored:
    """A batch. `requests` are (custom_id, body), `results` (custom_id, answer)."""

    id: str
    kind: str
    label: str
    requests: list[tuple[str, Any]]
    looks: int
    fate: str = "done"
    why: str = ""
    results: list[tuple[str, "str | Refused"]] = field(default_factory=list)
    at: float = field(default_factory=time.time)

    @property
    def ended(self) -> bool:
        return self.looks <= 0


def user_text(body: Any) -> str:
    """The user's text of a request in any format."""
    if "contents" in body:
        return "".join(part["text"] for turn in body["contents"] if turn["role"] == "user" for part in turn["parts"])
    said = next(turn["content"] for turn in body.get("messages") or body["input"] if turn["role"] == "user")
    return said if isinstance(said, str) else "".join(block["text"] for block in said)


def completion(path: str, body: Any, said: str) -> Any:
    """A successful answer in the format that belongs to a path."""
    given, written = len(user_text(body)) // 4 + 10, len(said.split())
    if path.endswith("/responses"):
        message = {"type": "message", "content": [{"type": "output_text", "text": said}]}
        usage = {"input_tokens": given, "output_tokens": written}
        return {"id": "r", "object": "response", "status": "completed", "model": _MODEL, "output": [message], "usage": usage}
    if "/chat/" in path:
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": given, "completion_tokens": written}
        return {"id": "c", "object": "chat.completion", "model": _MODEL, "choices": [choice], "usage": usage}
    if path.endswith("/messages"):
        usage = {"input_tokens": given, "output_tokens": written}
        content = [{"type": "text", "text": said}]
        return {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": _MODEL,
            "content": content,
            "stop_reason": "end_turn",
            "usage": usage,
        }
    usage = {"promptTokenCount": given, "candidatesTokenCount": written, "totalTokenCount": given + written}
    candidate = {"content": {"role": "model", "parts": [{"text": said}]}, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": _MODEL}


def error(path: str, refused: Refused) -> Any:
    status = int(refused.status)
    if "/messages" in path:
        return {"type": "error", "error": {"type": _ANTHROPIC_KINDS.get(status, "api_error"), "message": refused.message}}
    return {"error": {"message": refused.message, "code": status}}


def openai_lines(batch: Stored, path: str) -> tuple[list[Any], list[Any]]:
    bodies, output, errors = dict(batch.requests), [], []
    for name, said in batch.results:
        line: dict[str, Any] = {"id": f"batch_req_{name[:6]}", "custom_id": name, "response": None, "error": None}
        if not isinstance(said, Refused):
            output.append(line | {"response": {"status_code": 200, "request_id": "r", "body": completion(path, bodies[name], said)}})
        elif isinstance(said.status, str):
            errors.append(line | {"error": {"code": f"batch_{said.status}", "message": "This request was not run in time."}})
        else:
            errors.append(line | {"response": {"status_code": said.status, "request_id": "r", "body": error(path, said)}})
    return output, errors


def openai_object(batch: Stored, files: Container[str]) -> Any:
    done = sum(not isinstance(said, Refused) for _, said in batch.results)
    status = {"done": "completed", "crowded": "failed"}.get(batch.fate, batch.fate) if batch.ended else "in_progress"
    shown = {"id": batch.id, "object": "batch", "status": status, "created_at": int(batch.at), "metadata": {"niah": batch.label}}
    shown |= {"output_file_id": None, "error_file_id": None, "errors": None}
    shown |= {"request_counts": {"total": len(batch.requests), "completed": done if batch.ended else 0, "failed": 0}}
    if batch.ended:
        for name, suffix in (("output_file_id", "out"), ("error_file_id", "err")):
            shown[name] = f"{batch.id}-{suffix}" if f"{batch.id}-{suffix}" in files else None
        if batch.why:
            code, _, message = batch.why.partition(": ")
            shown["errors"] = {"object": "list", "data": [{"code": code, "message": message, "line": None, "param": None}]}
    return shown


def anthropic_object(batch: Stored) -> Any:
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    if batch.ended:
        for _, said in batch.results:
            status = said.status if isinstance(said, Refused) else "succeeded"
            counts["canceled" if status == "cancelled" else status if isinstance(status, str) else "errored"] += 1
    else:
        counts["processing"] = len(batch.requests)
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else "in_progress",
        "request_counts": counts,
        "created_at": datetime.fromtimestamp(batch.at, UTC).isoformat().replace("+00:00", "Z"),
        "results_url": f"https://api.anthropic.com/v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }


def gemini_object(batch: Stored, spoil: Callable[[list[Any]], list[Any]]) -> Any:
    state = {"done": "SUCCEEDED", "crowded": "FAILED"}.get(batch.fate, batch.fate.upper()) if batch.ended else "RUNNING"
    at = datetime.fromtimestamp(batch.at, UTC).isoformat().replace("+00:00", "000Z")
    told = {"name": batch.id, "displayName": batch.label, "state": f"BATCH_STATE_{state}", "createTime": at}
    told |= {"batchStats": {"requestCount": str(len(batch.requests))}}
    shown: dict[str, Any] = {"name": batch.id, "metadata": told}
    if not batch.ended:
        return shown
    shown["done"] = True
    if state == "FAILED":
        return shown | {"error": {"code": 8 if batch.fate == "crowded" else 3, "message": batch.why}}
    if state != "SUCCEEDED":
        return shown
    bodies, lines = dict(batch.requests), []
    for key, said in batch.results:
        told_of = {"metadata": {"key": key}}
        if isinstance(said, Refused):
            lines.append(told_of | {"error": {"code": _GRPC.get(int(said.status), 13), "message": said.message}})
        else:
            lines.append(told_of | {"response": completion(":generateContent", bodies[key], said)})
    return shown | {"response": {"inlinedResponses": {"inlinedResponses": spoil(lines)}}}
