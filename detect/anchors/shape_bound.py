"""The most that any one shape can offer above multipliers: a maximum over the whole plane (ln w, ln h), with proof.

With multipliers m, no k shapes reach more than ``sum of weights * m + k * max over shapes of f``, where f sums over boxes
what a shape offers above the box's multiplier (:mod:`detect.anchors.facility`). The maximum of f is found by branch and
bound: squares of the plane are bounded, dropped when they cannot hold it, and quartered.

**A square.** With x, y the differences of logarithms between a box and a shape, IoU is exp(-|x| - |y|) where they agree in
sign and 1 / (e^|x| + e^|y| - 1) where not. Within a quadrant it is smooth, with second derivatives of at most IoU (xx, yy)
and 2 IoU (xy; 1 IoU where signs agree); across an axis its slope only falls. So in a square of
half sides (s, t) it lies above the tangent at the centre by at most

    (s**2 + t**2 + 4 s t) / 2 * highest IoU in the square         ((s + t)**2 / 2 where signs agree throughout).

The gain above a multiplier is replaced by a line in IoU that lies above it over the range of IoU in the square. What is left
is one plane for each box; summed, the slopes of boxes on either side cancel, and the error falls with the square's area.

**A point that stands for several boxes.** By the same tangent argument their mean IoU exceeds that at their mean position by
at most 3/2 of their variance times the highest IoU; no single one differs by more than e^radius - 1 of it. The mean of
max(gain - m, 0) is then at most the chord between these extremes. A threshold counts as reached when any box may reach it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.shape_gain import ShapeGain
from detect.anchors.shape_points import ShapePoints

FIRST_HALF_SIDE = 0.125  # nepers
SMALLEST_HALF_SIDE = 1e-7
SQUARES_AT_ONCE = 64
RIVAL_DISTANCE = 0.05
MAX_RIVALS = 300
MAX_PAIRS = 10**9  # squares times points


@dataclass(frozen=True)
class Peak:
    """The highest offer: at most ``bound``, and at least ``found``."""

    bound: float
    found: float
    rivals: Float64[ndarray, "m 2"]
    """Logarithms of shapes that offer more than any of the known ones, no two close together, the highest first."""


class Offers:
    """What a shape offers to points above their multipliers, as a function of IoU, summed over each point's boxes at most.

    Below the threshold and from it on, the greatest of 0 and two straight lines.
    """

    def __init__(self, points: ShapePoints, multipliers: Float64[ndarray, " n"], gain: ShapeGain) -> None:
        weights, share = points.weights, 1 - gain.recall_share
        reach = np.expm1(points.radius)  # relative to the IoU
        bend = np.minimum(1.5 * points.variance * (1 + reach), reach)
        half = 0.5 * (1 + np.divide(bend, reach, out=np.zeros_like(bend), where=reach > 0))
        self.x, self.y = points.log_wh.T.copy()
        self.threshold = gain.reaches / (1 + reach)
        self.jumps = gain.recall_share > 0
        self.lines = (
            (weights * half * share * (1 + reach), weights * half * multipliers, weights * half * gain.recall_share),
            (weights * share * (1 + bend), weights * multipliers, weights * gain.recall_share),
        )

    def take(self, rows: ndarray) -> Offers:
        """Those of some points."""
        part = object.__new__(Offers)
        part.x, part.y, part.threshold, part.jumps = self.x[rows], self.y[rows], self.threshold[rows], self.jumps
        part.lines = tuple(tuple(column[rows] for column in line) for line in self.lines)  # type: ignore[assignment]
        return part

    def __call__(self, iou: Float64[ndarray, "*s n"]) -> Float64[ndarray, "*s n"]:
        """The offer to each point at an IoU."""
        result = np.zeros_like(iou)
        reached = iou >= self.threshold if self.jumps else None
        for slope, offset, jump in self.lines:
            line = slope * iou
            line -= offset
            if reached is not None:
                line += jump * reached
            np.maximum(result, line, out=result)
        return result

    def at(self, log_wh: Float64[ndarray, "s 2"]) -> Float64[ndarray, " s"]:
        """The sum of offers of each of some shapes."""
        return np.array([self(_iou(self.x - x, self.y - y)).sum() for x, y in log_wh.tolist()])


class _Rivals:
    """Shapes that offer more than some."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.log_wh, self.values = np.zeros((0, 2)), np.zeros(0)

    def add(self, log_wh: Float64[ndarray, "s 2"], values: Float64[ndarray, " s"]) -> None:
        better = values > self.least
        self.log_wh = np.concatenate([self.log_wh, log_wh[better]])
        self.values = np.concatenate([self.values, values[better]])

    def thinned(self) -> Float64[ndarray, "m 2"]:
        order = np.argsort(-self.values, kind="stable")
        ordered = self.log_wh[order]
        first = np.unique(np.floor(ordered / RIVAL_DISTANCE), axis=0, return_index=True)[1]
        return ordered[np.sort(first)[:MAX_RIVALS]]


