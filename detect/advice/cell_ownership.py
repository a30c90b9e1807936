"""The largest set of objects that can each own a cell, for detectors in which a cell learns and returns one object.

Such detectors (FCOS, Tian et al. 2019, section 3.1; YOLOX, TOOD, YOLOv8 and later) let an object be positive only in cells
whose centre lies strictly inside a region around it, mostly its box, and a cell is positive for one object. Whatever the
network predicts and however ties are broken, the objects with a positive are therefore matched one to one with cells inside
their regions: there are no more of them than pairs in a maximum bipartite matching of objects and cells.

An object with no cell in its regions never has a positive. Others lose to each other: which ones depends on the predictions,
but how many at least does not. By the decomposition of Dulmage and Mendelsohn (1958) the objects that stay without a cell in
some maximum matching are a set of their own, and all others have a cell in every maximum matching.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from detect.advice.level_cells import CellPairs, LevelCells, Regions, blocks_of_images


@dataclass(frozen=True, eq=False)
class CellOwnership:
    """Which objects can own a cell; made by :func:`cell_ownership`."""

    num_cells: Int64[ndarray, " n"]
    """Cells in which each object may be positive."""
    num_outnumbered: Int64[ndarray, " b"]
    """Objects of each image that have such cells, and stay without one in any assignment, at the least."""
    is_contested: Bool[ndarray, " n"]
    """Whether an object stays without a cell in some maximum matching, though it has cells."""

    @property
    def without_cell(self) -> Int64[ndarray, " m"]:
        """Rows of the objects that no cell can learn."""
        return np.flatnonzero(self.num_cells == 0)

    @property
    def num_lost(self) -> int:
        """Objects that have no positive in any one assignment of cells, at the least."""
        return len(self.without_cell) + int(self.num_outnumbered.sum())


def cell_ownership(regions: Regions, image_rows: Int64[ndarray, " n"], grid: LevelCells) -> CellOwnership:
    """Match objects with cells, image by image, so that as many as possible own one.

    >>> boxes = np.array([[0.0, 0, 6, 6], [0, 0, 7, 7], [5, 0, 11, 3]])  # two share the cell at (4, 4), one has none
    >>> owned = cell_ownership(boxes[:, None], np.zeros(3, int), LevelCells(np.array([[16, 16]]), (8,)))
    >>> owned.num_cells, owned.num_outnumbered, owned.is_contested, owned.num_lost
    (array([1, 1, 0]), array([1]), array([ True,  True, False]), 2)

    Args:
        regions: where the centres of an object's cells lie on each level.
        image_rows: the image of each object.
        grid: the cells of each image.
    """
    num_images = len(grid.canvas_wh)
    num_cells = grid.count(regions, image_rows)
    rows = _rows_in_need(num_cells, image_rows, num_images)
    num_outnumbered, is_contested = np.zeros(num_images, np.int64), np.zeros(len(regions), bool)
    for block in blocks_of_images(rows, num_cells, image_rows):
        graph = _graph(grid.pairs(regions[block], image_rows[block]), len(block))
        cell_of = maximum_bipartite_matching(graph, perm_type="column")
        left = cell_of < 0
        num_outnumbered += np.bincount(image_rows[block][left], minlength=num_images)
        is_contested[block] = _reachable(graph, cell_of, left)
    return CellOwnership(num_cells, num_outnumbered, is_contested)


def _rows_in_need(
    num_cells: Int64[ndarray, " n"], image_rows: Int64[ndarray, " n"], num_images: int
) -> Int64[ndarray, " m"]:
    """Objects that could stay without a cell, ordered by image.

    An object with at least as many cells as its image has such objects, itself included, gets one in every maximum matching:
    the others occupy fewer. Without it the same holds for those that remain.
    """
    rows = np.flatnonzero(num_cells)
    rows = rows[np.argsort(image_rows[rows], kind="stable")]
    while len(rows):
        rivals = np.bincount(image_rows[rows], minlength=num_images)
        in_need = num_cells[rows] < rivals[image_rows[rows]]
        if in_need.all():
            break
        rows = rows[in_need]
    return rows


def _graph(pairs: CellPairs, num_objects: int) -> csr_array:
    """Objects by cells."""
    names, columns = np.unique(pairs.cells, return_inverse=True)
    shape = num_objects, len(names)
    return csr_array(
        (np.ones(len(columns), np.int8), (pairs.rows.astype(np.int32), columns.astype(np.int32))), shape=shape
    )


def _reachable(graph: csr_array, cell_of: ndarray, left: Bool[ndarray, " m"]) -> Bool[ndarray, " m"]:
    """Objects on an alternating path that begins at one without a cell: that one takes its cell, and it stays without."""
    owner = np.full(graph.shape[1], -1)
    owner[cell_of[~left]] = np.flatnonzero(~left)
    reached, fresh = left.copy(), np.flatnonzero(left)
    while len(fresh):
        cells = np.unique(graph[fresh].indices)
        others = owner[cells]  # each has an owner: the matching is maximum
        fresh = np.unique(others[~reached[others]])
        reached[fresh] = True
    return reached
