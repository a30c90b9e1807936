"""Where a target map means something, and how much: a weight for each of its cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from detect.keypoints.cells import Stride, image_to_cells
from detect.keypoints.placing import Array, PlacedPoints, like, to_numpy


def pixel_weights(ignored: Array, regions: Sequence[Array] | None, stride: Stride, pixel: str) -> Array:
    """1, but 0 where maps (b, j, *cells) of ignored points are above 0, and in the cells that boxes of each image touch.

    Boxes are rows x0, y0, x1, y1 in image pixels, of volumes x0, y0, z0, x1, y1, z1.

    Raises:
        ValueError: not one array of boxes for each image, or of another shape.
    """
    weights = (ignored == 0).astype(np.float32) if isinstance(ignored, ndarray) else (ignored == 0).float()
    dims = weights.ndim - 2
    if regions is not None and len(regions) != len(weights):
        raise ValueError(f"need regions to ignore for each of {len(weights)} images, got {len(regions)}")
    for of_image, boxes in zip(weights, regions or (), strict=False):
        corners = to_numpy(boxes).astype(np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 * dims:
            raise ValueError(f"regions to ignore are (r, {2 * dims}), got {corners.shape}")
        low, high = (image_to_cells(each, stride, pixel=pixel) + 0.5 for each in np.split(corners, 2, axis=1))
        for start, end in zip(np.floor(low).clip(0), np.ceil(high).clip(0), strict=True):
            window = tuple(slice(int(a), int(b)) for a, b in zip(start[::-1], end[::-1], strict=True))
            of_image[(slice(None), *window)] = 0
    return weights


def set_own_cells(
    weights: Array, placed: PlacedPoints, rows: Int64[ndarray, " m"], of_points: Float32[ndarray, " m"]
) -> None:
    """Give the cells that points lie in their weight, in place; where several lie, the largest."""
    at = np.ravel_multi_index(
        (placed.image[rows], placed.joint[rows], *placed.nearest(rows).T[::-1]), tuple(weights.shape)
    )
    different, which = np.unique(at, return_inverse=True)
    largest = np.zeros(len(different), np.float32)
    np.maximum.at(largest, which, of_points)
    weights.reshape(-1)[like(different, weights)] = like(largest, weights)
