"""Facility location: choose k columns of anything so that the sum of each instance's best gain is largest.

Who offers what to whom is one table, ``gains[a, n]``: what instance n has from candidate a (weight times IoU, or whatever
adds up). The sum of best gains is monotone and submodular, so the greedy choice reaches 1 - 1/e of the best (Nemhauser,
Wolsey and Fisher 1978) and its marginal gains only fall, which makes it lazy (Minoux 1978); swaps of one chosen candidate
for one that is not then lead to a local optimum (Teitz and Bart 1968; all swaps in one pass, Schubert and Rousseeuw 2021).

**How good it can be at all.** For any multipliers, one of at least 0 for each instance, no choice of k candidates exceeds

    sum of multipliers + sum of the k largest f(a),    f(a) = sum over n of max(gains[a, n] - multiplier[n], 0)

since an instance's best gain is at most its multiplier plus what any chosen candidate offers above it. The least such bound
is the value of the linear relaxation, in which candidates are opened in part (Cornuejols, Fisher and Nemhauser 1977).

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
FADED = 1e-6  # a candidate opened by less takes no part in finding the multipliers
SETTLED = 8  # steps after which the opened candidates are looked through for such


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
    gains: Float64[ndarray, "a n"], count: int, *, fixed: Sequence[int], costs: Float64[ndarray, " a"]
) -> Choice:
    """Each time the candidate that adds most. A candidate is looked at again only when what it once added still leads."""
    rows = list(fixed)
    best = gains[rows].max(axis=0, initial=0.0)
    value = float(best.sum() - costs[rows].sum())
    added = _added(gains, best) - costs
    queue = [(-worth, row) for row, worth in enumerate(added.tolist()) if row not in rows]
    heapq.heapify(queue)
    while len(rows) < count:
        row = queue[0][1]
        worth = float(np.maximum(gains[row] - best, 0).sum() - costs[row])
        heapq.heapreplace(queue, (-worth, row))
        if queue[0][1] != row:
            continue
        if worth < 0:
            break
        heapq.heappop(queue)
        rows.append(row)
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
) -> Choice:
    """The best swap of a chosen candidate for another, until none gains; the first ``num_fixed`` rows stay."""
    costs = np.zeros(len(gains)) if costs is None else costs
    chosen = list(rows)
    while True:
        value = _value(gains, chosen, costs)
        if len(chosen) == num_fixed:
            return Choice(tuple(chosen), value)
        gained = _swap_gains(gains, chosen, costs)[:, num_fixed:]
        gained[chosen] = -np.inf
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


def bound_of_choice(
    gains: Float64[ndarray, "a n"],
    multipliers: Float64[ndarray, " n"],
    count: int,
    *,
    costs: Float64[ndarray, " a"] | None = None,
) -> float:
    """What no choice of ``count`` of these candidates exceeds; where some are fixed, see :func:`find_multipliers`.

    >>> gains = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> bound_of_choice(gains, np.array([2.0, 0.0, 0.0]), 2)  # 2 + the two largest of 1, 2, 1
    5.0
    """
    worth = _added(gains, multipliers) - (0 if costs is None else costs)
    return float(multipliers.sum() + np.sort(np.maximum(worth, 0))[::-1][:count].sum())


def find_multipliers(
    gains: Float64[ndarray, "a n"],
    count: int,
    opened: Float64[ndarray, " a"],
    *,
    at_least: Float64[ndarray, " n"] | None = None,
    costs: Float64[ndarray, " a"] | None = None,
    steps: int = 100,
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " a"]]:
    """Multipliers whose bound is close to the least there is, and how far each candidate is opened.

    Candidates opened in part serve an instance in the order of its gains until they add up to one; the gain of the last is
    its multiplier, the best answer to what is opened. What is opened then moves in proportion to f(a), taken at the mean of
    the multipliers so far, later ones weighing more: without the mean the two chase each other.

    Args:
        gains: as in :func:`choose`.
        count: candidates to choose, beside those that are fixed.
        opened: where to start, more than 0 for every candidate that may be opened.
        at_least: an instance's best gain from fixed candidates. With it the bound is
            ``multipliers.sum() + sum of the largest f(a)``, with f(a) over candidates that are not fixed.
        costs: as in :func:`choose`.
        steps: number of moves.
    """
    costs = np.zeros(len(gains)) if costs is None else costs
    floor = np.zeros(gains.shape[1]) if at_least is None else at_least
    mean, best, least = floor, floor, np.inf
    active = order = np.zeros(0, np.int64)
    for step in range(steps if count else 0):
        if step % SETTLED == 0:
            active = np.flatnonzero(opened > FADED)
            order = np.argsort(-gains[active], axis=0, kind="stable")
        answer = np.maximum(_marginal_gains(gains, opened, active, order), floor)
        mean = mean + (answer - mean) * 2 / (step + 2)
        worth = np.maximum(_added(gains, mean) - costs, 0)
        bound = float(mean.sum() + count * worth.max())
        if bound < least:
            best, least = mean, bound
        scale = max(float((opened * worth).sum()) / count, 1e-300)
        opened = opened * np.clip(worth / scale, 0.5, 2)
        opened = np.minimum(opened * (count / opened.sum()), 1)
    return best, opened


def _marginal_gains(
    gains: Float64[ndarray, "a n"],
    opened: Float64[ndarray, " a"],
    active: Int64[ndarray, " m"],
    order: Int64[ndarray, "m n"],
) -> Float64[ndarray, " n"]:
    """The gain at which each instance has been served once; 0 where all that is opened does not suffice."""
    share = np.cumsum(opened[active][order], axis=0)
    last = (share < 1 - 1e-9).sum(axis=0)
    enough = last < len(active)
    instances = np.arange(gains.shape[1])
    found = gains[active[order[last.clip(max=len(active) - 1), instances]], instances]
    return np.where(enough, found, 0.0)


def _added(gains: Float64[ndarray, "a n"], above: Float64[ndarray, " n"]) -> Float64[ndarray, " a"]:
    """For each candidate the sum of what it offers above something."""
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
