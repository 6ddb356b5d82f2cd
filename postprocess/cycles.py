"""Rings out of `next` pointers: ranks the members of every cycle of a permutation in linear time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]

_SPREAD = np.uint32(2654435761)  # odd, so that multiplying modulo 2**32 permutes the numbers


def rank_cycles(following: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return cycle number and position of each member, and the length of each cycle.

    Keeps only members whose scrambled number is a local minimum, walks from each to the next one in
    lockstep, and repeats on those until each cycle is one member: about a third is left each time and walks
    are short, so the work is linear and there is no Python loop over members.

    Args:
        following: a permutation of `0..n-1`, `(n,)`.

    Returns:
        cycle `(n,)`, position from an arbitrary but fixed start `(n,)`, length `(cycles,)`.
    """
    levels: list[tuple[IntArray, IntArray]] = []
    weight = np.ones(len(following), dtype=np.int64)
    while True:
        rank = np.arange(len(following), dtype=np.uint32) * _SPREAD
        before = np.empty_like(rank)
        before[following] = rank
        is_anchor = (rank <= rank[following]) & (rank <= before)
        anchors = np.flatnonzero(is_anchor)
        if len(anchors) == len(following):
            break
        index = np.cumsum(is_anchor, dtype=np.int64) - 1
        owner = np.where(is_anchor, index, -1)
        offset = np.zeros(len(following), dtype=np.int64)
        jump = np.empty(len(anchors), dtype=np.int64)
        total = np.empty(len(anchors), dtype=np.int64)
        walker, node, distance = np.arange(len(anchors)), following[anchors], weight[anchors]
        while len(walker):
            done = is_anchor[node]
            jump[walker[done]] = index[node[done]]
            total[walker[done]] = distance[done]
            walker, node, distance = walker[~done], node[~done], distance[~done]
            owner[node] = walker
            offset[node] = distance
            distance = distance + weight[node]
            node = following[node]
        levels.append((owner, offset))
        following, weight = jump, total
    cycle = np.arange(len(following))
    position = np.zeros(len(following), dtype=np.int64)
    for owner, offset in reversed(levels):
        cycle, position = cycle[owner], position[owner] + offset
    return cycle, position, weight
