"""k-means over box shapes with 1 - IoU as the distance, and the two baselines it is measured against.

Estimators in scikit-learn's manner: the constructor stores, ``fit`` checks and learns, a trailing underscore means
learned. ``X`` holds (width, height) rows in pixels after the resize rule; ``sample_weight`` counts the boxes that a row
stands for. Rows are put in a fixed order and equal rows are joined before anything random happens: order changes nothing,
and a weight of w is w copies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from detect.boxes import best_shape_iou, shape_iou
from detect.errors import FitError

CANDIDATES = 4  # draws for each seed, of which the best is kept
STRETCH = 1.3  # a step that gains makes the next this much longer
LARGEST_STRETCH = 8.0
SMALLEST_GAIN = 1e-7  # relative: below it a start has converged


class ShapeClustering(ClusterMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What is common to all: checks of the data, centres sorted by area, and how good they are in IoU."""

    n_clusters: int
    cluster_centers_: Float64[ndarray, "k d"]

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ShapeClustering:
        """Learn ``cluster_centers_`` (n_clusters, d), sorted by area, ``labels_`` and ``inertia_``.

        Raises:
            FitError: fewer distinct shapes than clusters (a ValueError).
            ValueError: an extent is not positive and finite.
        """
        X = self._validated(X, reset=True)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        shapes, shape_weights = _distinct(X, weights)
        if self.n_clusters < 1:
            raise ValueError(f"need n_clusters >= 1, got n_clusters={self.n_clusters}")
        if len(shapes) < self.n_clusters:
            raise FitError(f"{self.n_clusters} clusters asked of {len(shapes)} distinct shapes: ask for fewer")
        centers = self._fit_distinct(shapes, shape_weights)
        self.cluster_centers_ = centers[np.lexsort((centers[:, 0], centers.prod(axis=1)))]
        best, self.labels_ = best_shape_iou(X, self.cluster_centers_)
        self.inertia_ = float(weights @ (1 - best))
        return self

    def predict(self, X: Any) -> Int64[ndarray, " n"]:
        """The centre with the highest IoU, for each row."""
        check_is_fitted(self)
        return best_shape_iou(self._validated(X, reset=False), self.cluster_centers_)[1]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The average best IoU, from 0 to 1 (Redmon and Farhadi 2017, table 1)."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(best_shape_iou(X, self.cluster_centers_)[0], weights=weights))

    @abstractmethod
    def _fit_distinct(
        self, shapes: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"]
    ) -> Float64[ndarray, "k d"]:
        """Centres for different shapes of positive weight, in a fixed order."""

    def _validated(self, X: Any, *, reset: bool) -> Float64[ndarray, "n d"]:
        X = validate_data(self, X, dtype=np.float64, reset=reset)
        if (X <= 0).any():
            row = int(np.flatnonzero((X <= 0).any(axis=1))[0])
            what = "Negative" if (X < 0).any() else "Zero"  # scikit-learn's words
            raise ValueError(
                f"{what} values in data passed to {type(self).__name__}: shapes are positive; row {row}, {X[row]}"
            )
        return X

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


