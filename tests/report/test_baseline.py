"""The baseline file: small, without text, the same bytes each time, and nothing is lost that a comparison needs."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.errors import UsageError
from niah.report.baseline import FORMAT, OUTCOMES, dumps, loads
from niah.report.compare import KEY_DIGITS, compare
from niah.report.side import Costs, Side
from niah.report.verdict import Gate, judge
from niah.trial import Record
from tests.report.records import record, trial
from tests.report.sides import side, wide


def again(one: Side) -> Side:
    return loads(dumps(one), one.name)


KINDS = {
    "hit": {"value": 1.0},
    "partial": {"value": 0.25},
    "miss": {"value": 0.0},
    "cut": {"value": 0.0, "stop": "length"},
    "refused": {"value": 1.0, "stop": "refusal"},
    "truncated": {"value": None},
    "overflow": {"error": "context_overflow"},
    "error": {"error": "timeout"},
}
ROWS = st.lists(
    st.tuples(
        st.sampled_from(sorted(KINDS)),
        st.sampled_from([1_000, 4_000, 1_000_000]),
        st.floats(0, 1),
        st.sampled_from(["legal", "medical", "模型"]),
        st.sampled_from(["off", "user", "prefill"]),
        st.sampled_from(["shared", "independent"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_nothing_is_lost(rows: list[tuple[str, int, float, str, str, str]]) -> None:
    records: list[Record] = []
    for number, (kind, length, depth, corpus, cue, haystack) in enumerate(rows):
        of = trial(length, depth, reshuffle=number, corpus=corpus, cue=cue, haystack=haystack)  # type: ignore[arg-type]
        records.append(record(of=of, **KINDS[kind]))  # type: ignore[arg-type]
    before = side(records, costs=Costs(answers=3, dollars=None, input_tokens=5, output_tokens=7, median_seconds=0.25, slow_seconds=None))
    after = again(before)
    assert after == replace(before, points=[point._replace(key=point.key[:KEY_DIGITS]) for point in before.points])
    assert [point.text for point in after.points] == [point.text for point in before.points]
    assert dumps(after) == dumps(before) == dumps(again(after))


def test_it_is_small_and_holds_no_text() -> None:
    records = wide(lambda length, depth: 18, lengths=range(1_000, 41_000, 1_000))
    text = dumps(side(records))
    assert len(records) == 4_000 and len(text.encode()) / len(records) < 45
    assert "an answer" not in text, "which is what the model said"
    few = wide(lambda *_: 18)
    assert len(dumps(side(few)).encode()) / len(few) < 60, "also where the tables weigh most: 200 trials"


def test_it_is_json_with_one_line_a_trial() -> None:
    text = dumps(side(wide(lambda *_: 18)))
    data = json.loads(text)
    assert data["kind"] == "niah baseline" and data["format"] == FORMAT == 1
    assert len(data["trials"]) == 200 and len([line for line in text.splitlines() if line.startswith('["')]) == 200
    keys = [row[0] for row in data["trials"]]
    assert keys == sorted(keys)
    assert dumps(side(reversed(wide(lambda *_: 18)))) == text


def test_a_comparison_with_the_baseline_is_that_with_the_run() -> None:
    base, candidate = side(wide(lambda *_: 20)), side(wide(lambda length, depth: 17 if depth else 20), "runs/two")
    assert compare(again(base), candidate) == compare(base, candidate)
    assert judge(base, again(candidate), Gate()).headline == judge(base, candidate, Gate()).headline
    other = side([replace(each, trial=replace(each.trial, cue="user")) for each in wide(lambda *_: 20)])
    with pytest.raises(UsageError, match="cue: off in the base, user in the candidate"):
        compare(again(base), other)


GOOD = json.loads(dumps(side([record(1.0), record(0.5, of=trial(reshuffle=1))])))


def with_trial(*row: object) -> str:
    return json.dumps({**GOOD, "trials": [list(row)]})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no baseline"),
        ("[]", "is no baseline"),
        ("{}", "is no baseline"),
        ('"niah"', "is no baseline"),
        (json.dumps({**GOOD, "kind": "other"}), "is no baseline"),
        (json.dumps({**GOOD, "format": "one"}), "is no baseline"),
        (json.dumps({**GOOD, "format": FORMAT + 1}), f"was written by a newer niah .format {FORMAT + 1}"),
        (json.dumps({name: value for name, value in GOOD.items() if name != "costs"}), "is damaged"),
        (json.dumps({**GOOD, "costs": {"answers": 1}}), "is damaged"),
        (json.dumps({**GOOD, "trials": [1]}), "is damaged"),
        (json.dumps({**GOOD, "trials": [[]]}), "is damaged"),
        (json.dumps({**GOOD, "tables": {**GOOD["tables"], "outcome": ["won"]}}), "is damaged"),
        (json.dumps({**GOOD, "tables": {**GOOD["tables"], "cue": ["loud"]}}), "is damaged"),
        (with_trial("0" * 16, 0, 0, 0, 0, 0, 99), "is damaged"),
        (with_trial("0" * 16, 0, 0, 0, 0, 0, -1), "is damaged"),
        (with_trial("0" * 16, 0, 0, 0, 0, 0, 1, "half"), "is damaged"),
        (with_trial("short", 0, 0, 0, 0, 0, 0), "is damaged"),
        (dumps(side([record(1.0)]))[:-30], "is no baseline"),
    ],
)
def test_a_file_that_is_none_is_told_in_a_line(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"base.json {told}") as error:
        loads(text, "base.json")
    assert "\n" not in str(error.value)


FIRST_FORMAT = """{
"kind": "niah baseline",
"format": 1,
"model": "server/old",
"origin": {"niah":"0.1.0","created":"2026-11-23T02:26:10+00:00"},
"conditions": {"scorer":["contains"],"cue":["user"]},
"costs": {"answers":2,"dollars":0.5,"input_tokens":8000,"output_tokens":20,"median_seconds":0.5,"slow_seconds":1.5},
"tables": {"text":[["legal",0,0,"shared"],["legal",0,1,"shared"]],"needle":["bell"],"length":[4000],"depth":[0.5],"cue":["user"],\
"outcome":["hit","partial","miss","cut","refused","truncated","overflow","error"]},
"columns": ["key","text","needle","length","depth","cue","outcome","value"],
"trials": [
["00000000000000aa",0,0,0,0,0,0],
["00000000000000ab",1,0,0,0,0,1,0.5]
]
}
"""


def test_the_first_format_stays_readable() -> None:
    old = loads(FIRST_FORMAT, "old.json")
    assert [(point.outcome, point.value, point.reshuffle) for point in old.points] == [("hit", 1.0, 0), ("partial", 0.5, 1)]
    assert old.costs.dollars == 0.5 and tuple(json.loads(FIRST_FORMAT)["tables"]["outcome"]) == OUTCOMES
