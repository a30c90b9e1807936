"""Which predicted points are which true ones: pairs within a radius, each point in one pair at most.

Points are rows (x, y) or (x, y, z). The radius is in their unit, or, given ``spacing``, the size of a pixel along each axis,
in that of the spacing: micrometres, say, for volumes whose slices lie farther apart than their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import KDTree

Spacing = float | Sequence[float]

MARGIN = 1e-9  # relative, of the tree's search: the exact distances decide


@dataclass(frozen=True, eq=False)
class PointMatches:
    """Pairs of a predicted and a true point, in the order of the predicted, and their distances."""

    predicted: Int64[ndarray, " k"]
    truth: Int64[ndarray, " k"]
    distances: Float[ndarray, " k"]


def match_points(
    predicted: Float[ndarray, "n d"], truth: Float[ndarray, "m d"], *, radius: float, spacing: Spacing = 1.0
) -> PointMatches:
    """As many pairs within the radius (or at it) as there can be, and of those choices one of least total distance.

    Only near pairs are ever looked at: thousands of points take time and memory as their neighbours do.

    >>> matches = match_points(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[2.0, 1.0], [4.0, 0.0]]), radius=2.5)
    >>> matches.predicted, matches.truth  # (2, 0) is nearer to (2, 1), but then (0, 0) would be left alone
    (array([0, 1]), array([0, 1]))

    Raises:
        ValueError: a radius or spacing that is not positive, points of different dimensions, or coordinates that are not
            finite.
    """
    rows, columns, distances = near_pairs(predicted, truth, radius=radius, spacing=spacing)
    num_rows, num_columns = len(predicted), len(truth)
    # each row may stay alone, at a column of its own. Alone costs more than all that distances can save, and no more than
    # that, or small distances would drown in it; the 1 is because the solver takes a cost of 0 for no edge
    alone = 2.0 + min(num_rows, num_columns)
    costs = np.concatenate([1 + distances / radius, np.full(num_rows, alone)])
    both = np.concatenate([rows, np.arange(num_rows)]), np.concatenate([columns, num_columns + np.arange(num_rows)])
    graph = csr_array((costs, both), shape=(num_rows, num_columns + num_rows))
    row, column = min_weight_full_bipartite_matching(graph)
    row, column = row[column < num_columns].astype(np.int64), column[column < num_columns].astype(np.int64)
    shift = _placed(predicted[row], spacing) - _placed(truth[column], spacing)
    return PointMatches(row, column, np.linalg.norm(shift, axis=1))


def matches_by_score(
    predicted: Float[ndarray, "n d"],
    scores: Float[ndarray, " n"],
    truth: Float[ndarray, "m d"],
    *,
    radius: float,
    spacing: Spacing = 1.0,
) -> Bool[ndarray, " n"]:
    """Which predictions add a pair, when they come one by one in falling order of score.

    For any threshold, the largest number of pairs among the predictions that reach it is the number of true values among
    them. With one more prediction either none of the paired has to go and a pair is gained, by an augmenting path, or none
    can be gained now or later: the sets that can be paired are a matroid's (Edmonds and Fulkerson 1965). Of equal scores
    the earlier comes first.

    >>> predicted, truth = np.array([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 0.0], [2.0, 0.0]])
    >>> matches_by_score(predicted, np.array([0.9, 0.8, 0.7]), truth, radius=1.0)  # the first gives way to the second
    array([ True,  True, False])
    """
    if scores.shape != (len(predicted),):
        raise ValueError(f"{len(predicted)} predicted points need one score each, got {scores.shape}")
    rows, columns, distances = near_pairs(predicted, truth, radius=radius, spacing=spacing)
    order = np.lexsort((distances, rows))
    ends = np.searchsorted(rows[order], np.arange(1, len(predicted)))
    near = [each.tolist() for each in np.split(columns[order], ends)] if len(predicted) else []
    gained = np.zeros(len(predicted), dtype=np.bool_)
    pairing = _Pairing(near, len(truth))
    for row in np.argsort(-scores, kind="stable").tolist():
        gained[row] = pairing.add(row)
    return gained


def check_images(
    predicted: Sequence[ndarray], truth: Sequence[ndarray], scores: Sequence[ndarray] | None = None
) -> None:
    """Fail unless there is an image, and for each image predicted and true points, and a score for each that is predicted.

    Raises:
        ValueError: none, or lists of unequal lengths; of an image it tells the number.
    """
    lengths = [len(predicted), len(truth)] + ([] if scores is None else [len(scores)])
    if len(set(lengths)) > 1 or not len(truth):
        raise ValueError(f"need predictions, truths and scores of the same images, one or more, got {lengths}")
    for image, (points, others) in enumerate(zip(predicted, truth, strict=True)):
        if points.ndim != 2 or others.ndim != 2 or points.shape[1] != others.shape[1]:
            raise ValueError(f"points of image {image} are rows (x, y[, z]), got {points.shape} and {others.shape}")
        if scores is not None and scores[image].shape != (len(points),):
            raise ValueError(f"image {image} has {len(points)} predicted points, but scores {scores[image].shape}")


def near_pairs(
    predicted: Float[ndarray, "n d"], truth: Float[ndarray, "m d"], *, radius: float, spacing: Spacing = 1.0
) -> tuple[Int64[ndarray, " k"], Int64[ndarray, " k"], Float[ndarray, " k"]]:
    """All pairs within the radius: row of the predicted, row of the true, distance."""
    if not 0 < radius < float("inf"):
        raise ValueError(f"need a positive radius, got {radius}")
    if predicted.ndim != 2 or truth.ndim != 2 or predicted.shape[1] != truth.shape[1]:
        raise ValueError(f"points are rows (x, y[, z]), got {predicted.shape} and {truth.shape}")
    placed, others = _placed(predicted, spacing), _placed(truth, spacing)
    if not (np.isfinite(placed).all() and np.isfinite(others).all()):
        raise ValueError("points with coordinates that are not finite")
    found = KDTree(placed).sparse_distance_matrix(KDTree(others), radius * (1 + MARGIN), output_type="ndarray")
    rows, columns = found["i"].astype(np.int64), found["j"].astype(np.int64)
    distances = np.linalg.norm(placed[rows] - others[columns], axis=1)
    inside = distances <= radius
    return rows[inside], columns[inside], distances[inside]


def _placed(points: ndarray, spacing: Spacing) -> ndarray:
    """Points in physical units, in float64."""
    sizes = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
    if len(sizes) not in {1, points.shape[1]} or not ((sizes > 0) & (sizes < np.inf)).all():
        raise ValueError(f"need one positive spacing, or one for each of {points.shape[1]} axes, got {spacing}")
    return points.astype(np.float64) * sizes


class _Pairing:
    """Rows, each near some columns, paired one by one."""

    def __init__(self, near: list[list[int]], num_columns: int) -> None:
        self.near = near
        self.row_of = [-1] * num_columns
        self.column_of = [-1] * len(near)
        self.dead: set[int] = set()  # what a vain search has seen has no free column in reach, now or later

    def add(self, row: int) -> bool:
        """Whether one more row can be paired, for which others may change their columns: a search in breadth."""
        came_from: dict[int, int] = {}  # column: the row that reached it first
        queue = [row]
        for reached in queue:
            for column in self.near[reached]:
                if column in came_from or column in self.dead:
                    continue
                came_from[column] = reached
                if self.row_of[column] < 0:
                    self._switch(column, came_from)
                    return True
                queue.append(self.row_of[column])
        self.dead.update(came_from)
        return False

    def _switch(self, column: int, came_from: dict[int, int]) -> None:
        """Give each row of the path the column that it reached, from the free one back to the new row."""
        while column >= 0:
            row = came_from[column]
            self.row_of[column] = row
            column, self.column_of[row] = self.column_of[row], column
