"""Local maxima of maps: cells, or plateaus of equal cells, without a higher neighbour.

Neighbours share a side or a corner: 8 on a map and 26 in a volume, fewer at the border. A plateau of any shape is one
maximum if all its neighbours are lower, and none if one is higher. Two maxima are therefore at least 2 cells apart. Cells
without a higher neighbour are marked first; plateaus are then joined from runs of marked cells, whatever their area.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from detect.keypoints.coordinates import Stride
from detect.ops.array_kinds import AnyArray, check_maps, check_shape, in_tensors
from detect.ops.boxes import widened

CELLS_AT_ONCE = {"cpu": 2**16}  # of maps: they stay in the processor's cache
CELLS_AT_ONCE_ELSEWHERE = 2**24
SPARSE = 16  # cells per marked cell; with more, looking around each marked cell is faster than whole maps


@dataclass(frozen=True, eq=False)
class LocalMaxima:
    """One row for each maximum, in the order of maps and their cells.

    ``map`` is the index of the map. ``at`` is a cell (x, y[, z]): of a plateau the one nearest to ``middle``, the mean of
    its cells. ``scores`` are the values of the map, and ``spacing`` the distances in cells from ``at`` to the nearest other
    maximum of the map that counts (:func:`with_spacing`), infinite if none is near.
    """

    map: Int64[AnyArray, " n"]
    at: Int64[AnyArray, "n D"]
    middle: Float[AnyArray, "n D"]
    scores: Float[AnyArray, " n"]
    spacing: Float[AnyArray, " n"]

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():
            return
        count, num_axes = self.at.shape
        for name in ("map", "scores", "spacing"):
            check_shape(f"one value of {name} for each maximum,", getattr(self, name), (count,))
        check_shape("one middle for each maximum,", self.middle, (count, num_axes))

    @in_tensors
    def rows(self, index: Tensor) -> LocalMaxima:
        return LocalMaxima(*(column[index] for column in vars(self).values()))


@in_tensors
def find_local_maxima(maps: Float[Tensor, " m *cells"], threshold: float) -> LocalMaxima:
    """Find all maxima above a threshold; their spacing is not yet set.

    >>> find_local_maxima(torch.tensor([[[0.0, 0.9, 0.9], [0.2, 0.0, 0.0], [0.0, 0.0, 0.5]]]), 0.1).middle
    tensor([[1.5000, 0.0000],
            [2.0000, 2.0000]], dtype=torch.float64)
    """
    check_maps(maps=maps)
    maps = maps.contiguous()
    return MarkedCells.of(maps, threshold).maxima(tuple(maps.shape[1:]))


@dataclass(frozen=True, eq=False)
class MarkedCells:
    """Cells above a threshold without a higher neighbour, as flat indices into the memory of all maps, in rising order.

    ``single`` are maxima of one cell. Cells of plateaus are runs along the last axis, from ``first`` to ``last``, with one
    value each; those in ``ways_up`` are beside an equal cell that is not marked, so that their plateau is no maximum.
    """

    single: Int64[Tensor, " n"]
    single_values: Float[Tensor, " n"]
    first: Int64[Tensor, " r"]
    last: Int64[Tensor, " r"]
    run_values: Float[Tensor, " r"]
    ways_up: Int64[Tensor, " k"]

    @classmethod
    def of(cls, maps: Float[Tensor, " m *cells"], threshold: float) -> MarkedCells:
        """Mark the cells of contiguous maps."""
        marks, flat = _not_lower(maps, threshold), maps.reshape(-1)
        is_sparse = SPARSE * int(marks.count_nonzero()) < marks.numel()
        single, first, last, ways_up = (_cells_one_by_one if is_sparse else _cells_of_maps)(maps, marks)
        return cls(single, widened(flat[single]), first, last, widened(flat[first]), ways_up)

    def maxima(self, extents: tuple[int, ...]) -> LocalMaxima:
        """The maxima of maps of these extents; their spacing is not yet set."""
        rows, cells, middles = _Runs.of(self.first, self.last, extents).maxima(self.ways_up)
        keys, order = torch.cat([self.single, cells]).sort()
        middles = torch.cat([cells_at(self.single, extents).double(), middles])[order]
        values = torch.cat([self.single_values, self.run_values[rows]])[order]
        at, number = cells_at(keys, extents), keys // math.prod(extents)
        return LocalMaxima(number, at, middles, values, torch.full_like(middles[:, 0], math.inf))


@in_tensors
def with_spacing(maxima: LocalMaxima, among: LocalMaxima, *, farthest: float, share: float) -> LocalMaxima:
    """Set the spacing of maxima that have another one of their map among others less than ``farthest`` cells apart.

    Others below ``share`` of a maximum's own value are not counted.
    """
    points, reach = _in_one_space(among, farthest)
    own = np.column_stack([maxima.at.cpu().numpy(), _along_maps(maxima, reach)])
    scores, least = among.scores.cpu().numpy(), share * maxima.scores.cpu().numpy()
    spacing, pending, num_nearest = np.full(len(own), np.inf), np.arange(len(own)), 2
    tree = KDTree(points)
    while len(pending):  # most maxima are done with their nearest other one
        distances, rows = tree.query(own[pending], k=num_nearest, distance_upper_bound=reach)
        there = np.isfinite(distances)
        counts = there & (distances > 0) & (scores[np.where(there, rows, 0)] >= least[pending, None])
        spacing[pending] = np.where(counts, distances, np.inf).min(axis=1)
        pending = pending[there.all(axis=1) & ~counts.any(axis=1)]
        num_nearest *= 2
    return replace(maxima, spacing=torch.from_numpy(spacing).to(maxima.at.device))


@in_tensors
def close_pairs(maxima: LocalMaxima, radius: float, *, spacing: Stride = 1.0) -> Int64[Tensor, "2 p"]:
    """Find the pairs of maxima of one map less than a radius apart, each pair once: the rows of both.

    The radius is in cells, or in the unit of ``spacing``, the size of a cell along each axis (x, y[, z]) or all.
    """
    points, reach = _in_one_space(maxima, radius, spacing)
    first, second = KDTree(points).query_pairs(reach, output_type="ndarray").T
    near = ((points[first] - points[second]) ** 2).sum(axis=1) < radius**2
    return torch.from_numpy(np.stack([first[near], second[near]]).astype(np.int64)).to(maxima.at.device)


def _in_one_space(maxima: LocalMaxima, radius: float, spacing: Stride = 1.0) -> tuple[Float64[ndarray, "n _"], float]:
    """Cells with one more axis, along which maps are more than the radius apart, and the radius, at most that of a map."""
    at = maxima.at.cpu().numpy() * np.asarray(spacing, np.float64)
    reach = min(radius, 3.0 * at.max(initial=0) + 1)
    return np.column_stack([at, _along_maps(maxima, reach)]), reach


def _along_maps(maxima: LocalMaxima, reach: float) -> Int64[ndarray, " n"]:
    return maxima.map.cpu().numpy() * (math.ceil(reach) + 1)


def cells_at(keys: Int64[Tensor, " n"], extents: Sequence[int]) -> Int64[Tensor, "n D"]:
    """The cells (x, y[, z]) of flat indices into the memory of all maps."""
    return torch.stack(torch.unravel_index(keys % math.prod(extents), tuple(extents))[::-1], dim=1)


def _not_lower(maps: Float[Tensor, " m *cells"], threshold: float) -> Bool[Tensor, " m *cells"]:
    """Cells above the threshold without a higher neighbour; NaN is not higher."""
    marks = torch.zeros(maps.shape, dtype=torch.bool, device=maps.device)
    for chosen, rows, own in _parts(maps.shape, CELLS_AT_ONCE.get(maps.device.type, CELLS_AT_ONCE_ELSEWHERE)):
        part = widened(maps[chosen, rows])
        highest = part.amax()
        if highest <= threshold:
            continue
        if highest.isnan():
            part = part.masked_fill(part.isnan(), -math.inf)
        values = part[:, own]
        marks[chosen, rows][:, own] = (values >= over_neighbours(part, torch.maximum)[:, own]) & (values > threshold)
    return marks


def _parts(shape: Sequence[int], num_cells: int) -> Iterator[tuple[slice, slice, slice]]:
    """Parts of maps that fit a cache: some maps, a span of their first axis, and the rows of that span to examine."""
    extent, of_row = shape[1], math.prod(shape[2:])
    num_maps = max(1, num_cells // (extent * of_row))
    num_rows = max(1, num_cells // of_row)
    for first in range(0, shape[0], num_maps):
        for row in range(0, extent, num_rows):
            start = max(row - 1, 0)
            own = slice(row - start, min(row + num_rows, extent) - start)
            yield slice(first, first + num_maps), slice(start, min(row + num_rows + 1, extent)), own


def over_neighbours(cells: Tensor, combine: Callable[..., Tensor]) -> Tensor:
    """Combine each cell of maps (m, ...) with its neighbours."""
    for axis, extent in enumerate(cells.shape[1:], start=1):
        combined, step = cells.clone(), max(extent - 1, 0)
        for start, other in ((1, 0), (0, 1)) if step else ():
            target = combined.narrow(axis, start, step)
            combine(target, cells.narrow(axis, other, step), out=target)
        cells = combined
    return cells


def _cells_one_by_one(maps: Tensor, marks: Bool[Tensor, " m *cells"]) -> tuple[Int64[Tensor, " _"], ...]:
    """Single cells, first and last cells of runs, and ways up from them, by looking around each marked cell."""
    cells = marks.reshape(-1).nonzero()[:, 0]
    around, has_way_up = _neighbours(maps, marks, cells)
    of_runs = cells[around > 0]
    begins, ends = run_edges(of_runs, of_runs, maps.shape[-1])
    single = cells[(around == 0) & ~has_way_up]
    return single, of_runs[begins], of_runs[ends], cells[has_way_up & (around > 0)]


def _cells_of_maps(maps: Tensor, marks: Bool[Tensor, " m *cells"]) -> tuple[Int64[Tensor, " _"], ...]:
    """The same by operations on whole maps, for wide plateaus, whose inner cells need no look around."""
    around = over_neighbours(marks.to(torch.uint8), torch.add)  # marked cells beside each one, and itself
    at_edge = (marks & (around < 3 ** (maps.ndim - 1))).reshape(-1).nonzero()[:, 0]
    ways_up = at_edge[_neighbours(maps, marks, at_edge)[1]]
    alone, of_runs = marks & (around == 1), marks & (around > 1)
    alone.reshape(-1)[ways_up] = False
    inner, begins, ends = of_runs[..., 1:] & of_runs[..., :-1], of_runs.clone(), of_runs
    begins[..., 1:] &= ~inner
    ends[..., :-1] &= ~inner
    single, first, last = (each.reshape(-1).nonzero()[:, 0] for each in (alone, begins, ends))
    return single, first, last, ways_up[around.reshape(-1)[ways_up] > 1]


def _neighbours(
    maps: Tensor, marks: Bool[Tensor, " m *cells"], cells: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """How many neighbours of each cell are marked, and whether an equal one is not: a way up from its plateau."""
    flat, marked = maps.reshape(-1), marks.reshape(-1)
    around, has_way_up = torch.zeros_like(cells), torch.zeros_like(cells, dtype=torch.bool)
    for shift in product((0, -1, 1), repeat=maps.ndim - 1):
        if any(shift):
            moved, inside = _moved(cells, shift, maps.shape[1:])
            beside = torch.where(inside, moved, cells)
            around += marked[beside] & inside
            has_way_up |= (flat[beside] == flat[cells]) & ~marked[beside]
    return around, has_way_up


def run_edges(
    first: Int64[Tensor, " n"], last: Int64[Tensor, " n"], width: int
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which of the parts of runs, in order, from a first to a last cell, begin a run and which end one.

    >>> cells = torch.tensor([3, 4, 5, 7])
    >>> [each.tolist() for each in run_edges(cells, cells, width=5)]  # 5 begins the second row
    [[True, False, True, True], [False, True, True, True]]
    """
    goes_on = (first[1:] == last[:-1] + 1) & (first[1:] % width > 0)
    edge = torch.ones(min(len(first), 1), dtype=torch.bool, device=first.device)  # n = 0 is no special case
    return torch.cat([edge, ~goes_on]), torch.cat([~goes_on, edge])


