"""Drawing of patches into maps, one small window of values for each point.

A patch is an outer product of one row of factors along each axis of the map, so that n patches of w x w cells need n (2 w)
exponentials instead of n w^2. Patches lie completely inside their map, with 0 in cells beyond the point's reach, so that
none needs clipping. Factors are computed on the CPU for every device, and the maximum is independent of order: maps are
equal to the last bit for any order or batching of points, on every device.

Small patches are blended at flat indices, in chunks that fit the processor's cache (a third of the time of a slice each),
large ones (from about 26 x 26 cells) as slices, and on other devices by ``scatter_reduce``. The memory beyond the maps stays
below a budget, except for one patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from detect.keypoints.coordinates import Stride, image_to_cells
from detect.keypoints.keypoints import Keypoints, KeypointsLike
from detect.ops.array_kinds import Array, check_shape, like, of_axes, to_numpy


@dataclass(frozen=True, eq=False)
class PlacedPoints:
    """Points in cells (x, y[, z]) on maps of ``map_size`` cells (x, y[, z]); maps are numbered image * num_types + type."""

    cells: Float64[ndarray, "n d"]
    image: Int64[ndarray, " n"]
    types: Int64[ndarray, " n"]
    visibility: Int64[ndarray, " n"]
    num_images: int
    num_types: int
    map_size: tuple[int, ...]

    @classmethod
    def of(
        cls, points: KeypointsLike, image_hw: Sequence[int], stride: Stride, *, pixel_origin: str = "center"
    ) -> PlacedPoints:
        """Place keypoints, or one array for each image, on maps that cover images (h, w) or volumes (d, h, w)."""
        dims = len(image_hw)
        landmarks = points if isinstance(points, Keypoints) else Keypoints.of(points, dims=dims)
        if dims not in {2, 3} or min(image_hw) < 1 or landmarks.points.shape[1] != dims:
            found = f"{image_hw} and {tuple(landmarks.points.shape)}"
            raise ValueError(f"images are (h, w) with points (n, 2), or (d, h, w) with (n, 3), got {found}")
        cells = image_to_cells(to_numpy(landmarks.points).astype(np.float64), stride, pixel_origin=pixel_origin)
        columns = (landmarks.image, landmarks.types, landmarks.visibility)
        image, types, visibility = (to_numpy(each).astype(np.int64) for each in columns)
        sizes = landmarks.num_images, landmarks.num_types
        for name, values, count in zip(("image", "keypoint type"), (image, types), sizes, strict=True):
            if (wrong := values[(values < 0) | (values >= count)]).size:
                raise ValueError(f"{name} {wrong[0]} among the points, but there are {count}, counted from 0")
        return cls(cells, image, types, visibility, *sizes, map_size(image_hw, stride))

    @property
    def map_hw(self) -> tuple[int, ...]:
        return self.map_size[::-1]

    def of_map(self) -> Int64[ndarray, " n"]:
        return self.image * self.num_types + self.types

    def inside(self) -> Bool[ndarray, " n"]:
        """Whether each point lies in a cell of its map: from -.5, included, to the number of cells minus .5, excluded."""
        within: ndarray = (self.cells >= -0.5) & (self.cells < np.array(self.map_size) - 0.5)
        return np.asarray(within.all(axis=1))

    def nearest(self, rows: Int64[ndarray, " m"]) -> Int64[ndarray, "m d"]:
        """The cells (x, y[, z]) that contain some points; halfway between two cells it is the later one."""
        cells = np.floor(self.cells[rows] + 0.5).astype(np.int64)
        return np.minimum(cells, np.array(self.map_size) - 1)  # .49999999999999994 + .5 is 1

    def count(self, chosen: Bool[ndarray, " n"]) -> Int64[ndarray, "b j"]:
        counts = np.bincount(self.of_map()[chosen], minlength=self.num_images * self.num_types)
        return counts.reshape(self.num_images, self.num_types)


def map_size(image_hw: Sequence[int], stride: Stride) -> tuple[int, ...]:
    """Return the number of cells along x, y(, z) that cover an image (h, w) or a volume (d, h, w).

    >>> map_size((480, 641), 4)
    (161, 120)
    """
    strides = of_axes("stride", stride, len(image_hw)).tolist()
    return tuple(math.ceil(extent / step) for extent, step in zip(reversed(image_hw), strides, strict=True))


def along_axes(values: float | Sequence[float] | Array, shape: tuple[int, int], name: str) -> Float64[ndarray, "n d"]:
    """Broadcast a number for all, a list for the axes, or an array (n,) or (n, d) to one number for each point and axis.

    >>> along_axes((1.0, 2.0), (2, 2), "sigma")
    array([[1., 2.],
           [1., 2.]])
    """
    if not isinstance(values, ndarray | Tensor) or not values.ndim:
        return np.broadcast_to(of_axes(name, values, shape[1]), shape)
    given = to_numpy(values).astype(np.float64)
    check_shape(f"a {name} for all, a tuple for the axes, or an array", given, shape, shape[:1], (shape[0], 1))
    if (wrong := given[~((given > 0) & (given < math.inf))]).size:
        raise ValueError(f"{name} is positive and finite, got {wrong[0]}")
    return np.broadcast_to(given[:, None] if given.ndim == 1 else given, shape)


def zeros(shape: Sequence[int], reference: Array) -> Any:
    """Make maps of float32 zeros; on the CPU memory is taken only when written (``torch.zeros`` would write all of it)."""
    if isinstance(reference, Tensor) and reference.device.type != "cpu":
        return torch.zeros(*shape, device=reference.device)
    return like(np.zeros(shape, np.float32), reference)


SHAPES = ("gaussian", "disc", "pixel")
BLENDS: dict[str, np.ufunc] = {"max": np.maximum, "sum": np.add}
BUDGET_BYTES = 2**26
BYTES_PER_CELL = 28  # of a patch: its index, its value, and temporaries
CACHE_CELLS = 2**16  # cells of patches at once on the CPU
LARGE_WINDOW = 700  # cells, from which a slice for each patch is faster
ON_THE_EDGE = 1e-6  # a cell on the edge of a window or disc is inside, whatever the rounding


@dataclass(frozen=True)
class Patches:
    """Patches of one size inside their maps, with a row of factors along each axis of the map, rows before columns.

    ``first`` are their first cells. The value of a cell is the product of its factors. For discs the factors are squared
    distances in radii, and the value is 1 where their sum is at most 1.
    """

    maps: Int64[ndarray, " n"]
    first: Int64[ndarray, "n d"]
    factors: tuple[Float32[ndarray, "n _"], ...]
    disc: bool = False

    @property
    def window(self) -> tuple[int, ...]:
        return tuple(each.shape[1] for each in self.factors)


def draw_points(
    maps: Array,
    of_map: Int64[ndarray, " n"],
    cells: Float64[ndarray, "n d"],
    sigma: Float64[ndarray, "n d"],
    *,
    shape: str = "gaussian",
    window: float = 3.0,
    blend: str = "max",
    budget_bytes: int = BUDGET_BYTES,
) -> None:
    """Draw points into maps (k, *cells) of float32, in place; the columns of ``cells`` and ``sigma`` follow the maps' axes.

    A Gaussian reaches ``window`` sigmas along each axis, and at least to the nearest cell. A disc has the radius sigma and
    always covers the nearest cell. Points must be inside their map.

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
    on_cpu = isinstance(maps, ndarray) or maps.device.type == "cpu"
    most_cells = min(budget_bytes // BYTES_PER_CELL, CACHE_CELLS if on_cpu else 2**62)
    for rows, width in _rows_of_one_width(widths):
        at_once = max(1, most_cells // int(width.prod()))
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            first = np.clip(np.ceil(cells[chunk] - reach[chunk]), 0, sizes - width).astype(np.int64)
            factors = _factors(first, width, cells[chunk], sigma[chunk], reach[chunk], shape == "disc")
            blend_patches(maps, Patches(of_map[chunk], first, factors, shape == "disc"), blend=blend)


def blend_patches(maps: Array, patches: Patches, *, blend: str = "max") -> None:
    """Blend patches into maps (k, *cells), in place, by the maximum or the sum."""
    if isinstance(maps, Tensor) and maps.device.type != "cpu":
        blend_scattered(maps, patches, blend=blend)
        return
    maps, window = np.asarray(maps), patches.window  # a tensor on the CPU shares its memory
    values, starts = _outer(patches.factors, patches.disc), _starts(maps, patches)
    flat, offsets = maps.reshape(-1), _window_offsets(maps.shape, window)
    if np.prod(window) < LARGE_WINDOW:
        BLENDS[blend].at(flat, (starts[:, None] + offsets).reshape(-1), values.reshape(-1))
        return
    views = as_strided(flat, (flat.size - offsets[-1], *window), (flat.strides[0], *maps.strides[1:]))
    for start, value in zip(starts.tolist(), values, strict=True):
        BLENDS[blend](views[start], value, out=views[start])


def blend_scattered(maps: Tensor, patches: Patches, *, blend: str = "max") -> None:
    """Blend patches into maps on any device, in place, by one ``scatter_reduce``."""
    values = _outer(tuple(like(each, maps) for each in patches.factors), patches.disc)
    offsets = like(_window_offsets(tuple(maps.shape), patches.window), maps)
    at = (like(_starts(maps, patches), maps)[:, None] + offsets).view(-1)
    maps.view(-1).scatter_reduce_(0, at, torch.as_tensor(values).reshape(-1), "amax" if blend == "max" else "sum")


def _rows_of_one_width(widths: Int64[ndarray, "n d"]) -> Iterator[tuple[Int64[ndarray, " m"], Int64[ndarray, " d"]]]:
    if not len(widths):
        return
    kinds = np.ravel_multi_index(tuple(widths.T), tuple(widths.max(axis=0) + 1))
    order = np.argsort(kinds, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(kinds[order])) + 1):
        yield rows, widths[rows[0]]


def _factors(
    first: Int64[ndarray, "n d"],
    width: Int64[ndarray, " d"],
    cells: Float64[ndarray, "n d"],
    sigma: Float64[ndarray, "n d"],
    reach: Float64[ndarray, "n d"],
    disc: bool,
) -> tuple[Float32[ndarray, "n _"], ...]:
    if disc:  # enlarged where needed to cover the nearest cell
        nearest = (cells - np.floor(cells + 0.5)) / sigma
        sigma = sigma * np.sqrt(np.maximum(1.0, (nearest**2).sum(axis=1, keepdims=True)) * (1 + ON_THE_EDGE))
    factors = []
    for axis in range(cells.shape[1]):
        start, center, scale, limit = (each[:, axis, None] for each in (first, cells, sigma, reach))
        apart = start + np.arange(width[axis]) - center
        squares = (apart / scale) ** 2
        factor = squares if disc else np.where(np.abs(apart) <= limit, np.exp(-0.5 * squares), 0.0)
        factors.append(factor.astype(np.float32))
    return tuple(factors)


def _outer(factors: Sequence[Array], disc: bool) -> Any:
    """The values (n, *window) of patches."""
    total = factors[0]
    for axis, factor in enumerate(factors[1:], start=1):
        along = factor.reshape(len(factor), *[1] * axis, -1)
        total = total[..., None] + along if disc else total[..., None] * along
    if not disc:
        return total
    return (total <= 1).astype(np.float32) if isinstance(total, ndarray) else (total <= 1).float()


def _starts(maps: Array, patches: Patches) -> Int64[ndarray, " n"]:
    """Flat indices of the first cells of patches."""
    return np.ravel_multi_index((patches.maps, *patches.first.T), tuple(maps.shape))


def _window_offsets(shape: tuple[int, ...], window: tuple[int, ...]) -> Int64[ndarray, " w"]:
    """Flat offsets from the first cell of a patch to each of its cells."""
    return np.ravel_multi_index((0, *np.indices(window).reshape(len(window), -1)), (1, *shape[1:]))
