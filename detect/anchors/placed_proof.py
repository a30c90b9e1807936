"""How good shapes on levels can be at all: multipliers from the linear relaxation, then the highest offer of any shape.

No shapes in the numbers allowed reach more than the sum of multipliers and, for each group of levels that share a
number, that number times the highest offer of its levels, costs taken off (:mod:`detect.anchors.facility`). The
relaxation is solved over a growing set of candidates: shapes that offer more than any of them join.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.facility import offers_above
from detect.anchors.facility_bound import FADED, find_multipliers
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
        target: a bound as low as this, the error of a histogram apart, needs no further proof.
        rounds: at most.
    """
    share = SPREAD_OUT * sum(limits.counts) / len(chosen)
    candidates, opened = chosen + grid, np.concatenate([np.full(len(chosen), share), opened])
    allowed, least = TOLERANCE * target / sum(limits.counts), np.inf
    for _ in range(rounds):
        multipliers, opened = _solve(candidates, opened, limits)
        offers = offers_above(candidates.gains, multipliers)
        peaks = [
            highest_offer(boxes, level, multipliers, known=offer, tolerance=allowed)
            for level in range(len(boxes.strides))
            for offer in [float(offers[candidates.levels == level].max(initial=0.0))]
        ]
        bound = _bound(multipliers, np.array([peak.bound for peak in peaks]), limits) + boxes.histogram_error
        least = min(least, bound)
        if least <= target + boxes.histogram_error:
            break
        candidates, opened = _with_rivals(boxes, candidates, opened, peaks)
    return least


def relax(candidates: Candidates, limits: Limits) -> Float64[ndarray, " a"]:
    """How far the linear relaxation opens each candidate."""
    return _solve(candidates, np.ones(len(candidates)), limits)[1]


def _solve(
    candidates: Candidates, opened: Float64[ndarray, " a"], limits: Limits
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " a"]]:
    groups, prices = limits.groups(candidates.levels), limits.prices(candidates.levels)
    return find_multipliers(candidates.gains, limits.counts, opened, groups=groups, costs=prices, steps=STEPS)


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
