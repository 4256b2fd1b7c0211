"""How often `niah sweep --until-settled` is right, and how much it asks, beside other ways to stop early. By simulation.

    python benchmarks/sequential.py [--repetitions 1000] [--recall 0.9] [--margin 0.02] [--alike 0.9] [--seed 0]

The sweeps are those of benchmarks/gate.py (20 texts, 30 needles, each model with needles and texts of its own that it finds hard:
`own`), asked in the order of niah/run/order.py. `alike` is the share of trials in which both models meet the same chance: 0 is two
models, 0.9 nearly the same one, another quantisation say. Targets: `regressed` at no drop, and `pass` at a drop of the margin, at most
5%; asked at most 40% of the fixed design at no drop and at a drop of 0.10. `asked` is the mean share of the fixed design's trials.

Designs: `niah` is the program's own code. `paired` is the same without what the base says of trials that are not asked yet. `betting` is
what niah did before: capital of gamblers with fixed shares (Waudby-Smith and Ramdas, JRSS B 86, 2024), its logarithm divided by the
design effect. `pairs` bets on pairs as if they were independent. `plugin` does so with a share that follows the pairs so far.
`texts` bets on the mean of each whole text and asks text by text. `looks` has five looks at the interval of
`niah compare` with Pocock's constant bound. `fixed` asks everything.

`least` is Wald's: no test of independent looks that settles as often as this one, at the same rates of error, asks less information
in the mean; in trials, with the base's other trials used.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy
from gate import GRIDS, NEEDLES, OWN, SHARED, TEXTS, log_odds
from scipy.special import ndtr, ndtri

from niah.report import sequential
from niah.report.clusters import student, tango, variance
from niah.report.points import Point
from niah.report.sequential import Agenda, Looks, Rule
from niah.run.order import balanced
from niah.task.deal import deal

FOR_PASS, FOR_FAIL, HOPELESS = (0.12, 0.4, 0.95), (0.25, 0.6), 0.02
"""Shares that grow fastest for margins of one to ten points and for drops of three to twenty; the least chance at which bets went on."""
POCOCK, LOOKS = 2.413, 5
"""The bound of Pocock's five looks at a two-sided level of 5% (Biometrika 64, 1977, table 1)."""
middle = lru_cache(log_odds)
Ended = tuple[str, int]
"""The verdict, and how many trials were asked."""


class Design:
    """The trials of a sweep in the order in which they are asked: text, needle and place of each."""

    def __init__(self, pairs: int):
        lengths, depths = GRIDS[pairs]
        dealt, order = deal(NEEDLES, lengths, depths, TEXTS, seed=0), balanced(lengths, depths, TEXTS, 0)
        self.pairs = pairs
        self.text = numpy.array([k for _, _, k in order])
        self.needle = numpy.array([dealt[place] for place in order])
        self.places = [(k, 1000 * 2**i, j / depths) for i, j, k in order]
        self.rows = [
            (f"{number:016x}", "text", 0, place[0], "shared", f"n{needle}", place[1], place[2], "off")
            for number, (place, needle) in enumerate(zip(self.places, self.needle, strict=True))
        ]


def drawn(design: Design, drop: float, own: float, options: argparse.Namespace, draw: numpy.random.Generator) -> numpy.ndarray:
    """The hits of both models, as rows."""
    texts, needles = draw.normal(0, SHARED, TEXTS), draw.normal(0, SHARED, NEEDLES)
    chance, alike = draw.random((2, design.pairs)), draw.random(design.pairs) < options.alike
    chance[1, alike] = chance[0, alike]
    odds = [
        middle(recall, math.sqrt(2 * SHARED**2 + 2 * own**2))
        + (texts + draw.normal(0, own, TEXTS))[design.text]
        + (needles + draw.normal(0, own, NEEDLES))[design.needle]
        for recall in (options.recall, options.recall - drop)
    ]
    return chance < 1 / (1 + numpy.exp(-numpy.array(odds)))


def interval(design: Design, values: numpy.ndarray, quantile: float) -> tuple[float, float]:
    """That of `niah compare` over the first trials of the order."""
    n, up, down = len(values), int((values > 0).sum()), int((values < 0).sum())
    spread = (up + down) / n - ((up - down) / n) ** 2
    clustered = variance(list(values - values.mean()), design.text[:n], design.needle[:n]) * n / spread if spread > 1e-12 else 1.0
    worth = 1 / max(1.0, clustered)
    return tango(up * worth, down * worth, n * worth, quantile)