@dataclass(frozen=True, eq=False)
class _Runs:
    """Marked cells as runs along the last axis, in the order of memory: flat indices of their first and last cells.

    Each run has a label, the lowest run of its plateau: marked neighbours are equal, since neither is lower.
    """

    first: Int64[Tensor, " r"]
    last: Int64[Tensor, " r"]
    extents: tuple[int, ...]
    label: Int64[Tensor, " r"]

    @classmethod
    def of(cls, first: Int64[Tensor, " r"], last: Int64[Tensor, " r"], extents: tuple[int, ...]) -> _Runs:
        return cls(first, last, extents, _components(len(first), _adjacent(first, last, extents)))

    def maxima(
        self, ways_up: Int64[Tensor, " k"]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, "n D"]]:
        """The plateaus that none of these cells belongs to: a run, the cell nearest to the middle, and the middle."""
        is_maximum = self.label == torch.arange(len(self.label), device=self.label.device)
        is_maximum[self.label[torch.searchsorted(self.first, ways_up, right=True) - 1]] = False
        middles = self._middles()
        return is_maximum.nonzero()[:, 0], self._nearest(middles)[is_maximum], middles[is_maximum]

    def _middles(self) -> Float[Tensor, "r D"]:
        """The mean of the cells of each label."""
        lengths = self.last - self.first + 1
        sums = lengths[:, None] * (cells_at(self.first, self.extents) + cells_at(self.last, self.extents)).double() / 2
        totals = torch.zeros_like(sums).index_add_(0, self.label, sums)
        return totals / torch.bincount(self.label, lengths, minlength=len(lengths)).clamp(min=1)[:, None]

    def _nearest(self, middles: Float[Tensor, "r D"]) -> Int64[Tensor, " r"]:
        """The cell of each label that is nearest to its middle, as a flat index; of equally near ones the first."""
        x, length = cells_at(self.first, self.extents)[:, 0], self.last - self.first
        offset = middles[self.label, 0] - x
        steps = torch.cat([offset.floor(), offset.ceil()]).long().clamp(min=0)
        cells = self.first.repeat(2) + torch.minimum(steps, length.repeat(2))
        label = self.label.repeat(2)
        apart = (cells_at(cells, self.extents) - middles[label]).square().sum(dim=1)
        apart = apart.mul(1e6).round()  # equally far is equally far
        least = torch.full_like(middles[:, 0], math.inf).scatter_reduce_(0, label, apart, "amin")
        near = apart == least[label]
        beyond = torch.full_like(self.label, torch.iinfo(torch.int64).max)
        return beyond.scatter_reduce_(0, label[near], cells[near], "amin")


