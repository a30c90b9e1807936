"""Facility location: choose k of many candidates so that the sum of each instance's best gain is largest.

Who offers what to whom is one table, ``gains[a, n]``: what instance n has from candidate a (weight times IoU, or whatever
adds up). The sum of best gains is monotone and submodular, so the greedy choice reaches 1 - 1/e of the best (Nemhauser,
Wolsey and Fisher 1978) and its marginal gains only fall, which makes it lazy (Minoux 1978); swaps of one chosen candidate
for one that is not then lead to a local optimum (Teitz and Bart 1968; all swaps in one pass, Schubert and Rousseeuw 2021).

How good a choice can be at all is :mod:`detect.anchors.facility_bound`'s.

Sums are NumPy's own and not BLAS's, whose threads add up in another order on another machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

SMALLEST_SWAP = 1e-9  # relative: a swap that gains less is none
BLOCK = 2**18  # entries of the table at once, which stay in the processor's cache


@dataclass(frozen=True)
class Choice:
    """Chosen candidates (rows of the table, in the order they were chosen), and what they are worth, costs taken off."""

    rows: tuple[int, ...]
    value: float


def choose(
    gains: Float64[ndarray, "a n"],
    count: int,
    *,
    fixed: Sequence[int] = (),
    costs: Float64[ndarray, " a"] | None = None,
) -> Choice:
    """The best choice of candidates that greed and swaps find; ties go to the first.

    Args:
        gains: what each instance has from each candidate, at least 0.
        count: how many to choose, those that are fixed among them; fewer where no further one is worth its cost.
        fixed: rows that are chosen in any case.
        costs: of each candidate, in units of gain.

    Raises:
        ValueError: ``count`` is below the number fixed or above that of candidates.

    >>> gains = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    >>> choose(gains, 2)
    Choice(rows=(1, 2), value=6.0)
    >>> choose(gains, 2, fixed=[0])
    Choice(rows=(0, 1), value=5.0)
    >>> choose(gains, 3, costs=np.array([1.5, 1.5, 1.5]))
    Choice(rows=(1, 2), value=3.0)
    """
    if not len(fixed) <= count <= len(gains):
        raise ValueError(f"need {len(fixed)} fixed <= count <= {len(gains)} candidates, got {count=}")
    costs = np.zeros(len(gains)) if costs is None else costs
    chosen = choose_greedily(gains, count, fixed=fixed, costs=costs)
    return improve_by_swaps(gains, chosen.rows, num_fixed=len(fixed), costs=costs)


def choose_greedily(
    gains: Float64[ndarray, "a n"],
    counts: int | Sequence[int],
    *,
    fixed: Sequence[int],
    costs: Float64[ndarray, " a"],
    groups: Int64[ndarray, " a"] | None = None,
) -> Choice:
    """Each time the candidate that adds most, of those groups that have room; all are one group where none are given.

    A candidate is looked at again only when what it once added still leads.
    """
    group_of = [0] * len(gains) if groups is None else groups.tolist()
    room = [counts] if isinstance(counts, int) else list(counts)
    rows = list(fixed)
    for row in rows:
        room[group_of[row]] -= 1
    best = gains[rows].max(axis=0, initial=0.0)
    value = float(best.sum() - costs[rows].sum())
    added = offers_above(gains, best) - costs
    queue = [(-worth, row) for row, worth in enumerate(added.tolist()) if row not in rows]
    heapq.heapify(queue)
    while queue and any(room):
        row = queue[0][1]
        if not room[group_of[row]]:
            heapq.heappop(queue)
            continue
        worth = float(np.maximum(gains[row] - best, 0).sum() - costs[row])
        heapq.heapreplace(queue, (-worth, row))
        if queue[0][1] != row:
            continue
        if worth < 0:
            break
        heapq.heappop(queue)
        rows.append(row)
        room[group_of[row]] -= 1
        value += worth
        best = np.maximum(best, gains[row])
    return Choice(tuple(rows), value)


def choose_by_removal(
    gains: Float64[ndarray, "a n"], rows: Sequence[int], count: int, *, num_fixed: int = 0
) -> tuple[int, ...]:
    """Of more rows than are wanted, time and again the one that is missed least is left out; the first ``num_fixed`` stay.

    >>> choose_by_removal(np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), [0, 1, 2], 2)
    (1, 2)
    """
    chosen = list(rows)
    while len(chosen) > count:
        nearest, first, second = _two_best(gains, chosen)
        missed = np.bincount(nearest, first - second, len(chosen))[num_fixed:]
        del chosen[num_fixed + int(np.argmin(missed))]
    return tuple(chosen)


def improve_by_swaps(
    gains: Float64[ndarray, "a n"],
    rows: Sequence[int],
    *,
    num_fixed: int = 0,
    costs: Float64[ndarray, " a"] | None = None,
    groups: Int64[ndarray, " a"] | None = None,
) -> Choice:
    """The best swap of a chosen candidate for another of its group, until none gains; the first ``num_fixed`` rows stay."""
    costs = np.zeros(len(gains)) if costs is None else costs
    groups = np.zeros(len(gains), np.int64) if groups is None else groups
    chosen = list(rows)
    while True:
        value = _value(gains, chosen, costs)
        if len(chosen) == num_fixed:
            return Choice(tuple(chosen), value)
        gained = _swap_gains(gains, chosen, costs)[:, num_fixed:]
        gained[chosen] = -np.inf
        gained[groups[:, None] != groups[chosen[num_fixed:]]] = -np.inf
        row, position = divmod(int(np.argmax(gained)), gained.shape[1])
        if not gained[row, position] > SMALLEST_SWAP * abs(value):
            return Choice(tuple(chosen), value)
        chosen[num_fixed + position] = row


def likely_swaps(
    gains: Float64[ndarray, "a n"], rows: Sequence[int], *, num_fixed: int = 0, count: int = 6
) -> list[tuple[int, int]]:
    """For each chosen candidate that is not fixed the swaps that lose least: (position among the chosen, row of the table).

    They are where to look on from a local optimum, when a swap can be improved once it is made.

    >>> likely_swaps(np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), [1, 2], count=1)
    [(0, 0), (1, 0)]
    """
    gained = _swap_gains(gains, list(rows), np.zeros(len(gains)))
    gained[list(rows)] = -np.inf
    best = np.argsort(-gained, axis=0, kind="stable")[: min(count, len(gains) - len(rows))]
    return [(position, row) for position in range(num_fixed, len(rows)) for row in best[:, position].tolist()]


def offers_above(gains: Float64[ndarray, "a n"], above: Float64[ndarray, " n"]) -> Float64[ndarray, " a"]:
    """For each candidate the sum of what it offers above something: multipliers, or what is there.

    >>> offers_above(np.array([[3.0, 0.0], [2.0, 2.0]]), np.array([1.0, 1.0]))
    array([2., 2.])
    """
    total = np.empty(len(gains))
    for rows in _blocks(gains):
        offered = gains[rows] - above
        total[rows] = np.maximum(offered, 0, out=offered).sum(axis=1)
    return total


def _swap_gains(
    gains: Float64[ndarray, "a n"], chosen: list[int], costs: Float64[ndarray, " a"]
) -> Float64[ndarray, "a k"]:
    """What each swap of a chosen candidate (column) for another (row) adds.

    An instance whose best is the one taken away has the better of the new one and its second best.
    """
    nearest, first, second = _two_best(gains, chosen)
    order = np.argsort(nearest, kind="stable")
    ends = np.cumsum(np.bincount(nearest, minlength=len(chosen)))
    result = np.empty((len(gains), len(chosen)))
    for rows in _blocks(gains):
        block = gains[rows]
        lost = np.cumsum((first - np.clip(block, second, first))[:, order], axis=1)
        lost = np.concatenate([np.zeros((len(lost), 1)), lost], axis=1)
        added = np.maximum(block - first, 0).sum(axis=1)
        result[rows] = added[:, None] - np.diff(lost[:, np.append(0, ends)], axis=1)
    return result - costs[:, None] + costs[chosen]


def _two_best(
    gains: Float64[ndarray, "a n"], chosen: list[int]
) -> tuple[Int64[ndarray, " n"], Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """For each instance: which of the chosen is its best, what that gives, and what the second best gives, at least 0."""
    own = np.concatenate([gains[chosen], np.zeros((1, gains.shape[1]))])
    nearest, instances = own[:-1].argmax(axis=0), np.arange(gains.shape[1])
    first = own[nearest, instances]
    own[nearest, instances] = -1.0
    return nearest, first, own.max(axis=0)


def _value(gains: Float64[ndarray, "a n"], chosen: list[int], costs: Float64[ndarray, " a"]) -> float:
    return float(gains[chosen].max(axis=0, initial=0.0).sum() - costs[chosen].sum())


def _blocks(gains: Float64[ndarray, "a n"]) -> list[slice]:
    rows = max(BLOCK // max(gains.shape[1], 1), 1)
    return [slice(start, start + rows) for start in range(0, len(gains), rows)]
