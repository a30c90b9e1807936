"""Where the points of an image come to lie when it is turned, cropped, resized and put on a canvas; and back again.

Here points and boxes are continuous: pixel i covers [i, i + 1). Keypoints that are indices of pixels
(``pixel_origin="center"``, see :mod:`detect.keypoints.coordinates`) are moved by half a pixel before and back by
half a pixel after: scaled as they stand, they would end up beside their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from detect.data.resize import ResizeRule
from detect.keypoints.coordinates import SHIFTS

Array = TypeVar("Array", ndarray, Tensor)
Pair = tuple[float, float]


@dataclass(frozen=True)
class View:
    """An image as it is seen: (x, y), or with ``swapped`` axes (y, x), goes to (x, y) * scale_xy + offset_xy.

    A negative factor is a mirror. ``image_wh`` is the image's own size, and what is restored is cut to it.
    """

    image_wh: tuple[int, int]
    scale_xy: Pair = (1.0, 1.0)
    offset_xy: Pair = (0.0, 0.0)
    swapped: bool = False

    def then(self, scale_xy: Pair = (1.0, 1.0), offset_xy: Pair = (0.0, 0.0), *, swapped: bool = False) -> View:
        """This view, and of what it shows another one.

        >>> View((8, 4)).then(swapped=True).then((-1.0, 1.0), (4.0, 0.0)).move_points(np.array([[8.0, 0.0]]))
        array([[4., 8.]])
        """
        order = -1 if swapped else 1
        (scale_x, scale_y), (offset_x, offset_y) = self.scale_xy[::order], self.offset_xy[::order]
        scale = (scale_x * scale_xy[0], scale_y * scale_xy[1])
        offset = (offset_x * scale_xy[0] + offset_xy[0], offset_y * scale_xy[1] + offset_xy[1])
        return View(self.image_wh, scale, offset, self.swapped != swapped)

    def move_points(self, points: Array, *, pixel_origin: str = "corner") -> Array:
        """Points (n, 2) of the image to where they are seen, in the same convention."""
        points = points + SHIFTS[pixel_origin]
        points = points[:, [1, 0]] if self.swapped else points
        return points * _like(self.scale_xy, points) + _like(self.offset_xy, points) - SHIFTS[pixel_origin]

    def restore_points(self, points: Array, *, pixel_origin: str = "corner") -> Array:
        """Points (n, 2) as they are seen back to the image's own pixels, in the same convention; they are not cut.

        >>> View((64, 64), (2.0, 2.0)).restore_points(np.array([[0.5, 2.5]]), pixel_origin="center")
        array([[0., 1.]])
        """
        points = (points + SHIFTS[pixel_origin] - _like(self.offset_xy, points)) / _like(self.scale_xy, points)
        return (points[:, [1, 0]] if self.swapped else points) - SHIFTS[pixel_origin]

    def move_boxes(self, boxes: Array) -> Array:
        """Boxes (n, 4), x0 y0 x1 y1, of the image to where they are seen; those of a mirror have their corners in order."""
        return _boxes(self.move_points(boxes[:, :2]), self.move_points(boxes[:, 2:]))

    def restore_boxes(self, boxes: Array) -> Array:
        """Boxes (n, 4) as they are seen back to the image's own pixels, cut to the image."""
        restored = _boxes(self.restore_points(boxes[:, :2]), self.restore_points(boxes[:, 2:]))
        return cut_boxes(restored, (0.0, 0.0, float(self.image_wh[0]), float(self.image_wh[1])))


def resized_view(rule: ResizeRule, image_wh: tuple[int, int]) -> View:
    """An image of this size as a resize rule shows it to the network.

    >>> from detect.data.resize import parse_resize
    >>> resized_view(parse_resize("letterbox:640"), (1280, 960)).move_points(np.array([[100.0, 60.0]]))
    array([[ 50., 110.]])
    """
    resized = rule.resize_images(np.array([image_wh], np.int64))
    (scale,), (offset,) = resized.scale_xy.tolist(), resized.offset_xy.tolist()
    return View(image_wh, tuple(scale), tuple(offset))


def cut_boxes(boxes: Array, window: tuple[float, float, float, float]) -> Array:
    """What of each box lies in a window (x0, y0, x1, y1); of a box outside, an edge of it without area."""
    if isinstance(boxes, Tensor):
        low, high = (boxes.new_tensor(ends * 2) for ends in (window[:2], window[2:]))
        return boxes.clamp(low, high)
    return np.clip(boxes, window[:2] * 2, window[2:] * 2).astype(boxes.dtype, copy=False)


def box_areas(boxes: Float64[ndarray, "n 4"]) -> Float64[ndarray, " n"]:
    """Width times height."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _boxes(corners: Array, opposite: Array) -> Array:
    if isinstance(corners, Tensor):
        return torch.cat([corners.minimum(opposite), corners.maximum(opposite)], dim=1)
    return np.concatenate([np.minimum(corners, opposite), np.maximum(corners, opposite)], axis=1)


def _like(pair: Pair, points: Array) -> Array:
    return points.new_tensor(pair) if isinstance(points, Tensor) else np.array(pair, points.dtype)
