"""Deals needles to trials so that each is used equally often: at each length, at each depth, in each cell and in all.

Equally often means: the counts of any two needles differ by at most one. A sweep is a bipartite multigraph (lengths against
depths, one edge a trial) and a deal an edge colouring; that a balanced one always exists is a theorem of D. de Werra
("Balanced schedules", INFOR 9, 1971). It is found by splitting the edges of two colours anew along Euler trails, which
balances the two at every node, until no pair of colours is uneven.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from niah.task.seeded import Draw

Edge = tuple[int, int]


def deal(needles: int, lengths: int, depths: int, reshuffles: int, seed: int) -> NDArray[np.int64]:
    """The number of the needle for each (length, depth, reshuffle), as an array of that shape."""
    cells = [(i, j) for i in range(lengths) for j in range(depths)]
    colours = min(needles, len(cells) * reshuffles)
    holders = {cell: [((cell[0] + cell[1]) * reshuffles + r) % colours for r in range(reshuffles)] for cell in cells}
    _Balance(holders, colours, lengths, depths).reach()
    draw = Draw("deal", seed, needles, lengths, depths, reshuffles)
    needle_of = draw.permutation(needles)
    dealt = np.empty((lengths, depths, reshuffles), dtype=np.int64)
    for cell in cells:
        held = sorted(holders[cell])
        dealt[cell] = [needle_of[held[k]] for k in draw.permutation(reshuffles)]
    return dealt


class _Balance:
    """Edges and their colours, and how often each colour stands at each node (all, length, depth, cell)."""

    def __init__(self, holders: dict[Edge, list[int]], colours: int, lengths: int, depths: int):
        self._holders = holders
        self._colours = colours
        self._lengths, self._depths = lengths, depths
        self._counts = np.zeros((colours, 1 + lengths + depths + lengths * depths), dtype=np.int64)
        for edge, held in holders.items():
            for colour in held:
                self._add(colour, edge)

    def reach(self) -> None:
        """Split pairs of colours anew until none is uneven at any node."""
        uneven = True
        while uneven:
            uneven = False
            for a in range(self._colours):
                for b in np.flatnonzero((np.abs(self._counts - self._counts[a]) > 1).any(axis=1)).tolist():
                    if (np.abs(self._counts[b] - self._counts[a]) > 1).any():
                        self._split(a, b)
                        uneven = True

    def _split(self, a: int, b: int) -> None:
        """Give the edges of the colours a and b to a and b anew, evenly at every node."""
        self._counts[[a, b]] = 0
        single: list[Edge] = []
        for edge, held in self._holders.items():
            mine = [k for k, colour in enumerate(held) if colour in (a, b)]
            if len(mine) % 2:
                held[mine.pop()] = -1
                single.append(edge)
            for n, k in enumerate(mine):
                held[k] = (a, b)[n % 2]
                self._add(held[k], edge)
        for trail in _trails(single):
            first = int(self._counts[a, 0] > self._counts[b, 0])
            for n, edge in enumerate(trail):
                held, colour = self._holders[edge], (a, b)[(first + n) % 2]
                held[held.index(-1)] = colour
                self._add(colour, edge)

    def _add(self, colour: int, edge: Edge) -> None:
        i, j = edge
        for node in (0, 1 + i, 1 + self._lengths + j, 1 + self._lengths + self._depths + i * self._depths + j):
            self._counts[colour, node] += 1


def _trails(edges: list[Edge]) -> Iterator[list[Edge]]:
    """The edges of a simple bipartite graph as trails; each node of odd degree ends exactly one of them."""
    near: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    for i, j in edges:
        near["length", i].add(("depth", j))
        near["depth", j].add(("length", i))
    for odd_only in (True, False):
        for start in sorted(near):
            while near[start] and (not odd_only or len(near[start]) % 2):
                trail: list[Edge] = []
                node = start
                while near[node]:
                    following = min(near[node])
                    near[node].discard(following)
                    near[following].discard(node)
                    trail.append((node[1], following[1]) if node[0] == "length" else (following[1], node[1]))
                    node = following
                yield trail
