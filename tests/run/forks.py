"""Commands in forks of one process that has everything imported: each begins at once, and is killed as any other process.

    with Forks(folder / "told.txt") as forks:
        command = forks.start("sweep", config)
        command.kill()
        assert command.wait() == -signal.SIGKILL

What they print is appended to a file. They run without coverage, which a killed process does not write anyway.
"""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.run.command import PLAIN, uncovered

_DRIVER = """
import json, os, sys
import matplotlib.backends.backend_agg, matplotlib.backends.backend_svg, matplotlib.pyplot, pandas, scipy.stats
import niah.cli, niah.run.sweep, niah.backends.http, niah.report.write, niah.task.tokens
from tests.run import drawn

drawn.once().start()

def begin(told):
    pass

{prelude}
for line in sys.stdin:
    told, words = json.loads(line)
    child = os.fork()
    if not child:
        output = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["niah", *words]
        begin(told)
        code = niah.cli._run()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(slots=True)
class Fork:
    """One command; another one can be started when its end was waited for."""

    pid: int
    _ends: int
    _code: int | None = None

    def running(self) -> bool:
        return self._code is None and not select.select([self._ends], [], [], 0)[0]

    def kill(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit status, negative for a signal."""
        if self._code is None:
            self._code = int(_line(self._ends))
        return self._code


class Forks:
    """A context manager. `prelude` is Python for the process that forks; a function `begin` in it gets `told` in each fork."""

    def __init__(self, log: Path, *, prelude: str = "", **environment: str):
        self.log = log
        self._last: Fork | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER.format(prelude=prelude, log=str(log))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**uncovered(), **PLAIN, **environment},
        )

    def start(self, *words: str | Path, told: str = "") -> Fork:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([told, [str(word) for word in words]]).encode() + b"\n")
        ends = self._process.stdout.fileno()
        self._last = Fork(int(_line(ends)), ends)
        return self._last

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        if self._last is not None and self._last.running():
            self._last.kill()
        self._process.wait(60)
        self._process.stdout.close()


def _line(descriptor: int) -> str:
    """The next line, and nothing behind it."""
    found = b""
    while not found.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        assert byte, "the process that forks has ended"
        found += byte
    return found.decode()
