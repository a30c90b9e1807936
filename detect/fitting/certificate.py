"""An upper bound on the score of all anchors within limits: the certificate of a fit.

No shapes within the limits reach more than the sum of dual variables and, for each group of levels, its number of shapes
times the highest reduced utility of its levels, costs subtracted (:mod:`detect.fitting.facility_location`).
Duals come from the linear relaxation over a growing set of candidates, which entering columns join: shapes of a higher
reduced utility than any candidate. The highest reduced utility over the whole plane (ln w, ln h) is found by branch and
bound: squares of the plane are bounded, dropped when they cannot hold it, and quartered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.fitting.candidates import Candidates, Limits, relax
from detect.fitting.facility_location import FADED, reduced_utility
from detect.fitting.gains import Boxes, Pair, PerBox, PerShape, Shapes
from detect.ops.time_limit import is_over, tell

FIRST_HALF_SIDE = 0.125  # nepers
SMALLEST_HALF_SIDE = 1e-7
SQUARES_AT_ONCE = 64
MAX_PAIRS = 4 * 10**7  # squares times boxes, for one level
ENTERING_DISTANCE = 0.05
MAX_ENTERING = 50
STEPS = 60  # of the relaxation, for each round of the proof
MORE_STEPS = 1.5  # factor of the steps in each round after the first on all boxes
SPREAD_OUT = 0.1  # share of the openings that is spread over all candidates where the relaxation starts
TOLERANCE = 2e-3  # of the bound on squares, relative to the highest known reduced utility
LEAST_TOLERANCE = 1e-5  # relative to the score
RECALL_TOLERANCE = 1e-3  # relative to the score, for recall, whose steps no small square smooths


@dataclass(frozen=True)
class Peak:
    """The highest reduced utility on a level: at most ``bound``, and at least ``found``."""

    bound: float
    found: float
    entering: Shapes
    """Shapes of a higher reduced utility than was known, no two close together, the highest first."""


def prove(
    boxes: Boxes,
    chosen: Candidates,
    grid: Candidates,
    openings: PerShape,
    limits: Limits,
    *,
    target: float,
    rounds: int,
) -> float:
    """The lowest upper bound of at most ``rounds`` rounds on the score of all shapes within limits.

    The first round starts with the candidates ``chosen`` (a good choice) and ``grid`` with its LP ``openings``. Rounds end
    once the bound is at most ``target + boxes.error``, or with the time (:mod:`detect.ops.time_limit`).
    """
    stages, num_free = boxes.stages(), max(sum(limits.counts), 1)
    share = SPREAD_OUT * num_free / max(len(chosen), 1)
    openings = np.concatenate([np.full(len(chosen), share), openings])
    candidates = chosen.on(stages[0]) + grid.on(stages[0])
    tolerance = max(LEAST_TOLERANCE, RECALL_TOLERANCE * boxes.objective.recall_share)
    least = 1.0  # no utility is higher
    for number in range(rounds):
        tell(f"proof, round {number + 1}: the score is at most {least:.4f}")
        stage = stages[min(number, len(stages) - 1)]
        steps = round(STEPS * MORE_STEPS ** max(number - len(stages) + 1, 0))
        if 0 < number < len(stages):
            candidates = candidates.on(stage)
        duals, openings = relax(candidates, limits, openings, steps=steps)
        total = duals + stage.floor
        sure = float(total.sum()) + stage.reduced_utility_of_fixed(total) + stage.error
        # with several groups, one may need the part of the gap that another leaves
        enough = (target + boxes.error - sure) / num_free if len(limits.counts) == 1 else 0.0
        peaks = _peaks(stage, candidates, total, limits, enough=enough, tolerance=tolerance * target / num_free)
        least = min(least, sure + _worth_of_all(peaks, limits))
        if least <= target + boxes.error or is_over():
            break
        candidates, openings = _with_entering(stage, candidates, openings, peaks)
    return least


def _peaks(
    boxes: Boxes, candidates: Candidates, duals: PerBox, limits: Limits, *, enough: float, tolerance: float
) -> list[Peak]:
    """The highest reduced utility on each level."""
    found = reduced_utility(candidates.utility, duals - boxes.floor)
    peaks = []
    for level, cost in enumerate(limits.costs):
        rows = np.flatnonzero(candidates.levels == level)
        best = candidates.shapes[rows[np.argsort(-found[rows], kind="stable")[:1]]]
        known = float(boxes.reduced_utilities(level, duals, best).sum())
        tol = max(tolerance, TOLERANCE * known)
        peaks.append(highest_reduced_utility(boxes, level, duals, known=known, enough=enough + cost, tolerance=tol))
    return peaks


def _worth_of_all(peaks: Sequence[Peak], limits: Limits) -> float:
    """The allowed number of the best shape of each group, costs subtracted."""
    worth = np.maximum(np.array([peak.bound for peak in peaks]) - np.array(limits.costs), 0)
    groups = np.array(limits.group_of_level)
    return float(np.dot(limits.counts, [worth[groups == group].max() for group in range(len(limits.counts))]))


def _with_entering(
    boxes: Boxes, candidates: Candidates, openings: PerShape, peaks: Sequence[Peak]
) -> tuple[Candidates, Float64[ndarray, " b"]]:
    """Candidates that are hardly opened make room for entering columns."""
    keep = np.flatnonzero(openings > FADED)
    shapes = np.concatenate([peak.entering for peak in peaks])
    levels = np.repeat(np.arange(len(peaks)), [len(peak.entering) for peak in peaks])
    share = SPREAD_OUT * openings.sum() / max(len(keep) + len(shapes), 1)
    joined = candidates.take(keep) + Candidates.of(boxes, shapes, levels)
    return joined, np.concatenate([openings[keep], np.full(len(shapes), share)])


def highest_reduced_utility(
    boxes: Boxes,
    level: int,
    duals: PerBox,
    *,
    known: float = 0.0,
    enough: float = 0.0,
    tolerance: float = 0.0,
    max_pairs: int = MAX_PAIRS,
) -> Peak:
    """Bound the sum of reduced utilities over all shapes on a level.

    The search ends once the bound is at most ``enough``, within ``tolerance`` of the best value found or known, or after
    ``max_pairs`` evaluations. Shapes of a reduced utility above ``known`` are returned as entering columns.
    """
    centers, half = _first_squares(*boxes.log_range(level))
    bound, found = boxes.reduced_utility_of_small_shapes(duals), 0.0
    seen: list[tuple[ndarray, ndarray]] = []
    while True:
        upper, value, pairs = bound_squares(boxes, level, duals, centers, half)
        found = max(found, float(value.max()))
        seen.append((centers[value > known], value[value > known]))
        wide = upper > max(max(found, known) + tolerance, enough, bound)
        bound = max(bound, float(upper[~wide].max(initial=0.0)))
        max_pairs -= pairs
        if is_over() or not wide.any() or 4 * pairs * wide.mean() > max_pairs or half.max() < SMALLEST_HALF_SIDE:
            return Peak(max(bound, float(upper[wide].max(initial=0.0))), found, _thinned(seen))
        half = half / 2
        corners = half * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
        centers = (centers[wide][:, None] + corners).reshape(-1, 2)


def _first_squares(low: Pair, high: Pair) -> tuple[Shapes, Pair]:
    counts = np.maximum(np.ceil((high - low) / (2 * FIRST_HALF_SIDE)), 1).astype(np.int64)
    half = np.maximum((high - low) / counts / 2, SMALLEST_HALF_SIDE)
    columns, rows = np.divmod(np.arange(counts.prod()), counts[1])
    return low + (2 * np.stack([columns, rows], axis=1) + 1) * half, half


def bound_squares(
    boxes: Boxes, level: int, duals: PerBox, centers: Shapes, half: Pair
) -> tuple[PerShape, PerShape, int]:
    """Upper bounds over squares (infinite where no time is left), the values at their centres, the number of evaluations."""
    upper, value, pairs = np.full(len(centers), np.inf), np.zeros(len(centers)), 0
    for start in range(0, len(centers), SQUARES_AT_ONCE):
        if is_over():
            break
        block = centers[start : start + SQUARES_AT_ONCE]
        low, high = block.min(axis=0) - half, block.max(axis=0) + half
        rows = np.flatnonzero(boxes.highest_reduced_utilities(level, duals, np.exp(low), np.exp(high)) > 0)
        near, above = boxes.take(rows), duals[rows]
        upper[start : start + len(block)] = near.bound_squares(level, above, block, half)
        value[start : start + len(block)] = near.reduced_utilities(level, above, np.exp(block)).sum(axis=1)
        pairs += len(block) * len(rows)
    return upper, value, pairs


def _thinned(seen: list[tuple[ndarray, ndarray]]) -> Shapes:
    log_wh, values = (np.concatenate(column) for column in zip(*seen, strict=True))
    ordered = log_wh[np.argsort(-values, kind="stable")]
    first = np.unique(np.floor(ordered / ENTERING_DISTANCE), axis=0, return_index=True)[1]
    return np.exp(ordered[np.sort(first)[:MAX_ENTERING]])
