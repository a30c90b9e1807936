"""k-means over box shapes with 1 - IoU as the distance (Redmon and Farhadi 2017, section 2): the algorithm, in NumPy alone.

The update matters most. The mean minimises squared Euclidean distances, not this one. For a centre (w, h) the derivative of
the summed IoU in ln w is a sum of terms of known sign, so it vanishes at a weighted median of the members' widths, with
weights |d IoU / d ln w| at the present centre; likewise for heights. Those weights change as the centre moves, so plain
updates converge slowly: steps in (ln w, ln h) are over-relaxed by 1.3 while they improve, and reset when one fails.

Sums are NumPy's own and not BLAS's, whose threads add up in another order on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.errors import FitError
from detect.ops.box_arrays import best_shape_iou, shape_iou
from detect.ops.time_limit import best_until, is_over

CANDIDATES = 4  # draws for each seed; the best is kept
STRETCH = 1.3  # factor of the next step after one that improves
LARGEST_STRETCH = 8.0
SMALLEST_GAIN = 1e-7  # relative gain below which a start has converged
MAX_ITER = 300
SMALL_TABLE = 2**16  # entries; a smaller table takes less time than a loop over centres

PerShape = Float64[ndarray, " n"]
Labels = Int64[ndarray, " n"]  # the cluster of each shape
Centers = Float64[ndarray, "k d"]


class Members:
    """Distinct shapes of positive weight, and their order along each axis."""

    def __init__(self, shapes: Float64[ndarray, "n d"], weights: PerShape) -> None:
        self.shapes = shapes
        self.weights = weights
        self.columns = np.ascontiguousarray(shapes.T)
        self.volumes = self.columns.prod(axis=0)
        self.orders = [np.argsort(column, kind="stable") for column in self.columns]

    def nearest(self, centers: Centers) -> tuple[PerShape, Labels]:
        """The best IoU of each shape with any centre, and the index of that centre (the first on ties)."""
        if len(self.shapes) * len(centers) > SMALL_TABLE:
            return best_shape_iou(self.shapes, centers)
        both = np.ones((len(centers), len(self.shapes)))
        for axis, column in enumerate(self.columns):
            both *= np.minimum(centers[:, axis : axis + 1], column)
        iou = both / (self.volumes - both + centers.prod(axis=1)[:, None])
        labels = iou.argmax(axis=0)
        return iou[labels, np.arange(len(labels))], labels

    def medians(self, axis: int, weights: PerShape, labels: Labels, count: int) -> Float64[ndarray, " k"]:
        """Each cluster's weighted median along an axis: the least extent with half of the weight at or below it."""
        order = self.orders[axis]
        short = np.uint16 if count <= 2**16 else np.int64  # NumPy sorts 16 bits by radix
        order = order[np.argsort(labels[order].astype(short), kind="stable")]
        reach = np.cumsum(weights[order])
        ends = np.cumsum(np.bincount(labels, minlength=count))
        before = np.append(0.0, reach[ends[:-1] - 1])
        rows = np.searchsorted(reach, (before + reach[ends - 1]) / 2)
        return self.columns[axis][order[np.clip(rows, np.append(0, ends[:-1]), ends - 1)]]


Update = Callable[[Members, Labels, Centers], Centers]


@dataclass(frozen=True)
class Solution:
    """Centres, the weighted sum of best IoUs, and the number of updates."""

    centers: Centers
    total_iou: float
    num_updates: int


def best_of_starts(
    members: Members,
    k: int,
    random: np.random.RandomState,
    *,
    n_init: int = 10,
    update: str = "weighted_median",
    max_iter: int = MAX_ITER,
) -> Solution:
    """The best of several starts, each improved until it converges; see :func:`require_enough`."""
    require_enough(members.shapes, k)
    starts = (spread_seeds(members, k, random) for _ in range(n_init))
    improved = (improve_centers(members, seeds, update=update, max_iter=max_iter) for seeds in starts)
    return best_until(improved, key=lambda solution: solution.total_iou)


