"""The most that any one shape on a level can offer above multipliers: a maximum over the plane (ln w, ln h), with proof.

With multipliers m, one for each box, no choice of shapes reaches more than ``sum of m + sum over chosen shapes of f``,
where f sums over boxes what a shape offers above the box's multiplier (:mod:`detect.anchors.facility`). f is bounded on
squares of the plane; squares that cannot hold its maximum are dropped, the others quartered. Shapes below a quarter of
the least box in width or height reach an IoU of at most that extent over the box's, and shapes that stick out of every
box on both sides lose by it.

**Boxes at their own positions.** Let r = x y / (A + W H), overlaps over areas, and X = ln W. ln x(X) has the slope 1
where the anchor lies within the box, W / 2x where one end sticks out, 0 where both do; the slope drops from each to the
next, and within the second its derivative is at most 1/4. -ln(A + W H) is concave in X + Y, with slope -q = -W H / (A +
W H). So from the centre of a square with half side t

    ln r <= ln r at the centre + (p_x - q) dX + (p_y - q) dY + t**2 / 4        (p: the slopes of the overlaps).

IoU = r / (1 - r), and what it offers above a multiplier, are convex in ln r: the chord over the square's range lies
above. What is left is one plane for each box; summed, the slopes of boxes on either side cancel, and the error falls
with the square's area. A box for which the largest overlaps over the smallest area give less takes that, without a
slope.

**Boxes at any position.** The same in the mean over positions, without slopes: overlaps at the square's upper corner
over the areas at its lower one; and, of boxes no smaller than the stride, where 0 <= p <= 1 at every position, overlaps
at the centre with areas times exp(-2 max(q, 1 - q) t - t**2 / 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.grid_iou import overlap_at
from detect.anchors.placed_gain import AnyPosition, OwnPositions, PlacedGain
from detect.anchors.position_means import mean_gain, overlaps_of

FIRST_HALF_SIDE = 0.125  # nepers
SMALLEST_HALF_SIDE = 1e-6
SMALLEST_SHAPE = 0.25  # of the least width or height
SQUARES_AT_ONCE = 64
MAX_PAIRS = 4 * 10**7  # squares times boxes, for one level
RIVAL_DISTANCE = 0.03
MAX_RIVALS = 100


@dataclass(frozen=True)
class Peak:
    """The highest offer on a level: at most ``bound``, and at least ``found``."""

    bound: float
    found: float
    rivals: Float64[ndarray, "m 2"]
    """Shapes that offer more than was known, no two close together, the highest first."""


def highest_offer(
    boxes: PlacedGain,
    level: int,
    multipliers: Float64[ndarray, " n"],
    *,
    known: float = 0.0,
    tolerance: float = 0.0,
    max_pairs: int = MAX_PAIRS,
) -> Peak:
    """Bound the sum of offers over all shapes on a level.

    Args:
        boxes: and what they gain.
        level: by index.
        multipliers: in units of the weighted gain.
        known: an offer; shapes that offer more are returned.
        tolerance: the bound may lie this much above what is found or known.
        max_pairs: stop after this many evaluations with what is proved by then.
    """
    centers, half = _first_squares(boxes, level)
    bound, found = _offer_of_small_shapes(boxes, multipliers), 0.0
    seen: list[tuple[ndarray, ndarray]] = []
    while True:
        upper, value, pairs = _bound_squares(boxes, level, multipliers, centers, half)
        found = max(found, float(value.max()))
        seen.append((centers[value > known], value[value > known]))
        wide = upper > max(found, known) + tolerance
        bound = max(bound, float(upper[~wide].max(initial=0.0)))
        max_pairs -= pairs
        if not wide.any() or 4 * pairs * wide.mean() > max_pairs or half.max() < SMALLEST_HALF_SIDE:
            return Peak(max(bound, float(upper[wide].max(initial=0.0))), found, _thinned(seen))
        half = half / 2
        corners = half * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
        centers = (centers[wide][:, None] + corners).reshape(-1, 2)


def _first_squares(boxes: PlacedGain, level: int) -> tuple[Float64[ndarray, "s 2"], Float64[ndarray, " 2"]]:
    far = boxes.far[level] if isinstance(boxes, OwnPositions) else boxes.strides[level] / 2
    low = np.log(SMALLEST_SHAPE * boxes.extents.min(axis=1))
    high = np.log((boxes.extents + 2 * far).max(axis=1))
    counts = np.ceil((high - low) / (2 * FIRST_HALF_SIDE)).astype(np.int64)
    half = (high - low) / counts / 2
    columns, rows = np.divmod(np.arange(counts.prod()), counts[1])
    return low + (2 * np.stack([columns, rows], axis=1) + 1) * half, half


def _offer_of_small_shapes(boxes: PlacedGain, multipliers: Float64[ndarray, " n"]) -> float:
    least = boxes.extents.min(axis=1, keepdims=True)
    iou = (SMALLEST_SHAPE * least / boxes.extents).max(axis=0)
    return float(np.maximum(boxes.weights * boxes.gain.of_iou(iou) - multipliers, 0).sum())


def _bound_squares(
    boxes: PlacedGain,
    level: int,
    multipliers: Float64[ndarray, " n"],
    centers: Float64[ndarray, "s 2"],
    half: Float64[ndarray, " 2"],
) -> tuple[Float64[ndarray, " s"], Float64[ndarray, " s"], int]:
    """Upper bounds over squares, the values at their centres, and the number of evaluations."""
    upper, value, pairs = np.empty(len(centers)), np.empty(len(centers)), 0
    for start in range(0, len(centers), SQUARES_AT_ONCE):
        block = centers[start : start + SQUARES_AT_ONCE]
        low, high = block.min(axis=0) - half, block.max(axis=0) + half
        at_most = boxes.weights * _highest_gain(boxes, level, np.exp(low)[None], np.exp(high)[None])[0]
        rows = np.flatnonzero(at_most > multipliers)
        near, above = _take(boxes, rows), multipliers[rows]
        bound = _bound_own if isinstance(near, OwnPositions) else _bound_any
        upper[start : start + len(block)] = bound(near, level, above, block, half)  # type: ignore[arg-type]
        offers = near.weights * near.gains(level, np.exp(block)) - above
        value[start : start + len(block)] = np.maximum(offers, 0).sum(axis=1)
        pairs += len(block) * len(rows)
    return upper, value, pairs


def _bound_own(
    boxes: OwnPositions,
    level: int,
    multipliers: Float64[ndarray, " n"],
    centers: Float64[ndarray, "s 2"],
    half: Float64[ndarray, " 2"],
) -> Float64[ndarray, " s"]:
    shapes = np.exp(centers)
    areas = boxes.extents.prod(axis=0) + shapes.prod(axis=1)[:, None]
    of_area = shapes.prod(axis=1)[:, None] / areas
    slopes, overlaps = [], []
    for axis in (0, 1):
        extents, sides = boxes.extents[axis], shapes[:, axis : axis + 1]
        overlap = overlap_at(extents, boxes.far[level, axis], sides)
        rising = np.where(overlap == sides, 1.0, sides / (2 * np.maximum(overlap, 1e-300)))
        slopes.append(np.where(overlap == extents, 0.0, rising) - of_area)
        overlaps.append(overlap)
    ratio = np.multiply(*overlaps) / areas
    spread = np.abs(slopes[0]) * half[0] + np.abs(slopes[1]) * half[1]
    limit = _highest_ratio(boxes, level, np.exp(centers - half), np.exp(centers + half))
    bend = np.exp((half**2).sum() / 8)
    with np.errstate(over="ignore", invalid="ignore"):
        high = ratio * (bend * np.exp(spread))
    plain = ~(high < limit)  # also where there is no overlap at the centre
    high = np.where(plain, limit, high)
    top, low = _offers_between(boxes, multipliers, high, ratio * bend * np.exp(-np.minimum(spread, 100.0)))
    middle = np.where(plain, top, (top + low) / 2)
    turn = np.where(plain, 0.0, (top - low) / (2 * np.maximum(spread, 1e-300)))
    tilt = [half[axis] * np.abs((turn * np.where(plain, 0.0, slopes[axis])).sum(axis=1)) for axis in (0, 1)]
    upper: Float64[ndarray, " s"] = middle.sum(axis=1) + tilt[0] + tilt[1]
    return upper


def _offers_between(
    boxes: OwnPositions,
    multipliers: Float64[ndarray, " n"],
    high: Float64[ndarray, "s n"],
    low: Float64[ndarray, "s n"],
) -> tuple[Float64[ndarray, "s n"], Float64[ndarray, "s n"]]:
    """Offers at two ratios, with the threshold reached at both where it is at the higher one."""
    gain, top = boxes.gain, high / (1 - high)
    jump = gain.recall_share * (top >= gain.reaches) - multipliers / boxes.weights
    share = 1 - gain.recall_share
    ends = (share * top + jump, share * (low / np.maximum(1 - low, 1e-300)) + jump)
    return boxes.weights * np.maximum(ends[0], 0), boxes.weights * np.maximum(ends[1], 0)


def _bound_any(
    boxes: AnyPosition,
    level: int,
    multipliers: Float64[ndarray, " n"],
    centers: Float64[ndarray, "s 2"],
    half: Float64[ndarray, " 2"],
) -> Float64[ndarray, " s"]:
    stride, shapes = boxes.strides[level], np.exp(centers)
    own, others = boxes.extents.prod(axis=0), shapes.prod(axis=1)[:, None]
    of_area = others / (own + others)
    shrunk = np.exp(-half.sum() * np.maximum(of_area, 1 - of_area) - (half**2).sum() / 8)
    by_slope = mean_gain(*overlaps_of(boxes.extents, shapes, stride), (own + others) * shrunk, boxes.gain)
    smooth = boxes.extents.min(axis=0) >= stride
    by_corners = _highest_gain(boxes, level, np.exp(centers - half), np.exp(centers + half))
    highest = np.where(smooth, np.minimum(by_slope, by_corners), by_corners)
    upper: Float64[ndarray, " s"] = np.maximum(boxes.weights * highest - multipliers, 0).sum(axis=1)
    return upper


def _highest_gain(
    boxes: PlacedGain, level: int, low: Float64[ndarray, "s 2"], high: Float64[ndarray, "s 2"]
) -> Float64[ndarray, "s n"]:
    """At least the gain of every shape between two: overlaps of the larger, area of the smaller."""
    if isinstance(boxes, OwnPositions):
        ratio = _highest_ratio(boxes, level, low, high)
        return boxes.gain.of_iou(ratio / (1 - ratio)) * boxes.served[level]
    areas = boxes.extents.prod(axis=0) + low.prod(axis=1)[:, None]
    return mean_gain(*overlaps_of(boxes.extents, high, boxes.strides[level]), areas, boxes.gain) * boxes.served[level]


def _highest_ratio(
    boxes: OwnPositions, level: int, low: Float64[ndarray, "s 2"], high: Float64[ndarray, "s 2"]
) -> Float64[ndarray, "s n"]:
    overlaps = [overlap_at(boxes.extents[k], boxes.far[level, k], high[:, k : k + 1]) for k in (0, 1)]
    ratio: Float64[ndarray, "s n"] = np.multiply(*overlaps) / (boxes.extents.prod(axis=0) + low.prod(axis=1)[:, None])
    return ratio


def _take(boxes: PlacedGain, rows: Int64[ndarray, " m"]) -> PlacedGain:
    own = (boxes.weights[rows], boxes.served[:, rows])
    columns = (*own, boxes.strides, boxes.center_offset, boxes.gain, boxes.histogram_error)
    if isinstance(boxes, OwnPositions):
        return OwnPositions(boxes.extents[:, rows], boxes.far[:, :, rows], *columns)
    return AnyPosition(boxes.extents[:, rows], *columns)


def _thinned(seen: list[tuple[ndarray, ndarray]]) -> Float64[ndarray, "m 2"]:
    log_wh, values = (np.concatenate(column) for column in zip(*seen, strict=True))
    ordered = log_wh[np.argsort(-values, kind="stable")]
    first = np.unique(np.floor(ordered / RIVAL_DISTANCE), axis=0, return_index=True)[1]
    return np.exp(ordered[np.sort(first)[:MAX_RIVALS]])