def highest_offer(
    offers: Offers,
    *,
    tolerance: float = 1e-3,
    enough: float = 0.0,
    known: Float64[ndarray, "m 2"] | None = None,
    max_pairs: float = MAX_PAIRS,
) -> Peak:
    """Bound the sum of offers over all shapes there are.

    The best shape lies among the points' widths and heights: outside, every IoU grows towards them.

    Args:
        offers: what is maximised.
        tolerance: the bound may lie this much above what is found, relatively.
        enough: a bound as low as this needs no further proof.
        known: logarithms of shapes whose rivals are asked for.
        max_pairs: stop after this many evaluations with what is proved by then.
    """
    low, high = (np.array([edge(offers.x), edge(offers.y)]) for edge in (np.min, np.max))
    counts = np.maximum(np.ceil((high - low) / (2 * FIRST_HALF_SIDE)), 1).astype(np.int64)
    half = np.maximum((high - low) / counts / 2, SMALLEST_HALF_SIDE)
    columns, rows = np.divmod(np.arange(counts.prod()), counts[1])
    centers = low + (2 * np.stack([columns, rows], axis=1) + 1) * half
    bound = found = 0.0
    rivals = _Rivals(0.0 if known is None else float(offers.at(known).max(initial=0.0)))
    while True:
        upper, value, pairs = _bound_squares(offers, centers, half)
        found = max(found, float(value.max()))
        rivals.add(centers, value)
        open_squares = upper > max(found * (1 + tolerance), enough)
        bound = max(bound, float(upper[~open_squares].max(initial=0.0)))
        max_pairs -= pairs
        growth = 4 * pairs * open_squares.mean()
        if not open_squares.any() or growth > max_pairs or half.max() < SMALLEST_HALF_SIDE:
            return Peak(max(bound, float(upper[open_squares].max(initial=0.0))), found, rivals.thinned())
        half = half / 2
        corners = half * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
        centers = (centers[open_squares][:, None] + corners).reshape(-1, 2)


def _bound_squares(
    offers: Offers, centers: Float64[ndarray, "s 2"], half: Float64[ndarray, " 2"]
) -> tuple[Float64[ndarray, " s"], Float64[ndarray, " s"], int]:
    """Upper bounds over squares, the values at their centres, and the number of evaluations."""
    upper, value, pairs = np.empty(len(centers)), np.empty(len(centers)), 0
    for start in range(0, len(centers), SQUARES_AT_ONCE):
        block = centers[start : start + SQUARES_AT_ONCE]
        near = offers.take(_in_reach(offers, block.min(axis=0) - half, block.max(axis=0) + half))
        bounds = _bound_block(near, block, half)
        upper[start : start + len(block)], value[start : start + len(block)] = bounds
        pairs += len(block) * len(near.x)
    return upper, value, pairs


def _in_reach(offers: Offers, low: Float64[ndarray, " 2"], high: Float64[ndarray, " 2"]) -> ndarray:
    """Rows of the points that some shape between two corners may offer anything to."""
    away = [np.maximum(np.maximum(low[axis] - at, at - high[axis]), 0) for axis, at in enumerate((offers.x, offers.y))]
    return np.flatnonzero(offers(1 / (np.exp(away[0]) + np.exp(away[1]) - 1)) > 0)


