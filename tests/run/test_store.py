"""The run's folder: nothing appended is lost, a torn line is repaired, one writer at a time, one experiment a folder."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from niah.errors import IncompleteError, UsageError
from niah.run import store as store_module
from niah.run.store import Store, read, write_whole
from niah.trial import Failure, Fingerprints, Placement, Record, Reply, Sampling, Score, Trial, Usage
from tests.report.records import record, trial

DESCRIPTION: dict[str, Any] = {"identity": {"lengths": [300], "seed": 0}, "fingerprints": {"corpora": {"a": "1"}, "needles": "2"}}


def some(count: int) -> list[Record]:
    return [record(of=trial(reshuffle=number)) for number in range(count)]


def append_all(folder: Path, records: list[Record]) -> None:
    async def append() -> None:
        await asyncio.gather(*(store.append(one) for one in records))

    with Store(folder) as store:
        asyncio.run(append())


def test_a_file_cut_at_every_byte_of_its_last_record_loses_that_record_alone(tmp_path: Path) -> None:
    """However much of the last line is left, what was in front of it is there, and what is appended next is whole."""
    append_all(tmp_path, some(4))
    path = tmp_path / "trials.jsonl"
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    first_three = list(read(tmp_path))[:3]
    assert len(first_three) == 3
    new = record(of=trial(reshuffle=9))
    for size in range(last, len(whole)):
        path.write_bytes(whole[:size])
        assert list(read(tmp_path)) == first_three  # a reader leaves the torn line out
        with Store(tmp_path):
            pass
        assert path.read_bytes() == whole[:last]
    append_all(tmp_path, [new])
    assert list(read(tmp_path)) == [*first_three, new]


def test_a_long_torn_line_is_repaired(tmp_path: Path) -> None:
    """The search for the last line's end goes back over more than one block; a file of nothing but a torn line becomes empty."""
    append_all(tmp_path, some(2))
    path = tmp_path / "trials.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 200_000)
    with Store(tmp_path):
        pass
    assert path.read_bytes() == whole
    path.write_bytes(b"y" * 200_000)
    with Store(tmp_path):
        pass
    assert path.read_bytes() == b""


def test_append_returns_after_its_line_was_written_and_fsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each append comes back only when an fsync of the file, begun after its line was written, has returned."""
    real, on_disk = os.fsync, b""

    def fsync(file: int) -> None:
        nonlocal on_disk
        content = (tmp_path / "trials.jsonl").read_bytes()
        real(file)
        on_disk = content

    monkeypatch.setattr(store_module.os, "fsync", fsync)

    async def append(store: Store, number: int) -> None:
        await asyncio.sleep(number % 7 / 1000)
        one = record(of=trial(reshuffle=number))
        await store.append(one)
        assert one.trial.key.encode() in on_disk

    async def append_many(store: Store) -> None:
        await asyncio.gather(*(append(store, number) for number in range(60)))

    with Store(tmp_path) as store:
        asyncio.run(append_many(store))
    assert len(list(read(tmp_path))) == 60


def test_records_that_come_together_are_fsynced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred appends at once cost a few fsyncs, not a hundred."""
    calls: list[int] = []
    real = os.fsync
    monkeypatch.setattr(store_module.os, "fsync", lambda file: (calls.append(file), real(file)))
    append_all(tmp_path, some(100))
    assert 1 <= len(calls) <= 5


def test_an_append_whose_task_is_cancelled_is_still_written(tmp_path: Path) -> None:
    """Cancelling the caller does not take a record back, and flush waits for it."""

    async def cancel() -> None:
        task = asyncio.create_task(store.append(some(1)[0]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store.flush()

    with Store(tmp_path) as store:
        asyncio.run(cancel())
    assert len(list(read(tmp_path))) == 1


@pytest.mark.parametrize("truncate_fails", [False, True])
def test_a_full_disk_leaves_whole_lines_and_ends_every_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncate_fails: bool
) -> None:
    """Half of a group is written when the disk is full: the appends fail (and none hangs), the half is taken back, later ones work."""
    append_all(tmp_path, some(3))
    path, real, full = tmp_path / "trials.jsonl", os.pwrite, True
    whole = path.read_bytes()

    def pwrite(file: int, content: bytes, offset: int) -> int:
        if not full:
            return real(file, content, offset)
        if len(content) < 400:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, content[: len(content) // 2], offset)

    def broken(file: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store_module.os, "pwrite", pwrite)
    if truncate_fails:
        monkeypatch.setattr(store_module.os, "ftruncate", broken)

    async def fill(store: Store) -> None:
        nonlocal full
        records = [record(of=trial(reshuffle=number)) for number in (10, 11)]
        results = await asyncio.wait_for(asyncio.gather(*map(store.append, records), return_exceptions=True), 10)
        assert all(isinstance(result, IncompleteError) and "make room" in str(result) for result in results)
        assert truncate_fails or path.read_bytes() == whole
        full = False
        for one in records:
            await store.append(one)

    with Store(tmp_path) as store:
        asyncio.run(fill(store))
    assert [one.trial.reshuffle for one in read(tmp_path)] == [0, 1, 2, 10, 11]


def test_a_second_writer_is_refused_in_this_and_in_another_process(tmp_path: Path) -> None:
    """The second Store says who is in the way; after the first is closed it opens."""
    code = f"from pathlib import Path; from niah.run.store import Store; Store(Path({str(tmp_path)!r})).__enter__()"
    with Store(tmp_path):
        with pytest.raises(UsageError, match="another niah is writing"):
            Store(tmp_path).__enter__()
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another niah is writing" in second.stderr
    with Store(tmp_path):
        pass


def test_a_folder_keeps_to_one_experiment(tmp_path: Path) -> None:
    """run.json of the first is kept; another identity or fingerprint is refused with what differs; the same one is let in."""
    with Store(tmp_path) as store:
        store.begin(DESCRIPTION)
        before = (tmp_path / "run.json").read_bytes()
        store.begin(DESCRIPTION)
        with pytest.raises(UsageError, match=r"seed: 0 there, 1 now"):
            store.begin({**DESCRIPTION, "identity": {"lengths": [300], "seed": 1}})
        with pytest.raises(UsageError, match=r"corpora: .*\"1\".* there, .*\"7\".* now"):
            store.begin({**DESCRIPTION, "fingerprints": {"corpora": {"a": "7"}, "needles": "2"}})
        assert (tmp_path / "run.json").read_bytes() == before
        store.finish()
        store.begin(DESCRIPTION)
    assert "finished" in json.loads((tmp_path / "run.json").read_text())


def test_records_without_their_description_are_not_taken_over(tmp_path: Path) -> None:
    """A folder with trials.jsonl but no run.json may hold anything."""
    append_all(tmp_path, some(1))
    with Store(tmp_path) as store, pytest.raises(UsageError, match=r"no run\.json"):
        store.begin(DESCRIPTION)


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'"text"',
        b'{"format": 1, "model": "m"}',
        b"\xff\xfe",
        b'{"format": 99}',
        b"",
        b"null",
        b'{"format": "1"}',
    ],
)
def test_a_broken_line_inside_is_named(tmp_path: Path, line: bytes) -> None:
    """A line that is no record, or of a newer niah, is named by file and number; nothing is skipped in silence."""
    append_all(tmp_path, some(2))
    path = tmp_path / "trials.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, line, second, b"")))
    with pytest.raises(UsageError, match=r"trials\.jsonl, line 2"):
        list(read(tmp_path))


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    """Reading a folder without records says so."""
    with pytest.raises(UsageError, match="is no run"):
        list(read(tmp_path / "nothing"))


