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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from detect.ops.box_arrays import row_blocks

MAX_EDGES = 20_000_000  # pairs of object and cell that are in memory together


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


def cell_ownership(
    regions: Float64[ndarray, "n l 4"],
    image_rows: Int64[ndarray, " n"],
    *,
    canvas_wh: Int64[ndarray, "b 2"],
    strides: Sequence[int],
) -> CellOwnership:
    """Match objects with cells, image by image, so that as many as possible own one.

    A level of stride s has ceil(h / s) by ceil(w / s) cells, with centres at (i + 1/2) s.

    >>> boxes = np.array([[0.0, 0, 6, 6], [0, 0, 7, 7], [5, 0, 11, 3]])  # two share the cell at (4, 4), one has none
    >>> owned = cell_ownership(boxes[:, None], np.zeros(3, int), canvas_wh=np.array([[16, 16]]), strides=[8])
    >>> owned.num_cells, owned.num_outnumbered, owned.is_contested, owned.num_lost
    (array([1, 1, 0]), array([1]), array([ True,  True, False]), 2)

    Args:
        regions: (x0, y0, x1, y1) on each level, in pixels of the network's input, in which the centres of an object's cells
            lie; NaN where it has none.
        image_rows: the image of each object.
        canvas_wh: (width, height) of the network's input for each image.
        strides: of the levels, in pixels.
    """
    num_cells = np.empty(len(regions), np.int64)
    for own in row_blocks(len(regions)):
        _, counts = _cells_inside(regions[own], canvas_wh[image_rows[own]], strides)
        num_cells[own] = counts.prod(axis=2).sum(axis=1)
    rows = _rows_in_need(num_cells, image_rows, len(canvas_wh))
    num_outnumbered, is_contested = np.zeros(len(canvas_wh), np.int64), np.zeros(len(regions), bool)
    for block in _blocks(rows, num_cells, image_rows):
        first, counts = _cells_inside(regions[block], canvas_wh[image_rows[block]], strides)
        cells = _cells(first, counts, image_rows[block], canvas_wh, strides)
        graph = _graph(cells, num_cells[block])
        cell_of = maximum_bipartite_matching(graph, perm_type="column")
        left = cell_of < 0
        num_outnumbered += np.bincount(image_rows[block][left], minlength=len(canvas_wh))
        is_contested[block] = _reachable(graph, cell_of, left)
    return CellOwnership(num_cells, num_outnumbered, is_contested)


def box_regions(
    boxes: Float64[ndarray, "n 4"], num_levels: int, *, least_side_px: float = 0.0
) -> Float64[ndarray, "n l 4"]:
    """The regions of assigners that take the cells inside a box, on every level alike.

    Sides shorter than ``least_side_px`` are lengthened to it about the centre of the box: ultralytics 8.4.190 does so with
    the second stride (``TaskAlignedAssigner.select_candidates_in_gts``).

    >>> box_regions(np.array([[10.0, 10, 14, 40]]), 2, least_side_px=16)[:, 0]
    array([[ 4., 10., 20., 40.]])
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    middle, is_short = (low + high) / 2, high - low < least_side_px
    low = np.where(is_short, middle - least_side_px / 2, low)
    high = np.where(is_short, middle + least_side_px / 2, high)
    return np.repeat(np.concatenate([low, high], axis=1)[:, None], num_levels, axis=1)


def _cells_inside(
    regions: Float64[ndarray, "n l 4"], canvas_wh: Int64[ndarray, "n 2"], strides: Sequence[int]
) -> tuple[Int64[ndarray, "n l 2"], Int64[ndarray, "n l 2"]]:
    """The first cell (column, row) of each object on each level, and the numbers of columns and rows."""
    steps = np.array(strides, float)[:, None]
    last_of_level = np.ceil(canvas_wh[:, None] / steps) - 1
    has_cells = np.isfinite(regions).all(axis=2, keepdims=True)
    low, high = np.where(has_cells, regions[..., :2], 1.0), np.where(has_cells, regions[..., 2:], 0.0)
    first = np.maximum(np.floor(low / steps - 0.5) + 1, 0)
    last = np.minimum(np.ceil(high / steps - 0.5) - 1, last_of_level)
    counts = np.maximum(last - first + 1, 0)
    return first.astype(np.int64), np.where(has_cells, counts, 0).astype(np.int64)


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


def _blocks(
    rows: Int64[ndarray, " m"], num_cells: Int64[ndarray, " n"], image_rows: Int64[ndarray, " n"]
) -> Iterator[Int64[ndarray, " k"]]:
    """Rows of whole images that have up to ``MAX_EDGES`` pairs together, or of one image that has more."""
    starts = np.flatnonzero(np.diff(image_rows[rows], prepend=-1))
    edges = np.add.reduceat(num_cells[rows], starts) if len(rows) else np.zeros(0, np.int64)
    block = np.cumsum(edges) // MAX_EDGES
    cuts = starts[np.flatnonzero(np.diff(block)) + 1]
    yield from (each for each in np.split(rows, cuts) if len(each))


def _cells(
    first: Int64[ndarray, "m l 2"],
    counts: Int64[ndarray, "m l 2"],
    image_rows: Int64[ndarray, " m"],
    canvas_wh: Int64[ndarray, "b 2"],
    strides: Sequence[int],
) -> Int64[ndarray, " e"]:
    """A number for each cell of each object, object by object; cells of all images and levels have different numbers."""
    grids = -(-canvas_wh[image_rows][:, None] // np.array(strides)[:, None])  # columns and rows of each level
    sizes = -(-canvas_wh[:, None] // np.array(strides)[:, None])
    offsets = np.cumsum(sizes.prod(axis=2).ravel()) - sizes.prod(axis=2).ravel()
    offset = offsets.reshape(sizes.shape[:2])[image_rows]
    num = counts.prod(axis=2)
    entry = np.repeat(np.arange(num.size), num.ravel())  # object and level
    place = np.arange(len(entry)) - np.repeat(np.cumsum(num.ravel()) - num.ravel(), num.ravel())
    columns = counts.reshape(-1, 2)[entry, 0]
    x, y = (first.reshape(-1, 2)[entry] + np.stack([place % columns, place // columns], axis=1)).T
    return offset.ravel()[entry] + y * grids.reshape(-1, 2)[entry, 0] + x


def _graph(cells: Int64[ndarray, " e"], num_cells: Int64[ndarray, " m"]) -> csr_array:
    """Objects by cells."""
    names, columns = np.unique(cells, return_inverse=True)
    ends = np.concatenate([[0], np.cumsum(num_cells)])
    shape = len(num_cells), len(names)
    return csr_array((np.ones(len(cells), np.int8), columns.astype(np.int32), ends.astype(np.int32)), shape=shape)


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
