"""The test that ends a sweep early: what it sees, that it is never fooled by the order of answers, and how often it is wrong."""

import math
from collections.abc import Sequence
from itertools import product

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from niah.report.clusters import student
from niah.report.points import Point
from niah.report.sequential import HOPELESS, NOTHING, Agenda, Looks, Reached, Rule, bound, look, place_of
from niah.run.order import balanced
from niah.task.deal import deal

RULE = Rule(margin=0.05, alpha=0.05, max_lost=0.05)
LENGTHS, DEPTHS, TEXTS, NEEDLES = 4, 5, 20, 30
DEALT = deal(NEEDLES, LENGTHS, DEPTHS, TEXTS, seed=0)
ORDER = balanced(LENGTHS, DEPTHS, TEXTS, 0)
PLACES = [(r, i, float(j)) for i, j, r in ORDER]
AGENDA = Agenda(rule=RULE, places=PLACES, round_trials=TEXTS)


def point(place: tuple[int, int, float], value: float | None) -> Point:
    needle = f"n{DEALT[place[1], int(place[2]), place[0]]}"
    result = "error" if value is None else "hit" if value == 1 else "miss" if value == 0 else "partial"
    return Point("0" * 16, "text", 0, place[0], "shared", needle, place[1], place[2], "off", result, value or 0.0)


BASE = {place: point(place, 1.0) for place in PLACES}


def reached(values: Sequence[float | None], agenda: Agenda = AGENDA, *, order: Sequence[int] | None = None) -> Reached:
    looks = Looks(agenda, BASE)
    for number in order if order is not None else range(len(values)):
        looks.add(point(PLACES[number], values[number]))
    return looks.reached


def test_an_equal_model_passes_as_soon_as_that_is_certain() -> None:
    """Without a discordant pair Tango's lower end is that of no worse pair in n, -q * q / (n + q * q)."""
    found = reached([1.0] * 400)
    assert (found.state, found.planned, found.lost) == ("pass", 400, 0) and found.asked % 20 == 0
    assert found.low > -0.05 and found.mean == found.high - found.high == 0
    bets = [student(float(ndtr(bound(0.04, 0.05) * (n / 400) ** -0.1)), 19) ** 2 for n in (found.asked - 20, found.asked)]
    assert found.low == pytest.approx(-bets[1] / (found.asked + bets[1]), abs=1e-6)
    assert bets[0] / (found.asked - 20 + bets[0]) >= 0.05


def test_a_model_that_loses_a_seventh_fails_early_and_one_that_loses_the_margin_does_not_pass() -> None:
    found = reached([float(number % 7 != 0) for number in range(400)])
    assert found.state == "fail" and found.asked <= 160 and found.high < 0
    assert reached([float(number % 19 != 0) for number in range(400)]).state in (None, "hopeless", "fail")


@pytest.mark.parametrize(("rate", "constant"), [(0.05, 2.34), (0.04, 2.49)])
def test_a_brownian_motion_crosses_the_bound_as_often_as_asked(rate: float, constant: float) -> None:
    """Paths of its own, 200,000 of them, looked at whenever time has grown by 2%, and judged at the end at 1.96."""
    factor = bound(rate, 0.05)
    assert factor == pytest.approx(constant, abs=0.01)
    draw, paths, crossed = numpy.random.default_rng(1), numpy.zeros(200_000), numpy.zeros(200_000, dtype=bool)
    times, before = numpy.geomspace(0.05, 1, 152), 0.0
    for time in times:
        paths += draw.normal(size=len(paths)) * math.sqrt(time - before)
        crossed |= paths > (factor * time**-0.1 if time < 1 else 1.96) * math.sqrt(time)
        before = time
    assert crossed.mean() == pytest.approx(rate, rel=0.06)


def test_the_bases_other_trials_tell_most_where_models_fail_independently() -> None:
    """By simulation: the difference's variance over 120 of 400 pairs beside that of the paired difference. With correlation r it is
    (1 - r * r + (1 - r) ** 2 * 120 / 400) / (2 - 2 * r) of it; and once all is asked both are the same."""
    draw = numpy.random.default_rng(2)
    found: list[tuple[float, float]] = []
    for _ in range(400):
        base, after = (draw.random((2, 400)) < 0.8).astype(float)
        points = [point(place, hit) for place, hit in zip(PLACES, base, strict=True)]
        found.append((look(points, list(after[:120]), RULE).mean, float((after - base)[:120].mean())))
        assert look(points, list(after), RULE).mean == pytest.approx(float((after - base).mean()))
    adjusted, paired = numpy.var([each[0] for each in found]), numpy.var([each[1] for each in found])
    assert adjusted / paired == pytest.approx((1 + 0.3) / 2, rel=0.1)


