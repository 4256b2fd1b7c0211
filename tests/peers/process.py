"""A real server that is not ours, as a process on the loopback: started, waited for, and ended with everything that it started."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote

_SHOWN_LINES = 40
_ASKED = re.compile(r'"POST (\S+) HTTP/[0-9.]+" (\d{3})')
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def offline() -> dict[str, str]:
    """The environment of a process in a peer's Python: one thread, no hub, no reports home, no proxy in front of the loopback."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Peer:
    """Runs `command`, which is to listen on `port`; it is there when a GET of `ready` answers 200. A context manager.

    What it prints goes into the file `log`, also when it is started again, on the same port.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        port: int,
        ready: str,
        log: Path,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = 270.0,
        stop_seconds: float = 10.0,
    ):
        self.port = port
        self._command = [str(word) for word in command]
        self._ready = ready
        self._log = log
        self._environment = {**offline(), **(environment or {})}
        self._folder = folder
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return when it answers; RuntimeError with the end of its log when it does not."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end, wait for a while, and then end its process group for certain."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_seconds)
        self.kill()

    def kill(self) -> None:
        """End it and everything that it started at once, in the middle of whatever they do."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def asked(self) -> list[tuple[str, int]]:
        """(path, status) of every POST that it answered so far, by its own log (that of uvicorn)."""
        return [(unquote(path), int(status)) for path, status in _ASKED.findall(self.log())]

    def tail(self) -> str:
        """The end of what it has printed."""
        return "\n".join(self.log().splitlines()[-_SHOWN_LINES:])

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        name, deadline = Path(self._command[0]).name, time.monotonic() + self._start_seconds
        while not self._answers():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended by itself ({process.returncode}):\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not answer within {self._start_seconds:.0f} s:\n{self.tail()}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with _DIRECT.open(f"http://127.0.0.1:{self.port}{self._ready}", timeout=2) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False
