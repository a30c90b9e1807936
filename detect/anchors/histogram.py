"""ShapeHistogram: counts of shapes over (log2 w, log2 h), the statistic that anchors are fitted to.

Histograms of shards, categories or days are added with ``+``. Counts and sums are integers, so the result is the same to the
last bit for any split and any order of the boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.ops.box_arrays import row_blocks

CELLS_PER_OCTAVE = 32
OFFSET_BITS = 32  # resolution of a box's position in its cell: 2**-32 of the cell's width
LAST = 2**OFFSET_BITS - 1
MAX_BOXES = 2**31  # the sum of their offsets fits 64 bits
TOO_MANY = f"more than {MAX_BOXES:,} boxes in one histogram"
MIN_DENSE, MAX_DENSE = 10_000, 2**20  # boxes to count on a table of all cells, and its cells
MAX_EXPONENT = 60  # extents from 2**-60 to 2**60 pixels


Pair = Int64[ndarray, " 2"]
Block = tuple[Float64[ndarray, "n 2"], Int64[ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class ShapeHistogram:
    """Counts of boxes in square cells of the plane (log2 w, log2 h), with ``cells_per_octave`` cells per factor of two.

    Each occupied cell keeps its count and the exact sum of its members' positions, so :attr:`shapes` is the geometric mean
    of each cell's members. Anchors are fitted to these shapes with :attr:`counts` as weights instead of to the boxes.

    **Error.** The best IoU with any fixed set of anchors, as a function of (ln w, ln h), changes by at most |dx| + |dy|:
    each partial derivative of IoU in a logarithm lies within [-IoU, IoU]. The members of a cell lie within its width
    D = ln 2 / cells_per_octave. So the average best IoU over the histogram differs from that over the boxes by at most the
    members' mean absolute deviation from their mean. For a mean at distance m from the cell's edge this is at most
    2 m (D - m) / D per axis, and at most D for both axes. :attr:`iou_error_bound` is its mean over the boxes. On real data
    the error is about a hundredth of the bound, because deviations on both sides of the mean cancel.

    >>> histogram = ShapeHistogram.of(np.array([[10.0, 20.0], [10.1, 20.1], [300.0, 50.0]]))
    >>> histogram.counts, histogram.shapes.round(2)
    (array([2, 1]), array([[ 10.05,  20.05],
           [300.  ,  50.  ]]))
    >>> bool(histogram + histogram == ShapeHistogram.of(np.tile([[10.0, 20.0], [10.1, 20.1], [300.0, 50.0]], (2, 1))))
    True
    """

    cells: Int64[ndarray, "cells 2"]
    """(column, row) of each occupied cell, sorted; cell i covers i <= log2(extent) * cells_per_octave < i + 1."""
    counts: Int64[ndarray, " cells"]
    offset_sums: Int64[ndarray, "cells 2"]
    """Sum of the members' distances from the cell's lower corner, in 2**-32 of the cell's width."""
    cells_per_octave: int = CELLS_PER_OCTAVE

    @classmethod
    def of(
        cls,
        shapes: Float64[ndarray, "n 2"],
        *,
        counts: Int64[ndarray, " n"] | None = None,
        cells_per_octave: int = CELLS_PER_OCTAVE,
    ) -> ShapeHistogram:
        """Count boxes of these (width, height) in pixels, each once or ``counts`` times.

        Raises:
            ValueError: an extent is not from 2**-60 to 2**60, or ``cells_per_octave`` is not from 1 to 1024.
        """
        if not 1 <= cells_per_octave <= 1024:
            raise ValueError(f"need 1 <= cells_per_octave <= 1024, got {cells_per_octave=}")
        ends = np.array([(side.min(), side.max()) for side in shapes.T]).T if len(shapes) else shapes
        if not (np.isfinite(ends).all() and (ends > 0).all()):
            raise ValueError("widths and heights must be positive and finite")
        if (np.abs(np.log2(ends)) > MAX_EXPONENT).any():
            raise ValueError(f"widths and heights must lie between 2**-{MAX_EXPONENT} and 2**{MAX_EXPONENT}")
        if counts is None:
            counts = np.ones(len(shapes), np.int64)
        if counts.sum() > MAX_BOXES:
            raise ValueError(TOO_MANY)
        blocks = ((shapes[rows], counts[rows]) for rows in row_blocks(len(shapes)))
        if len(shapes) > MIN_DENSE:
            first, last = (each >> OFFSET_BITS for each in _positions(ends, cells_per_octave))
            if (last - first + 1).prod() <= MAX_DENSE:
                return cls._dense(blocks, first, last - first + 1, cells_per_octave)
        return cls._add_up([cls._of_block(*block, cells_per_octave) for block in blocks], cells_per_octave)

    @classmethod
    def _dense(cls, blocks: Iterable[Block], first: Pair, sides: Pair, cells_per_octave: int) -> ShapeHistogram:
        """Count on a table of all cells of a rectangle, without sorting."""
        table = np.zeros((3, sides.prod()), np.int64)  # counts and both sums of offsets
        for shapes, counts in blocks:
            columns, rows = _positions(shapes, cells_per_octave).T
            code = ((columns >> OFFSET_BITS) - first[0]) * sides[1] + (rows >> OFFSET_BITS) - first[1]
            for total, each in zip(table, (counts, counts * (columns & LAST), counts * (rows & LAST)), strict=True):
                np.add.at(total, code, each)
        occupied = np.flatnonzero(table[0])
        cells = np.stack(np.divmod(occupied, sides[1]), axis=1) + first
        return cls(cells, table[0, occupied], table[1:, occupied].T, cells_per_octave)

    @classmethod
    def _of_block(
        cls, shapes: Float64[ndarray, "n 2"], counts: Int64[ndarray, " n"], cells_per_octave: int
    ) -> ShapeHistogram:
        positions = _positions(shapes, cells_per_octave)
        part = cls(positions >> OFFSET_BITS, counts, (positions & LAST) * counts[:, None], cells_per_octave)
        return cls._add_up([part], cells_per_octave)

    def coarsened(self, cells_per_octave: int) -> ShapeHistogram:
        """The histogram of the cells' mean shapes, in cells of another size."""
        return self.of(self.shapes, counts=self.counts, cells_per_octave=cells_per_octave)

    @classmethod
    def empty(cls, *, cells_per_octave: int = CELLS_PER_OCTAVE) -> ShapeHistogram:
        """The histogram of no boxes, to start a sum with."""
        return cls.of(np.zeros((0, 2)), cells_per_octave=cells_per_octave)

    @classmethod
    def _add_up(cls, parts: Sequence[ShapeHistogram], cells_per_octave: int) -> ShapeHistogram:
        """Join parts, which may share cells, to one histogram."""
        empty = cls(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64), cells_per_octave)
        columns = [(part.cells, part.counts, part.offset_sums) for part in (empty, *parts)]
        cells, counts, offset_sums = map(np.concatenate, zip(*columns, strict=True))
        if counts.sum() > MAX_BOXES:
            raise ValueError(TOO_MANY)
        code = cells[:, 0] * 2**32 + cells[:, 1]  # one number per cell, in the order of (column, row)
        order = np.argsort(code)  # need not be stable: sums of integers do not depend on order
        starts = np.flatnonzero(np.diff(code[order], prepend=code[order][:1] - 1))
        if not len(starts):
            return cls(cells, counts, offset_sums, cells_per_octave)
        return cls(
            cells[order][starts],
            np.add.reduceat(counts[order], starts),
            np.add.reduceat(offset_sums[order], starts, axis=0),
            cells_per_octave,
        )

    def __add__(self, other: ShapeHistogram) -> ShapeHistogram:
        if self.cells_per_octave != other.cells_per_octave:
            raise ValueError(
                f"cannot add histograms with {self.cells_per_octave} and {other.cells_per_octave} cells per octave"
            )
        return self._add_up([self, other], self.cells_per_octave)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShapeHistogram):
            return NotImplemented
        names = ("cells", "counts", "offset_sums")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        same = all(mine.shape == theirs.shape and bool((mine == theirs).all()) for mine, theirs in pairs)
        return same and self.cells_per_octave == other.cells_per_octave

    __hash__ = None  # type: ignore[assignment] # compared by value, as arrays are

    def __len__(self) -> int:
        """Number of occupied cells."""
        return len(self.counts)

    @property
    def num_boxes(self) -> int:
        return int(self.counts.sum())

    @property
    def _mean_offsets(self) -> Float64[ndarray, "cells 2"]:
        return self.offset_sums / self.counts[:, None] / 2.0**OFFSET_BITS

    @property
    def shapes(self) -> Float64[ndarray, "cells 2"]:
        """(width, height) of each cell in pixels: the geometric mean of its members."""
        return np.exp2((self.cells + self._mean_offsets) / self.cells_per_octave)

    @property
    def iou_error_bound(self) -> float:
        """Upper bound on the error of an average best IoU that is computed on this histogram; see the class."""
        mean = np.where(self.counts[:, None] > 1, self._mean_offsets, 0.0)  # a single box lies at its cell's mean
        deviation = (2 * mean * (1 - mean)).sum(axis=1) * (np.log(2) / self.cells_per_octave)
        rounding = np.log(2) / self.cells_per_octave * 2.0**-OFFSET_BITS
        return float(np.average(deviation, weights=self.counts) + rounding) if len(self) else 0.0


def _positions(shapes: Float64[ndarray, "n 2"], cells_per_octave: int) -> Int64[ndarray, "n 2"]:
    """Logarithms of shapes in cells, in 2**-32 of a cell."""
    return np.rint(np.log2(shapes) * (cells_per_octave * 2.0**OFFSET_BITS)).astype(np.int64)
