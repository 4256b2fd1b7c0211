"""What a run has sent in batches: `batches.jsonl` in its folder, one line for each step of each batch.

A batch is `submitting` before anything of it is sent, `submitted` once the provider has named it, and at its end `collected` (every
answer is in trials.jsonl), `abandoned` (it never came to be), `failed` (the provider ran nothing of it) or `gone` (its results are no
longer kept). Each line is on the disk before the next step is taken; a line torn by a crash was never taken for written. The store's
lock on the folder makes one writer at a time.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from niah.errors import IncompleteError, UsageError
from niah.run.budget import Spend
from niah.trial import Record

BATCHES = "batches.jsonl"
FORMAT = 1
End = Literal["collected", "abandoned", "failed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch: its trials' keys in their order, the bytes of its requests, the most that it can cost, and when it was meant.

    `label` is ours; `id` is the provider's, "" as long as it has not been heard.
    """

    label: str
    model: str
    keys: tuple[str, ...]
    size: int
    most: Spend
    at: float
    id: str = ""


class Journal:
    """The batches of a run. `unfinished` are those that may still bring answers, `names` the provider's names of all."""

    def __init__(self, folder: Path):
        self._path = folder / BATCHES
        self.unfinished: dict[str, Batch] = {}
        self.names: set[str] = set()
        self.sent: set[tuple[str, str]] = set()
        """(model, key) of all trials whose answers were collected from batches."""
        self.failed: list[tuple[Batch, str]] = []
        """Batches of which the provider ran nothing, and why."""
        for line in self._lines():
            self._replay(line)

    def submitting(self, batch: Batch) -> None:
        """Before anything of it is sent."""
        spend = {"dollars": batch.most.dollars, "tokens": batch.most.tokens}
        told = {"label": batch.label, "model": batch.model, "at": batch.at, "size": batch.size, "most": spend, "keys": batch.keys}
        self._put({"state": "submitting", **told})

    def submitted(self, label: str, name: str) -> None:
        """Once the provider has named it."""
        self._put({"state": "submitted", "label": label, "id": name})

    def ended(self, label: str, end: End, why: str = "") -> None:
        """When nothing more will come of it."""
        self._put({"state": end, "label": label} | ({"why": why} if why else {}))

    def _replay(self, line: dict[str, Any]) -> None:
        state, label = line["state"], line["label"]
        if state == "submitting":
            self.unfinished[label] = Batch(
                label=label, model=line["model"], keys=tuple(line["keys"]), size=line["size"], most=Spend(**line["most"]), at=line["at"]
            )
        elif state == "submitted":
            self.unfinished[label] = replace(self.unfinished[label], id=line["id"])
            self.names.add(line["id"])
        else:
            batch = self.unfinished.pop(label)
            if state in ("failed", "abandoned"):
                self.failed.append((batch, line.get("why", "")))
            if state == "collected":
                self.sent |= {(batch.model, key) for key in batch.keys}

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    yield _parsed(line, self._path, number)

    def _put(self, line: dict[str, Any]) -> None:
        content = json.dumps({"format": FORMAT, **line}, separators=(",", ":")).encode() + b"\n"
        try:
            _append(self._path, content)
        except OSError as error:
            raise IncompleteError(f"{self._path} cannot be written ({error.strerror}): make room and run the same command again") from None
        self._replay(line)


def held(folder: Path) -> dict[str, set[str]]:
    """For each model the keys of the trials in batches that may still bring answers."""
    found: dict[str, set[str]] = {}
    for batch in Journal(folder).unfinished.values():
        found.setdefault(batch.model, set()).update(batch.keys)
    return found


def batched(folder: Path) -> Callable[[Record], bool]:
    """Tells which answers of a run came in batches. A trial that a batch did not run may have been asked live later; live
    answers take time, and no time is told of those in batches.
    """
    journal = Journal(folder)
    sent = journal.sent | {(batch.model, key) for batch in journal.unfinished.values() for key in batch.keys}
    return lambda record: record.reply is not None and record.reply.seconds == 0 and (record.model, record.trial.key) in sent


def _append(path: Path, content: bytes) -> None:
    """Write one line to the disk, behind the last whole one; what a full disk tore is taken back."""
    new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = _whole(file)
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(file, content[written:], end + written)
            os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):  # what cannot be cut off now is no whole line, and cut off by the next one
                os.ftruncate(file, end)
            raise
    finally:
        os.close(file)
    if new:
        with contextlib.suppress(OSError):  # a folder cannot be synced everywhere
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _whole(file: int) -> int:
    """The size of the whole lines; a torn last one is cut off."""
    end = size = os.fstat(file).st_size
    while end:
        start = max(0, end - 65536)
        last = os.pread(file, end - start, start).rfind(b"\n")
        if last >= 0:
            end = start + last + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(line)
        newer = data["format"] > FORMAT
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}, line {number} is damaged: without it nobody knows what is at the provider") from None
    if newer:
        raise UsageError(f"{path}, line {number}: written by a newer niah (format {data['format']}, this one reads up to {FORMAT})")
    return data
