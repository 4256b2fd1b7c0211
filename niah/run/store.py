"""A run's folder: run.json (what was measured, with what) and trials.jsonl (one line a trial, append-only).

An appended record counts as done once it is on the disk: lines are written, flushed and fsynced in groups. A line torn by
a crash was never counted as done; it is cut off when the folder is opened for writing again. One writer at a time.
"""

import asyncio
import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout
from pydantic_core import from_json, to_json

from niah.errors import IncompleteError, NiahError, UsageError
from niah.trial import FORMAT, Record

TRIALS = "trials.jsonl"
RUN = "run.json"
_GROUP_SECONDS = 0.005
"""How long the first record of a group waits for company before the group is written."""


def read(folder: Path) -> Iterator[Record]:
    """The records of a run, in the order in which they were written; a torn last line is left out."""
    path = folder / TRIALS
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    yield _record(line, path, number)
    except FileNotFoundError:
        raise UsageError(f"{folder} is no run: it has no {TRIALS}") from None


def describe(folder: Path) -> dict[str, Any]:
    """What run.json says; UsageError where a newer niah wrote it."""
    try:
        there: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} is no run: it has no {RUN}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{folder / RUN} cannot be understood: {error}") from None
    if there.get("format", FORMAT) > FORMAT:
        raise UsageError(f"{folder / RUN}: {_newer(there['format'])}")
    return there


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


class Store:
    """A run's folder, held for writing. A context manager; `append` may be called from any number of tasks of one loop."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = FileLock(folder / ".lock", timeout=0)
        self._file = -1
        self._size = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    def __enter__(self) -> "Store":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._file = os.open(self.folder / TRIALS, os.O_RDWR | os.O_CREAT, 0o644)
            self._size = self._repair()
        except Timeout:
            raise UsageError(f"another niah is writing to {self.folder}: wait for it, or choose another --out") from None
        except OSError as error:
            self._lock.release()
            raise _unwritable(self.folder, error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)
        self._lock.release()

    def begin(self, description: Mapping[str, Any]) -> None:
        """Write run.json, or make sure that the one there describes the same experiment; UsageError names what differs."""
        path = self.folder / RUN
        if not path.exists():
            if self._size:
                raise UsageError(f"{self.folder} has a {TRIALS} but no {RUN}: choose another --out")
            try:
                write_whole(path, _pretty({**description, "created": _now()}))
            except OSError as error:
                raise _unwritable(path, error) from None
            return
        there = describe(self.folder)
        differences = [
            f"{name}: {json.dumps(old)[:80]} there, {json.dumps(new)[:80]} now"
            for part in ("identity", "fingerprints")
            for name, new in description[part].items()
            if (old := there.get(part, {}).get(name)) != new
        ]
        if differences:
            raise UsageError(f"{self.folder} holds another experiment ({'; '.join(differences[:3])}): choose another --out")

    def finish(self) -> None:
        """Note in run.json that no trial is missing any more."""
        there = describe(self.folder)
        if "finished" not in there:
            write_whole(self.folder / RUN, _pretty({**there, "finished": _now()}))

    async def append(self, record: Record) -> None:
        """Return when the record is on the disk. Cancelling the caller does not take it back."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((_line(record), done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def flush(self) -> None:
        """Return when everything appended so far is on the disk."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)

    def rewrite(self, records: Iterator[Record]) -> None:
        """Replace all lines at once: a crash leaves the old file."""
        write_whole(self.folder / TRIALS, b"".join(map(_line, records)))
        os.close(self._file)
        self._file = os.open(self.folder / TRIALS, os.O_RDWR)
        self._size = os.fstat(self._file).st_size

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GROUP_SECONDS)
            group, self._waiting = self._waiting, []
            error = await asyncio.to_thread(self._put, b"".join(line for line, _ in group))
            for _, done in group:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
                    done.exception()  # seen, whether or not its appender still waits

    def _put(self, content: bytes) -> IncompleteError | None:
        """Write one group; what a full disk tore is taken back, so that the file ends in a whole line."""
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._file, content[written:], self._size + written)
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # what cannot even be cut off now is cut off by the next Store
                os.ftruncate(self._file, self._size)
            return IncompleteError(f"{self.folder / TRIALS} cannot be written ({error.strerror}): make room and run the same command again")
        self._size += len(content)
        return None

    def _repair(self) -> int:
        """Cut off a torn last line; the size of what is left."""
        size = os.fstat(self._file).st_size
        end = size
        while end:
            start = max(0, end - 65536)
            last = os.pread(self._file, end - start, start).rfind(b"\n")
            if last >= 0:
                end = start + last + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
        return end


def _unwritable(path: Path, error: OSError) -> NiahError:
    """A full disk is no mistake of the command; everything else is a place where nothing can be written."""
    what = f"{path} cannot be written: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return IncompleteError(f"{what}. Make room and run the same command again")
    return UsageError(what)


def _pretty(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _line(record: Record) -> bytes:
    """One line; half a surrogate pair, which a model may answer, becomes its JSON escape."""
    data = record.to_json()
    try:
        return to_json(data) + b"\n"
    except ValueError:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def _record(line: bytes, path: Path, number: int) -> Record:
    try:
        data = _json(line)
        if data["format"] > FORMAT:
            raise UsageError(f"{path}, line {number}: {_newer(data['format'])}")
        return Record.from_json(data)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}, line {number} is no record of a trial: take that line out, and the rest can be used") from None


def _newer(found: int) -> str:
    return f"written by a newer niah (format {found}, this one reads up to {FORMAT})"


def _json(line: bytes) -> Any:
    """A line's JSON: three times faster than json.loads, which also takes half a surrogate pair."""
    try:
        return from_json(line)
    except ValueError:
        return json.loads(line)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
