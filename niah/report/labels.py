"""How numbers and names read in heatmaps and tables."""

from collections.abc import Mapping, Sequence

from niah.report.stats import Lost


def length_label(length: int, digits: int = 3) -> str:
    """4000 as "4k", 1500 as "1.5k", 1000000 as "1M"."""
    rounded = float(f"{length:.{digits}g}")
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if rounded >= unit:
            return f"{rounded / unit:.{digits}g}{name}"
    return f"{rounded:.{digits}g}"


def length_labels(lengths: Sequence[int]) -> list[str]:
    """Labels of different lengths, with as many digits as it takes to tell them apart."""
    return next(labels for digits in range(3, 20) if len(set(labels := [length_label(n, digits) for n in lengths])) == len(lengths))


def depth_labels(depths: Sequence[float]) -> list[str]:
    """Fractions as percent, with as many decimals as it takes to tell them apart and to be right to 0.05 percent."""
    decimals = 0
    while decimals < 12 and (
        len({round(100 * depth, decimals) for depth in depths}) < len(depths)
        or any(abs(round(100 * depth, decimals) - 100 * depth) > 0.05 for depth in depths)
    ):
        decimals += 1
    return [f"{round(100 * depth, decimals):.12g}%" for depth in depths]


def recall_label(recall: float, decimals: int = 2) -> str:
    """A recall for people; 1.00 means that nothing was missed, and 0.00 that all was: what only rounds to them is ">0.99", "<0.01"."""
    step = 10**-decimals
    label = f"{recall:.{decimals}f}"
    if recall < 1 and float(label) == 1:
        return f">{1 - step:.{decimals}f}"
    if recall > 0 and float(label) == 0:
        return f"<{step:.{decimals}f}"
    return label


def lost_labels(lost: Mapping[Lost, int] | Mapping[str, int]) -> list[str]:
    """ "1 error", "3 refused" ..."""
    return [f"{count:,} {'error' if name == 'errors' and count == 1 else name}" for name, count in lost.items()]


def printable(text: str) -> str:
    """One line without what a terminal would obey, XML cannot hold or UTF-8 cannot write."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))
