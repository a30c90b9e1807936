"""Coordinates of images and of heatmap cells: one convention, from the label to the score.

In cells, as everywhere inside this folder, the centre of cell (column i, row j) is the point (i, j). Images' files differ:

``"center"``
    pixel i has its centre at i: indices of pixels, as of ``numpy.argwhere`` or ``skimage.measure.regionprops``.
``"corner"``
    pixel i reaches from i to i + 1, and its centre is i + 0.5: continuous, as boxes are.

A map of stride s lies over the image so that their outer edges meet: cell i covers s pixels, from i s to (i + 1) s. So a
pixel with index x is at (x + 0.5) / s - 0.5 cells; left out, as in many systems, that is a shift by (s - 1) / 2 pixels.
Points are rows (x, y), of volumes (x, y, z); a stride is one number or one for each of these axes.
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
    """Where points of an image lie on its map; the last axis is (x, y) or (x, y, z).

    >>> image_to_cells(np.array([[0.0, 7.5]]), 4)
    array([[-0.375,  1.5  ]])
    """
    return (points + _shift(pixel_origin)) / _along_axes(points, stride) - 0.5


def cells_to_image(cells: Points, stride: Stride, *, pixel_origin: str = "center") -> Points:
    """Where points of a map lie in the image: the inverse of :func:`image_to_cells`.

    >>> cells_to_image(np.array([[-0.375, 1.5]]), 4)
    array([[0. , 7.5]])
    """
    return (cells + 0.5) * _along_axes(cells, stride) - _shift(pixel_origin)


def _shift(pixel_origin: str) -> float:
    if pixel_origin not in SHIFTS:
        raise ValueError(f"pixel_origin is one of {', '.join(SHIFTS)}, got {pixel_origin!r}")
    return SHIFTS[pixel_origin]


def _along_axes(points: Points, stride: Stride) -> Points | float:
    strides = [stride] if isinstance(stride, int | float) else list(stride)
    if len(strides) not in {1, points.shape[-1]} or not all(0 < each < float("inf") for each in strides):
        raise ValueError(f"need one positive stride, or one for each of {points.shape[-1]} axes, got {stride}")
    if len(strides) == 1:
        return float(strides[0])
    return torch.tensor(strides).to(points) if isinstance(points, Tensor) else np.array(strides, points.dtype)
