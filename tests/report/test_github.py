"""Annotations and step summaries: what GitHub obeys is ours, whatever names and messages say."""

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from niah.report.github import SUMMARY_BYTES, annotations, heatmap, summary
from niah.report.junit import junit
from niah.report.verdict import Gate, Verdict, judge, judge_alone
from tests.report.sides import side, wide

GOOD, WORSE = side(wide(lambda length, depth: 20)), side(wide(lambda length, depth: 8 if depth == 0.5 else 18, "server/worse"), "runs/two")
COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\n\r]*)::([^\n\r]*)")


def verdict(**gate: float) -> Verdict:
    return judge(GOOD, WORSE, Gate(**gate))  # type: ignore[arg-type]


def test_a_regression_names_at_most_three_cells() -> None:
    lines = annotations([verdict(), verdict()]).splitlines()
    assert len(lines) == 5 and all(COMMAND.fullmatch(line) and line.startswith("::error ") for line in lines)
    assert "REGRESSED" in lines[0] and "4k tokens at depth 50%25" in lines[1] and "recall 0.40, base 1.00 (20 pairs, 12 worse" in lines[1]


def test_levels_follow_the_exit_code() -> None:
    assert annotations([judge(GOOD, GOOD, Gate(margin=0.1))]).startswith("::notice ")
    open_one = Gate(margin=0.001)
    assert annotations([judge(GOOD, GOOD, open_one)]).startswith("::error ")
    assert annotations([judge(GOOD, GOOD, replace(open_one, inconclusive="pass"))]).startswith("::warning ")


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_no_name_becomes_a_command(name: str) -> None:
    made = verdict()
    half = replace(made.comparison.candidate, model=name, name=name)
    hostile = replace(
        made, comparison=replace(made.comparison, candidate=half), checks=(replace(made.checks[0], told=name + "\n::error::x\r"),)
    )
    lines = annotations([hostile]).split("\n")
    assert lines.pop() == "" and len(lines) == 4 and all(COMMAND.fullmatch(line) for line in lines)


def test_the_heatmap_is_a_table_of_all_cells() -> None:
    rows = [row.split("|")[1:-1] for row in heatmap(verdict()).splitlines() if row.startswith("|")]
    assert [cell.strip() for cell in rows[0]] == ["depth", "4k", "8k"] and len(rows) == 2 + 5
    assert [cell.strip() for cell in rows[4]] == ["50%", "🟥 0.40 (-0.600)", "🟥 0.40 (-0.600)"]
    alone = heatmap(judge_alone(WORSE, Gate(min_recall=0.9)))
    assert "🟩 0.90 |" in alone and "difference" not in alone


def test_cells_without_a_pair_are_no_misses() -> None:
    records = [record for record in wide(lambda length, depth: 20) if (record.trial.length, record.trial.depths[0]) != (8_000, 0.25)]
    found = heatmap(judge(side(records), GOOD, Gate()))
    assert found.count("⬜ -") == 1


def test_the_summary_is_markdown_that_github_takes() -> None:
    text = summary(verdict())
    assert text.startswith("**REGRESSED: ") and text.index("| depth |") < text.index("The gate:")
    long = replace(verdict(), checks=(replace(verdict().checks[0], told="x" * 3_000_000),))
    assert len(summary(long).encode()) <= SUMMARY_BYTES


def test_several_verdicts_are_suites_of_one_file() -> None:
    assert junit(verdict(), verdict()).count("<testsuite ") == 2
