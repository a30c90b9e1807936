"""k-means over box shapes with 1 - IoU as the distance, and Euclidean k-means as a baseline: scikit-learn estimators.

``X`` holds (width, height) rows in pixels after the resize rule; ``sample_weight`` is the number of boxes of each row. Rows
are sorted and equal rows are joined before anything random happens: order changes nothing, and a weight of w is w copies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from detect.fitting.kmeans import (
    MAX_ITER,
    UPDATES,
    Members,
    best_of_starts,
    improve_centers,
    require_enough,
    sorted_by_area,
)
from detect.ops.box_arrays import best_shape_iou
from detect.ops.time_limit import best_until

Rows = Float64[ndarray, "n d"]
PerRow = Float64[ndarray, " n"]


class ShapeClustering(ClusterMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the estimators: checks of the data, centres sorted by area, and their score in IoU."""

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
        require_enough(shapes, self.n_clusters)
        self.cluster_centers_ = sorted_by_area(self._fit_distinct(shapes, shape_weights))
        best, self.labels_ = best_shape_iou(X, self.cluster_centers_)
        self.inertia_ = float((weights * (1 - best)).sum())
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
    def _fit_distinct(self, shapes: Rows, weights: PerRow) -> Float64[ndarray, "k d"]:
        """Centres for distinct shapes of positive weight, in a fixed order."""

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

    Greedy k-means++ seeds in that distance, weighted medians as the update: see :mod:`detect.fitting.kmeans`. Works in
    any number of dimensions: 2 for boxes, 3 for volumes.

    Args:
        n_clusters: number of shapes.
        update: ``"weighted_median"``, ``"median"`` or ``"mean"``.
        init: ``"k-means++"``, or the centres (n_clusters, d) of a single start.
        n_init: number of starts; the one with the highest average IoU is kept.
        max_iter: maximum number of updates of one start.
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
        max_iter: int = MAX_ITER,
        random_state: Any = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.update = update
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit_distinct(self, shapes: Rows, weights: PerRow) -> Float64[ndarray, "k d"]:
        if self.update not in UPDATES:
            raise ValueError(f"update={self.update!r} is not one of {sorted(UPDATES)}")
        if self.n_init < 1 or self.max_iter < 1:
            raise ValueError(f"need n_init >= 1 and max_iter >= 1, got {self.n_init=}, {self.max_iter=}")
        members = Members(shapes, weights)
        how: dict[str, Any] = {"update": self.update, "max_iter": self.max_iter}
        if not isinstance(self.init, str):
            solution = improve_centers(members, self._given_centers(shapes.shape[1]), **how)
        elif self.init != "k-means++":
            raise ValueError(f"init={self.init!r} is neither 'k-means++' nor an array of centres")
        else:
            random = check_random_state(self.random_state)
            solution = best_of_starts(members, self.n_clusters, random, n_init=self.n_init, **how)
        self.n_iter_ = solution.num_updates
        return solution.centers

    def _given_centers(self, num_extents: int) -> Float64[ndarray, "k d"]:
        centers = np.array(self.init, np.float64)
        expected = (self.n_clusters, num_extents)
        if centers.shape != expected or not (np.isfinite(centers).all() and (centers > 0).all()):
            raise ValueError(f"init must hold {expected} positive extents, got shape {centers.shape}")
        return centers


class EuclideanKMeans(ShapeClustering):
    """scikit-learn's k-means on (width, height) in pixels, as in most anchor scripts, or with ``log`` on their logarithms.

    >>> EuclideanKMeans(n_clusters=2).fit(np.array([[10.0, 20.0], [12.0, 20.0], [50.0, 40.0]])).cluster_centers_
    array([[11., 20.],
           [50., 40.]])
    """

    def __init__(self, n_clusters: int = 9, *, log: bool = False, n_init: int = 10, random_state: Any = 0) -> None:
        self.n_clusters = n_clusters
        self.log = log
        self.n_init = n_init
        self.random_state = random_state

    def _fit_distinct(self, shapes: Rows, weights: PerRow) -> Float64[ndarray, "k d"]:
        from sklearn.cluster import KMeans

        random, rows = check_random_state(self.random_state), np.log(shapes) if self.log else shapes
        starts = (KMeans(self.n_clusters, n_init=1, random_state=random) for _ in range(self.n_init))
        fits = (start.fit(rows, sample_weight=weights) for start in starts)
        kmeans = best_until(fits, key=lambda fit: -fit.inertia_)
        self.n_iter_ = kmeans.n_iter_
        return np.exp(kmeans.cluster_centers_) if self.log else kmeans.cluster_centers_


def _distinct(X: Rows, weights: PerRow) -> tuple[Float64[ndarray, "m d"], Float64[ndarray, " m"]]:
    """Distinct rows of positive weight in lexicographic order, and their summed weights."""
    order = np.lexsort((weights, *X.T[::-1]))
    order = order[weights[order] > 0]
    rows = X[order]
    starts = np.flatnonzero(np.append(True, (rows[1:] != rows[:-1]).any(axis=1))) if len(rows) else order
    return rows[starts], np.add.reduceat(weights[order], starts) if len(rows) else weights[order]
