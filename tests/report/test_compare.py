"""Two sides trial by trial: what is paired, what is refused, and the numbers of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.errors import UsageError
from niah.report.clusters import exact_mcnemar
from niah.report.compare import compare
from niah.report.side import Collector, differences
from niah.trial import Fingerprints, Record, Sampling, Score
from tests.report.records import FINGERPRINTS, record, trial
from tests.report.sides import side, wide


def test_pairs_are_trials_with_the_same_key() -> None:
    base, candidate = side(wide(lambda *_: 20)), side(wide(lambda *_: 18, model="server/new"), "runs/two")
    found = compare(base, candidate)
    assert found.difference is not None and found.difference.trials == 200
    assert (found.worse, found.better) == (20, 0)
    assert found.difference.mean == pytest.approx(-0.1)
    assert found.base.recall is not None and found.candidate.recall is not None
    assert (found.base.recall.mean, found.candidate.recall.mean) == (1.0, pytest.approx(0.9))
    assert found.mcnemar_p == exact_mcnemar(20, 0)
    assert found.permutation_p == pytest.approx(0.5), "all misses are in two texts: two clusters can show no more"
    assert found.dropped == {} and found.lost_share == 0 and found.differences == []


def test_the_same_records_in_another_order_make_the_same_numbers() -> None:
    one, two = wide(lambda length, depth: 19 if depth else 15), wide(lambda length, depth: 16 if length > 4_000 else 20)
    assert compare(side(one), side(two)) == compare(side(reversed(one)), side(reversed(two)))


def test_what_is_not_scored_on_one_side_is_no_pair_and_is_told() -> None:
    asked = [trial(reshuffle=i) for i in range(8)]
    base = [record(1.0, of=each) for each in asked[:6]] + [record(of=asked[6], error="timeout")]
    candidate = [
        record(0.0, of=asked[0]),
        record(of=asked[1], error="server"),
        record(0.0, of=asked[2], stop="length"),
        record(0.0, of=asked[3], stop="refusal"),
        record(None, of=asked[4]),
        record(1.0, of=asked[6]),
        record(1.0, of=asked[7]),
    ]
    found = compare(side(base), side(candidate, "runs/two", missing=3))
    assert found.difference is not None and found.difference.trials == 1
    assert found.dropped == {
        "errors in the base": 1,
        "errors in the candidate": 1,
        "cut in the candidate": 1,
        "refused in the candidate": 1,
        "truncated in the candidate": 1,
        "only in the base": 1,
        "only in the candidate": 1,
    }
    assert found.lost_share == pytest.approx((4 + 3) / (6 + 3))
    assert found.candidate.lost == {"errors": 1, "cut": 1, "refused": 1, "truncated": 1}


def test_different_grids_share_what_they_share() -> None:
    base = side(wide(lambda *_: 20, lengths=[4_000, 8_000]))
    found = compare(base, side(wide(lambda *_: 20, lengths=[8_000, 64_000]), "runs/two"))
    assert found.difference is not None and found.difference.trials == 100
    assert found.dropped == {"only in the base": 100, "only in the candidate": 100} and found.lost_share == 0
    with pytest.raises(
        UsageError, match=r"runs/one \(4k, 8k tokens, 5 depths\) and runs/two \(64k tokens, 5 depths\) have no trial in common"
    ):
        compare(base, side(wide(lambda *_: 20, lengths=[64_000]), "runs/two"))


def changed(records: list[Record], **fields: object) -> list[Record]:
    return [replace(each, trial=replace(each.trial, **fields)) for each in records]  # type: ignore[arg-type]


MARKS = {"corpus": "c" * 16, "needles": "n" * 16, "tokenizer": "t" * 16, "template": "p" * 16}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cue": "user"}, "cue: off in the base, user in the candidate"),
        ({"template": "other"}, "template: default in the base, other in the candidate"),
        ({"tokenizer": "o200k_base"}, "tokenizer: niah-8k in the base, o200k_base in the candidate"),
        ({"seed": 2}, "seed: 1 in the base, 2 in the candidate"),
        ({"distractors": 4}, "distractors: 0 in the base, 4 in the candidate"),
        ({"haystack": "independent"}, "haystack: shared in the base, independent in the candidate"),
        ({"sampling": Sampling(temperature=1.0)}, "temperature: the server's in the base, 1.0 in the candidate"),
        ({"sampling": Sampling(max_output_tokens=10)}, "max_output_tokens: 2048 in the base, 10 in the candidate"),
        ({"fitted_length": 3_000}, "length in our tokens: as asked in the base, 4000 is 3000, 8000 is 3000 in the candidate"),
        ({"fingerprints": Fingerprints(**{**MARKS, "corpus": "x" * 16})}, "corpus builtin/wikipedia: cccc"),
        ({"fingerprints": Fingerprints(**{**MARKS, "needles": "x" * 16})}, "needles: nnnn"),
        ({"fingerprints": Fingerprints(**{**MARKS, "tokenizer": "x" * 16})}, "tokenizer's text: tttt"),
        ({"fingerprints": Fingerprints(**{**MARKS, "template": "x" * 16})}, "template's text: pppp"),
    ],
)
def test_what_is_not_alike_is_refused_and_can_be_forced(fields: dict[str, object], told: str) -> None:
    base, candidate = side(wide(lambda *_: 20)), side(changed(wide(lambda *_: 19), **fields), "runs/two")
    with pytest.raises(UsageError) as refusal:
        compare(base, candidate)
    assert told in str(refusal.value) and "--force" in str(refusal.value)
    found = compare(base, candidate, force=True)
    assert found.difference is not None and found.difference.trials == 200 and found.worse == 10
    assert any(told in each for each in found.differences)


def test_another_scorer_is_refused() -> None:
    scored = [replace(each, scores=(Score(scorer="exact", value=1.0),)) for each in wide(lambda *_: 20)]
    with pytest.raises(UsageError, match="scorer: contains in the base, exact in the candidate"):
        compare(side(wide(lambda *_: 20)), side(scored, "runs/two"))
    assert compare(side(wide(lambda *_: 20)), side(scored, "runs/two"), force=True).differences == [
        "scorer: contains in the base, exact in the candidate"
    ]


def test_one_cue_in_common_is_enough() -> None:
    both = [*wide(lambda *_: 20), *changed(wide(lambda *_: 10), cue="user")]
    found = compare(side(both), side(changed(wide(lambda *_: 10), cue="user"), "runs/two"))
    assert found.difference is not None and found.difference.mean == 0 and found.difference.trials == 200
    prefilled = side(changed(wide(lambda *_: 20), cue="prefill"), "runs/two")
    with pytest.raises(UsageError, match="runs/one has several trials in one place"):
        compare(side(both), prefilled, force=True)


def test_sides_that_hold_nothing_are_refused() -> None:
    good = side(wide(lambda *_: 20))
    errors = side([record(of=trial(reshuffle=i), error="timeout") for i in range(3)], "runs/errors")
    with pytest.raises(UsageError, match="runs/empty holds no records"):
        compare(good, side([], "runs/empty"))
    with pytest.raises(UsageError, match=r"runs/errors has no scored trial \(3 errors\)"):
        compare(errors, good)
    found = compare(good, side([record(of=each.trial, error="timeout") for each in wide(lambda *_: 20)], "runs/two"))
    assert (found.difference, found.permutation_p, found.detectable, found.mcnemar_p) == (None, None, None, 1.0)
    assert found.lost_share == 1


def test_cells_are_adjusted_for_their_number() -> None:
    found = compare(side(wide(lambda *_: 20)), side(wide(lambda length, depth: 10 if (length, depth) == (8_000, 0.5) else 20)))
    worst = found.cells[0]
    assert (worst.length, worst.depth, worst.pairs, worst.base, worst.candidate, worst.worse) == (8_000, 0.5, 20, 1.0, 0.5, 10)
    assert worst.p == pytest.approx(10 * exact_mcnemar(10, 0)) and len(found.cells) == 10
    assert all(cell.p == 1 for cell in found.cells[1:])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40))
def test_the_difference_is_that_of_the_recalls_and_turns_with_the_sides(values: list[tuple[float, float]]) -> None:
    asked = [trial(4_000 * (1 + i % 2), 0.5, reshuffle=i // 2) for i in range(len(values))]
    base, candidate = (side([record(pair[k], of=of) for pair, of in zip(values, asked, strict=True)]) for k in (0, 1))
    found, back = compare(base, candidate), compare(candidate, base)
    assert found.difference and back.difference and found.base.recall and found.candidate.recall
    assert found.difference.mean == pytest.approx(found.candidate.recall.mean - found.base.recall.mean, abs=1e-12)
    assert back.difference.mean == pytest.approx(-found.difference.mean)
    assert (back.difference.low, back.difference.high) == pytest.approx((-found.difference.high, -found.difference.low), abs=1e-9)
    assert (back.worse, back.better, back.mcnemar_p) == (found.better, found.worse, pytest.approx(found.mcnemar_p))
    assert back.permutation_p == pytest.approx(found.permutation_p)
    assert sum(cell.pairs for cell in found.cells) == len(values)


def test_the_fingerprints_of_these_tests_are_those_of_the_records() -> None:
    assert Fingerprints(**MARKS) == FINGERPRINTS
    assert differences(side(wide(lambda *_: 20)), side(wide(lambda *_: 1))) == []


def test_the_seconds_of_answers() -> None:
    made = [replace(record(of=trial(reshuffle=i)), reply=replace(record().reply, seconds=float(i + 1))) for i in range(20)]  # type: ignore[type-var]
    collector = Collector()
    assert collector.seconds() == (None, None)
    for each in made:
        collector.add(each)
    assert collector.seconds() == (10.0, 19.0)
