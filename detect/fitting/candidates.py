"""Candidate anchors: shapes on levels, their utility to each box, and a choice among them within limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.fitting.facility_location import choose_greedily, find_duals, improve_by_swaps
from detect.fitting.gains import Boxes

MAX_ANCHORS = 1000
TABLE_BLOCK = 2**18  # entries at once, which stay in the processor's cache
GRID_STEP = 1 / 9  # nepers between candidates
FEW_BOXES = 100
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


@dataclass(frozen=True)
class Limits:
    """How many anchors there may be, and the penalty for each."""

    group_of_level: tuple[int, ...]
    counts: tuple[int, ...]
    """For each group of levels."""
    costs: tuple[float, ...]
    """Cost of an anchor on each level, in units of the score."""

    @classmethod
    def of(
        cls,
        num_levels: int,
        per_level: int | Sequence[int] | None = None,
        num_anchors: int | None = None,
        costs: Sequence[float] | None = None,
    ) -> Limits:
        """Limits for each level, or one for all of them."""
        if (per_level is None) == (num_anchors is None):
            raise ValueError(f"give per_level or num_anchors, one of them, got {per_level=}, {num_anchors=}")
        given = tuple(costs) if costs is not None else (0.0,) * num_levels
        if len(given) != num_levels or not all(0 <= cost < np.inf for cost in given):
            raise ValueError(f"need a cost of at least 0 for each of {num_levels} levels, got {costs}")
        groups = tuple(range(num_levels)) if num_anchors is None else (0,) * num_levels
        given_counts = num_anchors if num_anchors is not None else per_level
        counts = (given_counts,) * (max(groups) + 1) if isinstance(given_counts, int) else tuple(given_counts or ())
        if len(counts) != max(groups) + 1 or min(counts) < 0 or not 1 <= sum(counts) <= MAX_ANCHORS:
            raise ValueError(
                f"need from 1 to {MAX_ANCHORS} shapes in all, and a number for each of {num_levels} levels, "
                f"got {per_level=}, {num_anchors=}"
            )
        return cls(groups, counts, given)

    @property
    def priced(self) -> bool:
        return any(self.costs)

    def groups(self, levels: Int64[ndarray, " a"]) -> Int64[ndarray, " a"]:
        return np.array(self.group_of_level, np.int64)[levels]

    def prices(self, levels: Int64[ndarray, " a"]) -> Float64[ndarray, " a"]:
        return np.array(self.costs)[levels]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Shapes on levels, and the weighted utility of each for each box, less the utility of the fixed shapes."""

    shapes: Float64[ndarray, "a 2"]
    levels: Int64[ndarray, " a"]
    utility: Float64[ndarray, "a n"]

    @classmethod
    def of(cls, boxes: Boxes, shapes: Float64[ndarray, "a 2"], levels: Int64[ndarray, " a"]) -> Candidates:
        utility = np.empty((len(shapes), len(boxes)))
        for level in range(len(boxes.strides)):
            rows = np.flatnonzero(levels == level)
            for block in np.array_split(rows, max(1, len(rows) * len(boxes) // TABLE_BLOCK)):
                given = boxes.weights * boxes.utilities(level, shapes[block])
                given -= boxes.floor
                utility[block] = np.maximum(given, 0, out=given)
        return cls(shapes, levels, utility)

    @classmethod
    def on_every_level(cls, boxes: Boxes, shapes: Float64[ndarray, "s 2"]) -> Candidates:
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
    def best(self) -> Float64[ndarray, " n"]:
        """The highest utility to each box."""
        return self.utility.max(axis=0, initial=0.0)

    def value(self, limits: Limits) -> float:
        """The sum of the best utilities, less the costs of all."""
        return float(self.best.sum() - limits.prices(self.levels).sum())


def grid_candidates(boxes: Boxes, step: float = GRID_STEP) -> Candidates:
    """Shapes around those of the boxes, on every level; on a coarser grid where the table would take too much memory.

    For few boxes, and for recall by shape, all shapes between the least and the largest width and height: one shape may
    serve boxes on all sides of it.
    """
    cells = np.unique(np.floor(np.log(boxes.extents.T) / step), axis=0)
    if len(boxes) <= FEW_BOXES:
        cells = _between(cells)
    around = cells if boxes.settles else np.unique((cells[:, None] + CORNERS).reshape(-1, 2), axis=0)
    if len(around) * len(boxes.strides) * len(boxes) > boxes.max_table and step < 1:
        return grid_candidates(boxes, step * 1.25)
    shapes = np.exp((around + 0.5) * step)
    if boxes.settles and boxes.objective.recall_share > 0 and len(boxes) > FEW_BOXES:
        shapes = np.concatenate([shapes, _shapes_between(boxes, step)])
    return Candidates.on_every_level(boxes, shapes)


def _shapes_between(boxes: Boxes, step: float) -> Float64[ndarray, "s 2"]:
    """All shapes from the least to the largest width and height, on a grid that is coarse enough for the table."""
    cells = _between(np.floor(np.log(boxes.extents.T) / step))
    if len(cells) * len(boxes.strides) * len(boxes) > boxes.max_table and step < 1:
        return _shapes_between(boxes, step * 1.25)
    return np.exp((cells + 0.5) * step)


def _between(cells: Float64[ndarray, "s 2"]) -> Float64[ndarray, "m 2"]:
    widths, heights = (np.arange(column.min(), column.max() + 1) for column in cells.T)
    return np.stack(np.meshgrid(widths, heights, indexing="ij"), axis=-1).reshape(-1, 2)


def relax(
    candidates: Candidates, limits: Limits, openings: Float64[ndarray, " a"] | None = None, *, steps: int = 100
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " a"]]:
    """Dual variables and LP openings of the linear relaxation, from some openings on."""
    start = np.ones(len(candidates)) if openings is None else openings
    groups, prices = limits.groups(candidates.levels), limits.prices(candidates.levels)
    return find_duals(candidates.utility, limits.counts, start, groups=groups, costs=prices, steps=steps)


def choose_rows(candidates: Candidates, limits: Limits, among: Int64[ndarray, " m"] | None = None) -> list[int]:
    """The best choice that greed and swaps find, started ``among`` some candidates; rows in rising order."""
    start: list[int] = []
    if among is not None:
        few = candidates.take(among)
        start = among[swap_rows(few, _greedy(few, limits, []), limits)].tolist()
    return swap_rows(candidates, _greedy(candidates, limits, start), limits)


def swap_rows(candidates: Candidates, rows: Sequence[int], limits: Limits) -> list[int]:
    """Swap chosen candidates for others of their group, and leave out those not worth their cost, while that gains."""
    groups, prices = limits.groups(candidates.levels), limits.prices(candidates.levels)
    chosen = sorted(rows)
    while True:
        swapped = sorted(improve_by_swaps(candidates.utility, chosen, costs=prices, groups=groups).rows)
        after = _without_idle(candidates, swapped, prices) if limits.priced else swapped
        if after == chosen:
            return chosen
        chosen = after


def _greedy(candidates: Candidates, limits: Limits, start: Sequence[int]) -> tuple[int, ...]:
    groups, prices = limits.groups(candidates.levels), limits.prices(candidates.levels)
    return choose_greedily(candidates.utility, limits.counts, start=start, costs=prices, groups=groups).rows


def _without_idle(candidates: Candidates, chosen: list[int], prices: Float64[ndarray, " a"]) -> list[int]:
    """Remove rows whose utility is below their cost, the worst first."""
    while len(chosen) > 1:
        utility = candidates.utility[chosen]
        rest = [np.delete(utility, place, axis=0).max(axis=0) for place in range(len(chosen))]
        lost = float(utility.max(axis=0).sum()) - np.array([float(best.sum()) for best in rest]) - prices[chosen]
        if lost.min() > 0:
            return chosen
        del chosen[int(lost.argmin())]
    return chosen