def _adjacent(first: Int64[Tensor, " r"], last: Int64[Tensor, " r"], extents: tuple[int, ...]) -> Int64[Tensor, "2 p"]:
    """Pairs of runs that touch by a side or a corner."""
    width = extents[-1]
    pairs = [torch.empty(2, 0, dtype=torch.int64, device=first.device)]
    for shift in product((0, 1, -1), repeat=len(extents) - 1):
        if shift <= (0,) * len(shift):
            continue  # the other half of each pair
        (start, there), (stop, _) = (_moved(cells, shift, extents) for cells in (first, last))
        own = there.nonzero()[:, 0]
        start, stop = start[own], stop[own]
        begin = start - (start % width > 0).long()
        end = stop + (stop % width < width - 1).long()
        low, high = torch.searchsorted(last, begin), torch.searchsorted(first, end, right=True)
        counts = high - low
        row = torch.repeat_interleave(own, counts)
        place = torch.arange(len(row), device=row.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        pairs.append(torch.stack([row, torch.repeat_interleave(low, counts) + place]))
    return torch.cat(pairs, dim=1)


def _components(count: int, pairs: Int64[Tensor, "2 p"]) -> Int64[Tensor, " count"]:
    """Label connected components by their lowest row."""
    graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs.cpu().numpy())), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    return torch.from_numpy(np.unique(label, return_index=True)[1][label]).to(pairs.device)


def _moved(
    cells: Int64[Tensor, " n"], shift: Sequence[int], extents: Sequence[int]
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Flat indices of the cells at a shift, and whether those are on the map; later axes are not moved."""
    moved, inside, step = cells, torch.ones_like(cells, dtype=torch.bool), 1
    moves = [*shift, *[0] * (len(extents) - len(shift))]
    for extent, move in zip(reversed(extents), reversed(moves), strict=True):
        if move:
            at = cells // step % extent
            inside &= at > 0 if move < 0 else at < extent - 1
            moved = moved + move * step
        step *= extent
    return moved, inside
