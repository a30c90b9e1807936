"""The cells of a detector's levels in every image, and those whose centre lies inside a region around an object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.ops.box_arrays import row_blocks

MAX_PAIRS = 200_000  # pairs of an object and a cell that are in memory together

Regions = Float64[ndarray, "n l 4"]
"""(x0, y0, x1, y1) on each level, in pixels of the network's input; NaN where an object has no cells."""


class CellPairs(NamedTuple):
    """Pairs of an object and a cell whose centre lies strictly inside the object's region, object by object."""

    rows: Int64[ndarray, " e"]
    """The object, by its place among those given."""
    levels: Int64[ndarray, " e"]
    centers: Float64[ndarray, "e 2"]
    """(x, y) of the cell's centre in pixels."""
    cells: Int64[ndarray, " e"]
    """A number of the cell; cells of other levels and images have others."""


@dataclass(frozen=True, eq=False)
class LevelCells:
    """A level of stride s has ceil(h / s) by ceil(w / s) cells, with centres at (i + ``origin``) s.

    ``canvas_wh`` is (width, height) of the network's input for each image, in pixels.
    """

    canvas_wh: Int64[ndarray, "b 2"]
    strides: tuple[int, ...]
    origin: float = 0.5

    @cached_property
    def sizes(self) -> Int64[ndarray, "b l 2"]:
        """Columns and rows of each image's levels."""
        return -(-self.canvas_wh[:, None] // np.array(self.strides)[:, None])

    def count(self, regions: Regions, image_rows: Int64[ndarray, " n"]) -> Int64[ndarray, " n"]:
        """The cells of each object on all levels together.

        >>> region = np.array([[[0.0, 0, 9, 13], [np.nan] * 4]])
        >>> LevelCells(np.array([[16, 16]]), (8, 16)).count(region, np.array([0]))
        array([2])
        """
        result = np.empty(len(regions), np.int64)
        for own in row_blocks(len(regions)):
            result[own] = self._inside(regions[own], image_rows[own])[1].prod(axis=2).sum(axis=1)
        return result

    def pairs(self, regions: Regions, image_rows: Int64[ndarray, " n"]) -> CellPairs:
        """Every cell of every object; for many objects, :func:`blocks_of_images` divides them."""
        first, counts = self._inside(regions, image_rows)
        num = counts.prod(axis=2).ravel()
        entry = np.repeat(np.arange(num.size), num)  # object and level
        place = np.arange(len(entry)) - np.repeat(np.cumsum(num) - num, num)
        columns = counts.reshape(-1, 2)[entry, 0]
        at = first.reshape(-1, 2)[entry] + np.stack([place % columns, place // columns], axis=1)
        rows, levels = np.divmod(entry, len(self.strides))
        images = image_rows[rows]
        offsets = np.cumsum(self.sizes.prod(axis=2).ravel()) - self.sizes.prod(axis=2).ravel()
        offset = offsets.reshape(self.sizes.shape[:2])[images, levels]
        cells = offset + at[:, 1] * self.sizes[images, levels, 0] + at[:, 0]
        return CellPairs(rows, levels, (at + self.origin) * np.array(self.strides)[levels, None], cells)

    def count_distinct(self, regions: Regions, image_rows: Int64[ndarray, " n"]) -> Int64[ndarray, " b"]:
        """The cells of each image that lie inside any of its objects' regions.

        >>> regions = np.array([[[0.0, 0, 9, 13]], [[3.0, 3, 5, 5]]])
        >>> LevelCells(np.array([[16, 16]]), (8,)).count_distinct(regions, np.array([0, 0]))
        array([2])
        """
        num_cells, distinct = self.count(regions, image_rows), np.zeros(len(self.canvas_wh), np.int64)
        ends = np.cumsum(self.sizes.prod(axis=2).sum(axis=1))
        for block in blocks_of_images(np.argsort(image_rows, kind="stable"), num_cells, image_rows):
            cells = np.unique(self.pairs(regions[block], image_rows[block]).cells)
            distinct += np.bincount(np.searchsorted(ends, cells, side="right"), minlength=len(ends))
        return distinct

    def _inside(
        self, regions: Regions, image_rows: Int64[ndarray, " n"]
    ) -> tuple[Int64[ndarray, "n l 2"], Int64[ndarray, "n l 2"]]:
        """The first cell (column, row) of each object on each level, and the numbers of columns and rows."""
        steps = np.array(self.strides, float)[:, None]
        x0, y0, x1, y1 = np.moveaxis(regions, 2, 0)
        has_cells = np.isfinite(x0 + y0 + x1 + y1)[..., None]
        low, high = np.where(has_cells, regions[..., :2], 1.0), np.where(has_cells, regions[..., 2:], 0.0)
        first = np.maximum(np.floor(low / steps - self.origin) + 1, 0)
        last = np.minimum(np.ceil(high / steps - self.origin) - 1, self.sizes[image_rows] - 1)
        counts = np.where(has_cells, np.maximum(last - first + 1, 0), 0)
        return first.astype(np.int64), counts.astype(np.int64)


def box_regions(
    boxes: Float64[ndarray, "n 4"],
    num_levels: int,
    *,
    below_px: float = 0.0,
    to_px: float = 0.0,
    margin_px: float = 0.0,
) -> Regions:
    """The regions of assigners that take the cells inside a box, on every level alike; the levels share memory.

    Sides shorter than ``below_px`` are lengthened to ``to_px`` about the centre of the box: ultralytics 8.4.190 does so with
    the second stride (``TaskAlignedAssigner.select_candidates_in_gts``). Centres within ``margin_px`` of a side are outside:
    mmdetection 3.3.0 has .01 pixels (``TaskAlignedAssigner.assign``).

    >>> box_regions(np.array([[10.0, 10, 14, 40]]), 2, below_px=16, to_px=16)[:, 0]
    array([[ 4., 10., 20., 40.]])
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    middle, is_short = (low + high) / 2, high - low < below_px
    low = np.where(is_short, middle - to_px / 2, low) + margin_px
    high = np.where(is_short, middle + to_px / 2, high) - margin_px
    regions = np.concatenate([low, high], axis=1)[:, None]
    return np.broadcast_to(regions, (len(boxes), num_levels, 4))


def blocks_of_images(
    rows: Int64[ndarray, " m"], num_cells: Int64[ndarray, " n"], image_rows: Int64[ndarray, " n"]
) -> Iterator[Int64[ndarray, " k"]]:
    """Blocks of ``rows``, which are ordered by image: whole images of up to ``MAX_PAIRS`` cells together, or one of more."""
    starts = np.flatnonzero(np.diff(image_rows[rows], prepend=-1))
    pairs = np.add.reduceat(num_cells[rows], starts) if len(rows) else np.zeros(0, np.int64)
    block = np.cumsum(pairs) // MAX_PAIRS
    cuts = starts[np.flatnonzero(np.diff(block)) + 1]
    yield from (each for each in np.split(rows, cuts) if len(each))
