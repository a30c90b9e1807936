"""One-to-one matching of predicted and true points within a radius.

Points are rows (x, y) or (x, y, z). The radius is in their unit. ``spacing``, the size of a pixel along each axis, converts
points to physical units, such as micrometres in volumes whose slices are farther apart than their pixels; the radius is then
in that unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from scipy.spatial import KDTree

from detect.ops.array_kinds import AnyArray, check_shape, in_arrays, of_axes

Spacing = float | Sequence[float]

MARGIN = 1e-9  # relative widening of the tree search; exact distances decide
PAIRS_AT_ONCE = 500  # pairs, or one group of connected points, are matched together


@dataclass(frozen=True, eq=False)
class PointMatches:
    """Pairs as rows of the predicted and the true points, in the order of the predicted, and their distances."""

    predicted: Int64[AnyArray, " k"]
    truth: Int64[AnyArray, " k"]
    distances: Float[AnyArray, " k"]


@in_arrays
def match_points(
    predicted: Float[ndarray, "n d"], truth: Float[ndarray, "m d"], *, radius: float, spacing: Spacing = 1.0
) -> PointMatches:
    """Match as many pairs at most ``radius`` apart as possible, and among those choices minimise the total distance.

    Only pairs within the radius are considered: memory grows with the number of neighbours, not of all pairs.

    >>> matches = match_points(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[2.0, 1.0], [4.0, 0.0]]), radius=2.5)
    >>> matches.predicted, matches.truth  # (2, 0) is nearer to (2, 1), but then (0, 0) would stay unmatched
    (array([0, 1]), array([0, 1]))

    Raises:
        ValueError: the radius or the spacing is not positive, points differ in dimension, or coordinates are not finite.
    """
    rows, columns, distances = _near_pairs(predicted, truth, radius, spacing)
    # An unmatched row costs more than all that distances can save, but only just, so that small distances keep their
    # precision. Edges cost 1 more because the solver takes a cost of 0 for no edge.
    alone = 2.0 + min(len(predicted), len(truth))
    row, column = _cheapest(rows, columns, 1 + distances / radius, alone, (len(predicted), len(truth)))
    distances = _distances(predicted[row], truth[column], spacing)
    return PointMatches(row, column, distances.astype(np.result_type(predicted, truth, np.float32)))


@in_arrays
def matches_by_score(
    predicted: Float[ndarray, "n d"],
    truth: Float[ndarray, "m d"],
    *,
    scores: Float[ndarray, " n"],
    radius: float,
    spacing: Spacing = 1.0,
) -> Bool[ndarray, " n"]:
    """Tell which predictions add a pair to the best matching if they are added one by one in falling order of score.

    For any threshold, the largest possible number of pairs is the number of true values among the predictions kept: the sets
    that can be matched are the independent sets of a matroid (Edmonds and Fulkerson 1965), so the predictions that are added
    greedily are those of the matching whose total weight is largest, for any weights that fall with the score. Of equal
    scores the earlier prediction comes first.

    >>> predicted, truth = np.array([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 0.0], [2.0, 0.0]])
    >>> matches_by_score(predicted, truth, scores=np.array([0.9, 0.8, 0.7]), radius=1.0)  # the second moves the first
    array([ True,  True, False])
    """
    num_points = len(predicted)
    check_shape("one score for each predicted point,", scores, (num_points,))
    rows, columns, _ = _near_pairs(predicted, truth, radius, spacing)
    rank = np.argsort(np.argsort(-scores, kind="stable"))
    row, _ = _cheapest(rows, columns, 1.0 + rank[rows], 1.0 + num_points, (num_points, len(truth)))
    gained = np.zeros(num_points, dtype=np.bool_)
    gained[row] = True
    return gained


@in_arrays
def check_images(
    predicted: Sequence[ndarray], truth: Sequence[ndarray], *, scores: Sequence[ndarray] | None = None
) -> None:
    """Check that there is an image, that all lists have one entry for each image, and each predicted point has a score."""
    lengths = [len(predicted), len(truth)] + ([] if scores is None else [len(scores)])
    if len(set(lengths)) > 1 or not len(truth):
        raise ValueError(f"need predictions, truths and scores of the same images, one or more, got {lengths}")
    for image, (points, others) in enumerate(zip(predicted, truth, strict=True)):
        _check_points(f"points of image {image}", points, others)
        if scores is not None:
            _check_arrays(f"scores of image {image}", scores[image])
            check_shape(f"one score for each predicted point of image {image},", scores[image], (len(points),))


def _check_arrays(what: str, *given: object) -> None:
    for each in given:
        if not isinstance(each, ndarray):
            raise ValueError(f"{what} are in an array or tensor, got {type(each).__name__}")


def _check_points(what: str, points: ndarray, others: ndarray) -> None:
    _check_arrays(what, points, others)
    if points.ndim != 2 or others.ndim != 2 or points.shape[1] != others.shape[1]:
        raise ValueError(f"{what} are rows (x, y[, z]), got {points.shape} and {others.shape}")


def _near_pairs(
    predicted: Float[ndarray, "n d"], truth: Float[ndarray, "m d"], radius: float, spacing: Spacing
) -> tuple[Int64[ndarray, " k"], Int64[ndarray, " k"], Float[ndarray, " k"]]:
    """All pairs within the radius: rows of the predicted points, rows of the true points, distances."""
    if not 0 < radius < float("inf"):
        raise ValueError(f"need a positive radius, got {radius}")
    _check_points("points", predicted, truth)
    scaled, others = _scaled(predicted, spacing), _scaled(truth, spacing)
    if not (np.isfinite(scaled).all() and np.isfinite(others).all()):
        raise ValueError("points with coordinates that are not finite")
    found = KDTree(scaled).sparse_distance_matrix(KDTree(others), radius * (1 + MARGIN), output_type="ndarray")
    rows, columns = found["i"].astype(np.int64), found["j"].astype(np.int64)
    distances = _distances(predicted[rows], truth[columns], spacing)
    inside = distances <= radius
    return rows[inside], columns[inside], distances[inside]


def _cheapest(
    rows: Int64[ndarray, " k"],
    columns: Int64[ndarray, " k"],
    costs: Float[ndarray, " k"],
    alone: float,
    shape: tuple[int, int],
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """The pairs of the matching of least cost, rising by row; a row that stays alone costs ``alone``.

    Points that no chain of pairs connects do not compete, so the groups that one does are solved a block at a time: the time
    of the solver grows with the square of the points that it is given.
    """
    num_rows, num_columns = shape
    graph = coo_array((np.ones(len(rows)), (rows, num_rows + columns)), shape=(num_rows + num_columns,) * 2)
    group = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    block = (np.cumsum(sizes) // PAIRS_AT_ONCE)[group[order]]
    stops = np.flatnonzero(np.diff(block, append=-1)) + 1
    found = [np.zeros((2, 0), np.int64)]
    for start, stop in pairwise([0, *stops.tolist()]):
        own = order[start:stop]
        found.append(_cheapest_of_block(rows[own], columns[own], costs[own], alone))
    row, column = np.concatenate(found, axis=1)
    order = np.argsort(row)
    return row[order], column[order]


def _cheapest_of_block(
    rows: Int64[ndarray, " k"], columns: Int64[ndarray, " k"], costs: Float[ndarray, " k"], alone: float
) -> Int64[ndarray, "2 m"]:
    """The matching of least cost of a few points; each row has a column of its own, for staying alone."""
    (of_row, row), (of_column, column) = (np.unique(each, return_inverse=True) for each in (rows, columns))
    own = np.arange(len(of_row))
    ends = np.concatenate([row, own]), np.concatenate([column, len(of_column) + own])
    costs = np.concatenate([costs, np.full(len(own), alone)])
    graph = csr_array((costs, ends), shape=(len(of_row), len(of_column) + len(of_row)))
    row, column = min_weight_full_bipartite_matching(graph)
    matched = column < len(of_column)
    return np.stack([of_row[row[matched]], of_column[column[matched]]])


def _scaled(points: ndarray, spacing: Spacing) -> ndarray:
    """Points in physical units, in float64."""
    return points.astype(np.float64) * of_axes("spacing", spacing, points.shape[1])


def _distances(points: Float[ndarray, "k d"], others: Float[ndarray, "k d"], spacing: Spacing) -> Float[ndarray, " k"]:
    """Distances of pairs in physical units; those of whole pixels are exact multiples of the spacing."""
    return np.linalg.norm(_scaled(points.astype(np.float64) - others, spacing), axis=1)
