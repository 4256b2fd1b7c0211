"""The gate: when it passes, fails and cannot tell, and that text, Markdown, JSON, JUnit and exit code say the same."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from niah.errors import UsageError
from niah.report.clusters import Estimate
from niah.report.compare import Comparison, Drop, Half
from niah.report.junit import junit
from niah.report.side import Costs
from niah.report.stats import aggregate
from niah.report.told import as_json, markdown, plain
from niah.report.verdict import Check, Gate, Verdict, check_gate, judge
from niah.trial import Record
from tests.report.records import grid, record, trial
from tests.report.sides import side, wide

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).parent / "junit.xsd")))
MEASURED = {"pass", "regressed", "below the floor", "inconclusive", "unmeasured"}


def missing_some(records: list[Record], share: float, seed: int) -> list[Record]:
    """Some of the answers wrong, here and there."""
    draw = numpy.random.default_rng(seed)
    return [replace(each, scores=(replace(each.scores[0], value=0.0),)) if draw.random() < share else each for each in records]


BASE = side(missing_some(wide(lambda *_: 20, lengths=[1_000, 2_000, 4_000, 8_000]), 0.05, 1))


def against(share: float, gate: Gate | None = None) -> Verdict:
    """The verdict over a candidate that misses this share of what the base finds."""
    records = missing_some(missing_some(wide(lambda *_: 20, lengths=[1_000, 2_000, 4_000, 8_000]), 0.05, 1), share, 2)
    return judge(BASE, side(records, "runs/two"), gate or Gate())


def test_equal_answers_pass() -> None:
    verdict = against(0)
    assert (verdict.status, verdict.exit_code) == ("pass", 0)
    assert verdict.headline == "PASS: recall differs from the base by 0.000 (95% interval -0.011 to +0.011, margin 0.02, 400 pairs)"


def test_a_clear_drop_is_a_regression() -> None:
    verdict = against(0.1)
    assert (verdict.status, verdict.exit_code) == ("regressed", 1)
    assert verdict.headline.startswith("REGRESSED: recall differs from the base by -0.") and verdict.comparison.difference is not None
    assert verdict.comparison.difference.high < -0.02


def unsure(gate: Gate | None = None) -> Verdict:
    """Two models that miss some 6% each, independently."""
    return judge(BASE, side(missing_some(wide(lambda *_: 20, lengths=[1_000, 2_000, 4_000, 8_000]), 0.06, 5), "runs/two"), gate or Gate())


def test_what_cannot_be_told_says_how_much_more_could() -> None:
    verdict = unsure()
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 3)
    check = verdict.checks[0]
    assert check.further and f"about {check.further:,} further pairs would settle it" in verdict.headline
    assert [unsure(Gate(inconclusive=way)).exit_code for way in ("fail", "pass")] == [1, 0]
    assert "(counts as a pass)" in unsure(Gate(inconclusive="pass")).headline


def test_a_drop_within_a_wide_margin_passes() -> None:
    assert against(0.02, Gate(margin=0.1)).status == unsure(Gate(margin=0.1)).status == "pass"
    assert against(0.1, Gate(margin=0.3)).status == "pass", "what is worse, but by less than the margin for certain, was declared fine"


def test_the_number_of_further_pairs_settles_it() -> None:
    """Four of five sweeps of so many pairs are settled, when the difference is what it was."""
    first = against(0.012)
    assert first.status == "inconclusive" and first.checks[0].further and first.comparison.difference
    cells = round((first.checks[0].further + 400) / 20)
    lost, settled = -first.comparison.difference.mean, 0
    records = list(grid(range(1_000, 1_000 + cells), [0.5], lambda *_: 20))
    for seed in range(25):
        verdict = judge(side(records), side(missing_some(records, lost, 100 + seed)), Gate())
        settled += verdict.status in ("pass", "regressed")
    assert settled >= 14  # 80% of 25 are 20; 13 or fewer have a chance below 1%


def test_errors_keep_a_candidate_from_passing() -> None:
    records = wide(lambda *_: 20)
    broken = [record(of=each.trial, error="timeout") if i % 10 == 0 else each for i, each in enumerate(records)]
    verdict = judge(side(records), side(broken, "runs/two"), Gate())
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 3)
    assert (
        "10.0% of the candidate's trials are not scored or not asked yet, at most 5.0% may be (the candidate: 20 errors)"
        in verdict.headline
    )
    assert judge(side(records), side(broken), Gate(max_lost=0.1, margin=0.05)).status == "pass"


def test_a_half_done_candidate_cannot_pass_but_can_fail() -> None:
    records = wide(lambda *_: 20)
    half = judge(side(records), side(records[:120], "runs/two", missing=80), Gate(margin=0.1))
    assert (half.status, half.checks[0].state, half.checks[1].further) == ("inconclusive", "pass", 80)
    bad = judge(side(records), side(missing_some(records[:150], 0.5, 3), missing=50), Gate())
    assert bad.status == "regressed"


def test_one_text_and_one_needle_are_one_sample() -> None:
    records = [record(1.0, of=trial(1_000 + i, needles=["only"])) for i in range(300)]
    verdict = judge(side(records), side(records), Gate())
    assert (verdict.status, verdict.comparison.permutation_p) == ("inconclusive", None)
    assert "one text and one needle are one sample" in verdict.headline


def test_one_needle_in_many_texts_is_told() -> None:
    records = [record(1.0, of=trial(1_000 + i, needles=["only"], reshuffle=i % 20)) for i in range(300)]
    verdict = judge(side(records), side(records), Gate())
    assert verdict.status == "pass" and "all pairs share one needle: the result holds for it" in plain(verdict)


def test_a_few_needles_can_fail_the_gate_and_are_told() -> None:
    """Three needles could give no p below 0.25: the texts decide."""
    records = [record(1.0, of=trial(1_000 + i, needles=[f"n{i % 3}"], reshuffle=i % 20)) for i in range(300)]
    verdict = judge(side(records), side(missing_some(records, 0.2, 4), "runs/two"), Gate())
    assert verdict.status == "regressed" and verdict.comparison.permutation_p is not None and verdict.comparison.permutation_p < 0.001
    assert "there are only 3 needles: the result holds for them" in plain(verdict)


def test_nothing_scored_is_unmeasured() -> None:
    records = wide(lambda *_: 20)
    verdict = judge(side(records), side([record(of=each.trial, error="credentials") for each in records]), Gate(inconclusive="pass"))
    assert (verdict.status, verdict.exit_code) == ("unmeasured", 4)
    base, other = (
        [*records[:20], record(of=records[20].trial, error="timeout")],
        [record(of=each.trial, error="timeout") for each in records[:20]],
    )
    verdict = judge(side(base), side([*other, records[20]]), Gate(max_lost=1))
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 3), "something was measured, but no pair"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_same_recall_everywhere_has_an_interval(value: float) -> None:
    records = wide(lambda *_: int(20 * value), lengths=[1_000, 2_000, 4_000])
    verdict = judge(side(records), side(records), Gate())
    assert verdict.status == "pass" and verdict.comparison.difference is not None
    assert verdict.comparison.difference.high > 0.005 and verdict.comparison.difference.low < -0.005
    few = judge(side(records[:20]), side(records[:20]), Gate())
    assert few.status == "inconclusive"


def test_one_trial_tells_nothing() -> None:
    assert judge(side([record()]), side([record()]), Gate()).status == "inconclusive"


def test_a_floor_of_recall() -> None:
    states = {floor: against(0, Gate(min_recall=floor)).checks[-1] for floor in (0.5, 0.94, 0.99)}
    assert [check.state for check in states.values()] == ["pass", "inconclusive", "fail"]
    assert against(0, Gate(min_recall=0.99)).status == "below the floor" and against(0, Gate(min_recall=0.99)).exit_code == 1
    assert states[0.94].further and "further trials would settle it" in states[0.94].told


def test_a_floor_of_effective_length_agrees_with_the_summary() -> None:
    hits = {1_000: 20, 2_000: 19, 4_000: 20, 8_000: 10}
    records = wide(lambda length, depth: hits[length], lengths=hits)
    (summary,) = aggregate(records).summaries.values()
    assert summary.effective_length == 4_000
    states = {
        floor: judge(side(records), side(records), Gate(min_effective_length=floor)).checks[-1] for floor in (500, 3_000, 4_000, 5_000)
    }
    assert {floor: check.state for floor, check in states.items()} == {500: "pass", 3_000: "pass", 4_000: "pass", 5_000: "fail"}
    assert "recall at 8k is 0.500" in states[5_000].told
    few = side(list(grid([4_000], [0.5], lambda *_: 20)))
    assert judge(few, few, Gate(min_effective_length=4_000)).checks[-1].state == "inconclusive", "20 of 20: the lower bound is 0.839"
    assert "as long as the floor 16k" in judge(few, few, Gate(min_effective_length=16_000)).checks[-1].told


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (Gate(margin=-0.1), "--margin"),
        (Gate(margin=2), "--margin 2 is no share"),
        (Gate(alpha=0), "--alpha"),
        (Gate(alpha=float("nan")), "--alpha"),
        (Gate(min_recall=95), "--min-recall 95"),
        (Gate(max_lost=5), "--max-lost"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(gate: Gate, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_gate(gate)


ENDS = st.floats(-1, 1, allow_nan=False)
NAMES = st.text(max_size=20) | st.sampled_from(
    ["server/a|b", "<b>x</b>", "line\nbreak", "\x00\x1b[31m", "a`*_[x](y)", "模型", "]]>", "\ud800"]
)
COUNTS = st.dictionaries(st.sampled_from(["errors", "cut", "refused"]), st.integers(1, 10**6), max_size=3)
COSTS = st.builds(
    Costs,
    answers=st.integers(0, 10**6),
    dollars=st.none() | st.floats(0, 1e6),
    input_tokens=st.integers(0, 10**12),
    output_tokens=st.integers(0, 10**9),
    median_seconds=st.none() | st.floats(0, 1e4),
    slow_seconds=st.none() | st.floats(0, 1e4),
)
ESTIMATES = st.builds(
    Estimate,
    mean=ENDS, low=ENDS, high=ENDS, error=st.floats(0.001, 1), trials=st.integers(1, 10**5), worth=st.floats(1, 1e5),
    texts=st.integers(1, 50), needles=st.integers(1, 50), quantile=st.just(2.0),
)  # fmt: skip
HALVES = st.builds(
    Half,
    name=NAMES,
    model=NAMES,
    recall=st.none() | ESTIMATES,
    alone=st.none() | ESTIMATES,
    lost=COUNTS,
    missing=st.integers(0, 99),
    costs=COSTS,
)
DROPS = st.builds(
    Drop, length=st.integers(1, 10**6), depth=st.floats(0, 1), pairs=st.integers(1, 99), base=st.floats(0, 1), candidate=st.floats(0, 1),
    worse=st.integers(0, 99), better=st.integers(0, 99), p=st.floats(0, 1),
)  # fmt: skip
COMPARISONS = st.builds(
    Comparison,
    base=HALVES, candidate=HALVES, level=st.sampled_from([0.9, 0.95, 0.99]), difference=st.none() | ESTIMATES, worse=st.integers(0, 99),
    better=st.integers(0, 99), mcnemar_p=st.floats(0, 1), permutation_p=st.none() | st.floats(0, 1), detectable=st.none() | st.floats(0, 1),
    cells=st.lists(DROPS, max_size=4), dropped=COUNTS, lost_share=st.floats(0, 1), differences=st.lists(NAMES, max_size=2),
)  # fmt: skip
CHECKS = st.builds(
    Check,
    name=st.just("complete"),
    state=st.sampled_from(["pass", "fail", "inconclusive", "unmeasured"]),
    told=NAMES,
    further=st.none() | st.integers(1, 99),
)
VERDICTS = st.builds(
    Verdict,
    gate=st.builds(Gate, inconclusive=st.sampled_from([None, "fail", "pass"])),
    checks=st.lists(CHECKS, min_size=1, max_size=4).map(tuple),
    comparison=COMPARISONS,
)


def schema_checked(xml: str) -> etree._Element:
    root = etree.fromstring(xml.encode())
    SCHEMA.assertValid(root)
    return root.find("testsuite")


@settings(max_examples=100, deadline=None)
@given(VERDICTS)
def test_all_forms_of_a_verdict_agree(verdict: Verdict) -> None:
    data = json.loads(as_json(verdict))
    suite = schema_checked(junit(verdict))
    failures, errors, skipped = (int(suite.get(name)) for name in ("failures", "errors", "skipped"))
    code = verdict.exit_code
    assert data["exit_code"] == code and data["status"] == verdict.status in MEASURED
    assert plain(verdict).startswith(verdict.status.upper())
    assert markdown(verdict).startswith(f"**{verdict.status.upper()}")
    # a CI server that reads JUnit comes to what the exit code says
    types = {error.get("type") for error in suite.iter("error")}
    assert (code == 1) == (failures > 0)
    assert (code == 0) == (failures == errors == 0)
    if not failures:
        assert (code == 4) == ("unmeasured" in types) and (code == 3) == (types == {"inconclusive"})
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == len(verdict.checks) == len(data["checks"])
    assert (
        failures == len(list(suite.iter("failure")))
        and errors == len(list(suite.iter("error")))
        and skipped == len(list(suite.iter("skipped")))
    )
    passed = [not len(case) for case in cases]
    assert passed == [check["state"] == "pass" for check in data["checks"]]
    # a table in Markdown keeps its columns whatever stands in it
    for block in re.split(r"\n\n+", markdown(verdict)):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "\x1b" not in plain(verdict) + markdown(verdict) and "<b>" not in markdown(verdict)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 1.0])
def test_measured_verdicts_agree_too(share: float) -> None:
    for way in (None, "fail", "pass"):
        verdict = against(share, Gate(min_recall=0.9, min_effective_length=4_000, inconclusive=way))
        test_all_forms_of_a_verdict_agree.hypothesis.inner_test(verdict)  # type: ignore[attr-defined]


def test_the_schema_refuses_what_is_no_junit() -> None:
    good = junit(against(0.1))
    schema_checked(good)
    for wrong in (
        good.replace("<failure", "<broken").replace("</failure", "</broken"),
        good.replace(' tests="2"', ""),
        good.replace("testcase", "test"),
    ):
        assert not SCHEMA.validate(etree.fromstring(wrong.encode()))


def test_the_tables_name_both_sides_and_the_worst_cells() -> None:
    records = wide(lambda length, depth: 12 if (length, depth) == (8_000, 0.5) else 20, model="server/new")
    text = plain(judge(side(wide(lambda *_: 20)), side(records, "runs/two"), Gate()))
    for fact in (
        "base: server/test",
        "candidate: server/new",
        "runs/one",
        "runs/two",
        "exact McNemar test",
        "20 texts, 20 needles",
        "worse, better",
        "8, 0",
    ):
        assert fact in text, fact
    assert re.search(r"8k\s*│\s*50%\s*│\s*20\s*│\s*1.00\s*│\s*0.60\s*│\s*8\s*│\s*0\s*│", text)
