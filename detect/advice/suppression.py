"""Objects that non-maximum suppression removes although every one is detected perfectly.

Greedy suppression keeps no two boxes of an IoU above its threshold. Of perfect detections it therefore keeps a set of
objects without such a pair, and no more than the largest one has: a maximum independent set of the graph whose edges are
these pairs. If the members of that set have the highest scores they all stay, so no smaller bound holds for every order of
scores.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detect.advice.overlaps import OverlappingPairs

SECONDS = 5.0  # for one crowd of overlapping objects; after it, the solver's own bound holds


def least_suppressed(pairs: OverlappingPairs) -> int:
    """The fewest objects that suppression removes in any order of scores, from the pairs of which it removes one.

    Where the solver runs out of time this is its lower bound.

    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 2, 10, 12], [0, 4, 10, 14], [50, 0, 60, 10]])
    >>> from detect.advice.overlaps import overlapping_pairs
    >>> least_suppressed(overlapping_pairs(boxes, np.zeros(4, int)).above(0.5))  # the first and the third both stay
    1
    """
    rows, ends = np.unique([pairs.first, pairs.second], return_inverse=True)
    edges = ends.reshape(2, -1)
    graph = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(len(rows), len(rows)))
    num_crowds, crowd = connected_components(graph, directed=False)
    sizes = np.bincount(crowd, minlength=num_crowds)
    num_edges = np.bincount(crowd[edges[0]], minlength=num_crowds)
    is_clique = num_edges == sizes * (sizes - 1) // 2  # all overlap each other: one stays
    lost = int((sizes - 1)[is_clique].sum())
    order = np.argsort(crowd[edges[0]], kind="stable")
    ends_at = np.cumsum(num_edges)
    for number in np.flatnonzero(~is_clique).tolist():
        own = edges[:, order[ends_at[number] - num_edges[number] : ends_at[number]]]
        lost += _least_removed(int(sizes[number]), np.unique(own, return_inverse=True)[1].reshape(2, -1))
    return lost


def _least_removed(size: int, edges: Int64[ndarray, "2 e"]) -> int:
    """The fewest of ``size`` objects that hold an end of every edge, or a lower bound."""
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
        return round(found.fun)
    bound = found.mip_dual_bound
    return 0 if bound is None or not np.isfinite(bound) else int(np.ceil(bound - 1e-6))
