"""The order in which a sweep asks that stops as soon as its verdict is certain: every beginning of it is fair to all."""

from niah.task.seeded import Draw


def balanced(lengths: int, depths: int, reshuffles: int, seed: int) -> list[tuple[int, int, int]]:
    """All (length, depth, reshuffle) by their numbers, in rounds of one trial for each reshuffle.

    The reshuffles go through one seeded order of the cells, each from another place in it, so that a few rounds come to all cells. That
    order takes the cells diagonal by diagonal: each has every length once, or every depth where there are fewer of these.
    """
    draw = Draw("until settled", seed, lengths, depths, reshuffles)
    fewer, more = sorted((lengths, depths))
    rows, columns = draw.permutation(fewer), draw.permutation(more)
    cells = [(rows[i], columns[(i + diagonal) % more]) for diagonal in draw.permutation(more) for i in range(fewer)]
    if lengths > depths:
        cells = [(i, j) for j, i in cells]
    texts, count = draw.permutation(reshuffles), len(cells)
    return [(*cells[(n * count // reshuffles + k) % count], text) for k in range(count) for n, text in enumerate(texts)]
