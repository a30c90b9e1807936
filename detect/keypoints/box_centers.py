"""Boxes as one landmark each (Zhou et al. 2019, "Objects as Points"): a map of centres, a size and an offset at each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from detect.keypoints.drawing import BUDGET_BYTES
from detect.keypoints.heatmaps import HeatmapTargets, render_heatmaps
from detect.keypoints.landmarks import VISIBLE, Landmarks
from detect.keypoints.placing import Array, like, to_numpy
from detect.keypoints.radius import iou_radius, sigma_from_radius


def render_box_centers(
    boxes: Sequence[Array],
    image_hw: tuple[int, int],
    *,
    classes: Sequence[Array] | None = None,
    num_classes: int = 1,
    crowd: Sequence[Array] | None = None,
    stride: float = 4.0,
    rule: str = "corrected",
    min_overlap: float = 0.7,
    min_radius: float = 1.0,
    overlap: str = "max",
    budget_bytes: int = BUDGET_BYTES,
) -> HeatmapTargets:
    """Centres of boxes as heatmaps, one channel for each class, with ``sizes`` and ``offsets`` of the boxes.

    Boxes are cut to their image first; one without any of it is counted as ``outside``. Crowd regions (COCO's ``iscrowd``)
    are not drawn: the cells they touch have weight 0, but for those that centres of other boxes lie in. Rows of points are
    the boxes that are no crowd, image by image.

    >>> targets = render_box_centers([np.array([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])], (8, 16), min_radius=0.5)
    >>> targets.positives.tolist(), targets.offsets.tolist(), targets.sizes.tolist()
    ([[0, 0, 1, 1], [0, 0, 1, 3]], [[-0.5, -0.5], [-0.5, -0.5]], [[2.0, 2.0], [2.0, 2.0]])

    Args:
        boxes: for each image (n, 4), x0 y0 x1 y1 in continuous pixels.
        classes: for each image (n,), from 0 to ``num_classes`` - 1; None is one class.
        crowd: for each image (n,), true for regions that stand for many objects.
        rule, min_overlap: of a radius r, :func:`detect.keypoints.radius.iou_radius`; the sigma is (2 r + 1) / 6 cells.
        min_radius: in cells; r is below 1 for squares of less than 12 cells, and at 0 hardly more than a cell is drawn.
    """
    tables = [to_numpy(each).astype(np.float64).reshape(-1, 4) for each in boxes]
    labels = (
        [np.zeros(len(each), np.int64) for each in tables] if classes is None else _columns(classes, tables, "classes")
    )
    of_crowd = [np.zeros(len(each), bool) for each in tables] if crowd is None else _columns(crowd, tables, "crowd")
    kept = [table[~mask.astype(bool)] for table, mask in zip(tables, of_crowd, strict=True)]
    joint = np.concatenate([label[~mask.astype(bool)] for label, mask in zip(labels, of_crowd, strict=True)])
    image = np.repeat(np.arange(len(kept)), [len(each) for each in kept])
    low, high = np.split(np.concatenate(kept), 2, axis=1)
    low, high = np.maximum(low, 0), np.minimum(high, image_hw[::-1])
    there = (high > low).all(axis=1, keepdims=True)
    sizes = np.where(there, high - low, 1.0)
    centers = np.where(there, (low + high) / 2, np.nan)  # what is no number is outside
    radius = np.maximum(iou_radius(sizes / stride, min_overlap=min_overlap, rule=rule), min_radius)
    columns = (centers, image, joint.astype(np.int64), np.full(len(image), VISIBLE))
    points, of_image, of_joint, visibility = (like(each, boxes[0]) for each in columns)
    return render_heatmaps(
        Landmarks(points, of_image, of_joint, visibility, len(kept), num_classes),
        image_hw,
        stride=stride,
        sigma=sigma_from_radius(radius),
        pixel="corner",
        overlap=overlap,
        ignore=None if crowd is None else [t[m.astype(bool)] for t, m in zip(tables, of_crowd, strict=True)],
        sizes=sizes,
        budget_bytes=budget_bytes,
    )


def _columns(given: Sequence[Array], tables: Sequence[ndarray], name: str) -> list[ndarray]:
    columns = [to_numpy(each) for each in given]
    found, wanted = [each.shape for each in columns], [(len(each),) for each in tables]
    if found != wanted:
        raise ValueError(f"{name} are one for each box, {wanted} for each image, got {found}")
    return columns
