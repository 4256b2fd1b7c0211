"""The records of a run as a tidy table: a line a trial, a column for everything that a record holds.

Text is written as it came, but for half surrogate pairs, which neither kind of file can hold: they become their escape, as in \\udce9.
In CSV a NUL becomes \\x00 too, which readers take for the end of a text.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from niah.trial import SCORED, Record, outcome

Kind: TypeAlias = Literal["string", "int64", "double"]
_ROWS = 5_000
"""Parquet writes so many rows at a time."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the type of its values, and where these stand in a record. What is not known is None."""

    kind: Kind
    read: Callable[[Record], Any]


class Writer(Protocol):
    """A context that takes records one by one and writes files. They are whole once it ends without an exception."""

    def add(self, record: Record, dollars: float | None) -> None: ...
    def __enter__(self) -> "Writer": ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def plain(text: str) -> str:
    """Text that UTF-8 can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def value_of(record: Record) -> float | None:
    """The score that enters the recall; None for what is no hit and no miss."""
    return record.scores[0].value if outcome(record) in SCORED else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def placements_of(record: Record) -> list[dict[str, Any]]:
    """Where each needle stands."""
    return [{"needle": each.needle, "asked": each.asked, "actual": each.actual, "token": each.token} for each in record.placements]


def _scores(record: Record) -> str:
    return _json([{"scorer": each.scorer, "value": each.value, "found": each.found, "why": each.why} for each in record.scores])


DOLLARS = "dollars"
COLUMNS: Mapping[str, Column] = {
    "model": Column("string", lambda record: record.model),
    "key": Column("string", lambda record: record.trial.key),
    "outcome": Column("string", outcome),
    "value": Column("double", value_of),
    "corpus": Column("string", lambda record: record.trial.corpus),
    "needles": Column("string", lambda record: "+".join(record.trial.needles)),
    "length": Column("int64", lambda record: record.trial.length),
    "depth": Column("double", lambda record: record.trial.depths[0]),
    "actual_depth": Column("double", lambda record: record.placements[0].actual if record.placements else None),
    "needle_token": Column("int64", lambda record: record.placements[0].token if record.placements else None),
    "placements": Column("string", lambda record: _json(placements_of(record))),
    "reshuffle": Column("int64", lambda record: record.trial.reshuffle),
    "seed": Column("int64", lambda record: record.trial.seed),
    "haystack": Column("string", lambda record: record.trial.haystack),
    "distractors": Column("int64", lambda record: record.trial.distractors),
    "cue": Column("string", lambda record: record.trial.cue),
    "template": Column("string", lambda record: record.trial.template),
    "tokenizer": Column("string", lambda record: record.trial.tokenizer),
    "fitted_length": Column("int64", lambda record: record.trial.fitted_length),
    "prompt_tokens": Column("int64", lambda record: record.tokens),
    "max_output_tokens": Column("int64", lambda record: record.trial.sampling.max_output_tokens),
    "temperature": Column("double", lambda record: record.trial.sampling.temperature),
    "top_p": Column("double", lambda record: record.trial.sampling.top_p),
    "corpus_fingerprint": Column("string", lambda record: record.trial.fingerprints.corpus),
    "needles_fingerprint": Column("string", lambda record: record.trial.fingerprints.needles),
    "tokenizer_fingerprint": Column("string", lambda record: record.trial.fingerprints.tokenizer),
    "template_fingerprint": Column("string", lambda record: record.trial.fingerprints.template),
    "text": Column("string", lambda record: record.reply.text if record.reply else None),
    "stop": Column("string", lambda record: record.reply.stop if record.reply else None),
    "served_model": Column("string", lambda record: record.reply.model if record.reply else None),
    "seconds": Column("double", lambda record: record.reply.seconds if record.reply else None),
    "input_tokens": Column("int64", lambda record: record.reply.usage.input if record.reply else None),
    "cached_tokens": Column("int64", lambda record: record.reply.usage.cached if record.reply else None),
    "cache_write_tokens": Column("int64", lambda record: record.reply.usage.cache_write if record.reply else None),
    "output_tokens": Column("int64", lambda record: record.reply.usage.output if record.reply else None),
    "reasoning_tokens": Column("int64", lambda record: record.reply.usage.reasoning if record.reply else None),
    DOLLARS: Column("double", lambda _: None),
    "measured": Column("string", lambda record: _json(dict(record.reply.measured)) if record.reply and record.reply.measured else None),
    "scorer": Column("string", lambda record: record.scores[0].scorer if record.scores else None),
    "scores": Column("string", _scores),
    "error_kind": Column("string", lambda record: record.error.kind if record.error else None),
    "error_message": Column("string", lambda record: record.error.message if record.error else None),
    "at": Column("string", lambda record: record.at),
    "format": Column("int64", lambda record: record.format),
}
"""Of an exported table, in their order."""


def row_of(record: Record, dollars: float | None) -> dict[str, Any]:
    """A record's values by column."""
    return {name: dollars if name == DOLLARS else column.read(record) for name, column in COLUMNS.items()}


def _values(record: Record, dollars: float | None) -> list[Any]:
    """The same, in their order and as a file can hold them."""
    return [plain(value) if isinstance(value, str) else value for value in row_of(record, dollars).values()]


class CsvTable:
    """RFC 4180 in UTF-8; empty where nothing is known. Its line ends are what makes the writer quote a lone carriage return."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "CsvTable":
        self._file = self._path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\r\n")
        self._rows.writerow(COLUMNS)
        return self

    def add(self, record: Record, dollars: float | None) -> None:
        self._rows.writerow([value.replace("\0", "\\x00") if isinstance(value, str) else value for value in _values(record, dollars)])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


class ParquetTable:
    """Parquet, compressed, in groups of rows."""

    def __init__(self, path: Path):
        self._path = path
        self._waiting: list[list[Any]] = []

    def __enter__(self) -> "ParquetTable":
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        kinds: Mapping[Kind, Any] = {"string": pyarrow.string(), "int64": pyarrow.int64(), "double": pyarrow.float64()}
        self._schema = pyarrow.schema([(name, kinds[column.kind]) for name, column in COLUMNS.items()])
        self._file: ParquetWriter = ParquetWriter(self._path, self._schema, compression="zstd")
        return self

    def add(self, record: Record, dollars: float | None) -> None:
        self._waiting.append(_values(record, dollars))
        if len(self._waiting) == _ROWS:
            self._write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._write()
        finally:
            if error is None:
                self._file.close()
            else:
                with suppress(OSError):
                    self._file.close()

    def _write(self) -> None:
        import pyarrow

        columns: Sequence[Any] = list(zip(*self._waiting, strict=True)) if self._waiting else [[] for _ in COLUMNS]
        arrays = [pyarrow.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._file.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._waiting.clear()
