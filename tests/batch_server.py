"""The batch APIs of OpenAI, Anthropic and Gemini on loopback, and their live ones, over one set of answers.

    with BatchServer(answer) as server:
        run("--batch", "--model", "anthropic/m", "--base-url", server.url("anthropic"))
    assert set(server.paid.values()) == {1}

`answer` gets a request's user text and gives the text of the answer or a `Refused`. `server.paid` counts for each trial's key how
often it was run in a batch. Batches are checked as the providers check them and stay at work for `server.looks` looks. `server.fate`
says how a batch ends; `server.trouble` may answer any request itself, before or after it was carried out.
"""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.batch_formats import Refused, Stored, anthropic_object, completion, error, gemini_object, openai_lines, openai_object, user_text

KEYS = {"openai": "OPENAI_API_KEY", "responses": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What the server sends in the place of its answer. `done`: it has done what was asked. `cut`: so many bytes of the true answer."""

    status: int = 500
    body: Any = field(default_factory=lambda: {"error": {"message": "it failed"}})
    headers: dict[str, str] = field(default_factory=dict[str, str])
    done: bool = False
    cut: int | None = None


class BatchServer:
    """A context manager. `fate` gives "done", "expired", "cancelled", "failed" or "crowded" for a batch as it is made."""

    def __init__(self, answer: Callable[[str], str | Refused]):
        self.answer = answer
        self.looks = 0
        self.fate: Callable[[Stored], str] = lambda _: "done"
        self.trouble: Callable[[str, str], Trouble | None] = lambda method, path: None
        self.spoil: Callable[[list[Any]], list[Any]] = lambda lines: lines
        self.batches: dict[str, Stored] = {}
        self.files: dict[str, bytes] = {}
        self.paid: Counter[str] = Counter()
        self.live = 0
        self.log: list[tuple[str, str]] = []
        self.gone: set[str] = set()
        self.hidden: set[str] = set()
        self.lock = threading.RLock()
        server = self

        class Handler(_Handler):
            world = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def url(self, prefix: str) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/{'v1beta' if prefix == 'gemini' else 'v1'}"

    def __enter__(self) -> "BatchServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def count(self, method: str, part: str) -> int:
        return sum(verb == method and part in path for verb, path in self.log)

    def make(self, kind: str, label: str, requests: list[tuple[str, Any]]) -> Stored:
        """A new batch, run at once; its results show after `looks` looks."""
        name = f"{ {'openai': 'batch_', 'anthropic': 'msgbatch_', 'gemini': 'batches/'}[kind] }{len(self.batches) + 1:04}"
        batch = Stored(name, kind, label, requests, self.looks)
        batch.fate = self.fate(batch)
        if batch.fate in ("failed", "crowded"):
            batch.why = (
                "token_limit_exceeded: Enqueued token limit reached. Limit: 90,000 enqueued tokens." if batch.fate == "crowded" else "bad"
            )
        else:
            for number, (custom_id, body) in enumerate(requests):
                said = self.answer(user_text(body))
                if batch.fate in ("expired", "cancelled") and number % 2:
                    said = Refused(batch.fate)
                if not isinstance(said, Refused):
                    self.paid[custom_id[:32]] += 1
                batch.results.append((custom_id, said))
            random.Random(len(self.batches)).shuffle(batch.results)
        self.batches[name] = batch
        return batch

    def look(self, name: str) -> Stored | None:
        batch = self.batches.get(name)
        if batch is not None:
            batch.looks -= 1
        return batch


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: BatchServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", -1))
        assert size >= 0, "no length"
        content = self.rfile.read(size)
        if len(content) == size:  # a client that died in the middle has asked nothing
            self._serve("POST", content)

    def _serve(self, method: str, content: bytes) -> None:
        world = self.world
        with world.lock:
            world.log.append((method, self.path))
            trouble = world.trouble(method, self.path)
            if trouble is not None and not trouble.done and trouble.cut is None:
                self._send(trouble.status, trouble.body, trouble.headers)
                return
            status, body = self._answer(method, content) if self._known() else (401, {"error": {"message": "no key"}})
        if trouble is not None and trouble.cut is None:
            self._send(trouble.status, trouble.body, trouble.headers)
        else:
            self._send(status, body, cut=trouble.cut if trouble else None)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None, *, cut: int | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            for name, value in {"content-type": "application/json", **(headers or {}), "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[:cut])
        except OSError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _known(self) -> bool:
        if self.path.startswith("/v1beta"):
            return bool(self.headers.get("x-goog-api-key"))
        if "/messages" in self.path:
            return bool(self.headers.get("x-api-key")) and bool(self.headers.get("anthropic-version"))
        return self.headers.get("authorization", "").startswith("Bearer ")

    def _answer(self, method: str, content: bytes) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = parts.path
        if (method == "POST" and path in ("/v1/chat/completions", "/v1/responses", "/v1/messages")) or path.endswith(":generateContent"):
            return self._live(path, json.loads(content))
        for pattern, verb, take in (
            (r"/v1/files", "POST", lambda: self._file(content)),
            (r"/v1/files/([\w-]+)/content", "GET", lambda: self._content(path.split("/")[3])),
            (r"/v1/batches", "POST", lambda: self._openai_make(json.loads(content))),
            (r"/v1/batches", "GET", lambda: self._list("openai", query.get("after", ""), int(query.get("limit", 20)))),
            (r"/v1/batches/\w+", "GET", lambda: self._show(path.rpartition("/")[2])),
            (r"/v1/messages/batches", "POST", lambda: self._anthropic_make(json.loads(content), len(content))),
            (r"/v1/messages/batches", "GET", lambda: self._list("anthropic", query.get("after_id", ""), int(query.get("limit", 20)))),
            (r"/v1/messages/batches/\w+", "GET", lambda: self._show(path.rpartition("/")[2])),
            (r"/v1/messages/batches/\w+/results", "GET", lambda: self._results(path.split("/")[4])),
            (r"/v1beta/models/[\w.-]+:batchGenerateContent", "POST", lambda: self._gemini_make(json.loads(content), len(content))),
            (r"/v1beta/batches", "GET", lambda: self._list("gemini", query.get("pageToken", ""), int(query.get("pageSize", 20)))),
            (r"/v1beta/batches/\w+", "GET", lambda: self._show(path.removeprefix("/v1beta/"))),
        ):
            if verb == method and re.fullmatch(pattern, path):
                return take()
        return 404, {"error": {"message": "no such thing"}}

    def _live(self, path: str, body: Any) -> tuple[int, Any]:
        self.world.live += 1
        said = self.world.answer(user_text(body))
        if isinstance(said, Refused):
            return int(said.status), error(path, said)
        return 200, completion(path, body, said)

    def _file(self, content: bytes) -> tuple[int, Any]:
        """A form with purpose=batch and a file, taken apart as RFC 7578 wants it."""
        found = re.fullmatch(r"multipart/form-data; boundary=(\S+)", self.headers["content-type"])
        assert found, self.headers["content-type"]
        edge = b"--" + found[1].encode()
        pieces = content.split(edge)
        assert pieces[0] == b"" and pieces[-1] == b"--\r\n", "the form does not begin and end as forms do"
        fields: dict[str, bytes] = {}
        for piece in pieces[1:-1]:
            head, _, value = piece.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
            name = re.search(rb'name="(\w+)"', head)
            assert name
            fields[name[1].decode()] = value
        assert fields["purpose"] == b"batch"
        name = f"file-{len(self.world.files) + 1:04}"
        self.world.files[name] = fields["file"]
        return 200, {"id": name, "object": "file", "purpose": "batch", "bytes": len(fields["file"])}

    def _openai_make(self, asked: Any) -> tuple[int, Any]:
        assert asked["completion_window"] == "24h" and all(len(value) <= 512 for value in asked["metadata"].values())
        content = self.world.files[asked["input_file_id"]]
        lines = [json.loads(line) for line in content.splitlines()]
        names = [line["custom_id"] for line in lines]
        assert len(set(names)) == len(names) <= 50_000 and len(content) <= 200_000_000
        assert {(line["method"], line["url"]) for line in lines} == {("POST", asked["endpoint"])}
        assert len({line["body"]["model"] for line in lines}) == 1, "one model a file"
        batch = self.world.make("openai", asked["metadata"].get("niah", ""), [(line["custom_id"], line["body"]) for line in lines])
        output, errors = openai_lines(batch, asked["endpoint"])
        for suffix, written in (("out", output), ("err", errors)):
            if written:
                self.world.files[f"{batch.id}-{suffix}"] = "".join(json.dumps(line) + "\n" for line in self.world.spoil(written)).encode()
        return 200, self._object(batch)

    def _anthropic_make(self, asked: Any, size: int) -> tuple[int, Any]:
        requests = [(request["custom_id"], request["params"]) for request in asked["requests"]]
        names = [name for name, _ in requests]
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names), names[0]
        assert len(set(names)) == len(names) <= 100_000 and size <= 256_000_000
        assert all({"model", "max_tokens", "messages"} <= set(params) for _, params in requests)
        return 200, self._object(self.world.make("anthropic", "", requests))

    def _gemini_make(self, asked: Any, size: int) -> tuple[int, Any]:
        batch = asked["batch"]
        requests = batch["inputConfig"]["requests"]["requests"]
        assert batch["displayName"] and size <= 20_000_000 and all(set(each) == {"request", "metadata"} for each in requests)
        return 200, self._object(
            self.world.make("gemini", batch["displayName"], [(each["metadata"]["key"], each["request"]) for each in requests])
        )

    def _list(self, kind: str, after: str, limit: int) -> tuple[int, Any]:
        assert limit <= {"openai": 100, "anthropic": 1000, "gemini": 1000}[kind]
        newest = [each for each in reversed(list(self.world.batches.values())) if each.kind == kind and each.id not in self.world.hidden]
        start = next((number for number, each in enumerate(newest, 1) if each.id == after), 0)
        page = newest[start : start + limit]
        for each in page:
            each.looks -= 1
        more, objects = len(newest) > start + limit, [self._object(each) for each in page]
        if kind == "gemini":
            return 200, {"operations": objects} | ({"nextPageToken": page[-1].id} if more else {})
        return 200, {"data": objects, "has_more": more, "first_id": None, "last_id": page[-1].id if page else None}

    def _show(self, name: str) -> tuple[int, Any]:
        batch = self.world.look(name)
        return (200, self._object(batch, whole=True)) if batch else (404, {"error": {"message": f"No batch found with id {name}."}})

    def _content(self, name: str) -> tuple[int, Any]:
        if name in self.world.gone or name not in self.world.files:
            return 404, {"error": {"message": f"No such File object: {name}"}}
        return 200, self.world.files[name]

    def _results(self, name: str) -> tuple[int, Any]:
        batch = self.world.batches[name]
        if name in self.world.gone or not batch.ended:
            return 410 if name in self.world.gone else 404, {"type": "error", "error": {"type": "not_found_error", "message": "no results"}}
        bodies, lines = dict(batch.requests), []
        for custom_id, said in batch.results:
            if not isinstance(said, Refused):
                result = {"type": "succeeded", "message": completion("/messages", bodies[custom_id], said)}
            elif isinstance(said.status, str):
                result = {"type": "canceled" if said.status == "cancelled" else said.status}
            else:
                result = {"type": "errored", "error": error("/messages", said)}
            lines.append({"custom_id": custom_id, "result": result})
        return 200, "".join(json.dumps(line) + "\n" for line in self.world.spoil(lines)).encode()

    def _object(self, batch: Stored, *, whole: bool = False) -> Any:
        if batch.kind == "gemini":
            return gemini_object(batch, self.world.spoil)
        return openai_object(batch, self.world.files) if batch.kind == "openai" else anthropic_object(batch)
