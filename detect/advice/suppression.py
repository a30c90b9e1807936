"""Objects that non-maximum suppression removes although every one is detected perfectly.

Greedy suppression keeps no two boxes of an IoU above its threshold. Of perfect detections it therefore keeps a set of
objects without such a pair, and no more than the largest one has: a maximum independent set of the graph whose edges are
these pairs. If the members of that set have the highest scores they all stay, so no smaller bound holds for every order of
scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detect.advice.overlaps import OverlappingPairs

SECONDS = 5.0  # for one crowd of overlapping objects; after it, the solver's own bound holds


@dataclass(frozen=True, eq=False)
class Suppression:
    """What suppression removes at one IoU threshold; made by :func:`suppressed_objects`."""

    iou_threshold: float
    pairs: OverlappingPairs
    """Pairs of which one is removed."""
    num_lost: int
    """Objects that are removed in any order of scores, at the least."""
    is_exact: bool
    """Whether some order of scores removes no more than ``num_lost``; if not, the solver ran out of time."""


def suppressed_objects(pairs: OverlappingPairs, *, iou_threshold: float) -> Suppression:
    """The objects lost to suppression, from the pairs of objects that meet in it, with every IoU above the threshold.

    Objects meet within an image, or within an image and a category: they are the groups of
    :func:`detect.advice.overlaps.overlapping_pairs`.

    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 2, 10, 12], [0, 4, 10, 14], [50, 0, 60, 10]])
    >>> from detect.advice.overlaps import overlapping_pairs
    >>> pairs = overlapping_pairs(boxes, np.zeros(4, int))
    >>> lost = suppressed_objects(pairs, iou_threshold=0.5)  # the first and the third both stay
    >>> lost.num_lost, lost.pairs.first, lost.pairs.second
    (1, array([0, 1]), array([1, 2]))
    """
    pairs = pairs.above(iou_threshold)
    rows, ends = np.unique([pairs.first, pairs.second], return_inverse=True)
    edges = ends.reshape(2, -1)
    graph = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(len(rows), len(rows)))
    num_crowds, crowd = connected_components(graph, directed=False)
    sizes = np.bincount(crowd, minlength=num_crowds)
    num_edges = np.bincount(crowd[edges[0]], minlength=num_crowds)
    is_clique = num_edges == sizes * (sizes - 1) // 2  # all overlap each other: one stays
    lost, is_exact = int((sizes - 1)[is_clique].sum()), True
    order = np.argsort(crowd[edges[0]], kind="stable")
    ends_at = np.cumsum(num_edges)
    for number in np.flatnonzero(~is_clique).tolist():
        own = edges[:, order[ends_at[number] - num_edges[number] : ends_at[number]]]
        least, exact = _least_removed(int(sizes[number]), np.unique(own, return_inverse=True)[1].reshape(2, -1))
        lost, is_exact = lost + least, is_exact and exact
    return Suppression(iou_threshold, pairs, lost, is_exact)


def _least_removed(size: int, edges: Int64[ndarray, "2 e"]) -> tuple[int, bool]:
    """The fewest of ``size`` objects that hold an end of every edge, and whether that is proven; else a lower bound."""
    num = edges.shape[1]
    ones = coo_array((np.ones(2 * num), (np.tile(np.arange(num), 2), edges.ravel())), shape=(num, size))
    found = milp(
        np.ones(size),
        constraints=LinearConstraint(ones.tocsr(), lb=1),
        integrality=np.ones(size),
        bounds=Bounds(0, 1),
        options={"time_limit": SECONDS},
    )
    if found.status == 0:
        return round(found.fun), True
    bound = found.mip_dual_bound
    return (0 if bound is None or not np.isfinite(bound) else int(np.ceil(bound - 1e-6))), False
