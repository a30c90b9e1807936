"""Local maxima of maps: cells, or plateaus of equal cells, without a higher neighbour.

Neighbours share a side or a corner: 8 on a map and 26 in a volume, fewer at the border. A plateau of any shape is one
maximum if all its neighbours are lower, and none if one is higher. Two maxima are therefore at least 2 cells apart. Only
cells above the threshold are examined, and fewer with each neighbour compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from detect.ops.boxes import widened

BLOCK = 32  # cells of a row that are dropped together if their maximum is not above the threshold
CELLS_AT_ONCE = {"cpu": 2**22}  # of maps; bounds the memory if all cells are above the threshold
CELLS_AT_ONCE_ELSEWHERE = 2**24
CANDIDATES_AT_ONCE = 2**18  # cells whose plateaus are labelled together

Found = tuple[Int64[Tensor, " n"], Float[Tensor, "n D"], Float[Tensor, " n"]]


@dataclass(frozen=True, eq=False)
class LocalMaxima:
    """One row for each maximum, in the order of maps and their cells.

    ``map`` is the index of the map. ``at`` is a cell (x, y[, z]): of a plateau the one nearest to ``middle``, the mean of
    its cells. ``scores`` are the values of the map, and ``spacing`` the distances in cells from ``at`` to the nearest other
    maximum of the map that counts (:func:`with_spacing`), infinite if none is near.
    """

    map: Int64[Tensor, " n"]
    at: Int64[Tensor, "n D"]
    middle: Float[Tensor, "n D"]
    scores: Float[Tensor, " n"]
    spacing: Float[Tensor, " n"]

    def rows(self, index: Tensor) -> LocalMaxima:
        return LocalMaxima(*(column[index] for column in vars(self).values()))


def find_local_maxima(maps: Float[Tensor, " m *cells"], threshold: float) -> LocalMaxima:
    """Find all maxima above a threshold; their spacing is not yet set.

    >>> find_local_maxima(torch.tensor([[[0.0, 0.9, 0.9], [0.2, 0.0, 0.0], [0.0, 0.0, 0.5]]]), 0.1).middle
    tensor([[1.5000, 0.0000],
            [2.0000, 2.0000]], dtype=torch.float64)
    """
    keys, middles, scores = _find_in(maps.contiguous(), threshold)
    at = _places(keys, maps.shape[1:])
    number = keys // math.prod(maps.shape[1:])
    return LocalMaxima(number, at, middles, scores, torch.full_like(middles[:, 0], math.inf))


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


def close_pairs(maxima: LocalMaxima, radius: float) -> Int64[Tensor, "2 p"]:
    """Find the pairs of maxima of one map less than a radius apart, each pair once: the rows of both."""
    points, reach = _in_one_space(maxima, radius)
    first, second = KDTree(points).query_pairs(reach, output_type="ndarray").T
    near = ((points[first] - points[second]) ** 2).sum(axis=1) < radius**2
    return torch.from_numpy(np.stack([first[near], second[near]]).astype(np.int64)).to(maxima.at.device)


def _in_one_space(maxima: LocalMaxima, radius: float) -> tuple[Int64[ndarray, "n _"], float]:
    """Cells with one more axis, along which maps are more than the radius apart, and the radius, at most that of a map."""
    at = maxima.at.cpu().numpy()
    reach = min(radius, 3.0 * at.max(initial=0) + 1)
    return np.column_stack([at, _along_maps(maxima, reach)]), reach


def _along_maps(maxima: LocalMaxima, reach: float) -> Int64[ndarray, " n"]:
    return maxima.map.cpu().numpy() * (math.ceil(reach) + 1)


def _places(keys: Int64[Tensor, " n"], extents: Sequence[int]) -> Int64[Tensor, "n D"]:
    """The cells (x, y[, z]) of flat indices into the memory of all maps."""
    return torch.stack(torch.unravel_index(keys % math.prod(extents), tuple(extents))[::-1], dim=1)


def _find_in(maps: Float[Tensor, " m *cells"], threshold: float) -> Found:
    """Flat indices, middles and scores of the maxima; maps beyond the memory budget are processed in halves."""
    extents, half = maps.shape[1:], len(maps) // 2
    if half and maps.numel() > CELLS_AT_ONCE.get(maps.device.type, CELLS_AT_ONCE_ELSEWHERE):
        return _find_in_halves(maps, threshold)
    wide = widened(maps)
    flat = wide.reshape(-1)
    candidates = _candidates_of_rows(wide.reshape(-1, extents[-1]), threshold)
    for shift in _shifts(len(extents)):
        neighbours = _neighbour(candidates, shift, extents)
        candidates = candidates[~(flat.take(neighbours) > flat.take(candidates))]  # NaN is not higher
    if half and len(candidates) > CANDIDATES_AT_ONCE:
        return _find_in_halves(maps, threshold)
    label, whole = _plateaus(flat, candidates, extents)
    cells = _places(candidates, extents).double()
    sizes = torch.bincount(label, minlength=len(candidates)).clamp(min=1)
    middles = torch.zeros_like(cells).index_add_(0, label, cells) / sizes[:, None]
    apart = (cells - middles[label]).square().sum(dim=1).mul(1e6).round()  # rounded: equally far is equally far
    least = torch.full_like(apart, math.inf).scatter_reduce_(0, label, apart, "amin")
    nearest = (apart == least[label]).nonzero()[:, 0]
    chosen = torch.full_like(label, len(candidates)).scatter_reduce_(0, label[nearest], nearest, "amin")
    keys, order = candidates[chosen[whole]].sort()
    return keys, middles[whole][order], flat[keys]


def _find_in_halves(maps: Tensor, threshold: float) -> Found:
    half = len(maps) // 2
    first, (keys, *others) = _find_in(maps[:half], threshold), _find_in(maps[half:], threshold)
    middles, scores = (torch.cat(both) for both in zip(first[1:], others, strict=True))
    return torch.cat([first[0], keys + maps[:half].numel()]), middles, scores


def _candidates_of_rows(rows: Float[Tensor, "r w"], threshold: float) -> Int64[Tensor, " k"]:
    """Cells above the threshold, without those that have a higher neighbour in the same block of their row."""
    width = rows.shape[1]
    whole = width - width % BLOCK
    parts = [torch.empty(0, dtype=torch.int64, device=rows.device)]
    for start, stop, size in ((0, whole, BLOCK), (whole, width, width - whole)):
        if start == stop or not len(rows):
            continue
        blocks = rows[:, start:stop].reshape(len(rows), (stop - start) // size, size)
        highest = blocks.amax(dim=2)  # NaN if one of the cells is NaN
        row, block = (~(highest <= threshold)).nonzero().unbind(dim=1)
        first = row * width + block * size + start
        values = rows.reshape(-1).unfold(0, size, 1).index_select(0, first)
        above = values > threshold
        above[:, 1:] &= ~(values[:, :-1] > values[:, 1:])
        above[:, :-1] &= ~(values[:, 1:] > values[:, :-1])
        found, cell = above.nonzero().unbind(dim=1)
        parts.append(first[found] + cell)
    return torch.cat(parts).sort().values if 0 < whole < width else torch.cat(parts)


def _plateaus(
    flat: Float[Tensor, " n"], candidates: Int64[Tensor, " k"], extents: Sequence[int]
) -> tuple[Int64[Tensor, " k"], Bool[Tensor, " k"]]:
    """The first candidate of each plateau, and whether each candidate is the first one of a plateau that is a maximum.

    If a plateau has a higher neighbour, some of its cells are no candidates, and an equal candidate is next to one of them.
    """
    has_higher = torch.zeros_like(candidates, dtype=torch.bool)
    pairs = []
    for shift in _shifts(len(extents)):
        neighbour = _neighbour(candidates, shift, extents)
        rows = ((flat[neighbour] == flat[candidates]) & (neighbour != candidates)).nonzero()[:, 0]
        others = torch.searchsorted(candidates, neighbour[rows]).clamp_(max=max(0, len(candidates) - 1))
        found = candidates[others] == neighbour[rows]
        has_higher[rows[~found]] = True
        pairs.append(torch.stack([rows[found], others[found]]))
    label = _components(len(candidates), torch.cat(pairs, dim=1))
    whole = label == torch.arange(len(candidates), device=candidates.device)
    whole[label[has_higher]] = False
    return label, whole


def _components(count: int, pairs: Int64[Tensor, "2 p"]) -> Int64[Tensor, " count"]:
    """Label connected components by their lowest row."""
    graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs.cpu().numpy())), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    return torch.from_numpy(np.unique(label, return_index=True)[1][label]).to(pairs.device)


def _shifts(num_axes: int) -> list[tuple[int, ...]]:
    """Steps to all neighbours, those that share a side first, since they exclude the most cells."""
    shifts = [shift for shift in product((0, -1, 1), repeat=num_axes) if any(shift)]
    return sorted(shifts, key=lambda shift: sum(map(abs, shift)))


def _neighbour(cells: Int64[Tensor, " n"], shift: Sequence[int], extents: Sequence[int]) -> Int64[Tensor, " n"]:
    """Flat indices of the cells at a shift; beyond the border, of the nearest cells of the map."""
    places, step = cells, 1
    for extent, move in zip(reversed(extents), reversed(shift), strict=True):
        if move:
            at = cells // step % extent
            inside = at > 0 if move < 0 else at < extent - 1
            places = places + inside * (move * step)
        step *= extent
    return places
