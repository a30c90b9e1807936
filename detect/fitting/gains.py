"""The utility of a shape on a pyramid level for boxes: the interface of all kinds of boxes to the solver.

The centres of one level are a stride apart along each axis, and the nearest is the best (:mod:`detect.anchors.grid_iou`).
Boxes at their own positions (:mod:`detect.fitting.own_positions`) have a known distance to it. Where a box and an anchor
share their centre (:mod:`detect.fitting.shape_cells`) the distance is 0; where it is not known, utilities are means over
positions (:mod:`detect.fitting.any_position`).

**Levels by size** (``max_strides``). The finest grid covers every box best, but a large box then has many positive anchors
on it, and in a detector's loss large objects outweigh small ones. With ``max_strides`` a box uses a level only if
sqrt(area) <= max_strides * stride; the coarsest level takes all boxes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import CENTER_OF_CELL
from detect.errors import FitError
from detect.fitting.objective import Objective

SMALLEST_SHAPE = 0.25  # of the least width or height

PerBox = Float64[ndarray, " n"]
PerShape = Float64[ndarray, " s"]
Pair = Float64[ndarray, " 2"]  # along x and y
Shapes = Float64[ndarray, "s 2"]  # (width, height), or their logarithms
Table = Float64[ndarray, "s n"]  # a row for each shape, a column for each box


@dataclass(frozen=True, eq=False, kw_only=True)
class Boxes(ABC):
    """Weighted boxes, and the utility of a shape on a level to each."""

    extents: Float64[ndarray, "2 n"]
    """Widths and heights in pixels."""
    weights: PerBox
    """Positive; their sum is 1."""
    served: Bool[ndarray, "l n"]
    """The levels that each box uses."""
    strides: tuple[int, ...]
    center_offset: float = CENTER_OF_CELL
    objective: Objective
    error: float = 0.0
    """Largest difference of the mean utility from that of the boxes which these stand for."""

    max_table = 2**22  # entries of a table of candidates times boxes
    settles = False  # whether a swap can be judged after a few cheap steps

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def floor(self) -> PerBox:
        """Weighted utility that fixed anchors give to each box."""
        return np.zeros(len(self))

    @property
    def smallest_wh(self) -> Pair:
        """(width, height) of the smallest shape to search."""
        return SMALLEST_SHAPE * self.extents.min(axis=1)

    @abstractmethod
    def utilities(self, level: int, shapes: Shapes) -> Table:
        """Utility of the best of all anchors of each shape on a level, to each box; from 0 to 1."""

    @abstractmethod
    def highest_utilities(self, level: int, low: Shapes, high: Shapes) -> Table:
        """Upper bounds of the utilities of all shapes between two."""

    @abstractmethod
    def bound_squares(self, level: int, duals: PerBox, centers: Shapes, half: Pair) -> PerShape:
        """Upper bounds of the reduced utility of all shapes in squares of the plane (ln w, ln h)."""

    @abstractmethod
    def log_range(self, level: int) -> tuple[Pair, Pair]:
        """The rectangle of the plane (ln w, ln h) to search; larger shapes have no higher utility than its edge."""

    def reduced_utilities(self, level: int, duals: PerBox, shapes: Shapes) -> Table:
        """The weighted utility of each shape above the duals of the boxes."""
        return np.maximum(self.weights * self.utilities(level, shapes) - duals, 0)

    def highest_reduced_utilities(self, level: int, duals: PerBox, low: Pair, high: Pair) -> PerBox:
        """Upper bounds of the reduced utilities of all shapes between two."""
        return np.maximum(self.weights * self.highest_utilities(level, low[None], high[None])[0] - duals, 0)

    def reduced_utility_of_small_shapes(self, duals: PerBox) -> float:
        """An upper bound for shapes below :meth:`log_range`, whose IoU is at most the ratio of one extent."""
        iou = (self.smallest_wh[:, None] / self.extents).max(axis=0)
        return float(np.maximum(self.weights * self.objective.of_iou(iou) - duals, 0).sum())

    def reduced_utility_of_fixed(self, duals: PerBox) -> float:
        """The utility of fixed anchors above the duals."""
        return 0.0

    def take(self, rows: Int64[ndarray, " m"]) -> Boxes:
        """Some of the boxes; their weights are kept."""
        return replace(self, **self._columns(rows))

    def _columns(self, rows: Int64[ndarray, " m"]) -> dict[str, Any]:
        """The fields with a column for each box, reduced to some boxes."""
        return {"extents": self.extents[:, rows], "weights": self.weights[rows], "served": self.served[:, rows]}

    def joined(self, limit: int) -> Boxes:
        """Boxes with neighbours joined, at most this many; the same boxes if they cannot be joined."""
        return self

    def thinned(self, limit: int) -> Boxes:
        """At most this many boxes: each stands for a run of neighbours in the boxes' order, by size, with their weight."""
        if len(self) <= limit:
            return self
        starts = np.arange(limit) * len(self) // limit
        middle = (starts + np.append(starts[1:], len(self))) // 2
        return replace(self.take(middle), weights=np.add.reduceat(self.weights, starts))

    def stages(self) -> Sequence[Boxes]:
        """These boxes with fewer and fewer neighbours joined, for the rounds of a proof."""
        return [self]

    def settled(self, shapes: Shapes, max_updates: int) -> Shapes:
        """Shapes after a quick search that uses all boxes; unchanged if this kind of boxes has none."""
        return shapes


def levels_by_size(
    extents: Float64[ndarray, "2 n"], strides: Sequence[int], max_strides: float | None
) -> Bool[ndarray, "l n"]:
    """The levels that boxes use, the last among them.

    >>> levels_by_size(np.array([[8.0, 32.0, 99.0], [8.0, 50.0, 99.0]]), (4, 8, 16), 4)
    array([[ True, False, False],
           [ True, False, False],
           [ True,  True,  True]])

    Raises:
        FitError: there are no boxes.
        ValueError: strides do not rise, or the limit is not positive.
    """
    if not extents.shape[1]:
        raise FitError("no boxes to fit anchors to")
    if not strides or min(strides) < 1 or list(strides) != sorted(set(strides)):
        raise ValueError(f"need different strides from 1, from fine to coarse, got {list(strides)}")
    if max_strides is not None and not 0 < max_strides < np.inf:
        raise ValueError(f"need a positive limit of sizes in strides, got {max_strides}")
    limit = np.inf if max_strides is None else max_strides
    limits = np.array([*(limit * stride for stride in strides[:-1]), np.inf])
    served: Bool[ndarray, "l n"] = np.sqrt(extents.prod(axis=0)) <= limits[:, None]
    return served
