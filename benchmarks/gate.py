"""How often the gate of `niah compare` is right: false alarms and power, by simulation through the same code.

    python benchmarks/gate.py [--repetitions 1000] [--recall 0.9] [--margin 0.02] [--seed 0]

Each simulated trial is found with odds that depend on its text and its needle: a part that both models share (some needles are hard
for all), and a part of each model's own, which makes the differences within a text or a needle alike. The needles are dealt as in a
sweep (30 needles, 20 texts). Targets: `regressed` at no drop, and `pass` at a drop of the margin, at most 5%, whatever the own part.
`covers` is how often the interval holds the true difference (nominal 95%).
"""

import argparse
import math
import time

import numpy

from niah.report.points import Point
from niah.report.side import Costs, Side
from niah.report.verdict import Gate, judge
from niah.task.deal import deal

GRIDS = {200: (2, 5), 440: (2, 11), 1760: (8, 11)}
"""Pairs: lengths and depths, each cell with TEXTS trials."""
TEXTS, NEEDLES = 20, 30
SHARED = 0.7
OWN = (0.0, 0.5, 1.0)
"""Standard deviations, in log-odds, of what a text and of what a needle adds."""
DROPS = (0.0, 0.02, 0.05, 0.10)
FREE = Costs(answers=0, dollars=0.0, input_tokens=0, output_tokens=0, median_seconds=None, slow_seconds=None)


def log_odds(recall: float, spread: float) -> float:
    """What has this mean recall when texts and needles add noise of this standard deviation."""
    nodes, weights = numpy.polynomial.hermite_e.hermegauss(60)
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = (weights / (1 + numpy.exp(-(middle + spread * nodes)))).sum() / weights.sum()
        low, high = (middle, high) if mean < recall else (low, middle)
    return (low + high) / 2


class Design:
    """The trials of a sweep: text and needle of each."""

    def __init__(self, pairs: int):
        self.lengths, self.depths = GRIDS[pairs]
        dealt = deal(NEEDLES, self.lengths, self.depths, TEXTS, seed=0)
        index = numpy.indices(dealt.shape).reshape(3, -1)
        self.text, self.needle = index[2], dealt.reshape(-1)
        self.rows = [
            (f"{number:016x}", "text", 0, int(k), "shared", f"n{needle}", 1000 * 2 ** int(i), int(j) / self.depths, "off")
            for number, (i, j, k, needle) in enumerate(zip(*index, self.needle, strict=True))
        ]

    def side(self, name: str, hits: numpy.ndarray) -> Side:
        points = [Point(*row, "hit" if hit else "miss", float(hit)) for row, hit in zip(self.rows, hits, strict=True)]  # type: ignore[arg-type]
        return Side(name=name, model=name, points=points, conditions={}, costs=FREE, origin={})


def simulate(design: Design, drop: float, own: float, options: argparse.Namespace) -> dict[str, float]:
    """Shares of the verdicts, of intervals that hold the truth, and the mean of what the pairs are worth."""
    draw, gate, repetitions = numpy.random.default_rng(options.seed), Gate(margin=options.margin), options.repetitions
    middles = [log_odds(recall, math.sqrt(2 * SHARED**2 + 2 * own**2)) for recall in (options.recall, options.recall - drop)]
    shares = dict.fromkeys(("pass", "regressed", "inconclusive", "covers", "worth"), 0.0)
    for _ in range(repetitions):
        texts, needles = draw.normal(0, SHARED, TEXTS), draw.normal(0, SHARED, NEEDLES)
        sides: list[Side] = []
        for name, middle in zip(("base", "candidate"), middles, strict=True):
            odds = middle + (texts + draw.normal(0, own, TEXTS))[design.text] + (needles + draw.normal(0, own, NEEDLES))[design.needle]
            sides.append(design.side(name, draw.random(len(odds)) < 1 / (1 + numpy.exp(-odds))))
        verdict = judge(sides[0], sides[1], gate)
        found = verdict.comparison.difference
        assert found is not None
        shares[verdict.status] += 1 / repetitions
        shares["covers"] += (found.low <= -drop <= found.high) / repetitions
        shares["worth"] += found.worth / repetitions
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--recall", type=float, default=0.9, help="of the base")
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"base recall {options.recall}, margin {options.margin}, {options.repetitions} repetitions, shared {SHARED}")
    print("pairs    own   drop   pass  regressed  inconclusive  covers  worth")
    started, broken = time.process_time(), 0
    for pairs in GRIDS:
        design = Design(pairs)
        for own in OWN:
            for drop in DROPS:
                found = simulate(design, drop, own, options)
                told = f"{pairs:5,}  {own:5.1f}  {drop:5.2f}  {found['pass']:5.3f}  {found['regressed']:9.3f}"
                false = found["regressed"] if drop == 0 else found["pass"] if drop >= options.margin else 0
                broken += false > 0.05
                mark = "  above 5%" if false > 0.05 else ""
                print(f"{told}  {found['inconclusive']:12.3f}  {found['covers']:6.3f}  {found['worth']:5.0f}{mark}", flush=True)
    print(f"{broken} error rates above 5%; {time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