def test_a_failed_whole_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write_whole replaces at the very end; where it fails no temporary file is left."""
    path = tmp_path / "run.json"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert path.read_bytes() == b"old"
    with Store(tmp_path / "new") as store, pytest.raises(IncompleteError, match="Make room"):
        store.begin(DESCRIPTION)


def test_rewritten_records_replace_the_old_ones_at_once(tmp_path: Path) -> None:
    """Rescoring writes all lines anew; they read back as given."""
    append_all(tmp_path, some(3))
    new = [replace(one, scores=(Score(scorer="exact", value=0.0),)) for one in read(tmp_path)]
    with Store(tmp_path) as store:
        store.rewrite(iter(new))
    assert list(read(tmp_path)) == new


def _no_pairs(text: str) -> bool:
    """Two halves side by side are one character after JSON, so no server can send them apart."""
    return not any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff" for a, b in pairwise(text))


texts = st.text(max_size=40)
answers = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=40).filter(_no_pairs)
numbers = st.integers(min_value=0, max_value=10**7)
fractions = st.floats(min_value=0, max_value=1)
usages = st.builds(Usage, **{name: st.none() | numbers for name in ("input", "cached", "output", "reasoning")})
replies = st.builds(
    Reply,
    text=answers,
    stop=st.sampled_from(["end", "length", "filter", "refusal", "unknown"]),
    usage=usages,
    seconds=st.floats(min_value=0, max_value=1e6),
    model=answers,
)
trials = st.builds(
    Trial,
    corpus=texts,
    needles=st.lists(texts, min_size=1, max_size=3).map(tuple),
    length=numbers,
    depths=st.lists(fractions, min_size=1, max_size=3).map(tuple),
    reshuffle=numbers,
    seed=st.integers(),
    template=texts,
    cue=st.sampled_from(["off", "user", "prefill"]),
    sampling=st.builds(Sampling, max_output_tokens=numbers, temperature=st.none() | fractions, top_p=st.none() | fractions),
    tokenizer=texts,
    haystack=st.sampled_from(["shared", "independent"]),
    distractors=numbers,
    fingerprints=st.builds(Fingerprints, corpus=texts, needles=texts, tokenizer=texts, template=texts),
)
scores = st.builds(Score, scorer=texts, value=fractions, found=st.lists(st.booleans(), max_size=3).map(tuple), why=answers)
placements = st.builds(Placement, needle=texts, asked=fractions, actual=fractions, token=numbers)
outcomes = st.tuples(replies, st.none()) | st.tuples(st.none(), st.builds(Failure, kind=texts, message=answers))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), outcome=outcomes)
def test_any_record_reads_back_as_it_was_written(tmp_path: Path, data: st.DataObject, outcome: tuple[Any, Any]) -> None:
    """Any text, half of a surrogate pair and line separators included, any numbers: one line, and equal afterwards."""
    one = Record(
        model=data.draw(texts),
        trial=data.draw(trials),
        tokens=data.draw(numbers),
        placements=tuple(data.draw(st.lists(placements, max_size=2))),
        reply=outcome[0],
        scores=tuple(data.draw(st.lists(scores, max_size=2))),
        error=outcome[1],
        at=data.draw(texts),
    )
    with Store(tmp_path) as store:
        store.rewrite(iter([one]))
    assert (tmp_path / "trials.jsonl").read_bytes().count(b"\n") == 1
    (again,) = read(tmp_path)
    assert again == one
    assert again.trial.key == one.trial.key


def test_a_record_has_exactly_one_of_reply_and_error() -> None:
    """Neither nor and both are refused when a record is made."""
    both = record()
    with pytest.raises(ValueError, match="exactly one"):
        replace(both, error=Failure(kind="x", message="y"))
    with pytest.raises(ValueError, match="exactly one"):
        replace(both, reply=None)
