"""Choose among shapes on levels, with a number of shapes for each level or for all, and with what a shape costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.facility import choose_greedily, improve_by_swaps
from detect.anchors.placed_gain import PlacedGain

MAX_ANCHORS = 1000
TABLE_BLOCK = 2**18  # entries at once, which stay in the processor's cache


@dataclass(frozen=True)
class Limits:
    """How many shapes there may be, and what each costs."""

    group_of_level: tuple[int, ...]
    counts: tuple[int, ...]
    """For each group of levels."""
    costs: tuple[float, ...]
    """Of a shape on each level."""

    @classmethod
    def of(
        cls, num_levels: int, per_level: int | Sequence[int] | None, total: int | None, costs: Sequence[float] | None
    ) -> Limits:
        if (per_level is None) == (total is None):
            raise ValueError(f"give per_level or total, one of them, got {per_level=}, {total=}")
        given = tuple(costs) if costs is not None else (0.0,) * num_levels
        if len(given) != num_levels or not all(0 <= cost < np.inf for cost in given):
            raise ValueError(f"need a cost of at least 0 for each of {num_levels} levels, got {costs}")
        groups = tuple(range(num_levels)) if total is None else (0,) * num_levels
        given_counts = total if total is not None else per_level
        counts = (given_counts,) * (max(groups) + 1) if isinstance(given_counts, int) else tuple(given_counts or ())
        if len(counts) != max(groups) + 1 or min(counts) < 0 or not 1 <= sum(counts) <= MAX_ANCHORS:
            raise ValueError(
                f"need from 1 to {MAX_ANCHORS} shapes in all, and a number for each of {num_levels} levels, "
                f"got {per_level=}, {total=}"
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
    """Shapes on levels, and what each box has from them, its weight included."""

    shapes: Float64[ndarray, "a 2"]
    levels: Int64[ndarray, " a"]
    gains: Float64[ndarray, "a n"]

    @classmethod
    def of(cls, boxes: PlacedGain, shapes: Float64[ndarray, "a 2"], levels: Int64[ndarray, " a"]) -> Candidates:
        gains = np.empty((len(shapes), len(boxes.weights)))
        for level in range(len(boxes.strides)):
            rows = np.flatnonzero(levels == level)
            for block in np.array_split(rows, max(1, len(rows) * gains.shape[1] // TABLE_BLOCK)):
                gains[block] = boxes.weights * boxes.gains(level, shapes[block])
        return cls(shapes, levels, gains)

    def take(self, rows: Sequence[int] | Int64[ndarray, " m"]) -> Candidates:
        index = np.array(rows, np.int64)
        return Candidates(self.shapes[index], self.levels[index], self.gains[index])

    def __add__(self, other: Candidates) -> Candidates:
        return Candidates(
            np.concatenate([self.shapes, other.shapes]),
            np.concatenate([self.levels, other.levels]),
            np.concatenate([self.gains, other.gains]),
        )

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def best(self) -> Float64[ndarray, " n"]:
        """What each box has from the best of them."""
        return self.gains.max(axis=0, initial=0.0)


def choose_rows(candidates: Candidates, limits: Limits, among: Int64[ndarray, " m"] | None = None) -> list[int]:
    """The best choice that greed and swaps find, where they start ``among`` some candidates; rows in rising order."""
    start: list[int] = []
    if among is not None:
        few = candidates.take(among)
        start = among[swap_rows(few, _greedy(few, limits, []), limits)].tolist()
    return swap_rows(candidates, _greedy(candidates, limits, start), limits)


def swap_rows(candidates: Candidates, rows: Sequence[int], limits: Limits) -> list[int]:
    """Swaps of a chosen candidate for another of its group of levels, and idle ones left out, as long as that gains."""
    groups, prices = limits.groups(candidates.levels), limits.prices(candidates.levels)
    chosen = sorted(rows)
    while True:
        swapped = sorted(improve_by_swaps(candidates.gains, chosen, costs=prices, groups=groups).rows)
        after = _without_idle(candidates, swapped, prices) if limits.priced else swapped
        if after == chosen:
            return chosen
        chosen = after


def _greedy(candidates: Candidates, limits: Limits, start: Sequence[int]) -> tuple[int, ...]:
    groups, prices = limits.groups(candidates.levels), limits.prices(candidates.levels)
    return choose_greedily(candidates.gains, limits.counts, fixed=start, costs=prices, groups=groups).rows


def _without_idle(candidates: Candidates, chosen: list[int], prices: Float64[ndarray, " a"]) -> list[int]:
    """Without those that are not worth what they cost, the worst first."""
    while len(chosen) > 1:
        gains = candidates.gains[chosen]
        worth = [np.delete(gains, place, axis=0).max(axis=0) for place in range(len(chosen))]
        lost = float(gains.max(axis=0).sum()) - np.array([float(best.sum()) for best in worth]) - prices[chosen]
        if lost.min() > 0:
            return chosen
        del chosen[int(lost.argmin())]
    return chosen
