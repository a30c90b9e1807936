"""Keypoints of annotations: which cannot be used, and the box of an annotation that has points alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from detect.coco.columns import NO_ROW, Images, ReadAnnotations

Points = tuple[Float64[ndarray, "_ 3"], ...]


def with_point_boxes(read: ReadAnnotations, images: Images) -> ReadAnnotations:
    """Where the box is missing or has no size, that of the labelled points: a pixel about each, within the image."""
    columns = read.columns
    width, height = columns.boxes_xywh[:, 2], columns.boxes_xywh[:, 3]
    without = ~read.has_box | ((width == 0) | (height == 0))
    boxes_xywh, has_box = columns.boxes_xywh.copy(), read.has_box.copy()
    for row in np.flatnonzero(without & (columns.image_rows != NO_ROW)).tolist():
        points = (columns.keypoints or ())[row]
        xy = points[points[:, 2] > 0, :2]
        if len(xy) and np.isfinite(xy).all():
            corner = np.maximum(xy.min(axis=0) - 0.5, 0)
            end = np.minimum(xy.max(axis=0) + 0.5, images.wh[columns.image_rows[row]])
            boxes_xywh[row], has_box[row] = (*corner, *(end - corner)), True
    return replace(read, has_box=has_box, columns=replace(columns, boxes_xywh=boxes_xywh))


def broken_points(keypoints: Points) -> Bool[ndarray, " n"]:
    """Annotations with a labelled point that is nowhere, or a visibility that COCO does not know."""
    counts = np.array([len(points) for points in keypoints], np.int64)
    x, y, visibility = np.concatenate([np.zeros((0, 3)), *keypoints]).T
    bad = ~np.isin(visibility, (0, 1, 2)) | ((visibility > 0) & ~(np.isfinite(x) & np.isfinite(y)))
    return np.bincount(np.repeat(np.arange(len(counts)), counts), weights=bad, minlength=len(counts)) > 0


def why_broken(points: Float64[ndarray, "_ 3"]) -> str:
    """The first such point of an annotation, in words."""
    for number, (x, y, visibility) in enumerate(points.tolist()):
        if visibility not in {0, 1, 2}:
            return f"keypoint {number} has visibility {visibility:g}, not 0, 1 or 2"
        if visibility and not (np.isfinite(x) and np.isfinite(y)):
            return f"keypoint {number} ({x:g}, {y:g}) is not finite"
    raise ValueError("no point is broken")
