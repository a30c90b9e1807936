"""Conversion between image pixels and heatmap cells.

In cells, the centre of cell (column i, row j) is the point (i, j). In images, ``pixel_origin`` is one of two conventions:

``"center"``
    pixel i has its centre at i: pixel indices, as returned by ``numpy.argwhere`` or ``skimage.measure.regionprops``.
``"corner"``
    pixel i reaches from i to i + 1, and its centre is i + 0.5: continuous coordinates, as used for boxes.

The outer edges of a map of stride s and of its image coincide: cell i covers s pixels, from i s to (i + 1) s. A pixel with
index x is therefore at (x + 0.5) / s - 0.5 cells; systems that omit the half pixel shift points by (s - 1) / 2 pixels.
Points are rows (x, y), or (x, y, z) in volumes; a stride is one number or one for each of these axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from detect.conventions import ORIGIN_SHIFTS
from detect.ops.array_kinds import of_axes

Points = TypeVar("Points", np.ndarray, Tensor)
Stride = float | Sequence[float]


def image_to_cells(points: Points, stride: Stride, *, pixel_origin: str = "center") -> Points:
    """Convert points in image pixels to cells; the last axis is (x, y) or (x, y, z).

    >>> image_to_cells(np.array([[0.0, 7.5]]), 4)
    array([[-0.375,  1.5  ]])
    """
    shifted = points + origin_shift(pixel_origin)  # floats now, also of whole pixels
    return shifted / _along_axes(shifted, stride) - 0.5


def cells_to_image(cells: Points, stride: Stride, *, pixel_origin: str = "center") -> Points:
    """Convert points in cells to image pixels: the inverse of :func:`image_to_cells`.

    >>> cells_to_image(np.array([[-0.375, 1.5]]), 4)
    array([[0. , 7.5]])
    """
    shifted = cells + 0.5
    return shifted * _along_axes(shifted, stride) - origin_shift(pixel_origin)


def origin_shift(pixel_origin: str) -> float:
    """The shift from coordinates of a convention to continuous ones, in pixels."""
    if pixel_origin not in ORIGIN_SHIFTS:
        raise ValueError(f"pixel_origin is one of {', '.join(ORIGIN_SHIFTS)}, got {pixel_origin!r}")
    return ORIGIN_SHIFTS[pixel_origin]


def _along_axes(points: Points, stride: Stride) -> Points | float:
    if isinstance(stride, int | float) and 0 < stride < float("inf"):
        return float(stride)  # the one way of a graph, which has no arrays
    strides = of_axes("stride", stride, points.shape[-1])
    return torch.tensor(strides).to(points) if isinstance(points, Tensor) else strides.astype(points.dtype)
