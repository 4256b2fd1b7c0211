"""A Hugging Face hub on loopback: as much of its HTTP API as `datasets.load_dataset(..., streaming=True)` asks for.

    with Hub() as hub:
        hub.add("wikimedia/wikipedia", {"20231101.en/train-00000-of-00001.parquet": parquet(rows)}, card=card(...))
        environment["HF_ENDPOINT"] = hub.url

Answered: HEAD and GET (with Range) of /datasets/ID/resolve/REVISION/PATH, and of /api/datasets/ID the info, `revision`,
`tree` and `paths-info`; the same of models, whose files are at /ID/resolve/REVISION/PATH and whose API is at /api/models/ID.
Faults are switched on per dataset with `Hub.fault`. A hub that is down is `dead_url()`.
"""

import gzip
import hashlib
import io
import json
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

FaultKind: TypeAlias = Literal["error", "missing", "gated", "forbidden", "drop", "limit"]
"""error: 500. missing: 404. gated: 401. forbidden: 403. drop: half of the body, then the connection is cut. limit: 429."""

_REFUSALS: dict[str, tuple[int, str, str]] = {
    "error": (500, "", "internal error"),
    "missing": (404, "RepoNotFound", "Repository not found"),
    "gated": (401, "GatedRepo", "Access to this dataset is restricted"),
    "forbidden": (403, "GatedRepo", "Access to this dataset is restricted: ask for access"),
    "limit": (429, "", "too many requests"),
}


@dataclass(slots=True)
class _Fault:
    kind: FaultKind
    ending: str | None
    times: int | None


@dataclass(slots=True)
class _Repo:
    files: dict[str, bytes]
    sha: str
    revisions: tuple[str, ...]
    faults: list[_Fault] = field(default_factory=list[_Fault])

    def locate(self, tail: str) -> tuple[str, str] | None:
        """(revision, path) of `REVISION/PATH`; a revision may hold slashes itself (refs/convert/parquet)."""
        for revision in self.revisions:
            if tail == revision or tail.startswith(revision + "/"):
                return revision, tail[len(revision) + 1 :]
        return None


class Hub:
    """The server; a context manager. `requests` is the log: "METHOD path [range]" of everything that was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, _Repo] = {}
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, dataset: str, files: Mapping[str, bytes], *, card: str = "", revision: str = "main") -> None:
        """A dataset with its files by path. `revision` is the branch, tag or commit under which it can be had."""
        everything = {**files, "README.md": card.encode()} if card else dict(files)
        sha = revision if len(revision) == 40 else hashlib.sha1(dataset.encode()).hexdigest()
        self.repos[dataset] = _Repo(files=everything, sha=sha, revisions=(revision, "main", sha))

    def fault(self, dataset: str, kind: FaultKind, *, ending: str | None = None, times: int | None = None) -> None:
        """Switch a fault on: for the whole dataset or for files with this `ending`; for ever or for the next `times` requests."""
        self.repos.setdefault(dataset, _Repo(files={}, sha="0" * 40, revisions=("main",))).faults.append(_Fault(kind, ending, times))

    def take_fault(self, dataset: str, path: str | None) -> FaultKind | None:
        """The fault that meets a request for `path` (None: a request for metadata of the dataset)."""
        with self._lock:
            for fault in self.repos[dataset].faults if dataset in self.repos else ():
                applies = fault.ending is None if path is None else fault.ending is None or path.endswith(fault.ending)
                if applies and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault.kind
        return None

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, body: bytes = b"") -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".rstrip())
            if "Authorization" in self.headers:
                hub.tokens.add(self.headers["Authorization"])
            api = path.startswith("/api/")
            plain = path.removeprefix("/api").removeprefix("/datasets").removeprefix("/models").removeprefix("/")
            owner, name, verb, tail = [*plain.split("/", 3), "", "", ""][:4]
            dataset = f"{owner}/{name}"
            repo = hub.repos.get(dataset)
            at = repo.locate(tail or "main") if repo else None
            fault = hub.take_fault(dataset, None if api else at[1] if at else "")
            if repo is None:
                self._refuse(404, "RepoNotFound", "Repository not found")
            elif fault is not None and fault in _REFUSALS:
                self._refuse(*_REFUSALS[fault])
            elif at is None:
                self._refuse(404, "RevisionNotFound", "Invalid rev id")
            elif not api:
                self._file(repo, at[1], cut=fault == "drop")
            elif verb == "tree":
                self._json(_tree(repo, at[1], deep="recursive=true" in self.path.lower()))
            elif verb == "paths-info":
                self._json([_entry(repo, name) for name in json.loads(body)["paths"] if _known(repo, name)])
            else:
                siblings = [{"rfilename": name} for name in sorted(repo.files)]
                self._json({"id": dataset, "sha": repo.sha, "private": False, "gated": False, "tags": [], "siblings": siblings})

        def _file(self, repo: _Repo, name: str, *, cut: bool) -> None:
            data = repo.files.get(name, b"")
            start, stop = 0, len(data)
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes="):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
            if name not in repo.files:
                self._refuse(404, "EntryNotFound", "Entry not found")
            elif start > 0 and start >= len(data):
                self._refuse(416, "", "range not satisfiable")
            else:
                self._part(repo, data, start, stop, wanted=bool(wanted), cut=cut)

        def _part(self, repo: _Repo, data: bytes, start: int, stop: int, *, wanted: bool, cut: bool) -> None:
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", repo.sha)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(data[start : start + (stop - start) // 2] if cut else data[start:stop])
            if cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def _json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refuse(self, status: int, code: str, message: str) -> None:
            data = json.dumps({"error": message}).encode()
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def _known(repo: _Repo, name: str) -> bool:
    return name in repo.files or any(path.startswith(name + "/") for path in repo.files)


def _entry(repo: _Repo, name: str) -> dict[str, Any]:
    if name in repo.files:
        data = repo.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}


def _tree(repo: _Repo, folder: str, *, deep: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    names: set[str] = set()
    for path in repo.files:
        if path.startswith(prefix):
            pieces = path.removeprefix(prefix).split("/")
            names.update(prefix + "/".join(pieces[:depth]) for depth in range(1, len(pieces) + 1 if deep else 2))
    return [_entry(repo, name) for name in sorted(names)]


def dead_url() -> str:
    """The address of a port on which nobody listens: a hub that is down."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def card(configs: Mapping[str, Mapping[str, str]], *, columns: Sequence[str] = ()) -> str:
    """A README whose yaml names the data files, config -> split -> pattern, and declares `columns`, all of them strings."""
    lines = ["---"]
    if columns:
        lines += ["dataset_info:"]
        for name, splits in configs.items():
            lines += [f"- config_name: {name}", "  features:", *(f"  - name: {column}\n    dtype: string" for column in columns)]
            lines += ["  splits:", *(f"  - name: {split}\n    num_bytes: 9\n    num_examples: 9" for split in splits)]
    lines += ["configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", "# A dataset", ""])


def parquet(rows: Sequence[Mapping[str, Any]], *, rows_a_group: int = 8) -> bytes:
    """Rows as a parquet file; small row groups, so that reading stops in the middle of it."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=rows_a_group, compression="zstd")
    return sink.getvalue()


def json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as jsonl.gz; the same rows give the same bytes."""
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
