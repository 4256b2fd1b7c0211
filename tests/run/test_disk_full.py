"""A disk that is full: exit 3, whole lines only, and the same command goes on when there is room."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat_server import ChatServer
from tests.run.command import answered, found, here, lines, niah, uncovered, write_config


def whole_lines(folder: Path) -> int:
    content = (folder / "trials.jsonl").read_bytes()
    assert content.endswith(b"\n")
    return content.count(b"\n")


def test_a_limit_on_file_size_stops_the_sweep_without_a_torn_line(folder: Path) -> None:
    """The file may grow to 20,000 bytes (RLIMIT_FSIZE): exit 3, one message that says what to do; with more room it is finished."""
    config = write_config(folder, reshuffles=6)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    limited = f"{limit}; import runpy; runpy.run_module('niah', run_name='__main__')"
    with ChatServer(found) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "4")
        assert here("plan", config, "--base-url", server.url).returncode == 0  # fills the cache
        done = subprocess.run(
            [sys.executable, "-c", limited, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=uncovered(),  # coverage's own file would pass the limit
        )
        assert done.returncode == 3, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "make room and run the same command again" in done.stderr
        kept = whole_lines(folder / "run")
        assert 10 < kept < 36
        assert len(server.log) <= kept + 4
        again = here(*words)
        assert again.returncode == 0, again.stderr
    assert len(set(answered(folder / "run"))) == len(lines(folder / "run")) == 36


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("no file system can be mounted here (needs root): the file size limit stands for it")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_file_system_stops_the_sweep_and_room_lets_it_go_on(folder: Path, tiny_disk: Path) -> None:
    """Really no space left: exit 3, whole lines; after something else was deleted the same command asks the rest."""
    config = write_config(folder, reshuffles=6)
    ballast = tiny_disk / "ballast"
    run = tiny_disk / "run"
    with ChatServer(found) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", run, "--concurrency", "4")
        free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
        ballast.write_bytes(b"x" * (free - 32_768))
        done = niah(*words)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        kept = whole_lines(run)
        assert 0 < kept < 36
        subprocess.run(["mount", "-o", "remount,size=16m", tiny_disk], check=True)
        again = here(*words)
        assert again.returncode == 0, again.stderr
    assert len(set(answered(run))) == len(lines(run)) == 36
    assert len(server.log) <= 36 + 4


def test_a_disk_that_is_full_from_the_beginning_is_no_traceback(folder: Path, tiny_disk: Path) -> None:
    """Not even run.json fits: exit 3 and a line."""
    config = write_config(folder)
    free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
    (tiny_disk / "ballast").write_bytes(b"x" * free)
    with ChatServer(found) as server:
        done = niah("sweep", config, "--base-url", server.url, "--out", tiny_disk / "run")
        assert not server.log
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
