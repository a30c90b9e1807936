"""Drawing small windows into maps, one for each point: what all target maps come down to.

A window is an outer product: one row of factors along each axis of the map, so that n points of windows of w x w cells need
n (2 w) exponentials and not n w^2. It is laid wholly inside its map, and cells beyond the point's reach get 0: no window
needs clipping. The factors are made on the CPU whatever the device, and a maximum knows no order: maps are the same to the
last bit however the points are ordered or split into batches, on every device.

Windows of few cells are fastest at flat indices, chunk by chunk in the processor's cache (``np.maximum.at``: 10 ms for 9,821
windows of 13 x 13, one slice for each 29 ms, MMPose 144 ms), large ones as slices (from some 26 x 26 cells on); on other
devices ``scatter_reduce`` does it. Memory beyond the maps stays below a budget, but for one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from detect.keypoints.placing import Array

SHAPES = ("gaussian", "disc", "pixel")
OVERLAPS: dict[str, np.ufunc] = {"max": np.maximum, "sum": np.add}
BUDGET_BYTES = 2**26
BYTES_PER_CELL = 28  # of a window: its index, its value, and what making them takes
CACHE_CELLS = 2**16  # of windows at once on the CPU
LARGE_WINDOW = 700  # cells, from which a slice for each point is faster
ON_THE_EDGE = 1e-6  # a cell on the edge of a window or disc is in it, whatever the last bit says


@dataclass(frozen=True)
class Stamps:
    """Windows of one size, inside their maps: which map, their first cells, and a row of factors along each axis.

    Axes are in the order of the map's, rows before columns. The value of a cell is the product of its factors; of a disc the
    factors are squared distances in radii, and the value is 1 where their sum is at most 1.
    """

    maps: Int64[ndarray, " n"]
    first: Int64[ndarray, "n d"]
    factors: tuple[Float32[ndarray, "n _"], ...]
    disc: bool = False

    @property
    def window(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(each.shape[1] for each in self.factors)


def draw_points(
    maps: Array,
    of_map: Int64[ndarray, " n"],
    cells: Float64[ndarray, "n d"],
    sigma: Float64[ndarray, "n d"],
    *,
    shape: str = "gaussian",
    window: float = 3.0,
    overlap: str = "max",
    budget_bytes: int = BUDGET_BYTES,
) -> None:
    """Draw points into maps (k, *cells) of float32, in place; the last axis of points and sigmas is in the maps' order.

    The bell of a point reaches ``window`` sigmas along each axis, and at least to the nearest cell: what lies beyond would
    be at most exp(-window^2 / 2), .0111 for 3 and .0003 for 4. A disc has sigma as its radius, and covers the nearest cell
    in any case. Points are inside their map.

    >>> maps = np.zeros((1, 3, 4), np.float32)
    >>> draw_points(maps, np.array([0]), np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]), shape="disc")
    >>> maps.astype(int)
    array([[[0, 0, 1, 0],
            [0, 1, 1, 1],
            [0, 0, 1, 0]]])
    """
    sizes = np.array(maps.shape[1:])
    reach = np.maximum(sigma * (window if shape == "gaussian" else 1.0), 0.5) + ON_THE_EDGE
    if shape == "pixel":
        cells, reach = np.floor(cells + 0.5), np.full_like(reach, ON_THE_EDGE)
    widths = np.minimum(2 * reach + 1, sizes).astype(np.int64)
    for rows, width in _rows_of_one_width(widths):
        at_once = max(1, min(budget_bytes // BYTES_PER_CELL, _cells_at_once(maps)) // int(width.prod()))
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            first = np.clip(np.ceil(cells[chunk] - reach[chunk]), 0, sizes - width).astype(np.int64)
            factors = _factors(first, width, cells[chunk], sigma[chunk], reach[chunk], shape == "disc")
            blend_stamps(maps, Stamps(of_map[chunk], first, factors, shape == "disc"), overlap=overlap)


def blend_stamps(maps: Array, stamps: Stamps, *, overlap: str = "max") -> None:
    """Blend windows into maps (k, *cells), in place: the larger value, or the sum."""
    starts = _starts(maps, stamps)
    if isinstance(maps, Tensor) and maps.device.type == "cpu":
        maps = maps.numpy()
    if isinstance(maps, Tensor):
        _blend_scattered(maps, stamps, starts, overlap)
    elif np.prod(stamps.window) < LARGE_WINDOW:
        at = starts[:, None] + _window_offsets(maps.shape, stamps.window)
        OVERLAPS[overlap].at(maps.reshape(-1), at.reshape(-1), _outer(stamps.factors, stamps.disc).reshape(-1))
    else:
        _blend_slices(maps, starts, _outer(stamps.factors, stamps.disc), OVERLAPS[overlap])


def _rows_of_one_width(widths: Int64[ndarray, "n d"]) -> Iterator[tuple[Int64[ndarray, " m"], Int64[ndarray, " d"]]]:
    if not len(widths):
        return
    kinds = np.ravel_multi_index(tuple(widths.T), tuple(widths.max(axis=0) + 1))
    order = np.argsort(kinds, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1):
        yield rows, widths[rows[0]]


def _cells_at_once(maps: Array) -> int:
    return CACHE_CELLS if isinstance(maps, ndarray) or maps.device.type == "cpu" else 2**62


def _factors(
    first: Int64[ndarray, "n d"],
    width: Int64[ndarray, " d"],
    cells: Float64[ndarray, "n d"],
    sigma: Float64[ndarray, "n d"],
    reach: Float64[ndarray, "n d"],
    disc: bool,
) -> tuple[Float32[ndarray, "n _"], ...]:
    if disc:  # as large as it takes to cover the nearest cell
        nearest = (cells - np.floor(cells + 0.5)) / sigma
        sigma = sigma * np.sqrt(np.maximum(1.0, (nearest**2).sum(axis=1, keepdims=True)) * (1 + ON_THE_EDGE))
    factors = []
    for axis in range(cells.shape[1]):
        columns = (each[:, axis, None] for each in (first, cells, sigma, reach))
        start, center, scale, limit = columns
        apart = start + np.arange(width[axis]) - center
        squares = (apart / scale) ** 2
        factor = squares if disc else np.where(np.abs(apart) <= limit, np.exp(-0.5 * squares), 0.0)
        factors.append(factor.astype(np.float32))
    return tuple(factors)


def _outer(factors: Sequence[Array], disc: bool) -> Any:
    """The values (n, *window) of windows."""
    total = factors[0]
    for axis, factor in enumerate(factors[1:], start=1):
        along = factor.reshape(len(factor), *[1] * axis, -1)
        total = total[..., None] + along if disc else total[..., None] * along
    if not disc:
        return total
    return (total <= 1).astype(np.float32) if isinstance(total, ndarray) else (total <= 1).float()


def _starts(maps: Array, stamps: Stamps) -> Int64[ndarray, " n"]:
    """Where the first cells of windows are in the flat maps."""
    return np.ravel_multi_index((stamps.maps, *stamps.first.T), tuple(maps.shape))


def _window_offsets(shape: tuple[int, ...], window: tuple[int, ...]) -> Int64[ndarray, " w"]:
    """From the first cell of a window to each of them, in a flat map."""
    return np.ravel_multi_index((0, *np.indices(window).reshape(len(window), -1)), (1, *shape[1:]))


def _blend_slices(maps: ndarray, starts: Int64[ndarray, " n"], values: ndarray, blend: np.ufunc) -> None:
    flat, window = maps.reshape(-1), values.shape[1:]
    last = _window_offsets(maps.shape, window)[-1]
    views = as_strided(flat, (flat.size - last, *window), (flat.strides[0], *maps.strides[1:]))
    for start, value in zip(starts.tolist(), values, strict=True):
        view = views[start]
        blend(view, value, out=view)


def _blend_scattered(maps: Tensor, stamps: Stamps, starts: Int64[ndarray, " n"], overlap: str) -> None:
    values = _outer(tuple(torch.from_numpy(each).to(maps.device) for each in stamps.factors), stamps.disc)
    offsets = torch.from_numpy(_window_offsets(tuple(maps.shape), stamps.window)).to(maps.device)
    at = (torch.from_numpy(starts).to(maps.device)[:, None] + offsets).view(-1)
    maps.view(-1).scatter_reduce_(0, at, torch.as_tensor(values).reshape(-1), "amax" if overlap == "max" else "sum")
