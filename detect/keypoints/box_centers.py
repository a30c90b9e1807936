"""Targets for boxes as points (Zhou et al. 2019, "Objects as Points"): a heatmap of centres, with sizes and offsets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Shaped
from numpy import ndarray

from detect.keypoints.drawing import BUDGET_BYTES
from detect.keypoints.keypoints import VISIBLE, Keypoints, by_group
from detect.keypoints.targets import HeatmapTargets, render_heatmaps
from detect.ops.array_kinds import Array, like, to_numpy
from detect.ops.box_arrays import check_corners

RULES = ("corrected", "centernet")


def iou_radius(
    sizes: Float[ndarray, "n 2"], *, min_overlap: float = 0.7, rule: str = "corrected"
) -> Float[ndarray, " n"]:
    """Compute how far both corners of a box may be off for an IoU of at least ``min_overlap`` (Law and Deng 2018, 3.2).

    The radius, in the unit of the sizes, is the smallest of three cases: one corner inside the box and one outside, both
    inside, both outside. The rule ``"centernet"`` is the formula in CornerNet's and CenterNet's code, which takes the wrong
    root in the first case and divides all roots by 2 alone. Its radius of a square is 3.3 times as large, and corners that
    far off leave an IoU of .2; published networks were tuned with it.

    >>> box = np.array([[10.0, 10.0]])
    >>> iou_radius(box), iou_radius(box, rule="centernet")
    (array([0.81669987]), array([2.73320053]))
    """
    if not 0 < min_overlap < 1 or rule not in RULES:
        raise ValueError(f"need 0 < min_overlap < 1 and rule one of {', '.join(RULES)}, got {min_overlap=}, {rule=}")
    _check_positive(sizes)
    total, area = sizes.sum(axis=1), sizes.prod(axis=1)
    square = total**2
    mixed = np.sqrt(square - 4 * area * (1 - min_overlap) / (1 + min_overlap))
    inside = np.sqrt(4 * square - 16 * area * (1 - min_overlap))
    outside = np.sqrt(4 * min_overlap**2 * square + 16 * min_overlap * (1 - min_overlap) * area)
    outside -= 2 * min_overlap * total
    if rule == "centernet":
        return np.minimum.reduce(((total + mixed) / 2, (2 * total + inside) / 2, outside / 2))
    return np.minimum.reduce(((total - mixed) / 2, (2 * total - inside) / 8, outside / (8 * min_overlap)))


def sigma_from_radius(radius: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Return the sigma of a Gaussian whose window of 2 r + 1 cells spans 6 sigmas, as in CenterNet.

    >>> sigma_from_radius(np.array([1.0]))
    array([0.5])
    """
    return (2 * radius + 1) / 6


def sigma_from_size(
    sizes: Float[ndarray, "n d"], *, stride: float = 4.0, fraction: float = 0.09, min_sigma: float = 1.0
) -> Float[ndarray, "n d"]:
    """Return a sigma along each axis, in cells, as a fraction of each object's size in image pixels, at least ``min_sigma``
    cells.

    The default fraction is TTFNet's .54 / 6 (Liu et al. 2020, "Training-Time-Friendly Network", section 3.2).

    >>> sigma_from_size(np.array([[200.0, 40.0]]))
    array([[4.5, 1. ]])
    """
    if not (stride > 0 and fraction > 0 and min_sigma > 0):
        raise ValueError(f"need positive stride, fraction and min_sigma, got {stride=}, {fraction=}, {min_sigma=}")
    _check_positive(sizes)
    return np.maximum(sizes * (fraction / stride), min_sigma)


