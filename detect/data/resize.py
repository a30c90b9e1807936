"""Resize rules: how a detector resizes and pads an image, and so moves its boxes, before the network.

A rule is a text, the same on the command line, in ``anchors.yaml`` and in Python:

``none``
    keep the pixels of the image
``stretch:WxH``
    scale each axis by its own factor to a fixed size (darknet, SSD)
``letterbox:S`` or ``letterbox:WxH``
    scale by one factor to fit in S x S or W x H, and pad on both sides (YOLO)
``shortest:S:MAX``
    scale the shorter side to S, or less so that the longer is at most MAX; pad right and below to a multiple of 32. Sizes
    are rounded down, as in torchvision, and boxes are scaled by the rounded sizes; ``shortest:S:MAX:detectron2`` and
    ``shortest:S:MAX:mmdet`` round to the nearest.
``tiles:S:OVERLAP``
    run on windows of S x S pixels that overlap by OVERLAP pixels, or by a share of S such as 0.2; keep the pixels and pad
    smaller images right and below. The rule applies to windows, which :mod:`detect.data.tiles` cuts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.errors import ResizeError

SIZE_DIVISOR = 32  # torchvision's GeneralizedRCNNTransform, detectron2's and mmdetection's RetinaNet
LARGEST_SIDE_PX = 65_536
_SHORTEST, _TILES = "shortest:S:MAX", "tiles:S:OVERLAP"
FORMS = (
    f"none, stretch:WxH, letterbox:S, letterbox:WxH, {_SHORTEST}, {_SHORTEST}:detectron2, {_SHORTEST}:mmdet or {_TILES}"
)

Sizes = Int64[ndarray, "n 2"]


@dataclass(frozen=True)
class ResizedImages:
    """The result of a rule on n images: a point (x, y) moves to (x, y) * scale_xy + offset_xy.

    ``content_wh`` is the size of the scaled image in whole pixels; ``canvas_wh`` is the network's input with padding.
    """

    scale_xy: Float64[ndarray, "n 2"]
    offset_xy: Float64[ndarray, "n 2"]
    content_wh: Int64[ndarray, "n 2"]
    canvas_wh: Int64[ndarray, "n 2"]

    def take(self, rows: Int64[ndarray, " m"]) -> ResizedImages:
        return ResizedImages(
            *(column.take(rows, axis=0) for column in vars(self).values())
        )  # unlike column[rows], fast

    def move_boxes(self, boxes_xywh: Float64[ndarray, "n 4"]) -> Float64[ndarray, "n 4"]:
        """Move one box (x, y, width, height) of each image to (x0, y0, x1, y1) in pixels of the network's input."""
        moved = np.empty(boxes_xywh.shape)
        for axis in (0, 1):  # columns: loops over a short last axis are several times slower
            low, scale, offset = boxes_xywh[:, axis], self.scale_xy[:, axis], self.offset_xy[:, axis]
            moved[:, axis] = low * scale + offset
            moved[:, axis + 2] = (low + boxes_xywh[:, axis + 2]) * scale + offset
        return moved


@dataclass(frozen=True)
class ResizeRule:
    """A resize rule, made by :func:`parse_resize`; ``str(rule)`` is its text."""

    name: str
    sizes: tuple[int, ...] = ()
    convention: str = ""

    def __str__(self) -> str:
        sizes = ("x" if self.name in {"stretch", "letterbox"} else ":").join(map(str, self.sizes))
        return ":".join(filter(None, (self.name, sizes, self.convention)))

    def resize_images(self, image_wh: Sizes) -> ResizedImages:
        return _RULES[self.name, self.convention][0](image_wh, *self.sizes)

    def resize_boxes(self, boxes_xywh: Float64[ndarray, "n 4"], image_wh: Sizes) -> Float64[ndarray, "n 4"]:
        """Move boxes (x, y, width, height) in pixels of their images to (x0, y0, x1, y1) in pixels of the network's input.

        ``image_wh`` is the (width, height) of each box's image.
        """
        return self.resize_images(image_wh).move_boxes(boxes_xywh)


def parse_resize(text: str | ResizeRule) -> ResizeRule:
    """Parse a resize rule's text; a :class:`ResizeRule` is returned as it is.

    Raises:
        ResizeError: the text has none of the forms above, a size is not from 1 to 65,536, or the overlap of tiles is not
            smaller than the tile.

    >>> rule = parse_resize("letterbox:640")
    >>> rule.resize_boxes(np.array([[0.0, 0.0, 100.0, 60.0]]), np.array([[1280, 960]]))
    array([[  0.,  80.,  50., 110.]])
    """
    if isinstance(text, ResizeRule):
        return text
    name, *fields = text.strip().lower().split(":")
    convention = fields.pop() or "none" if name == "shortest" and len(fields) == 3 else ""
    if name in {"stretch", "letterbox"}:
        fields = fields[0].split("x") if len(fields) == 1 else []
    if (name, convention) not in _RULES or len(fields) not in _RULES[name, convention][1]:
        raise ResizeError(f"resize rule {text!r} is not known: use {FORMS}")
    if name == "tiles":
        fields[1] = _overlap_px(text, *fields)
    sizes = tuple(int(field) for field in fields if field.isascii() and field.isdigit() and len(field) <= 6)
    extents = sizes[:1] if name == "tiles" else sizes
    if len(sizes) != len(fields) or not all(1 <= size <= LARGEST_SIDE_PX for size in extents):
        raise ResizeError(f"resize rule {text!r}: sizes are whole pixels from 1 to {LARGEST_SIDE_PX}; use {FORMS}")
    if name == "tiles" and sizes[1] >= sizes[0]:
        raise ResizeError(
            f"resize rule {text!r}: the overlap of tiles of {sizes[0]} pixels must be smaller, got {sizes[1]}"
        )
    if name == "letterbox" and len(set(sizes)) == 1:
        sizes = sizes[:1]
    return ResizeRule(name, sizes, convention)


