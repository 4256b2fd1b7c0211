"""A program called `niah` for scripts: each call is a fork of one process that has everything imported, so that it begins at once.

    with warm(folder) as programs:
        subprocess.run(["bash", script], env={"PATH": f"{programs}:{path}", ...})

Arguments, environment, working directory and both outputs are those of the caller. The forks run without coverage.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.run.command import PLAIN, uncovered

_DRIVER = """
import json, os, socket, sys
import matplotlib.backends.backend_agg, matplotlib.backends.backend_svg, pandas, scipy.stats
import niah.cli, niah.run.sweep, niah.run.sides, niah.backends.http, niah.report.write, niah.task.tokens
from tests.run import drawn

drawn.once().start()
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
while True:
    caller, _ = server.accept()
    told, outputs, _, _ = socket.recv_fds(caller, 1 << 20, 2)
    if not told:
        break
    words, environment, place = json.loads(told)
    child = os.fork()
    if not child:
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["niah", *words]
        code = niah.cli._run()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    for output in outputs:
        os.close(output)
    caller.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    caller.close()
"""
_CALL = """#!{python} -S
import json, os, socket, sys
caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
caller.connect({address!r})
socket.send_fds(caller, [json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()], [1, 2])
sys.exit(int(caller.recv(16)))
"""


@contextmanager
def warm(folder: Path) -> Iterator[Path]:
    """The folder that has the program."""
    programs, address = folder / "programs", folder / "warm.socket"
    programs.mkdir()
    (programs / "niah").write_text(_CALL.format(python=sys.executable, address=str(address)), encoding="utf-8")
    (programs / "niah").chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", _DRIVER, str(address)], stdout=subprocess.PIPE, env={**uncovered(), **PLAIN})
    try:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield programs
    finally:
        process.kill()
        process.wait(60)
        assert process.stdout
        process.stdout.close()
