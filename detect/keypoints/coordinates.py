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

Points = TypeVar("Points", np.ndarray, Tensor)
Stride = float | Sequence[float]

SHIFTS = {"center": 0.5, "corner": 0.0}  # from a file's coordinates to continuous ones


def image_to_cells(points: Points, stride: Stride, *, pixel_origin: str = "center") -> Points:
    """Convert points in image pixels to cells; the last axis is (x, y) or (x, y, z).

    >>> image_to_cells(np.array([[0.0, 7.5]]), 4)
    array([[-0.375,  1.5  ]])
    """
    return (points + origin_shift(pixel_origin)) / _along_axes(points, stride) - 0.5


def cells_to_image(cells: Points, stride: Stride, *, pixel_origin: str = "center") -> Points:
    """Convert points in cells to image pixels: the inverse of :func:`image_to_cells`.

    >>> cells_to_image(np.array([[-0.375, 1.5]]), 4)
    array([[0. , 7.5]])
    """
    return (cells + 0.5) * _along_axes(cells, stride) - origin_shift(pixel_origin)


def origin_shift(pixel_origin: str) -> float:
    """The shift from coordinates of a convention to continuous ones, in pixels."""
    if pixel_origin not in SHIFTS:
        raise ValueError(f"pixel_origin is one of {', '.join(SHIFTS)}, got {pixel_origin!r}")
    return SHIFTS[pixel_origin]


def check_stride(stride: Stride, num_axes: int) -> list[float]:
    """The stride as one number, or one for each axis; any other is a ValueError."""
    strides = [stride] if isinstance(stride, int | float) else list(stride)
    if len(strides) not in {1, num_axes} or not all(0 < each < float("inf") for each in strides):
        raise ValueError(f"need one positive stride, or one for each of {num_axes} axes, got {stride}")
    return strides


def _along_axes(points: Points, stride: Stride) -> Points | float:
    strides = check_stride(stride, points.shape[-1])
    if len(strides) == 1:
        return float(strides[0])
    return torch.tensor(strides).to(points) if isinstance(points, Tensor) else np.array(strides, points.dtype)