def improve_centers(
    members: Members,
    centers: Centers,
    *,
    num_fixed: int = 0,
    update: str | Update = "weighted_median",
    max_iter: int = MAX_ITER,
) -> Solution:
    """Lloyd's iteration with over-relaxed steps; the first ``num_fixed`` centres do not move.

    An empty cluster takes the worst covered shape.
    """
    step = UPDATES[update] if isinstance(update, str) else update
    best, step_to, stretch = -np.inf, centers, 1.0
    trial, num_updates = centers, 0
    while num_updates < max_iter:
        num_updates += 1
        iou, labels = members.nearest(trial)
        total = float((members.weights * iou).sum())
        if total > best * (1 + SMALLEST_GAIN):
            best, centers = total, trial
            labels = _refill(labels, members.weights * (1 - iou), len(centers))
            step_to = step(members, labels, centers)
            step_to[:num_fixed] = centers[:num_fixed]
            stretch = min(stretch * STRETCH, LARGEST_STRETCH)
        elif stretch == 1.0:
            break
        else:
            stretch = 1.0
        if is_over():
            break
        trial = centers * (step_to / centers) ** stretch
    return Solution(centers, best, num_updates)


def spread_seeds(
    members: Members, k: int, random: np.random.RandomState, *, after: Float64[ndarray, "m d"] | None = None
) -> Centers:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 5) in the distance itself, as distances are summed.

    Each seed is the best of a few, drawn in proportion to weight times distance to the seeds so far; ``after`` comes first.
    """
    shapes, weights = members.shapes, members.weights
    seeds = shapes[:0] if after is None else after
    distance = 1 - np.maximum(best_shape_iou(shapes, seeds)[0], 0)
    while len(seeds) < k:
        reach = np.cumsum(weights * distance)
        draws = random.random_sample(CANDIDATES if len(seeds) else 1) * reach[-1]
        candidates = np.searchsorted(reach, draws, side="right").clip(max=len(shapes) - 1)
        then = {row: np.minimum(distance, 1 - shape_iou(shapes, shapes[row])) for row in candidates.tolist()}
        best = min(then, key=lambda row: float((weights * then[row]).sum()))
        seeds, distance = np.concatenate([seeds, shapes[best][None]]), then[best]
    return seeds


def require_enough(shapes: Float64[ndarray, "n d"], k: int) -> None:
    """Raise FitError if there are fewer distinct shapes than clusters."""
    if len(shapes) < k:
        raise FitError(f"{k} clusters need {k} distinct shapes, got {len(shapes)}: fit fewer")


def sorted_by_area(centers: Centers) -> Centers:
    """Centres by area (volume), then by width."""
    return centers[np.lexsort((centers[:, 0], centers.prod(axis=1)))]


def _refill(labels: Labels, badness: PerShape, count: int) -> Labels:
    """Give every empty cluster the worst covered shape that is not alone in its own."""
    sizes = np.bincount(labels, minlength=count)
    if sizes.all():
        return labels
    labels = labels.copy()
    worst_first: Iterator[int] = iter(np.argsort(-badness, kind="stable").tolist())
    for empty in np.flatnonzero(sizes == 0):
        row = next((row for row in worst_first if sizes[labels[row]] > 1), None)
        if row is None:  # a fixed shape that no box is near takes a cluster, and none is left for it
            raise FitError(f"{count} clusters need {count} distinct shapes, fixed ones among them: fit fewer")
        sizes[labels[row]] -= 1
        sizes[empty] = 1
        labels[row] = empty
    return labels


def _mean_update(members: Members, labels: Labels, centers: Centers) -> Centers:
    total = np.bincount(labels, members.weights, len(centers))
    sums = [np.bincount(labels, members.weights * column, len(centers)) for column in members.columns]
    return np.stack(sums, axis=1) / total[:, None]


def _median_update(members: Members, labels: Labels, centers: Centers) -> Centers:
    axes = range(len(members.columns))
    return np.stack([members.medians(axis, members.weights, labels, len(centers)) for axis in axes], axis=1)


def _weighted_median_update(members: Members, labels: Labels, centers: Centers) -> Centers:
    """Medians with weights |d IoU / d ln c| of a member (volume V, overlap I, union U) in its centre's extent c (volume C).

    Where the member's extent is above c, I grows with c: IoU * (1 - (C - I) / U). Where it is not, only U does: IoU * C / U.
    """
    own = centers.T[:, labels]
    own_volumes = own.prod(axis=0)
    overlap = np.minimum(members.columns, own).prod(axis=0)
    union = members.columns.prod(axis=0) + own_volumes - overlap
    iou = members.weights * overlap / union
    above, below = iou * (1 - (own_volumes - overlap) / union), iou * own_volumes / union
    slopes = np.where(members.columns > own, above, below)
    return np.stack([members.medians(axis, each, labels, len(centers)) for axis, each in enumerate(slopes)], axis=1)


UPDATES = {"weighted_median": _weighted_median_update, "median": _median_update, "mean": _mean_update}