class IoUKMeans(ShapeClustering):
    """k-means whose distance is 1 - IoU of boxes that share a centre (Redmon and Farhadi 2017, section 2).

    The update decides more than the number of starts. The mean minimises squared Euclidean distances, not this one. For a
    centre (w, h) the derivative of the summed IoU in ln w is a sum of terms of known sign, so it vanishes at a weighted
    median of the members' widths, with weights |d IoU / d ln w| taken at the present centre; likewise for heights.
    Those weights change as the centre moves, so plain updates creep: each step that gains is stretched a little more in
    (ln w, ln h), and one that does not is taken back and made plain.

    Seeds follow greedy k-means++ (Arthur and Vassilvitskii 2007, section 5) in the distance itself, not its square, since
    the distance is what is summed. A cluster that loses its members takes the worst covered shape.

    Works in any number of dimensions: 2 for boxes, 3 for volumes.

    Args:
        n_clusters: number of shapes.
        update: ``"weighted_median"``, ``"median"`` or ``"mean"``.
        init: ``"k-means++"``, or the centres (n_clusters, d) to start from, which makes it one start.
        n_init: starts; the one with the highest average IoU is kept.
        max_iter: updates of one start, at most.
        random_state: seed of the starts.

    >>> shapes = np.array([[10.0, 20.0], [11.0, 20.0], [12.0, 20.0], [50.0, 40.0]])
    >>> IoUKMeans(n_clusters=2).fit(shapes).cluster_centers_
    array([[11., 20.],
           [50., 40.]])
    """

    def __init__(
        self,
        n_clusters: int = 9,
        *,
        update: str = "weighted_median",
        init: Any = "k-means++",
        n_init: int = 10,
        max_iter: int = 300,
        random_state: Any = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.update = update
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit_distinct(
        self, shapes: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"]
    ) -> Float64[ndarray, "k d"]:
        if self.update not in _UPDATES:
            raise ValueError(f"update={self.update!r} is not one of {sorted(_UPDATES)}")
        if self.n_init < 1 or self.max_iter < 1:
            raise ValueError(f"need n_init >= 1 and max_iter >= 1, got {self.n_init=}, {self.max_iter=}")
        members = _Members(shapes, weights)
        starts = (self._improve(members, seeds) for seeds in self._seeds(shapes, weights))
        _, self.n_iter_, centers = max(starts, key=lambda start: start[0])
        return centers

    def _seeds(
        self, shapes: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"]
    ) -> Iterator[Float64[ndarray, "k d"]]:
        if isinstance(self.init, str):
            if self.init != "k-means++":
                raise ValueError(f"init={self.init!r} is neither 'k-means++' nor an array of centres")
            random = check_random_state(self.random_state)
            for _ in range(self.n_init):
                yield _spread_seeds(shapes, weights, self.n_clusters, random)
            return
        seeds = np.array(self.init, np.float64)
        expected = (self.n_clusters, shapes.shape[1])
        if seeds.shape != expected or not (np.isfinite(seeds).all() and (seeds > 0).all()):
            raise ValueError(f"init must hold {expected} positive extents, got shape {seeds.shape}")
        yield seeds

    def _improve(
        self, members: _Members, centers: Float64[ndarray, "k d"]
    ) -> tuple[float, int, Float64[ndarray, "k d"]]:
        """Lloyd's iteration with stretched steps: the summed IoU reached, the number of updates, the centres."""
        best, update, stretch = -np.inf, centers, 1.0
        trial = centers
        updates = 0
        while updates < self.max_iter:
            updates += 1
            iou, labels = best_shape_iou(members.shapes, trial)
            total = float(members.weights @ iou)
            if total > best * (1 + SMALLEST_GAIN):
                best, centers = total, trial
                labels = _refill(labels, members.weights * (1 - iou), len(centers))
                update = _UPDATES[self.update](members, labels, centers)
                stretch = min(stretch * STRETCH, LARGEST_STRETCH)
            elif stretch == 1.0:
                break
            else:
                stretch = 1.0
            trial = centers * (update / centers) ** stretch
        return best, updates, centers


class EuclideanKMeans(ShapeClustering):
    """scikit-learn's k-means on (width, height) in pixels, or on their logarithms: what most anchor scripts run.

    Args:
        n_clusters: number of shapes.
        log: cluster (ln w, ln h), which weighs a factor of two alike at every size.
        n_init: starts.
        random_state: seed of the starts.
    """

    def __init__(self, n_clusters: int = 9, *, log: bool = False, n_init: int = 10, random_state: Any = 0) -> None:
        self.n_clusters = n_clusters
        self.log = log
        self.n_init = n_init
        self.random_state = random_state

    def _fit_distinct(
        self, shapes: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"]
    ) -> Float64[ndarray, "k d"]:
        from sklearn.cluster import KMeans

        kmeans = KMeans(self.n_clusters, n_init=self.n_init, random_state=self.random_state)
        kmeans.fit(np.log(shapes) if self.log else shapes, sample_weight=weights)
        self.n_iter_ = kmeans.n_iter_
        return np.exp(kmeans.cluster_centers_) if self.log else kmeans.cluster_centers_


def _distinct(
    X: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"]
) -> tuple[Float64[ndarray, "m d"], Float64[ndarray, " m"]]:
    """Rows of positive weight in lexicographic order, equal rows joined and their weights added."""
    order = np.lexsort((weights, *X.T[::-1]))
    order = order[weights[order] > 0]
    rows = X[order]
    starts = np.flatnonzero(np.append(True, (rows[1:] != rows[:-1]).any(axis=1))) if len(rows) else order
    return rows[starts], np.add.reduceat(weights[order], starts) if len(rows) else weights[order]


def _spread_seeds(
    shapes: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"], count: int, random: np.random.RandomState
) -> Float64[ndarray, "k d"]:
    """Each seed is the best of a few, drawn with weight times distance to the seeds before it."""
    distance = np.ones(len(shapes))
    seeds: list[int] = []
    for _ in range(count):
        reach = np.cumsum(weights * distance)
        draws = random.random_sample(CANDIDATES if seeds else 1) * reach[-1]
        candidates = np.searchsorted(reach, draws, side="right").clip(max=len(shapes) - 1)
        after = {row: np.minimum(distance, 1 - shape_iou(shapes, shapes[row])) for row in candidates.tolist()}
        seeds.append(min(after, key=lambda row: float(weights @ after[row])))
        distance = after[seeds[-1]]
    return shapes[seeds]


def _refill(labels: Int64[ndarray, " n"], badness: Float64[ndarray, " n"], count: int) -> Int64[ndarray, " n"]:
    """Give every empty cluster the worst covered shape that is not alone in its own."""
    sizes = np.bincount(labels, minlength=count)
    if sizes.all():
        return labels
    labels = labels.copy()
    worst_first = iter(np.argsort(-badness, kind="stable"))
    for empty in np.flatnonzero(sizes == 0):
        row = next(row for row in worst_first if sizes[labels[row]] > 1)
        sizes[labels[row]] -= 1
        sizes[empty] = 1
        labels[row] = empty
    return labels


class _Members:
    """The shapes to be clustered, and their order along each axis, which no update changes."""

    def __init__(self, shapes: Float64[ndarray, "n d"], weights: Float64[ndarray, " n"]) -> None:
        self.shapes = shapes
        self.weights = weights
        self.columns = np.ascontiguousarray(shapes.T)
        self.orders = [np.argsort(column, kind="stable") for column in self.columns]

    def medians(
        self, axis: int, weights: Float64[ndarray, " n"], labels: Int64[ndarray, " n"], count: int
    ) -> Float64[ndarray, " k"]:
        """Each cluster's weighted median along an axis: the least extent with half of the weight at or below it."""
        order = self.orders[axis]
        short = np.uint16 if count <= 2**16 else np.int64  # NumPy sorts 16 bits by radix
        order = order[np.argsort(labels[order].astype(short), kind="stable")]
        reach = np.cumsum(weights[order])
        ends = np.cumsum(np.bincount(labels, minlength=count))
        before = np.append(0.0, reach[ends[:-1] - 1])
        rows = np.searchsorted(reach, (before + reach[ends - 1]) / 2)
        return self.columns[axis][order[np.clip(rows, np.append(0, ends[:-1]), ends - 1)]]


def _mean_update(
    members: _Members, labels: Int64[ndarray, " n"], centers: Float64[ndarray, "k d"]
) -> Float64[ndarray, "k d"]:
    total = np.bincount(labels, members.weights, len(centers))
    sums = [np.bincount(labels, members.weights * column, len(centers)) for column in members.columns]
    return np.stack(sums, axis=1) / total[:, None]


def _median_update(
    members: _Members, labels: Int64[ndarray, " n"], centers: Float64[ndarray, "k d"]
) -> Float64[ndarray, "k d"]:
    axes = range(len(members.columns))
    return np.stack([members.medians(axis, members.weights, labels, len(centers)) for axis in axes], axis=1)


def _weighted_median_update(
    members: _Members, labels: Int64[ndarray, " n"], centers: Float64[ndarray, "k d"]
) -> Float64[ndarray, "k d"]:
    """Medians with weights |d IoU / d ln c| of a member (volume V, overlap I, union U) in its centre's extent c (volume C).

    Where the member's extent is above c, I grows with c: IoU * (1 - (C - I) / U). Where it is not, only U does: IoU * C / U.
    """
    own = centers.T[:, labels]
    own_volumes = own.prod(axis=0)
    overlap = np.minimum(members.columns, own).prod(axis=0)
    union = members.columns.prod(axis=0) + own_volumes - overlap
    iou = members.weights * overlap / union
    above, below = iou * (1 - (own_volumes - overlap) / union), iou * own_volumes / union
    columns = []
    for axis, (column, own_column) in enumerate(zip(members.columns, own, strict=True)):
        slopes = np.where(column > own_column, above, below)
        columns.append(members.medians(axis, slopes, labels, len(centers)))
    return np.stack(columns, axis=1)


_UPDATES = {"weighted_median": _weighted_median_update, "median": _median_update, "mean": _mean_update}
