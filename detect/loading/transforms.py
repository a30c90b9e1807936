"""Coordinates of an image that is flipped, cropped and resized: where its points and boxes go, and the way back.

Points and boxes are continuous here: pixel i covers [i, i + 1). Keypoints given as pixel indices (``pixel_origin="center"``,
see :mod:`detect.keypoints.coordinates`) are shifted by half a pixel before a transform and back after it; scaled without
the shift, they would end up next to their pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.conventions import ORIGIN_SHIFTS
from detect.data.resize import ResizeRule

Pair = tuple[float, float]
Points = Float64[ndarray, "n 2"]
Boxes = Float64[ndarray, "n 4"]


@dataclass(frozen=True)
class Transform:
    """Map (x, y), or (y, x) if ``swapped``, to (x, y) * scale_xy + offset_xy.

    A negative scale is a flip. ``image_wh`` is the size of the original image; inverted boxes are clipped to it.
    """

    image_wh: tuple[int, int]
    scale_xy: Pair = (1.0, 1.0)
    offset_xy: Pair = (0.0, 0.0)
    swapped: bool = False

    def then(self, scale_xy: Pair = (1.0, 1.0), offset_xy: Pair = (0.0, 0.0), *, swapped: bool = False) -> Transform:
        """Compose: this transform first, then another.

        >>> Transform((8, 4)).then(swapped=True).then((-1.0, 1.0), (4.0, 0.0)).apply_to_points(np.array([[8.0, 0.0]]))
        array([[4., 8.]])
        """
        order = -1 if swapped else 1
        (scale_x, scale_y), (offset_x, offset_y) = self.scale_xy[::order], self.offset_xy[::order]
        scale = (scale_x * scale_xy[0], scale_y * scale_xy[1])
        offset = (offset_x * scale_xy[0] + offset_xy[0], offset_y * scale_xy[1] + offset_xy[1])
        return Transform(self.image_wh, scale, offset, self.swapped != swapped)

    def apply_to_points(self, points: Points, *, pixel_origin: str = "corner") -> Points:
        """Transform points of the image; the convention stays the same."""
        points = points + ORIGIN_SHIFTS[pixel_origin]
        return (
            points[:, [1, 0] if self.swapped else [0, 1]] * self.scale_xy + self.offset_xy - ORIGIN_SHIFTS[pixel_origin]
        )

    def invert_points(self, points: Points, *, pixel_origin: str = "corner") -> Points:
        """Map transformed points back to pixels of the image; points outside the image stay outside.

        >>> Transform((64, 64), (2.0, 2.0)).invert_points(np.array([[0.5, 2.5]]), pixel_origin="center")
        array([[0., 1.]])
        """
        points = (points + ORIGIN_SHIFTS[pixel_origin] - self.offset_xy) / self.scale_xy
        return points[:, [1, 0] if self.swapped else [0, 1]] - ORIGIN_SHIFTS[pixel_origin]

    def apply_to_boxes(self, boxes: Boxes) -> Boxes:
        """Transform boxes, x0 y0 x1 y1, of the image; corners stay in order after a flip."""
        return _boxes(self.apply_to_points(boxes[:, :2]), self.apply_to_points(boxes[:, 2:]))

    def invert_boxes(self, boxes: Boxes) -> Boxes:
        """Map transformed boxes back to pixels of the image, clipped to the image."""
        inverted = _boxes(self.invert_points(boxes[:, :2]), self.invert_points(boxes[:, 2:]))
        return clip_to_window(inverted, (0.0, 0.0, float(self.image_wh[0]), float(self.image_wh[1])))


def resize_transform(rule: ResizeRule, image_wh: tuple[int, int]) -> Transform:
    """The transform by which a resize rule brings an image of this size to the network's input.

    >>> from detect.data.resize import parse_resize
    >>> resize_transform(parse_resize("letterbox:640"), (1280, 960)).apply_to_points(np.array([[100.0, 60.0]]))
    array([[ 50., 110.]])
    """
    resized = rule.resize_images(np.array([image_wh], np.int64))
    (scale,), (offset,) = resized.scale_xy.tolist(), resized.offset_xy.tolist()
    return Transform(image_wh, tuple(scale), tuple(offset))


def clip_to_window(boxes: Boxes, window: tuple[float, float, float, float]) -> Boxes:
    """Clip boxes to a window (x0, y0, x1, y1); a box outside collapses onto the nearest edge and has no area."""
    return np.clip(boxes, window[:2] * 2, window[2:] * 2)


def box_areas(boxes: Boxes) -> Float64[ndarray, " n"]:
    """Width times height."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _boxes(corners: Points, opposite: Points) -> Boxes:
    return np.concatenate([np.minimum(corners, opposite), np.maximum(corners, opposite)], axis=1)
