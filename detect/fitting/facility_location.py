"""Facility location: choose k of many candidates so that the sum of each instance's best utility is largest.

One table holds the utility of each candidate for each instance: ``utility[a, n]``, weight times IoU or any sum. The sum
of best utilities is monotone and submodular, so the greedy choice reaches 1 - 1/e of the best (Nemhauser, Wolsey and
Fisher 1978) and marginal utilities only fall, which makes it lazy (Minoux 1978). Swaps of one chosen candidate for another
then lead to a local optimum (Teitz and Bart 1968; all swaps in one pass, Schubert and Rousseeuw 2021).

Upper bound. For any dual variables, one of at least 0 for each instance, no choice of k candidates exceeds

    sum of dual variables + sum of the k largest f(a),    f(a) = sum over n of max(utility[a, n] - dual[n], 0)

since an instance's best utility is at most its dual plus the excess of any chosen candidate over it; f(a) is the
candidate's reduced utility. The least such bound is the value of the linear relaxation, which opens candidates in part
(Cornuejols, Fisher and Nemhauser 1977). Where candidates fall into groups with a number for each, the largest f(a) of
each group counts.

Fixed candidates need no rows: subtract their utility from the table and clip at 0.
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
FADED = 1e-6  # candidates with a smaller opening take no part in finding dual variables
SETTLED = 8  # steps between two searches for such candidates


@dataclass(frozen=True)
class Choice:
    """Chosen candidates (rows of the table, in the order they were chosen) and their value, costs subtracted."""

    rows: tuple[int, ...]
    value: float


def choose_greedily(
    utility: Float64[ndarray, "a n"],
    counts: int | Sequence[int],
    *,
    start: Sequence[int] = (),
    costs: Float64[ndarray, " a"] | None = None,
    groups: Int64[ndarray, " a"] | None = None,
) -> Choice:
    """Add the candidate that adds most, until every group is full or no candidate is worth its cost.

    A candidate is evaluated again only while its previous gain is the largest. Ties go to the first.

    Args:
        utility: utility of each candidate for each instance, at least 0.
        counts: number to choose, or one number for each group.
        start: rows that are chosen already.
        costs: of each candidate, in units of utility.
        groups: the group of each candidate; one for all by default.

    >>> utility = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    >>> choose_greedily(utility, 2)
    Choice(rows=(1, 2), value=6.0)
    >>> choose_greedily(utility, 2, start=[0])
    Choice(rows=(0, 1), value=5.0)
    """
    costs = np.zeros(len(utility)) if costs is None else costs
    group_of = [0] * len(utility) if groups is None else groups.tolist()
    room = [counts] if isinstance(counts, int) else list(counts)
    rows = list(start)
    for row in rows:
        room[group_of[row]] -= 1
    best = utility[rows].max(axis=0, initial=0.0)
    value = float(best.sum() - costs[rows].sum())
    added = reduced_utility(utility, best) - costs
    queue = [(-worth, row) for row, worth in enumerate(added.tolist()) if row not in rows]
    heapq.heapify(queue)
    while queue and any(room):
        row = queue[0][1]
        if not room[group_of[row]]:
            heapq.heappop(queue)
            continue
        worth = float(np.maximum(utility[row] - best, 0).sum() - costs[row])
        heapq.heapreplace(queue, (-worth, row))
        if queue[0][1] != row:
            continue
        if worth < 0:
            break
        heapq.heappop(queue)
        rows.append(row)
        room[group_of[row]] -= 1
        value += worth
        best = np.maximum(best, utility[row])
    return Choice(tuple(rows), value)


def improve_by_swaps(
    utility: Float64[ndarray, "a n"],
    rows: Sequence[int],
    *,
    costs: Float64[ndarray, " a"] | None = None,
    groups: Int64[ndarray, " a"] | None = None,
) -> Choice:
    """Make the best swap of a chosen candidate for another of its group, until no swap gains."""
    costs = np.zeros(len(utility)) if costs is None else costs
    chosen = list(rows)
    while True:
        value = float(utility[chosen].max(axis=0, initial=0.0).sum() - costs[chosen].sum())
        if not chosen:
            return Choice((), value)
        gained = _allowed_swaps(utility, chosen, costs, groups)
        row, position = divmod(int(np.argmax(gained)), gained.shape[1])
        if not gained[row, position] > SMALLEST_SWAP * abs(value):
            return Choice(tuple(chosen), value)
        chosen[position] = row


def likely_swaps(
    utility: Float64[ndarray, "a n"],
    rows: Sequence[int],
    *,
    costs: Float64[ndarray, " a"] | None = None,
    groups: Int64[ndarray, " a"] | None = None,
    count: int = 6,
) -> list[tuple[int, int]]:
    """For each chosen candidate the swaps that lose least: (position among the chosen, row of the table).

    They are where to go on from a local optimum, when a swap can be improved once it is made.

    >>> likely_swaps(np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), [1, 2], count=1)
    [(0, 0), (1, 0)]
    """
    gained = _allowed_swaps(utility, list(rows), costs, groups)
    best = np.argsort(-gained, axis=0, kind="stable")[:count]
    return [(at, row) for at in range(len(rows)) for row in best[:, at].tolist() if gained[row, at] > -np.inf]


def reduced_utility(utility: Float64[ndarray, "a n"], above: Float64[ndarray, " n"]) -> Float64[ndarray, " a"]:
    """For each candidate, the sum of its utility above the dual variables, or above the instances' current utility.

    >>> reduced_utility(np.array([[3.0, 0.0], [2.0, 2.0]]), np.array([1.0, 1.0]))
    array([2., 2.])
    """
    total = np.empty(len(utility))
    for rows in _blocks(utility):
        given = utility[rows] - above
        total[rows] = np.maximum(given, 0, out=given).sum(axis=1)
    return total


def bound_of_choice(
    utility: Float64[ndarray, "a n"],
    duals: Float64[ndarray, " n"],
    count: int,
    *,
    costs: Float64[ndarray, " a"] | None = None,
) -> float:
    """The value that no choice of ``count`` of these candidates exceeds.

    >>> utility = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> bound_of_choice(utility, np.array([2.0, 0.0, 0.0]), 2)  # 2 + the two largest of 1, 2, 1
    5.0
    """
    worth = reduced_utility(utility, duals) - (0 if costs is None else costs)
    return float(duals.sum() + np.sort(np.maximum(worth, 0))[::-1][:count].sum())


def find_duals(
    utility: Float64[ndarray, "a n"],
    counts: int | Sequence[int],
    openings: Float64[ndarray, " a"],
    *,
    groups: Int64[ndarray, " a"] | None = None,
    costs: Float64[ndarray, " a"] | None = None,
    steps: int = 100,
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " a"]]:
    """Dual variables whose bound is close to the least there is, and the candidates' LP openings.

    Each instance is served by fractional candidates in order of utility until their openings add up to one; its dual is
    the last utility used. Openings are then rescaled by the reduced utilities above the mean of the duals so far, in which
    later duals weigh more: the mean damps oscillation.

    Args:
        utility: as in :func:`choose_greedily`.
        counts: number to choose, or one number for each group.
        openings: where to start, on any scale; more than 0 for every candidate that may be opened.
        groups: the group of each candidate.
        costs: as in :func:`choose_greedily`.
        steps: number of updates.

    >>> utility = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> duals, openings = find_duals(utility, [1, 1], np.ones(3), groups=np.array([0, 0, 1]))
    >>> duals.round(2), openings.round(2)  # the second candidate, of the first group
    (array([2., 0., 1.]), array([0., 1., 1.]))
    """
    numbers = [counts] if isinstance(counts, int) else list(counts)
    groups = np.zeros(len(utility), np.int64) if groups is None else groups
    members = [(np.flatnonzero(groups == group), number) for group, number in enumerate(numbers) if number]
    costs = np.zeros(len(utility)) if costs is None else costs
    mean = best = np.zeros(utility.shape[1])
    least = np.inf
    openings = _scaled(openings, members)
    active = order = np.zeros(0, np.int64)
    for step in range(steps if members else 0):
        if step % SETTLED == 0:
            active = np.flatnonzero(openings > FADED)
            order = np.argsort(-utility[active], axis=0, kind="stable")
        mean = mean + (_last_used(utility, openings, active, order) - mean) * 2 / (step + 2)
        worth = np.maximum(reduced_utility(utility, mean) - costs, 0)
        bound = float(mean.sum() + sum(number * worth[rows].max(initial=0.0) for rows, number in members))
        if bound < least:
            best, least = mean, bound
        for rows, number in members:
            scale = max(float((openings[rows] * worth[rows]).sum()) / number, 1e-300)
            openings[rows] *= np.clip(worth[rows] / scale, 0.5, 2)
        openings = _scaled(openings, members)
    return best, openings


def _allowed_swaps(
    utility: Float64[ndarray, "a n"],
    chosen: list[int],
    costs: Float64[ndarray, " a"] | None,
    groups: Int64[ndarray, " a"] | None,
) -> Float64[ndarray, "a k"]:
    """What each swap of a chosen candidate (column) for another of its group (row) adds; of other swaps minus infinity."""
    gained = _swap_values(utility, chosen)
    if costs is not None:
        gained += costs[chosen] - costs[:, None]
    gained[chosen] = -np.inf
    if groups is not None:
        gained[groups[:, None] != groups[chosen]] = -np.inf
    return gained


def _swap_values(utility: Float64[ndarray, "a n"], chosen: list[int]) -> Float64[ndarray, "a k"]:
    """What each swap adds, costs apart.

    An instance that loses its best candidate has the better of the new one and its second best.
    """
    own = np.concatenate([utility[chosen], np.zeros((1, utility.shape[1]))])
    nearest, instances = own[:-1].argmax(axis=0), np.arange(utility.shape[1])
    first = own[nearest, instances]
    own[nearest, instances] = -1.0
    second = own.max(axis=0)
    order = np.argsort(nearest, kind="stable")
    ends = np.cumsum(np.bincount(nearest, minlength=len(chosen)))
    result = np.empty((len(utility), len(chosen)))
    for rows in _blocks(utility):
        block = utility[rows]
        lost = np.cumsum((first - np.clip(block, second, first))[:, order], axis=1)
        lost = np.concatenate([np.zeros((len(lost), 1)), lost], axis=1)
        added = np.maximum(block - first, 0).sum(axis=1)
        result[rows] = added[:, None] - np.diff(lost[:, np.append(0, ends)], axis=1)
    return result


def _scaled(openings: Float64[ndarray, " a"], members: Sequence[tuple[ndarray, int]]) -> Float64[ndarray, " a"]:
    """Openings that add up to the number of each group, none above 1."""
    scaled = np.zeros(len(openings))
    for rows, number in members:
        scaled[rows] = np.minimum(openings[rows] * (number / max(openings[rows].sum(), 1e-300)), 1)
    return scaled


def _last_used(
    utility: Float64[ndarray, "a n"],
    openings: Float64[ndarray, " a"],
    active: Int64[ndarray, " m"],
    order: Int64[ndarray, "m n"],
) -> Float64[ndarray, " n"]:
    """The utility at which each instance has been served once; 0 where all openings together do not suffice."""
    share = np.cumsum(openings[active][order], axis=0)
    last = (share < 1 - 1e-9).sum(axis=0)
    enough = last < len(active)
    instances = np.arange(utility.shape[1])
    found = utility[active[order[last.clip(max=len(active) - 1), instances]], instances]
    return np.where(enough, found, 0.0)


def _blocks(utility: Float64[ndarray, "a n"]) -> list[slice]:
    rows = max(BLOCK // max(utility.shape[1], 1), 1)
    return [slice(start, start + rows) for start in range(0, len(utility), rows)]
