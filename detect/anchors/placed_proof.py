"""How good shapes on levels can be at all: multipliers from the linear relaxation, then the highest offer of any shape.

No shapes in the numbers allowed reach more than the sum of multipliers and, for each group of levels that share a
number, that number times the highest offer of its levels, costs taken off (:mod:`detect.anchors.facility`). The
relaxation is solved over a growing set of candidates: shapes that offer more than any of them join.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.facility import FADED, SETTLED, _added, _marginal_gains
from detect.anchors.placed_bound import Peak, highest_offer
from detect.anchors.placed_choice import Candidates, Limits
from detect.anchors.placed_gain import PlacedGain

STEPS = 100  # of the multipliers, for each round of the proof
SPREAD_OUT = 0.1  # share of the solution that is spread over all candidates where the relaxation starts
TOLERANCE = 1e-3  # of the proof on squares, relative to the score


def prove(
    boxes: PlacedGain,
    chosen: Candidates,
    grid: Candidates,
    opened: Float64[ndarray, " a"],
    limits: Limits,
    *,
    target: float,
    rounds: int,
) -> float:
    """The least upper bound of some rounds on what any shapes reach, until one is as low as the target.

    Args:
        boxes: and what they gain.
        chosen: a good choice.
        grid: candidates to start from.
        opened: how far the relaxation over the grid opens each.
        limits: on the number of shapes.
        target: a bound as low as this needs no further proof.
        rounds: at most.
    """
    share = SPREAD_OUT * sum(limits.counts) / len(chosen)
    candidates, opened = chosen + grid, np.concatenate([np.full(len(chosen), share), opened])
    allowed, least = TOLERANCE * target / sum(limits.counts), np.inf
    for _ in range(rounds):
        multipliers, opened = find_multipliers(candidates, opened, limits)
        offers = _added(candidates.gains, multipliers)
        peaks = [
            highest_offer(boxes, level, multipliers, known=offer, tolerance=allowed)
            for level in range(len(boxes.strides))
            for offer in [float(offers[candidates.levels == level].max(initial=0.0))]
        ]
        bound = _bound(multipliers, np.array([peak.bound for peak in peaks]), limits) + boxes.histogram_error
        least = min(least, bound)
        if least <= target:
            break
        candidates, opened = _with_rivals(boxes, candidates, opened, peaks)
    return least


def relax(candidates: Candidates, limits: Limits) -> Float64[ndarray, " a"]:
    """How far the linear relaxation opens each candidate."""
    return find_multipliers(candidates, np.ones(len(candidates)), limits)[1]


def find_multipliers(
    candidates: Candidates, opened: Float64[ndarray, " a"], limits: Limits, steps: int = STEPS
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " a"]]:
    """:func:`detect.anchors.facility.find_multipliers` with a number of candidates to choose for each group of levels."""
    gains, groups, prices = candidates.gains, limits.groups(candidates.levels), limits.prices(candidates.levels)
    mean = best = np.zeros(gains.shape[1])
    least = np.inf
    opened = _shared_out(opened, groups, limits)
    active = order = np.zeros(0, np.int64)
    for step in range(steps):
        if step % SETTLED == 0:
            active = np.flatnonzero(opened > FADED)
            order = np.argsort(-gains[active], axis=0, kind="stable")
        mean = mean + (_marginal_gains(gains, opened, active, order) - mean) * 2 / (step + 2)
        worth = np.maximum(_added(gains, mean) - prices, 0)
        highest = [float(worth[groups == group].max(initial=0.0)) for group in range(len(limits.counts))]
        bound = float(mean.sum() + np.dot(limits.counts, highest))
        if bound < least:
            best, least = mean, bound
        for group, count in enumerate(limits.counts):
            rows = groups == group
            scale = max(float((opened[rows] * worth[rows]).sum()) / max(count, 1), 1e-300)
            opened[rows] *= np.clip(worth[rows] / scale, 0.5, 2)
        opened = _shared_out(opened, groups, limits)
    return best, opened


def _shared_out(opened: Float64[ndarray, " a"], groups: Int64[ndarray, " a"], limits: Limits) -> Float64[ndarray, " a"]:
    """Scaled so that each group opens its number."""
    totals = np.bincount(groups, opened, minlength=len(limits.counts))
    factor = np.array(limits.counts) / np.maximum(totals, 1e-300)
    return np.minimum(opened * factor[groups], 1)


def _bound(multipliers: Float64[ndarray, " n"], offers: Float64[ndarray, " l"], limits: Limits) -> float:
    worth = np.maximum(offers - np.array(limits.costs), 0)
    groups = np.array(limits.group_of_level)
    highest = [worth[groups == group].max() for group in range(len(limits.counts))]
    return float(multipliers.sum() + np.dot(limits.counts, highest))


def _with_rivals(
    boxes: PlacedGain, candidates: Candidates, opened: Float64[ndarray, " a"], peaks: Sequence[Peak]
) -> tuple[Candidates, Float64[ndarray, " b"]]:
    """Candidates that are hardly opened make room for shapes that offer more than any candidate."""
    keep = np.flatnonzero(opened > FADED)
    rivals = np.concatenate([peak.rivals for peak in peaks])
    levels = np.repeat(np.arange(len(peaks)), [len(peak.rivals) for peak in peaks])
    share = SPREAD_OUT * opened.sum() / (len(keep) + len(rivals))
    joined = candidates.take(keep) + Candidates.of(boxes, rivals, levels)
    return joined, np.concatenate([opened[keep], np.full(len(rivals), share)])
