"""The page of some runs from a server on this machine only, which follows them while they go on.

A page asks for data that is newer than what it has. The data is made anew only when a file of a run has changed, and is whole each time:
a torn last line is not read yet, and a file that was written anew, as by niah rescore, is no special case. The text around needles is
made a little with every answer, so that the first does not wait for it.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from niah.errors import NiahError, UsageError
from niah.report.page import LIVE, encoded, live_page, policy
from niah.run.excerpts import Excerpts
from niah.run.journal import BATCHES
from niah.run.pages import Showing
from niah.run.rescore import gathered
from niah.run.session import LOST
from niah.run.store import RUN, TRIALS

HOST = "127.0.0.1"
EXCERPT_SECONDS = 1.0
"""CPU time that one answer may take for the text around needles."""
_IDLE_SECONDS = 30.0


def serve(folders: Sequence[Path], *, port: int = 0, scorer: str | None = None, tell: Callable[[str], None] = print) -> None:
    """Serve the page of some runs until interrupted. UsageError for a folder that is not there, or a port that cannot be had."""
    with open_server(folders, port=port, scorer=scorer) as server:
        tell(f"http://{HOST}:{server.server_port}/ follows {', '.join(map(str, folders))}. Ctrl-C ends it.")
        server.serve_forever()


def open_server(folders: Sequence[Path], *, port: int = 0, scorer: str | None = None) -> ThreadingHTTPServer:
    """The server of `serve`, which hears but does not answer yet."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder: name the folder of a run, begun or about to begin")
    live = _Live(folders, scorer)

    class Handler(_Handler):
        source = live

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error.strerror}. Choose another --port, or none") from None
    server.daemon_threads = True
    return server


class _Live:
    """The data of some runs, made when it is asked for and kept until a file changes. May be asked by several threads."""

    def __init__(self, folders: Sequence[Path], scorer: str | None):
        self._folders = folders
        self._scorer = scorer
        self._lock = threading.Lock()
        self._begun: list[Path] = []
        self._excerpts = Excerpts([])
        self._seen = ""
        self._data = b""

    def newer(self, have: str) -> tuple[str, bytes] | None:
        """(Its mark, the data), or None where `have` is the mark of the present state."""
        with self._lock:
            seen = self._state()
            if seen != self._seen or not self._excerpts.complete:
                self._data = self._make()
                self._seen = seen
            mark = f"{seen}-{len(self._excerpts.made)}"
            return None if have == mark else (mark, self._data)

    def _state(self) -> str:
        """A mark of the files' state: sizes and times of what is read."""
        state: list[object] = []
        for path in (folder / name for folder in self._folders for name in (RUN, TRIALS, BATCHES, LOST)):
            try:
                at = path.stat()
                state.append((str(path), at.st_ino, at.st_size, at.st_mtime_ns))
            except FileNotFoundError:
                continue
        return hashlib.sha256(repr(state).encode()).hexdigest()[:16]

    def _make(self) -> bytes:
        begun = [folder for folder in self._folders if (folder / RUN).exists() and (folder / TRIALS).exists()]
        if not begun:
            return encoded({"error": "Waiting for the run to begin."})
        if begun != self._begun:
            self._begun, self._excerpts = begun, Excerpts(begun)
        showing = Showing(begun, self._scorer, self._excerpts)
        try:
            results, spent = gathered(begun, scorer=self._scorer, showing=showing)
            return encoded(showing.data(results, spent, most_seconds=EXCERPT_SECONDS))
        except (NiahError, OSError) as error:
            return encoded({"error": f"The run cannot be read: {error}"})


class _Handler(BaseHTTPRequestHandler):
    """Answers `/` with the page and `/data?have=MARK` with data that is newer, to whoever calls this machine by its own name."""

    source: _Live
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        if self.headers.get("Host", "") not in {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}:
            self._answer(403, b"this page is for this machine only\n", "text/plain")  # a page elsewhere, under a name that leads here
            return
        address = urlsplit(self.path)
        if address.path == "/":
            self._answer(200, live_page(), "text/html; charset=utf-8")
        elif address.path == "/data":
            newer = self.source.newer(parse_qs(address.query).get("have", [""])[0])
            if newer is None:
                self._answer(204, b"", "application/json")
            else:
                self._answer(200, newer[1], "application/json", mark=newer[0])
        else:
            self._answer(404, b"nothing is here\n", "text/plain")

    def log_message(self, format: str, *args: object) -> None:
        """The terminal is the user's."""

    def _answer(self, status: int, content: bytes, kind: str, *, mark: str = "") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"{policy(LIVE)}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            **({"ETag": mark} if mark else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
        except ConnectionError:  # the reader closed the page
            self.close_connection = True
