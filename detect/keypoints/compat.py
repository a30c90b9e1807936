"""Target maps of MMPose and CenterNet, reproduced exactly, including their errors, for weights trained on such targets.

Images are w pixels wide, maps W cells; a point at x pixels is at u cells.

``"mmpose-msra"``
    MMPose's MSRAHeatmap (Xiao et al. 2018): u = x W / w. The Gaussian is centred on the cell of u + .5, truncated toward
    zero, and cut at 3 sigmas. Errors: points up to 1.5 cells outside the left or upper border count for the first cell; a
    point whose window ends at the border of the map keeps its weight; if 3 sigmas are no whole number of cells, Gaussians
    near the left and upper border are shifted by one cell.
``"mmpose-udp"``
    MMPose's UDPHeatmap (Huang et al. 2020): u = x (W - 1) / (w - 1). The Gaussian is centred at u, in the same window and
    with the same errors. The decoder multiplies by w / (W - 1), which scales positions by w / (w - 1).
``"mmpose-unbiased"``
    MSRAHeatmap with ``unbiased`` (Zhang et al. 2020): the Gaussian is centred at u and covers the whole map.
``"centernet"``
    CenterNet's draw_umich_gaussian (Zhou et al. 2019): the Gaussian is centred at u truncated toward zero, with a radius of
    r cells and a sigma of (2 r + 1) / 6, also for points outside the map. Compute radii by
    :func:`detect.keypoints.box_centers.iou_radius` with the rule ``"centernet"``.

Coordinates are those of these systems: x is in image pixels from the left, without a half-pixel shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from numpy import ndarray

from detect.keypoints.drawing import Patches, PlacedPoints, blend_patches, zeros
from detect.keypoints.keypoints import UNLABELLED, Keypoints, KeypointsLike
from detect.ops.array_kinds import Array, like, to_numpy

Points = Float[ndarray, "n 2"]


@dataclass(frozen=True, eq=False)
class CodecTargets:
    """``heatmaps`` (b, j, h, w), float32, and ``point_weights`` (n,), 0 or 1; some points of weight 1 are not drawn."""

    heatmaps: Array
    point_weights: Array


def render_as(
    codec: str,
    points: KeypointsLike,
    image_hw: tuple[int, int],
    *,
    stride: float = 4.0,
    sigma: float = 2.0,
    radius: int | Array = 2,
) -> CodecTargets:
    """Draw keypoints as another system does; points of one type share a map, where the maximum is taken.

    The ``codec`` is one of ``CODECS``. The stride is in image pixels per cell. MMPose's Gaussians have a ``sigma`` in cells,
    CenterNet's a ``radius`` in cells: one whole number for all points, or an array (n,).

    >>> render_as("centernet", [np.array([[2.6, 1.5]])], (3, 4), stride=1, radius=0).heatmaps[0, 0]
    array([[0., 0., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    landmarks = points if isinstance(points, Keypoints) else Keypoints.of(points)
    placed = PlacedPoints.of(landmarks, image_hw, stride)
    cells = image_to_cells_as(codec, to_numpy(landmarks.points), image_hw, placed.map_hw)
    scales = np.broadcast_to(np.asarray(to_numpy(radius if codec == "centernet" else sigma), np.float64), len(cells))
    if not (sigma > 0 and (scales >= 0).all()):
        raise ValueError(f"sigma is positive, a radius at least 0, got {sigma=}, {radius=}")
    maps = zeros((placed.num_images * placed.num_types, *placed.map_hw), landmarks.points)
    weights = np.zeros(len(cells), np.float32)
    for row in np.flatnonzero(placed.visibility != UNLABELLED).tolist():
        places = zip(cells[row].tolist(), placed.map_size, strict=True)
        factors = [CODECS[codec](u, size, float(scales[row])) for u, size in places]
        weights[row] = all(factor is not None for factor in factors)
        if weights[row]:
            blend_patches(maps, _patch(placed.of_map()[row : row + 1], factors[::-1]))
    maps = maps.reshape(placed.num_images, placed.num_types, *placed.map_hw)
    return CodecTargets(maps, like(weights, landmarks.points))


def image_to_cells_as(codec: str, points: Points, image_hw: tuple[int, int], map_hw: tuple[int, ...]) -> Points:
    """Convert image pixels to cells as another system's encoder does.

    >>> image_to_cells_as("mmpose-udp", np.array([[191.0, 255.0]]), (256, 192), (64, 48)).round(3)
    array([[47., 63.]])
    """
    return points.astype(np.float64) / _pixels_to_a_cell(codec, image_hw, map_hw)


def cells_to_image_as(codec: str, cells: Points, image_hw: tuple[int, int], map_hw: tuple[int, ...]) -> Points:
    """Convert cells to image pixels as another system's decoder does; for ``"mmpose-udp"`` this is not the inverse.

    >>> cells_to_image_as("mmpose-udp", np.array([[47.0, 63.0]]), (256, 192), (64, 48))
    array([[192., 256.]])
    """
    if codec == "mmpose-udp":
        return cells.astype(np.float64) / (np.array(map_hw[::-1]) - 1) * np.array(image_hw[::-1])
    return cells.astype(np.float64) * _pixels_to_a_cell(codec, image_hw, map_hw)


def _pixels_to_a_cell(codec: str, image_hw: tuple[int, int], map_hw: tuple[int, ...]) -> Float32[ndarray, " 2"]:
    if codec not in CODECS:
        raise ValueError(f"codec is one of {', '.join(CODECS)}, got {codec!r}")
    less = int(codec == "mmpose-udp")
    return ((np.array(image_hw[::-1]) - less) / (np.array(map_hw[::-1]) - less)).astype(np.float32)


def _patch(of_map: Int64[ndarray, " 1"], factors: Sequence[Float64[ndarray, " _"] | None]) -> Patches:
    """A patch from the factors along each axis of the map, cut to where they are not 0."""
    first, cut = [], []
    for factor in map(np.asarray, factors):
        span = np.flatnonzero(factor)
        start, end = (span[0], span[-1] + 1) if len(span) else (0, 1)
        first.append(start)
        cut.append(factor[None, start:end].astype(np.float32))
    return Patches(of_map, np.array([first], np.int64), tuple(cut))


def _msra(u: float, size: int, sigma: float, *, exact: bool = False) -> Float64[ndarray, " size"] | None:
    """Factors along one axis, or None if the point is treated as outside."""
    reach, middle = 3 * sigma, int(u + 0.5)
    left, right = int(middle - reach), int(middle + reach + 1)
    if left >= size or right < 0:
        return None
    peak = left + (2 * reach + 1) // 2 + (u - middle if exact else 0)
    cells = np.arange(size)
    return np.where((cells >= left) & (cells < right), _gaussian(cells - peak, sigma), 0.0)


def _unbiased(u: float, size: int, sigma: float) -> Float64[ndarray, " size"] | None:
    outside = u - 3 * sigma >= size or u + 3 * sigma + 1 < 0
    return None if outside else _gaussian(np.arange(size) - u, sigma)


def _umich(u: float, size: int, radius: float) -> Float64[ndarray, " size"]:
    apart = np.arange(size) - int(u)
    return np.where(np.abs(apart) <= radius, _gaussian(apart, (2 * radius + 1) / 6), 0.0)


def _gaussian(apart: ndarray, sigma: float) -> Float64[ndarray, " n"]:
    return np.exp(-(apart**2) / (2 * sigma**2))


CODECS: dict[str, Callable[[float, int, float], ndarray | None]] = {
    "mmpose-msra": _msra,
    "mmpose-udp": partial(_msra, exact=True),
    "mmpose-unbiased": _unbiased,
    "centernet": _umich,
}