def _overlap_px(text: str, size: str, overlap: str) -> str:
    """The overlap of tiles in whole pixels, also if it is written as a share of their size, with a point."""
    if "." not in overlap or not re.fullmatch(r"[0-9]{1,6}", size):
        return overlap
    if not re.fullmatch(r"0?\.[0-9]{1,9}", overlap):
        raise ResizeError(f"resize rule {text!r}: the overlap of tiles is whole pixels, or a share below 1 such as 0.2")
    return str(round(float(overlap) * int(size)))


def _keep(image_wh: Int64[ndarray, "n 2"]) -> ResizedImages:
    ones = np.ones(image_wh.shape)
    return ResizedImages(ones, 0.0 * ones, image_wh, image_wh)


def _stretch(image_wh: Sizes, width: int, height: int) -> ResizedImages:
    canvas_wh = np.broadcast_to(np.array([width, height], np.int64), image_wh.shape)
    return ResizedImages(canvas_wh / image_wh, np.zeros(image_wh.shape), canvas_wh, canvas_wh)


def _letterbox(image_wh: Int64[ndarray, "n 2"], width: int, height: int | None = None) -> ResizedImages:
    """As YOLOv5's and Ultralytics' LetterBox: both axes of a box have one factor, although the image's size is rounded."""
    canvas_wh = np.broadcast_to(np.array([width, height or width], np.int64), image_wh.shape)
    scale = (canvas_wh / image_wh).min(axis=1, keepdims=True)
    content_wh = np.maximum(np.rint(image_wh * scale), 1).astype(np.int64)
    offset_xy = np.rint((canvas_wh - content_wh) / 2 - 0.1)  # an odd pixel goes right and below
    return ResizedImages(np.tile(scale, 2), offset_xy, content_wh, canvas_wh)


def _tile(image_wh: Int64[ndarray, "n 2"], size: int, overlap: int) -> ResizedImages:
    if (image_wh > size).any():
        largest = "x".join(map(str, image_wh.max(axis=0).tolist()))
        raise ResizeError(f"images of up to {largest} pixels must first be cut by cut_tiles for tiles:{size}:{overlap}")
    canvas_wh = np.full(image_wh.shape, size, np.int64)
    return ResizedImages(np.ones(image_wh.shape), np.zeros(image_wh.shape), image_wh, canvas_wh)


def _shortest(image_wh: Sizes, size: int, largest: int, *, added: float) -> ResizedImages:
    """Scale by one factor and round down, after adding a number."""
    factor = np.minimum(size / image_wh.min(axis=1, keepdims=True), largest / image_wh.max(axis=1, keepdims=True))
    return _pad_below(image_wh, image_wh * factor + added)


def _shortest_detectron2(image_wh: Sizes, size: int, largest: int) -> ResizedImages:
    """As detectron2's ResizeShortestEdge, in its two steps; one step would differ if a side ends on .5."""
    shorter = image_wh.min(axis=1, keepdims=True)
    content = np.where(image_wh == shorter, float(size), size / shorter * image_wh)
    longer = content.max(axis=1, keepdims=True)
    return _pad_below(image_wh, content * np.where(longer > largest, largest / longer, 1.0) + 0.5)


def _pad_below(image_wh: Sizes, content: Float64[ndarray, "n 2"]) -> ResizedImages:
    content_wh = np.maximum(np.floor(content), 1).astype(np.int64)
    canvas_wh = -(-content_wh // SIZE_DIVISOR) * SIZE_DIVISOR
    return ResizedImages(content_wh / image_wh, np.zeros(image_wh.shape), content_wh, canvas_wh)


_RULES: dict[tuple[str, str], tuple[Callable[..., ResizedImages], set[int]]] = {  # with the possible numbers of sizes
    ("none", ""): (_keep, {0}),
    ("stretch", ""): (_stretch, {2}),
    ("letterbox", ""): (_letterbox, {1, 2}),
    ("shortest", ""): (partial(_shortest, added=0.0), {2}),  # as torchvision's GeneralizedRCNNTransform
    ("shortest", "detectron2"): (_shortest_detectron2, {2}),
    ("shortest", "mmdet"): (partial(_shortest, added=0.5), {2}),  # as mmcv's rescale_size
    ("tiles", ""): (_tile, {2}),
}
