"""How good a choice of facilities can be at all (:mod:`detect.anchors.facility`): multipliers, and the bound they give.

For any multipliers, one of at least 0 for each instance, no choice of k candidates exceeds

    sum of multipliers + sum of the k largest f(a),    f(a) = sum over n of max(gains[a, n] - multiplier[n], 0)

since an instance's best gain is at most its multiplier plus what any chosen candidate offers above it. The least such bound
is the value of the linear relaxation, in which candidates are opened in part (Cornuejols, Fisher and Nemhauser 1977).
Candidates may fall into groups with a number to choose from each: then the largest f(a) of each group count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.facility import offers_above

FADED = 1e-6  # a candidate opened by less takes no part in finding the multipliers
SETTLED = 8  # steps after which the opened candidates are looked through for such


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
    worth = offers_above(gains, multipliers) - (0 if costs is None else costs)
    return float(multipliers.sum() + np.sort(np.maximum(worth, 0))[::-1][:count].sum())


def find_multipliers(
    gains: Float64[ndarray, "a n"],
    counts: int | Sequence[int],
    opened: Float64[ndarray, " a"],
    *,
    groups: Int64[ndarray, " a"] | None = None,
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
        counts: candidates to choose, beside those that are fixed; of each group, where there are groups.
        opened: where to start, on any scale; more than 0 for every candidate that may be opened.
        groups: of each candidate the group whose number it counts for.
        at_least: an instance's best gain from fixed candidates. With it the bound is
            ``multipliers.sum() + sum of the largest f(a)``, with f(a) over candidates that are not fixed.
        costs: as in :func:`choose`.
        steps: number of moves.

    >>> gains = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> multipliers, opened = find_multipliers(gains, [1, 1], np.ones(3), groups=np.array([0, 0, 1]))
    >>> multipliers.round(2), opened.round(2)  # of the first group the second row
    (array([2., 0., 1.]), array([0., 1., 1.]))
    """
    numbers = [counts] if isinstance(counts, int) else list(counts)
    groups = np.zeros(len(gains), np.int64) if groups is None else groups
    members = [(np.flatnonzero(groups == group), number) for group, number in enumerate(numbers) if number]
    costs = np.zeros(len(gains)) if costs is None else costs
    floor = np.zeros(gains.shape[1]) if at_least is None else at_least
    mean, best, least = floor, floor, np.inf
    opened = _shared_out(opened, members)
    active = order = np.zeros(0, np.int64)
    for step in range(steps if members else 0):
        if step % SETTLED == 0:
            active = np.flatnonzero(opened > FADED)
            order = np.argsort(-gains[active], axis=0, kind="stable")
        answer = np.maximum(_marginal_gains(gains, opened, active, order), floor)
        mean = mean + (answer - mean) * 2 / (step + 2)
        worth = np.maximum(offers_above(gains, mean) - costs, 0)
        bound = float(mean.sum() + sum(number * worth[rows].max(initial=0.0) for rows, number in members))
        if bound < least:
            best, least = mean, bound
        for rows, number in members:
            scale = max(float((opened[rows] * worth[rows]).sum()) / number, 1e-300)
            opened[rows] *= np.clip(worth[rows] / scale, 0.5, 2)
        opened = _shared_out(opened, members)
    return best, opened


def _shared_out(opened: Float64[ndarray, " a"], members: Sequence[tuple[ndarray, int]]) -> Float64[ndarray, " a"]:
    """Scaled so that of each group as many are opened as may be chosen."""
    shared = np.zeros(len(opened))
    for rows, number in members:
        shared[rows] = np.minimum(opened[rows] * (number / max(opened[rows].sum(), 1e-300)), 1)
    return shared


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
