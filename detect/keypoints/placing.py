"""Landmarks laid on their maps: which cell of which map each belongs to, in NumPy, whatever the landmarks are in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from torch import Tensor

from detect.keypoints.cells import Stride, image_to_cells
from detect.keypoints.landmarks import Landmarks

Array = np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class PlacedPoints:
    """Points in cells, x before y, of maps of ``map_size`` cells, likewise x before y; the maps are one row (b * j)."""

    cells: Float64[ndarray, "n d"]
    image: Int64[ndarray, " n"]
    joint: Int64[ndarray, " n"]
    visibility: Int64[ndarray, " n"]
    num_images: int
    num_joints: int
    map_size: tuple[int, ...]

    @classmethod
    def of(
        cls, points: Landmarks | Sequence[Array], image_hw: Sequence[int], stride: Stride, *, pixel: str = "center"
    ) -> PlacedPoints:
        """Of landmarks, or one array for each image, on maps that cover images of (height, width), volumes (d, h, w).

        Raises:
            ValueError: points of other dimensions than the images, or rows of images or joints that are not there.
        """
        dims = len(image_hw)
        landmarks = points if isinstance(points, Landmarks) else Landmarks.of(points, dims=dims)
        if dims not in {2, 3} or min(image_hw) < 1 or landmarks.points.shape[1] != dims:
            found = tuple(landmarks.points.shape)
            raise ValueError(
                f"images are (h, w) with points (n, 2), or (d, h, w) with (n, 3), got {image_hw} and {found}"
            )
        cells = image_to_cells(to_numpy(landmarks.points).astype(np.float64), stride, pixel=pixel)
        rows = (to_numpy(each).astype(np.int64) for each in (landmarks.image, landmarks.joint, landmarks.visibility))
        image, joint, visibility = rows
        for name, values, count in (("image", image, landmarks.num_images), ("joint", joint, landmarks.num_joints)):
            if (wrong := values[(values < 0) | (values >= count)]).size:
                raise ValueError(f"{name} {wrong[0]} among the points, but there are {count}, counted from 0")
        return cls(
            cells, image, joint, visibility, landmarks.num_images, landmarks.num_joints, map_size(image_hw, stride)
        )

    @property
    def map_hw(self) -> tuple[int, ...]:
        """Cells of a map, in the order of its axes."""
        return self.map_size[::-1]

    def of_map(self) -> Int64[ndarray, " n"]:
        """Each point's map among b * j."""
        return self.image * self.num_joints + self.joint

    def inside(self) -> Bool[ndarray, " n"]:
        """Which points lie in a cell of their map: from -.5 up to, not including, its number of cells less .5."""
        within: ndarray = (self.cells >= -0.5) & (self.cells < np.array(self.map_size) - 0.5)
        return np.asarray(within.all(axis=1))

    def nearest(self, rows: Int64[ndarray, " m"]) -> Int64[ndarray, "m d"]:
        """The cells, x before y, that some points lie in; half-way between two it is the later one."""
        cells = np.floor(self.cells[rows] + 0.5).astype(np.int64)
        return np.minimum(cells, np.array(self.map_size) - 1)  # .49999999999999994 + .5 is 1

    def count(self, chosen: Bool[ndarray, " n"]) -> Int64[ndarray, "b j"]:
        """How many of the chosen points each map has."""
        counts = np.bincount(self.of_map()[chosen], minlength=self.num_images * self.num_joints)
        return counts.reshape(self.num_images, self.num_joints)


def map_size(image_hw: Sequence[int], stride: Stride) -> tuple[int, ...]:
    """Cells along x, y(, z) that cover an image of (height, width), a volume of (d, h, w).

    >>> map_size((480, 641), 4)
    (161, 120)
    """
    strides = [stride] * len(image_hw) if isinstance(stride, int | float) else list(stride)
    return tuple(math.ceil(extent / step) for extent, step in zip(reversed(image_hw), strides, strict=True))


def along_axes(values: float | tuple[float, ...] | Array, shape: tuple[int, int], name: str) -> Float64[ndarray, "n d"]:
    """One positive number for each point and axis, from one for all, a tuple for the axes, an array (n,) or (n, d).

    >>> along_axes((1.0, 2.0), (2, 2), "sigma")
    array([[1., 2.],
           [1., 2.]])

    Raises:
        ValueError: an array of another shape, or a number that is not positive and finite.
    """
    given = to_numpy(values).astype(np.float64)
    per_point = given[:, None] if given.ndim == 1 and not isinstance(values, tuple) else given
    fits = per_point.shape in {(), shape, (shape[0], 1)} or (isinstance(values, tuple) and given.shape == shape[1:])
    if not fits:
        wanted = f"a number, a tuple of {shape[1]}, or an array {shape} or ({shape[0]},)"
        raise ValueError(f"{name} is {wanted}, got {given.shape}")
    if not ((given > 0) & (given < math.inf)).all():
        raise ValueError(f"{name} is positive and finite, got {given[~((given > 0) & (given < math.inf))].flat[0]}")
    return np.broadcast_to(per_point, shape)


def to_numpy(values: object) -> ndarray:
    """Anything like an array, in NumPy; a tensor on the CPU shares its memory."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def like(values: ndarray, reference: Array) -> Any:
    """The same numbers where the reference is: NumPy, or a tensor on its device."""
    if isinstance(reference, Tensor):
        return torch.from_numpy(np.ascontiguousarray(values)).to(reference.device)
    return values


def zeros(shape: Sequence[int], reference: Array) -> Any:
    """Maps of float32; on the CPU memory is taken only when it is written (``torch.zeros`` would write all of it)."""
    if isinstance(reference, Tensor) and reference.device.type != "cpu":
        return torch.zeros(*shape, device=reference.device)
    return like(np.zeros(shape, np.float32), reference)
