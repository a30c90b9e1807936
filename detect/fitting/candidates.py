"""Candidate anchors: shapes on levels, their utility to each box, and a choice among them within limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.errors import FitError
from detect.fitting.facility_location import choose_greedily, find_duals, improve_by_swaps
from detect.fitting.gains import Boxes, PerBox, PerShape, Shapes, Table
from detect.ops.time_limit import is_over

MAX_ANCHORS = 1000
TABLE_BLOCK = 2**18  # entries at once, which stay in the processor's cache
GRID_STEP = 1 / 9  # nepers between candidates
FEW_BOXES = 100
COARSER = 1.25  # times the step, while the table would be too large
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


@dataclass(frozen=True)
class Limits:
    """The number of anchors for each group of levels, and the cost of an anchor on each level in units of the score."""

    group_of_level: tuple[int, ...]
    counts: tuple[int, ...]
    costs: tuple[float, ...]

    @classmethod
    def of(
        cls,
        num_levels: int,
        per_level: int | Sequence[int] | None = None,
        num_anchors: int | None = None,
        costs: Sequence[float] | None = None,
    ) -> Limits:
        """A number for each level, or ``num_anchors`` for all levels together."""
        if (per_level is None) == (num_anchors is None):
            raise ValueError(f"give per_level or num_anchors, one of them, got {per_level=}, {num_anchors=}")
        given = tuple(costs) if costs is not None else (0.0,) * num_levels
        if len(given) != num_levels or not all(0 <= cost < np.inf for cost in given):
            raise ValueError(f"need a cost of at least 0 for each of {num_levels} levels, got {costs}")
        groups = tuple(range(num_levels)) if num_anchors is None else (0,) * num_levels
        given_counts = num_anchors if num_anchors is not None else per_level
        counts = (given_counts,) * (max(groups) + 1) if isinstance(given_counts, int) else tuple(given_counts or ())
        if len(counts) == max(groups) + 1 and sum(counts) > MAX_ANCHORS:
            raise FitError(f"{sum(counts):,} shapes on {num_levels} levels: at most {MAX_ANCHORS:,} in all")
        if len(counts) != max(groups) + 1 or min(counts) < 0 or sum(counts) < 1:
            raise FitError(
                f"need from 1 to {MAX_ANCHORS} shapes in all, and a number for each of {num_levels} levels, "
                f"got {per_level=}, {num_anchors=}"
            )
        return cls(groups, counts, given)

    @property
    def priced(self) -> bool:
        return any(self.costs)

    def penalties(self, levels: Int64[ndarray, " a"]) -> Float64[ndarray, " a"]:
        """The cost of each of several anchors, given their levels."""
        return np.array(self.costs)[levels]

    def of_rows(self, levels: Int64[ndarray, " a"]) -> dict[str, Any]:
        """``costs`` and ``groups`` of candidates, as :mod:`detect.fitting.facility_location` takes them."""
        return {"costs": self.penalties(levels), "groups": np.array(self.group_of_level, np.int64)[levels]}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Shapes on levels, and the weighted utility of each for each box, less the utility of the fixed shapes."""

    shapes: Shapes
    levels: Int64[ndarray, " s"]
    utility: Table

    @classmethod
    def of(cls, boxes: Boxes, shapes: Shapes, levels: Int64[ndarray, " s"]) -> Candidates:
        utility = np.empty((len(shapes), len(boxes)))
        for level in range(len(boxes.strides)):
            rows = np.flatnonzero(levels == level)
            for block in np.array_split(rows, max(1, len(rows) * len(boxes) // TABLE_BLOCK)):
                given = boxes.weights * boxes.utilities(level, shapes[block])
                given -= boxes.floor
                utility[block] = np.maximum(given, 0, out=given)
        return cls(shapes, levels, utility)

    @classmethod
    def on_every_level(cls, boxes: Boxes, shapes: Shapes) -> Candidates:
        num_levels = len(boxes.strides)
        return cls.of(boxes, np.tile(shapes, (num_levels, 1)), np.repeat(np.arange(num_levels), len(shapes)))

    def on(self, boxes: Boxes) -> Candidates:
        """The same shapes for other boxes, or for another objective."""
        return self.of(boxes, self.shapes, self.levels)

    def take(self, rows: Sequence[int] | Int64[ndarray, " m"]) -> Candidates:
        index = np.array(rows, np.int64)
        return Candidates(self.shapes[index], self.levels[index], self.utility[index])

    def __add__(self, other: Candidates) -> Candidates:
        return Candidates(
            np.concatenate([self.shapes, other.shapes]),
            np.concatenate([self.levels, other.levels]),
            np.concatenate([self.utility, other.utility]),
        )

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def best(self) -> PerBox:
        """The highest utility to each box."""
        return self.utility.max(axis=0, initial=0.0)

    def value(self, limits: Limits) -> float:
        """The sum of the best utilities, less the costs of all."""
        return float(self.best.sum() - limits.penalties(self.levels).sum())


def grid_candidates(boxes: Boxes, step: float = GRID_STEP) -> Candidates:
    """Shapes around those of the boxes, on every level; the grid is coarser where the table would take too much memory.

    For few boxes, and for recall by shape, they are all shapes from the least to the largest width and height: one shape
    may serve boxes on all sides of it.
    """
    few = len(boxes) <= FEW_BOXES
    cells = _cells(boxes, step, between=few)
    if not boxes.settles:
        cells = np.unique((cells[:, None] + CORNERS).reshape(-1, 2), axis=0)
    if _too_many(boxes, cells) and step < 1:
        return grid_candidates(boxes, step * COARSER)
    shapes = np.exp((cells + 0.5) * step)
    if boxes.settles and boxes.objective.recall_share > 0 and not few:
        cells = _cells(boxes, step, between=True)
        while _too_many(boxes, cells) and step < 1:
            step *= COARSER
            cells = _cells(boxes, step, between=True)
        shapes = np.concatenate([shapes, np.exp((cells + 0.5) * step)])
    return Candidates.on_every_level(boxes, shapes)


def _cells(boxes: Boxes, step: float, *, between: bool) -> Shapes:
    """The cells of the boxes in the plane (ln w, ln h), or all cells between the least and the largest."""
    cells = np.unique(np.floor(np.log(boxes.extents.T) / step), axis=0)
    if not between:
        return cells
    widths, heights = (np.arange(column.min(), column.max() + 1) for column in cells.T)
    return np.stack(np.meshgrid(widths, heights, indexing="ij"), axis=-1).reshape(-1, 2)


def _too_many(boxes: Boxes, cells: Shapes) -> bool:
    return len(cells) * len(boxes.strides) * len(boxes) > boxes.max_table


def relax(
    candidates: Candidates, limits: Limits, openings: PerShape | None = None, *, steps: int = 100
) -> tuple[PerBox, PerShape]:
    """Dual variables and LP openings of the linear relaxation, from some openings on."""
    start = np.ones(len(candidates)) if openings is None else openings
    return find_duals(candidates.utility, limits.counts, start, steps=steps, **limits.of_rows(candidates.levels))


def choose_rows(candidates: Candidates, limits: Limits, among: Int64[ndarray, " m"] | None = None) -> list[int]:
    """The best choice that greed and swaps find, starting ``among`` some candidates; rows in rising order."""
    start: list[int] = []
    if among is not None:
        few = candidates.take(among)
        start = among[swap_rows(few, _greedy(few, limits, []), limits)].tolist()
    return swap_rows(candidates, _greedy(candidates, limits, start), limits)


def completed(start: Candidates, grid: Candidates, limits: Limits) -> Candidates:
    """The start, and candidates of the grid that greed adds as far as the limits allow."""
    both = start + grid
    return both.take(_greedy(both, limits, range(len(start))))


def swap_rows(candidates: Candidates, rows: Sequence[int], limits: Limits) -> list[int]:
    """Swap chosen candidates for others of their group, and leave out those not worth their cost, while that gains."""
    of_rows = limits.of_rows(candidates.levels)
    chosen = sorted(rows)
    while True:
        after = sorted(improve_by_swaps(candidates.utility, chosen, **of_rows).rows)
        if limits.priced:
            after = _without_idle(candidates, after, of_rows["costs"])
        if after == chosen or is_over():
            return after
        chosen = after


def _greedy(candidates: Candidates, limits: Limits, start: Sequence[int]) -> tuple[int, ...]:
    of_rows = limits.of_rows(candidates.levels)
    return choose_greedily(candidates.utility, limits.counts, start=start, **of_rows).rows


def _without_idle(candidates: Candidates, chosen: list[int], costs: PerShape) -> list[int]:
    """Remove rows whose utility is below their cost, the worst first."""
    while len(chosen) > 1:
        utility = candidates.utility[chosen]
        rest = [np.delete(utility, place, axis=0).max(axis=0) for place in range(len(chosen))]
        lost = float(utility.max(axis=0).sum()) - np.array([float(best.sum()) for best in rest]) - costs[chosen]
        if lost.min() > 0 or is_over():
            return chosen
        del chosen[int(lost.argmin())]
    return chosen
