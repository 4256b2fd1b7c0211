"""`transformers serve` over one checkpoint: a real server that is not ours, on a free port of the loopback."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType

START_SECONDS = 90.0
_STOP_SECONDS = 5.0
_SHOWN_LINES = 40
_ASKED = re.compile(r'"POST /v1/chat/completions HTTP/[0-9.]+" (\d{3})')


def offline() -> dict[str, str]:
    """The environment of a process in the peers' Python: one thread, no hub, no proxy in front of the loopback."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1",
    }


class Server:
    """Serves the folder `checkpoint` under the folder's name. Stays on its port and keeps its log when it is started again."""

    def __init__(self, python: Path, checkpoint: Path, log: Path):
        self.model = checkpoint.name
        self.port = _free_port()
        self._python = python
        self._checkpoint = checkpoint
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the server answers; RuntimeError with the end of its log when it does not."""
        command = [str(self._python), "-m", "transformers.cli.transformers", "serve", self.model, "--device", "cpu"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._checkpoint.parent,
                env=offline(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None:
                raise RuntimeError(f"transformers serve ended by itself ({self._process.returncode}):\n{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"transformers serve did not answer within {START_SECONDS:.0f} s:\n{self.tail()}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the server in peace, and its process group for certain."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server and everything that it started at once, in the middle of whatever they do."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def statuses(self) -> list[int]:
        """The statuses of all chat completions answered so far, by the server's own log."""
        return [int(status) for status in _ASKED.findall(self._log.read_text(encoding="utf-8", errors="replace"))]

    def tail(self) -> str:
        """The end of the server's log."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:])

    def _healthy(self) -> bool:
        try:
            with _DIRECT.open(f"http://127.0.0.1:{self.port}/health", timeout=2) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
