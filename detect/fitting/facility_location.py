"""Facility location: choose k of many candidates so that the sum of each instance's best utility is largest.

One table holds the utility of each candidate for each instance: ``utility[a, n]``, at least 0. Candidates may have a cost,
in units of utility, and fall into groups with a number to choose for each; by default they cost nothing and form one
group. The sum of best utilities is monotone and submodular, so the greedy choice reaches 1 - 1/e of the best (Nemhauser,
Wolsey and Fisher 1978) and marginal utilities only fall, which makes it lazy (Minoux 1978). Swaps of one chosen candidate
for another then lead to a local optimum (Teitz and Bart 1968; all swaps in one pass, Schubert and Rousseeuw 2021).

Upper bound. For any dual variables, one of at least 0 for each instance, no choice of k candidates exceeds

    sum of dual variables + sum of the k largest f(a),    f(a) = sum over n of max(utility[a, n] - dual[n], 0)

since an instance's best utility is at most its dual plus the excess of any chosen candidate over it; f(a) is the
candidate's reduced utility. The least such bound is the value of the linear relaxation, which opens candidates in part
(Cornuejols, Fisher and Nemhauser 1977). With groups, the largest f(a) of each group count.

Fixed candidates need no rows: subtract their utility from the table and clip at 0.
Sums are NumPy's own and not BLAS's, whose threads add up in another order on another machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.ops.box_arrays import row_blocks
from detect.ops.time_limit import is_over

SMALLEST_SWAP = 1e-9  # relative gain of a swap
BLOCK = 2**18  # entries of the table at once, which stay in the processor's cache
FADED = 1e-6  # candidates with a smaller opening take no part in finding dual variables
SETTLED = 8  # steps between two searches for such candidates

Utility = Float64[ndarray, "a n"]
PerCandidate = Float64[ndarray, " a"]
PerInstance = Float64[ndarray, " n"]
Groups = Int64[ndarray, " a"]


@dataclass(frozen=True)
class Choice:
    """Chosen candidates (rows of the table, in the order they were chosen) and their value, costs subtracted."""

    rows: tuple[int, ...]
    value: float


def choose_greedily(
    utility: Utility,
    counts: int | Sequence[int],
    *,
    start: Sequence[int] = (),
    costs: PerCandidate | None = None,
    groups: Groups | None = None,
) -> Choice:
    """Add the candidate that adds most to ``start``, until every group is full or no candidate is worth its cost.

    A candidate is evaluated again only while its previous gain is the largest. Ties go to the first.

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
    utility: Utility, rows: Sequence[int], *, costs: PerCandidate | None = None, groups: Groups | None = None
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
        if not gained[row, position] > SMALLEST_SWAP * abs(value) or is_over():
            return Choice(tuple(chosen), value)
        chosen[position] = row


def likely_swaps(
    utility: Utility,
    rows: Sequence[int],
    *,
    costs: PerCandidate | None = None,
    groups: Groups | None = None,
    count: int = 6,
) -> list[tuple[int, int]]:
    """For each chosen candidate, the ``count`` swaps that lose least: (position among the chosen, row of the table).

    A search can go on from a local optimum with these if a swap can be improved after it is made.

    >>> likely_swaps(np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), [1, 2], count=1)
    [(0, 0), (1, 0)]
    """
    gained = _allowed_swaps(utility, list(rows), costs, groups)
    best = np.argsort(-gained, axis=0, kind="stable")[:count]
    return [(at, row) for at in range(len(rows)) for row in best[:, at].tolist() if gained[row, at] > -np.inf]


def reduced_utility(utility: Utility, above: PerInstance) -> PerCandidate:
    """For each candidate, the sum of its utility above dual variables, or above the current utility of the instances.

    >>> reduced_utility(np.array([[3.0, 0.0], [2.0, 2.0]]), np.array([1.0, 1.0]))
    array([2., 2.])
    """
    total = np.empty(len(utility))
    for rows in _blocks(utility):
        given = utility[rows] - above
        total[rows] = np.maximum(given, 0, out=given).sum(axis=1)
    return total


def find_duals(
    utility: Utility,
    counts: int | Sequence[int],
    openings: PerCandidate,
    *,
    groups: Groups | None = None,
    costs: PerCandidate | None = None,
    steps: int = 100,
) -> tuple[PerInstance, PerCandidate]:
    """Dual variables whose bound is close to the least there is, and the candidates' LP openings.

    Each instance is served by fractional candidates in order of utility until their openings add up to one; its dual is
    the last utility used. Openings are then rescaled by the reduced utilities above the mean of the duals so far, in which
    later duals weigh more: the mean damps oscillation.

    ``openings`` are where to start, on any scale; more than 0 for every candidate that may be opened.

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
        if is_over():
            break
    return best, openings


def _allowed_swaps(
    utility: Utility, chosen: list[int], costs: PerCandidate | None, groups: Groups | None
) -> Float64[ndarray, "a k"]:
    """The gain of each swap of a chosen candidate (column) for another of its group (row); other swaps: minus infinity."""
    gained = _swap_values(utility, chosen)
    if costs is not None:
        gained += costs[chosen] - costs[:, None]
    gained[chosen] = -np.inf
    if groups is not None:
        gained[groups[:, None] != groups[chosen]] = -np.inf
    return gained


def _swap_values(utility: Utility, chosen: list[int]) -> Float64[ndarray, "a k"]:
    """The gain of each swap without costs: an instance that loses its best candidate takes the new one or its second."""
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


def _scaled(openings: PerCandidate, members: Sequence[tuple[ndarray, int]]) -> PerCandidate:
    """Openings that add up to the number of each group, none above 1."""
    scaled = np.zeros(len(openings))
    for rows, number in members:
        scaled[rows] = np.minimum(openings[rows] * (number / max(openings[rows].sum(), 1e-300)), 1)
    return scaled


def _last_used(
    utility: Utility, openings: PerCandidate, active: Int64[ndarray, " m"], order: Int64[ndarray, "m n"]
) -> PerInstance:
    """The utility at which each instance has been served once; 0 where all openings together do not suffice."""
    share = np.cumsum(openings[active][order], axis=0)
    last = (share < 1 - 1e-9).sum(axis=0)
    instances = np.arange(utility.shape[1])
    found = utility[active[order[last.clip(max=len(active) - 1), instances]], instances]
    return np.where(last < len(active), found, 0.0)


def _blocks(utility: Utility) -> Iterator[slice]:
    return row_blocks(len(utility), max(BLOCK // max(utility.shape[1], 1), 1))
