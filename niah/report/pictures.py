"""Which pictures a report has: only those that have something to show."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from niah.errors import UsageError, did_you_mean
from niah.report import heatmap
from niah.report.clusters import difference
from niah.report.difference import draw_difference, same_trials
from niah.report.labels import length_label, recall_label
from niah.report.lines import draw_lines
from niah.report.points import Point, by_needle, by_text
from niah.report.stats import Results, Series, Summary, cells_of
from niah.report.verdict import signed_label
from niah.trial import fingerprint

KINDS = ("png", "svg")
"""Written unless something else is asked for."""
CURVES = "curves"
"""The name of the picture that every report with all pictures has."""


def kinds_of(text: str) -> tuple[str, ...]:
    """Kinds of files, as in "png,pdf"; UsageError for another one."""
    kinds = tuple(dict.fromkeys(part.strip().lower().removeprefix(".") for part in text.split(",") if part.strip()))
    for kind in kinds:
        if kind not in heatmap.KINDS:
            raise UsageError(f"pictures cannot be written as {kind!r}; {did_you_mean(kind, heatmap.KINDS)}")
    if not kinds:
        raise UsageError(f"a picture needs a kind of file: {', '.join(heatmap.KINDS)}")
    return kinds


def heatmaps(results: Results, folder: Path, facts: Sequence[str], kinds: Sequence[str] = KINDS) -> list[Path]:
    """heatmap.* with all series, and one more figure for each where there are several."""
    summaries = results.summaries
    panels = {
        series: heatmap.Panel(title=series.name, cells=cells, notes=[note(summaries[series])]) for series, cells in results.cells.items()
    }
    files = heatmap.draw(list(panels.values()), folder / "heatmap", title="Needle in a haystack", facts=facts, kinds=kinds)
    for series, stem in _stems(results, "heatmap").items() if len(panels) > 1 else ():
        files += heatmap.draw([panels[series]], folder / stem, facts=facts, kinds=kinds)
    return files


def others(results: Results, folder: Path, facts: Sequence[str], kinds: Sequence[str] = KINDS) -> list[Path]:
    """By corpus, where there are several; the difference, of exactly two series with trials in common; the lines."""
    files: list[Path] = []
    for series, stem in _stems(results, "corpora").items():
        files += _by_corpus(series, results.points[series], folder / stem, facts, kinds)
    if len(results.cells) == 2:
        files += _difference(results, folder / "difference", facts, kinds)
    return files + draw_lines(results, folder / CURVES, facts=facts, kinds=kinds)


def difference_note(pairs: Sequence[tuple[Point, Point]]) -> str:
    """The paired difference and its interval, in words."""
    scored = [(b, c) for b, c in pairs if b.scored and c.scored]
    bases = [b for b, _ in scored]
    found = difference([c.value - b.value for b, c in scored], by_text(bases), by_needle(bases))
    if found is None:
        return "no trial is scored on both sides"
    mean, low, high = (signed_label(value).replace("-", "−") for value in (found.mean, found.low, found.high))
    return f"paired difference {mean} (95%: {low} to {high}) · {found.trials:,} pairs"


def note(one: Summary) -> str:
    """The line under the title of a heatmap."""
    if one.recall is None or one.low is None or one.high is None:
        return "no scored trial"
    trials = "1 trial" if one.trials == 1 else f"{one.trials:,} trials"
    recall, low, high = (recall_label(value, 3) for value in (one.recall, one.low, one.high))
    reached = "none" if one.effective_length is None else length_label(one.effective_length)
    return f"recall {recall} (95%: {low} to {high}) · {trials} · effective length {reached}"


def slugs(names: Sequence[str]) -> list[str]:
    """Parts of file names for `names`, told apart by a hash where letters alone, upper or lower case, would not do."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") for name in names]
    count = Counter(slug.lower() for slug in plain)
    return [
        slug if 0 < len(slug) <= 60 and count[slug.lower()] == 1 else f"{slug[:60]}-{fingerprint(name)[:8]}".lstrip("-")
        for slug, name in zip(plain, names, strict=True)
    ]


def _stems(results: Results, name: str) -> Mapping[Series, str]:
    """The file of each series: the name alone where there is one."""
    every = list(results.cells)
    if len(every) == 1:
        return {every[0]: name}
    return {series: f"{name}-{slug}" for series, slug in zip(every, slugs([each.name for each in every]), strict=True)}


def _by_corpus(series: Series, points: Sequence[Point], path_stem: Path, facts: Sequence[str], kinds: Sequence[str]) -> list[Path]:
    members: dict[str, list[Point]] = {}
    for point in points:
        members.setdefault(point.corpus, []).append(point)
    if len(members) < 2:
        return []
    panels = [heatmap.Panel(title=corpus, cells=cells_of(members[corpus])) for corpus in sorted(members)]
    return heatmap.draw(panels, path_stem, title=series.name, facts=facts, kinds=kinds)


def _difference(results: Results, path_stem: Path, facts: Sequence[str], kinds: Sequence[str]) -> list[Path]:
    (base, theirs), (candidate, ours) = results.points.items()
    pairs = same_trials(theirs, ours)
    if not pairs:
        return []
    told = difference_note(pairs) + ("" if pairs[0][0].key == pairs[0][1].key else " · asked with different cues")
    names = (base.name, candidate.name)
    return draw_difference(theirs, ours, pairs, path_stem, names=names, note=told, facts=facts, kinds=kinds)