def _bound_block(
    offers: Offers, centers: Float64[ndarray, "s 2"], half: Float64[ndarray, " 2"]
) -> tuple[Float64[ndarray, " s"], Float64[ndarray, " s"]]:
    x, y = offers.x - centers[:, :1], offers.y - centers[:, 1:]
    wide, tall = np.exp(np.abs(x)), np.exp(np.abs(y))
    agree = x * y >= 0
    iou = 1 / np.where(agree, wide * tall, wide + tall - 1)
    lowest, highest, clear = _iou_range(wide, tall, agree, half)
    slope, line = _line_above(offers, iou, lowest, highest)
    inward = slope * iou
    slope_x = np.sign(x) * np.where(agree, inward, inward * iou * wide)
    slope_y = np.sign(y) * np.where(agree, inward, inward * iou * tall)
    bent = np.where(agree & clear, half.sum() ** 2 / 2, (half**2).sum() / 2 + 2 * half.prod())
    tangent = line.sum(axis=1) + (slope * highest * bent).sum(axis=1)
    tangent += np.abs(slope_x.sum(axis=1)) * half[0] + np.abs(slope_y.sum(axis=1)) * half[1]
    return np.minimum(tangent, offers(highest).sum(axis=1)), offers(iou).sum(axis=1)


def _iou_range(
    wide: Float64[ndarray, "s n"], tall: Float64[ndarray, "s n"], agree: ndarray, half: Float64[ndarray, " 2"]
) -> tuple[Float64[ndarray, "s n"], Float64[ndarray, "s n"], ndarray]:
    """The lowest (or less) and highest IoU in each square, and whether the signs are the same throughout it.

    IoU falls with |x| and with |y|. Where a square crosses an axis, both formulas give the same at its nearest point; at its
    farthest the smaller, of equal signs, is taken.
    """
    grow_x, grow_y = np.exp(half)
    clear = (wide > grow_x) & (tall > grow_y)
    near_x, near_y = np.maximum(wide / grow_x, 1), np.maximum(tall / grow_y, 1)
    highest = 1 / np.where(agree, near_x * near_y, near_x + near_y - 1)
    far_x, far_y = wide * grow_x, tall * grow_y
    lowest = 1 / np.where(agree | ~clear, far_x * far_y, far_x + far_y - 1)
    return lowest, highest, clear


def _line_above(
    offers: Offers,
    iou: Float64[ndarray, "s n"],
    lowest: Float64[ndarray, "s n"],
    highest: Float64[ndarray, "s n"],
) -> tuple[Float64[ndarray, "s n"], Float64[ndarray, "s n"]]:
    """The slope of a line that lies above the offer between two IoUs, and its height at the centre's IoU.

    The offer is convex below its threshold and from there on: the chord, or where the jump sticks out, the chord to its top.
    """
    low, high = offers(lowest), offers(highest)
    slope = (high - low) / (highest - lowest)
    height = low + slope * (iou - lowest)
    if not offers.jumps:
        return slope, height
    at = np.clip(offers.threshold, lowest, highest)
    top = offers(at)
    above = (offers.threshold > lowest) & (offers.threshold <= highest) & (top > low + slope * (at - lowest))
    left, right = np.maximum(at - lowest, 1e-300), np.maximum(highest - at, 1e-300)
    rising, after = (top - low) / left, np.where(highest > at, (high - top) / right, 0.0)
    bent_slope = np.where(iou >= at, after, rising)
    return np.where(above, bent_slope, slope), np.where(above, top + bent_slope * (iou - at), height)


def _iou(x: Float64[ndarray, "*s"], y: Float64[ndarray, "*s"]) -> Float64[ndarray, "*s"]:
    wide, tall = np.exp(np.abs(x)), np.exp(np.abs(y))
    return 1 / np.where(x * y >= 0, wide * tall, wide + tall - 1)
