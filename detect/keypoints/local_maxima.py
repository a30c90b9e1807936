"""LocalMaxima of maps: cells, or plateaus of equal cells, with nothing higher around them.

Neighbours are the cells that share a side or a corner, 8 on a map and 26 in a volume; at the border there are fewer. A
plateau, whatever its shape, is one maximum where all its neighbours are lower, and none where one is higher. Two maxima
are therefore never side by side: they are 2 cells apart or more.

Only cells above the threshold are looked at, which are few, in each step fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

BLOCK = 32  # cells judged at once by their maximum
CELLS_AT_ONCE = {"cpu": 2**22}  # what is done to the cells of some maps at once, at worst to all of them, fits a budget
CELLS_AT_ONCE_ELSEWHERE = 2**24
TOPS_AT_ONCE = 2**18  # of which the plateaus are sought
PLACES_AT_ONCE = 2**19  # rows of cells searched for maxima near others


@dataclass(frozen=True, eq=False)
class LocalMaxima:
    """One row for each, in the order of maps and of their cells.

    ``map`` (n,) counts maps, ``at`` (n, D) is a cell (x, y[, z]): of a plateau the one nearest to ``middle`` (n, D), the
    mean of its cells. ``scores`` (n,) are the map's own values, and ``spacing`` (n,) the cells from ``at`` to the next
    maximum of the map, infinite where none is near.
    """

    map: Int64[Tensor, " n"]
    at: Int64[Tensor, "n D"]
    middle: Float[Tensor, "n D"]
    scores: Float[Tensor, " n"]
    spacing: Float[Tensor, " n"]

    def rows(self, index: Tensor) -> LocalMaxima:
        """Some of them, by numbers or by a mask."""
        return LocalMaxima(*(getattr(self, field.name)[index] for field in fields(self)))


def find_local_maxima(maps: Float[Tensor, " m *cells"], threshold: float) -> LocalMaxima:
    """All maxima above a threshold, their spacing not yet known.

    >>> find_local_maxima(torch.tensor([[[0.0, 0.9, 0.9], [0.2, 0.0, 0.0], [0.0, 0.0, 0.5]]]), 0.1).middle
    tensor([[1.5000, 0.0000],
            [2.0000, 2.0000]], dtype=torch.float64)
    """
    keys, middles, scores = _find_in(maps.contiguous(), threshold)
    places = unravel(keys, maps.shape[1:])
    return LocalMaxima(places[:, -1], places[:, :-1], middles, scores, torch.full_like(middles[:, 0], math.inf))


def close_pairs(
    maxima: LocalMaxima, extents: Sequence[int], radius: float
) -> Iterator[tuple[Int64[Tensor, " p"], Int64[Tensor, " p"], Int64[Tensor, " p"]]]:
    """Pairs of maxima of one map less than a radius apart, each pair once: rows of both, and the squared distance.

    In the order of memory the others near a maximum are some runs, one in each row of cells: a search finds their ends. The
    pairs come in portions, of which no one is large.
    """
    reach = min(math.ceil(radius), sum(extents))
    keys = ravel(maxima.map, maxima.at, extents)
    ranges = [range(-min(reach, extent - 1), min(reach, extent - 1) + 1) for extent in extents[:-1]]
    shifts = [shift for shift in product(*ranges) if shift >= (0,) * len(shift) and math.hypot(*shift) <= reach]
    for rows in torch.split(torch.arange(len(keys), device=keys.device), max(1, PLACES_AT_ONCE // len(shifts))):
        first, second = _pairs_of(rows, keys, maxima.at[rows], extents, shifts, reach)
        apart = (maxima.at[first] - maxima.at[second]).square().sum(dim=1)
        near = apart < radius * radius
        yield first[near], second[near], apart[near]


def ravel(number: Int64[Tensor, "*n"], at: Int64[Tensor, "*n D"], extents: Sequence[int]) -> Int64[Tensor, "*n"]:
    """The place of a cell (x, y[, z]) of a map in the memory of all maps."""
    key = number
    for axis, extent in zip(reversed(range(at.shape[-1])), extents, strict=True):
        key = key * extent + at[..., axis]
    return key


def unravel(keys: Int64[Tensor, " n"], extents: Sequence[int]) -> Int64[Tensor, "n xyzm"]:
    """The inverse: x, y[, z] and the number of the map."""
    columns = []
    for extent in reversed(extents):
        columns.append(keys % extent)
        keys = keys // extent
    return torch.stack([*columns, keys], dim=1)


def _find_in(
    maps: Float[Tensor, " m *cells"], threshold: float
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "n D"], Float[Tensor, " n"]]:
    """Places in memory, middles and scores; of halves of the maps where it would be too much at once."""
    extents, half = maps.shape[1:], len(maps) // 2
    if half and maps.numel() > CELLS_AT_ONCE.get(maps.device.type, CELLS_AT_ONCE_ELSEWHERE):
        return _find_in_halves(maps, threshold)
    wide = maps.float() if maps.dtype.itemsize < 4 else maps
    flat = wide.reshape(-1)
    tops = _tops_of_rows(wide.reshape(-1, extents[-1]), threshold)
    for shift in _shifts(len(extents)):
        higher = flat.take(_neighbour(tops, shift, extents)) > flat.take(tops)  # a neighbour that is NaN is not
        tops = tops[~higher]
    if half and len(tops) > TOPS_AT_ONCE:
        return _find_in_halves(maps, threshold)
    label, whole = _plateaus(flat, tops, extents)
    cells = unravel(tops, extents)[:, :-1].double()
    sizes = torch.bincount(label, minlength=len(tops)).clamp(min=1)
    middles = torch.zeros_like(cells).index_add_(0, label, cells) / sizes[:, None]
    apart = (cells - middles[label]).square().sum(dim=1).mul(1e6).round()  # rounded: equally far is equally far
    least = torch.full_like(apart, math.inf).scatter_reduce_(0, label, apart, "amin")
    nearest = (apart == least[label]).nonzero()[:, 0]
    chosen = torch.full_like(label, len(tops)).scatter_reduce_(0, label[nearest], nearest, "amin")
    keys, order = tops[chosen[whole]].sort()
    return keys, middles[whole][order], flat[keys]


def _find_in_halves(maps: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    half = len(maps) // 2
    first, second = _find_in(maps[:half], threshold), _find_in(maps[half:], threshold)
    keys = torch.cat([first[0], second[0] + maps[:half].numel()])
    return keys, torch.cat([first[1], second[1]]), torch.cat([first[2], second[2]])


def _tops_of_rows(rows: Float[Tensor, "r w"], threshold: float) -> Int64[Tensor, " k"]:
    """Cells above the threshold, but for those with a higher one beside them, as far as blocks of their row show it."""
    width = rows.shape[1]
    whole = width - width % BLOCK
    parts = [torch.empty(0, dtype=torch.int64, device=rows.device)]
    for start, stop, size in ((0, whole, BLOCK), (whole, width, width - whole)):
        if start == stop or not len(rows):
            continue
        highest = (
            rows[:, start:stop].reshape(len(rows), (stop - start) // size, size).amax(dim=2)
        )  # of cells with NaN among them it is NaN
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
    flat: Float[Tensor, " n"], tops: Int64[Tensor, " k"], extents: Sequence[int]
) -> tuple[Int64[Tensor, " k"], Bool[Tensor, " k"]]:
    """Of each top the first top of its plateau, and which of these first ones stand for a plateau with no way up.

    From the cells of a plateau that has a higher neighbour, some are no tops; equal cells lead to one of them.
    """
    spoilt = torch.zeros_like(tops, dtype=torch.bool)
    pairs = []
    for shift in _shifts(len(extents)):
        neighbour = _neighbour(tops, shift, extents)
        rows = ((flat[neighbour] == flat[tops]) & (neighbour != tops)).nonzero()[:, 0]
        others = torch.searchsorted(tops, neighbour[rows]).clamp_(max=max(0, len(tops) - 1))
        found = tops[others] == neighbour[rows]
        spoilt[rows[~found]] = True
        pairs.append(torch.stack([rows[found], others[found]]))
    label = _components(len(tops), torch.cat(pairs, dim=1))
    whole = label == torch.arange(len(tops), device=tops.device)
    whole[label[spoilt]] = False
    return label, whole


def _components(count: int, pairs: Int64[Tensor, "2 p"]) -> Int64[Tensor, " count"]:
    """The lowest row that each row is connected with: the pairs' ends take each other's lowest, until nothing changes."""
    label = torch.arange(count, device=pairs.device)
    while True:
        first, second = label[pairs]
        lower = label.scatter_reduce(0, first, second, "amin")
        while (jumped := lower[lower]).ne(lower).any():
            lower = jumped
        if lower.eq(label).all():
            return label
        label = lower


def _shifts(num_axes: int) -> list[tuple[int, ...]]:
    """To all neighbours, those across a side first: they leave fewer to look at."""
    shifts = [shift for shift in product((0, -1, 1), repeat=num_axes) if any(shift)]
    return sorted(shifts, key=lambda shift: sum(map(abs, shift)))


def _neighbour(cells: Int64[Tensor, " n"], shift: Sequence[int], extents: Sequence[int]) -> Int64[Tensor, " n"]:
    """Places of the cells at a shift; beyond the border those at its edge, which are neighbours or the cells themselves."""
    places, step = cells, 1
    for extent, move in zip(reversed(extents), reversed(shift), strict=True):
        if move:
            at = cells // step % extent
            inside = at > 0 if move < 0 else at < extent - 1
            places = places + inside * (move * step)
        step *= extent
    return places


def _pairs_of(
    rows: Int64[Tensor, " r"],
    keys: Int64[Tensor, " n"],
    at: Int64[Tensor, "r D"],
    extents: Sequence[int],
    shifts: Sequence[Sequence[int]],
    reach: int,
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Pairs of these rows with later ones, so many rows of cells (and slices) further on and within reach along the row."""
    moves = torch.tensor(shifts, dtype=torch.int64, device=keys.device).flip(1)
    moved = at[:, None, 1:] + moves
    limits = torch.tensor(extents[-2::-1], dtype=torch.int64, device=keys.device)
    inside = ((moved >= 0) & (moved < limits)).all(dim=2)
    spans = (reach * reach - moves.square().sum(dim=1)).double().sqrt().long()
    x, (here, later) = at[:, :1], (moves.eq(0).all(dim=1), moves.ne(0).any(dim=1))
    steps = torch.tensor([math.prod(extents[axis:]) for axis in range(len(extents) - 1, 0, -1)], device=keys.device)
    start = (keys[rows] - at[:, 0])[:, None] + (moves * steps).sum(dim=1)
    low = torch.searchsorted(keys, start + torch.where(later, (x - spans).clamp(min=0), x + here))
    high = torch.searchsorted(keys, start + (x + spans).clamp(max=extents[-1] - 1), right=True)
    counts = ((high - low).clamp(min=0) * inside).flatten()
    before = counts.cumsum(0) - counts
    first = rows[:, None].expand(inside.shape).flatten().repeat_interleave(counts)
    number = torch.arange(len(first), device=keys.device)
    return first, number + (low.flatten() - before).repeat_interleave(counts)