def _check_positive(sizes: ndarray) -> None:
    if not (wrong := np.flatnonzero(~(sizes > 0).all(axis=1))).size == 0:
        raise ValueError(f"sizes are positive, got {sizes[wrong[0]].tolist()} in row {wrong[0]}")


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
    blend: str = "max",
    budget_bytes: int = BUDGET_BYTES,
) -> HeatmapTargets:
    """Draw the centres of boxes as heatmaps, one channel for each class, with ``sizes`` and ``offsets`` of the boxes.

    Boxes are clipped to their image first; a box outside its image counts as ``outside``. Crowd regions (COCO's ``iscrowd``)
    are not drawn: the cells they touch have weight 0, except for those that contain the centre of another box. The rows of
    points are the boxes that are not crowds, image by image. For the other arguments see
    :func:`detect.keypoints.targets.render_heatmaps`.

    >>> targets = render_box_centers([np.array([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])], (8, 16), min_radius=0.5)
    >>> targets.positives.tolist(), targets.offsets.tolist(), targets.sizes.tolist()
    ([[0, 0, 1, 1], [0, 0, 1, 3]], [[-0.5, -0.5], [-0.5, -0.5]], [[2.0, 2.0], [2.0, 2.0]])

    Args:
        boxes: for each image (n, 4), x0 y0 x1 y1 in continuous pixels.
        classes: for each image (n,), from 0 to ``num_classes`` - 1; None means one class.
        crowd: for each image (n,), true for regions that stand for many objects.
        rule: of the radius r by :func:`iou_radius`, for ``min_overlap``; the sigma is (2 r + 1) / 6 cells.
        min_radius: in cells. The radius of squares of less than 12 cells is below 1; at 0 little more than a cell is drawn.

    Raises:
        ValueError: lists or arrays differ in length, a class or option is out of range, or a box is inverted or not finite;
            the message names the image and the row.
    """
    tables = [_table(each, number) for number, each in enumerate(boxes)]
    table, image = np.concatenate(tables), np.repeat(np.arange(len(tables)), [len(each) for each in tables])
    types, is_crowd = _column(classes, tables, "classes"), _column(crowd, tables, "crowd").astype(bool)
    low, high = np.split(table[~is_crowd], 2, axis=1)
    low, high = np.maximum(low, 0), np.minimum(high, image_hw[::-1])
    there = (high > low).all(axis=1, keepdims=True)
    sizes = np.where(there, high - low, 1.0)
    centers = np.where(there, (low + high) / 2, np.nan)  # NaN counts as outside
    radius = np.maximum(iou_radius(sizes / stride, min_overlap=min_overlap, rule=rule), min_radius)
    columns = (centers, image[~is_crowd], types[~is_crowd].astype(np.int64), np.full(len(centers), VISIBLE))
    points, image_rows, labels, visibility = (like(each, boxes[0]) for each in columns)
    return render_heatmaps(
        Keypoints(points, image_rows, labels, visibility, len(tables), num_classes),
        image_hw,
        stride=stride,
        sigma=like(sigma_from_radius(radius), boxes[0]),
        pixel_origin="corner",
        blend=blend,
        ignore=None
        if crowd is None
        else [like(each, boxes[0]) for each in by_group(table[is_crowd], image[is_crowd], len(tables))],
        sizes=like(sizes, boxes[0]),
        budget_bytes=budget_bytes,
    )


def _table(boxes: Array, number: int) -> Float64[ndarray, "n 4"]:
    table = to_numpy(boxes).astype(np.float64)
    if table.shape != (0,) and (table.ndim != 2 or table.shape[1] != 4):
        raise ValueError(f"boxes of image {number} are (n, 4), got {table.shape}")
    table = table.reshape(-1, 4)
    check_corners(table, f"boxes of image {number}")
    return table


def _column(given: Sequence[Array] | None, tables: Sequence[ndarray], name: str) -> Shaped[ndarray, " n"]:
    """One value for each box, 0 by default."""
    wanted = [(len(each),) for each in tables]
    columns = [np.zeros(shape, np.int64) for shape in wanted] if given is None else [to_numpy(each) for each in given]
    if (found := [each.shape for each in columns]) != wanted:
        raise ValueError(f"{name} are one for each box, {wanted} for each image, got {found}")
    return np.concatenate(columns)
