"""niah export as a table: what comes out of the file is what the records hold, whatever text is in them."""

import csv
import json
import sys
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.report.export import COLUMNS, CsvTable, ParquetTable, plain, row_of
from niah.trial import Failure, Record, Reply, Score, Usage, outcome
from tests.report.records import record, trial

HOSTILE = [
    "=1+1",
    'a "quoted", and\nbroken\r\nline;\ttab',
    "\x00\x01\x1b[31m\x7f\u2028\u202e\ufeff",
    "half \ud83d of a pair",
    "<script>alert(1)</script>",
    "",
    "  spaces  ",
    "NaN",
    "x" * 1_000_000,
]


def answered(text: str, **fields: object) -> Record:
    one = record(of=trial(reshuffle=abs(hash(text)) % 1000))
    return Record(**{**{name: getattr(one, name) for name in Record.__slots__}, "reply": Reply(text=text, usage=Usage(input=7)), **fields})


def rows_of(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_both(records: list[Record], folder: Path, dollars: float | None = 0.25) -> tuple[list[dict[str, str]], pandas.DataFrame]:
    for writer in (CsvTable(folder / "t.csv"), ParquetTable(folder / "t.parquet")):
        with writer as table:
            for one in records:
                table.add(one, dollars)
    return rows_of(folder / "t.csv"), pandas.read_parquet(folder / "t.parquet")


def test_a_line_a_trial_with_everything_in_the_record(tmp_path: Path) -> None:
    full = Reply(
        text="It was Hob.",
        stop="length",
        usage=Usage(input=10, cached=4, output=3, reasoning=1, cache_write=2),
        seconds=1.5,
        model="served",
        measured={"prefill_seconds": 0.5},
    )
    scores = (Score(scorer="contains", value=0.5, found=(True, False), why="1 of 2"), Score(scorer="exact", value=0.0))
    one = answered("", reply=full, scores=scores)
    failed = record(error="timeout", of=trial(depth=(0.2, 0.8), needles=("a", "b")))
    lines, frame = write_both([one, failed], tmp_path)
    assert list(frame.columns) == list(COLUMNS) == list(lines[0])
    assert frame["dollars"].tolist() == [0.25, 0.25]
    first = frame.iloc[0]
    assert (first["text"], first["stop"], first["outcome"]) == ("It was Hob.", "length", "cut")
    assert [first[name] for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cache_write_tokens")] == [
        10,
        4,
        3,
        1,
        2,
    ]
    assert json.loads(first["scores"])[0] == {"scorer": "contains", "value": 0.5, "found": [True, False], "why": "1 of 2"}
    assert json.loads(first["measured"]) == {"prefill_seconds": 0.5}
    assert pandas.isna(first["value"]), "a cut answer is no miss"
    assert (lines[1]["text"], lines[1]["value"], lines[1]["error_kind"], lines[1]["needles"]) == ("", "", "timeout", "a+b")
    assert [each["asked"] for each in json.loads(lines[1]["placements"])] == [0.2, 0.8]


def test_columns_have_one_type_however_little_is_known(tmp_path: Path) -> None:
    from pyarrow import parquet

    write_both([record(error="timeout")], tmp_path)
    kinds = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "t.parquet")}
    assert kinds == {name: column.kind for name, column in COLUMNS.items()}
    with ParquetTable(tmp_path / "none.parquet"):
        pass
    assert list(pandas.read_parquet(tmp_path / "none.parquet").columns) == list(COLUMNS)


def test_hostile_text_comes_back(tmp_path: Path) -> None:
    lines, frame = write_both([answered(text) for text in HOSTILE], tmp_path)
    assert frame["text"].tolist() == [plain(text) for text in HOSTILE]
    assert [line["text"] for line in lines] == [plain(text).replace("\0", "\\x00") for text in HOSTILE]
    by_pandas = pandas.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert by_pandas["text"].tolist() == [plain(text).replace("\0", "\\x00") for text in HOSTILE]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters()), st.text(st.characters()), st.none() | st.floats(0, 1)), max_size=4))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, float | None]]) -> None:
    records = [
        answered(text, model=model, error=None if value is not None else Failure(kind="server", message=text), scores=(), reply=Reply(text=text) if value is not None else None)
        for text, model, value in texts
    ]  # fmt: skip
    lines, frame = write_both(records, tmp_path_factory.mktemp("any"))
    for one, line, cells in zip(records, lines, frame.to_dict("records"), strict=True):
        assert cells["model"] == plain(one.model) and line["model"] == plain(one.model).replace("\0", "\\x00")
        assert cells["outcome"] == outcome(one) and json.loads(line["placements"])
        assert (cells["text"] if one.reply else cells["error_message"]) == plain(texts[records.index(one)][0])


def test_equal_records_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_both([record(float(i % 2), of=trial(reshuffle=i)) for i in range(30)], tmp_path / name)
    for kind in ("t.csv", "t.parquet"):
        assert (tmp_path / "one" / kind).read_bytes() == (tmp_path / "two" / kind).read_bytes()


def test_the_mean_of_the_values_is_the_recall() -> None:
    records = [record(1.0), record(0.5), record(0.0, stop="refusal"), record(error="timeout"), record(0.0)]
    values = [value for one in records if (value := row_of(one, None)["value"]) is not None]
    assert values == [1.0, 0.5, 0.0]