def by_interval(low: float, high: float, margin: float) -> str:
    return "pass" if low > -margin else "regressed" if high < 0 else "inconclusive"


def fixed(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    values = hits[1].astype(float) - hits[0]
    return by_interval(*interval(design, values, student(1 - rule.alpha / 2, TEXTS - 1)), rule.margin), design.pairs


def niah(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    points = [
        [Point(*row, "hit" if hit else "miss", float(hit)) for row, hit in zip(design.rows, side, strict=True)]  # type: ignore[arg-type]
        for side in hits
    ]
    looks = Looks(Agenda(rule=rule, places=design.places, round_trials=TEXTS), dict(zip(design.places, points[0], strict=True)))
    for point in points[1]:
        looks.add(point)
        if looks.settled:
            break
    reached = looks.reached
    if reached.state is None:
        return fixed(design, hits, rule)
    return {"pass": "pass", "fail": "regressed", "hopeless": "inconclusive"}[reached.state], reached.asked


def paired(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    slope, sequential._slope = sequential._slope, lambda *_: 1.0  # pyright: ignore[reportPrivateUsage]
    try:
        return niah(design, hits, rule)
    finally:
        sequential._slope = slope  # pyright: ignore[reportPrivateUsage]


def log_capital(values: numpy.ndarray, mean: float, side: int, shares: Sequence[float]) -> float:
    """Log of the mean capital of gamblers who bet these shares of what they can that the true mean lies on this side of `mean`."""
    gains = side * (values - mean) / (1 + abs(mean))
    logs = numpy.array([numpy.log1p(share * gains).sum() for share in shares])
    return float(numpy.logaddexp.reduce(logs) - math.log(len(shares)))


def betting(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    values, enough, degrees = hits[1].astype(float) - hits[0], math.log(2 / rule.alpha), TEXTS - 1
    sure = math.sqrt(2 * math.log(2 / rule.alpha))
    enlarged = (student(float(ndtr(sure)), degrees) / sure) ** 2
    last = 80 / 1.02
    for asked in range(80, design.pairs, TEXTS):
        if asked < last * 1.02:
            continue
        last, now = asked, values[:asked]
        mean, spread = float(now.mean()), max(float(now.var()), 1 / asked)
        effect = max(1.0, variance(list(now - mean), design.text[:asked], design.needle[:asked]) * asked / spread)
        shrink = 1 / (1 + (effect - 1) * enlarged)
        if shrink * log_capital(now, 0.0, -1, FOR_FAIL) >= enough:
            return "regressed", asked
        if shrink * log_capital(now, -rule.margin, 1, FOR_PASS) >= enough:
            return "pass", asked
        shared, then = spread * (effect - 1) / asked, spread / design.pairs
        reach, left = student(1 - rule.alpha / 2, degrees) * math.sqrt(shared + then), math.sqrt(spread / asked - then)
        if ndtr((mean + rule.margin - reach) / left) + ndtr((-mean - reach) / left) < HOPELESS:
            return "inconclusive", asked
    return fixed(design, hits, rule)


def plugin(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    """Each share is about what the pairs before it would have wanted (Kelly's), at most a half; pairs count as independent."""
    values, enough = hits[1].astype(float) - hits[0], math.log(2 / rule.alpha)
    before = numpy.arange(len(values)) + 1.0
    sums, squares = (numpy.concatenate([[0.0], numpy.cumsum(each)[:-1]]) for each in (values, values**2))
    spread = (0.25 + squares) / before
    for_pass, for_fail = (
        numpy.cumsum(numpy.log1p(numpy.clip(side * (sums / before - mean) / spread, 0, 0.5) * side * (values - mean)))
        for side, mean in ((1, -rule.margin), (-1, 0.0))
    )
    for asked in range(80, design.pairs, TEXTS):
        if for_fail[asked - 1] >= enough:
            return "regressed", asked
        if for_pass[asked - 1] >= enough:
            return "pass", asked
    return fixed(design, hits, rule)


def pairs(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    values, enough = hits[1].astype(float) - hits[0], math.log(2 / rule.alpha)
    for asked in range(80, design.pairs, TEXTS):
        if log_capital(values[:asked], -rule.margin, 1, FOR_PASS) >= enough:
            return "pass", asked
        if log_capital(values[:asked], 0.0, -1, FOR_FAIL) >= enough:
            return "regressed", asked
    return fixed(design, hits, rule)


def texts(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    values, enough = hits[1].astype(float) - hits[0], math.log(2 / rule.alpha)
    means = numpy.array([values[design.text == text].mean() for text in range(TEXTS)])
    for asked in range(1, TEXTS):
        if log_capital(means[:asked], -rule.margin, 1, (0.5, 1.0)) >= enough:
            return "pass", asked * design.pairs // TEXTS
        if log_capital(means[:asked], 0.0, -1, (0.5, 0.95)) >= enough:
            return "regressed", asked * design.pairs // TEXTS
    return fixed(design, hits, rule)


def looks(design: Design, hits: numpy.ndarray, rule: Rule) -> Ended:
    values = hits[1].astype(float) - hits[0]
    bound = POCOCK * student(1 - rule.alpha / 2, TEXTS - 1) / student(1 - rule.alpha / 2, None)
    for part in range(1, LOOKS + 1):
        asked = design.pairs * part // LOOKS // TEXTS * TEXTS or TEXTS
        came_out = by_interval(*interval(design, values[:asked], bound), rule.margin)
        if came_out != "inconclusive":
            return came_out, asked
    return "inconclusive", design.pairs


def least(settled: float, fixed_power: float, alpha: float) -> float:
    """The least mean share of the trials for a test that settles so often, with a rate of error of `alpha`, where the fixed design with
    alpha / 2 settles with `fixed_power`: from Wald's bound on information. Models fail independently of each other."""
    if not alpha < settled < 1 or not alpha / 2 < fixed_power < 1:
        return 0.0
    drift = float(ndtri(1 - alpha / 2) + ndtri(fixed_power))
    needed = settled * math.log(settled / alpha) + (1 - settled) * math.log((1 - settled) / (1 - alpha))
    information = min(1.0, 2 * needed / drift**2)
    return information / (2 - information)


DESIGNS: dict[str, Callable[[Design, numpy.ndarray, Rule], Ended]] = {
    "niah": niah,
    "paired": paired,
    "betting": betting,
    "pairs": pairs,
    "plugin": plugin,
    "texts": texts,
    "looks": looks,
    "fixed": fixed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--recall", type=float, default=0.9, help="of the base")
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--alike", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--pairs", type=int, nargs="+", default=[440, 1760])
    parser.add_argument("--own", type=float, nargs="+", default=OWN)
    options = parser.parse_args()
    rule = Rule(margin=options.margin, alpha=0.05, max_lost=0.05)
    print(f"base recall {options.recall}, margin {options.margin}, alike {options.alike}, {options.repetitions} repetitions")
    print("pairs    own   drop  design    pass  regressed  asked")
    started, broken, names = time.process_time(), 0, options.designs.split(",")
    for count in options.pairs:
        design = Design(count)
        for own in options.own:
            for drop in sorted({0.0, options.margin, 0.10}):
                draw = numpy.random.default_rng(options.seed)
                shares = {name: {"pass": 0.0, "regressed": 0.0, "inconclusive": 0.0, "asked": 0.0} for name in names}
                for _ in range(options.repetitions):
                    hits = drawn(design, drop, own, options, draw)
                    for name in names:
                        came_out, asked = DESIGNS[name](design, hits, rule)
                        shares[name][came_out] += 1 / options.repetitions
                        shares[name]["asked"] += asked / count / options.repetitions
                for name, found in shares.items():
                    false = found["regressed"] if drop == 0 else found["pass"] if drop >= options.margin else 0.0
                    broken += false > 0.05 and name == "niah"
                    told = f"{name:7} {found['pass']:6.3f}  {found['regressed']:9.3f}  {found['asked']:5.2f}"
                    right = "regressed" if drop else "pass"
                    if name == "niah" and "fixed" in shares and drop in (0, 0.10) and own == options.alike == 0:
                        told += f"  least {least(found[right], shares['fixed'][right], rule.alpha):.2f}"
                    print(f"{count:5,}  {own:5.1f}  {drop:5.2f}  {told}{'  above 5%' if false > 0.05 else ''}", flush=True)
    print(f"{broken} error rates of niah above 5%; {time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