def test_one_that_is_better_than_the_base_passes() -> None:
    looks = Looks(AGENDA, {place: point(place, float(number % 7 != 0)) for number, place in enumerate(PLACES)})
    for place in PLACES:
        looks.add(point(place, 1.0))
    assert looks.reached.state == "pass" and looks.settled


def test_where_one_needle_or_text_is_lost_its_trials_do_not_count_as_many() -> None:
    """The same number of misses, spread or all in three texts: spread they settle it, together they do not."""
    spread = [float(number % 7 != 0) for number in range(400)]
    worst = {0, 1, 2}
    together = [float(place[0] not in worst) for place in PLACES]
    assert reached(spread).state == "fail"
    assert reached(together).state != "fail"


def test_the_rest_of_a_sweep_that_would_hardly_settle_it_is_not_asked_but_may_be() -> None:
    """Half of all texts twelve points better, half twelve worse: the texts' own differences stay, however many cells are asked."""
    values = [1.0 if place[0] % 2 else float(number % 3 != 0) for number, place in enumerate(PLACES)]
    looks = Looks(AGENDA, {place: point(place, float(place[0] % 2 == 0 or number % 3 != 0)) for number, place in enumerate(PLACES)})
    for number, place in enumerate(PLACES):
        looks.add(point(place, values[number]))
        if looks.settled:
            break
    assert looks.reached.state == "hopeless" and looks.reached.asked < 400 and looks.reached.chance < HOPELESS
    for number, place in enumerate(PLACES):
        looks.add(point(place, values[number]))
    assert looks.reached.state is None and looks.reached.complete, "with everything asked the gate decides"


def test_a_candidate_of_which_much_is_lost_does_not_pass() -> None:
    values = [None if number % 10 == 0 else 1.0 for number in range(400)]
    found = reached(values)
    assert found.state is None and found.complete and found.lost == 40


def test_what_the_base_has_not_scored_is_not_asked() -> None:
    base = {place: each if number % 2 else each._replace(outcome="error") for number, (place, each) in enumerate(BASE.items())}
    assert len(Looks(AGENDA, base).places) == 200


def test_one_text_and_one_needle_never_settle_anything() -> None:
    same = [BASE[PLACES[0]]._replace(needle="n", reshuffle=0)] * 400
    assert look(same, [1.0] * 200, RULE) == NOTHING


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(100, 400), st.floats(0.6, 1.0))
def test_the_order_of_answers_changes_nothing(draw, asked: int, recall: float) -> None:
    """Nor does it matter whether a sweep is interrupted: points that are not there yet are waited for."""
    values = [float(draw.random() < recall) for _ in range(asked)]
    order = list(range(asked))
    draw.shuffle(order)
    assert reached(values) == reached(values, order=order)


def test_it_is_rarely_wrong_although_needles_and_texts_differ() -> None:
    """300 sweeps at a drop of exactly the margin, and 300 without one; each model has texts and needles of its own. See benchmarks."""
    draw = numpy.random.default_rng(4)
    false: dict[str, int] = {"pass": 0, "fail": 0}
    texts, needles = numpy.array([r for _, _, r in ORDER]), numpy.array([DEALT[place] for place in ORDER])
    for drop, wrong in product((0.05, 0.0), ("pass", "fail")):
        if (drop > 0) != (wrong == "pass"):
            continue
        for _ in range(300):
            hits = []
            for recall in (0.85, 0.85 - drop):
                shift = (draw.normal(0, 0.06, TEXTS)[texts] + draw.normal(0, 0.06, NEEDLES)[needles]).clip(-0.14, 0.14)
                hits.append(draw.random(len(PLACES)) < recall + shift)
            looks = Looks(AGENDA, {place: point(place, float(hit)) for place, hit in zip(PLACES, hits[0], strict=True)})
            for place, hit in zip(PLACES, hits[1], strict=True):
                looks.add(point(place, float(hit)))
                if looks.settled:
                    break
            false[wrong] += looks.reached.state == wrong
    assert max(false.values()) <= 15, false


def test_places_name_trials() -> None:
    assert place_of(BASE[PLACES[3]]) == PLACES[3]
