"""How well anchors cover a dataset: average IoU, recall, and the instances that are missed, in the detector's pixels.

By shape: a box and an anchor share a centre. Placed: the anchor lies where its grid puts it, and the box where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_iou import best_grid_anchors, grid_iou_by_level
from detect.anchors.instances import InstanceGroup, ResizedInstances, area_ranges, category_groups, ratio_bins
from detect.ops.box_arrays import best_shape_iou

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
CURVE = np.linspace(0.0, 1.0, 101)
YOLOV5_RATIO = 4.0  # anchor_t in YOLOv5's hyperparameters


@dataclass(frozen=True)
class Group:
    """The coverage of one kind of instances."""

    name: str
    count: int
    average_iou: float
    recall: Mapping[float, float]


@dataclass(frozen=True)
class AnchorMetrics:
    """How well one set of anchors covers the instances of a dataset; made by :func:`coverage`.

    ``best_iou`` and ``nearest`` (the row of ``anchors.shapes``) are by shape; ``placed_level_iou`` is on the grid, the best
    with the anchors of each level, and ``placed_best_iou`` the best of all; ``strides`` and ``rounded`` are how they lie.
    """

    anchors: AnchorSet
    instances: ResizedInstances
    best_iou: Float64[ndarray, " n"]
    nearest: Int64[ndarray, " n"]
    placed_level_iou: Float64[ndarray, "n l"]
    strides: str = "exact"
    rounded: bool = False

    @cached_property
    def placed_best_iou(self) -> Float64[ndarray, " n"]:
        return self.placed_level_iou.max(axis=1, initial=0.0)

    @cached_property
    def placed_level(self) -> Int64[ndarray, " n"]:
        """The level on which each instance finds its best anchor, by index; of equals the finest."""
        return self.placed_level_iou.argmax(axis=1)

    @property
    def average_iou(self) -> float:
        """Mean over instances of the best IoU with a shape that shares the centre (Redmon and Farhadi 2017, table 1)."""
        return _mean(self.best_iou)

    @property
    def grid_average_iou(self) -> float:
        return _mean(self.placed_best_iou)

    def recall(self, threshold: float) -> float:
        """Share of instances whose best IoU by shape reaches a threshold."""
        return _mean(self.best_iou >= threshold)

    def grid_recall(self, threshold: float) -> float:
        """Share of instances whose best IoU on the grid reaches a threshold."""
        return _mean(self.placed_best_iou >= threshold)

    @cached_property
    def ratio_recall(self) -> float:
        """YOLOv5's "best possible recall", which is no recall in IoU.

        The share of instances for which some anchor differs by less than a factor of 4 in width and in height.
        """
        widths, heights = self.instances.shapes.T.copy()
        reached = np.zeros(len(widths), bool)
        for width, height in self.anchors.shapes:
            reached |= (
                (widths < YOLOV5_RATIO * width)
                & (width < YOLOV5_RATIO * widths)
                & (heights < YOLOV5_RATIO * height)
                & (height < YOLOV5_RATIO * heights)
            )
        return _mean(reached)

    @cached_property
    def by_size(self) -> tuple[Group, ...]:
        """Small, medium and large after the resize rule, by shape."""
        return _groups(area_ranges(self.instances), self.best_iou)

    @cached_property
    def by_ratio(self) -> tuple[Group, ...]:
        """Bands of height / width, by shape."""
        return _groups(ratio_bins(self.instances), self.best_iou)

    @cached_property
    def by_category(self) -> tuple[Group, ...]:
        """One group for each category that has instances, in the order of their ids, by shape."""
        return _groups(category_groups(self.instances), self.best_iou)

    @cached_property
    def placed_by_size(self) -> tuple[Group, ...]:
        return _groups(area_ranges(self.instances), self.placed_best_iou)

    @cached_property
    def placed_by_ratio(self) -> tuple[Group, ...]:
        return _groups(ratio_bins(self.instances), self.placed_best_iou)

    @cached_property
    def placed_by_category(self) -> tuple[Group, ...]:
        return _groups(category_groups(self.instances), self.placed_best_iou)

    @cached_property
    def placed_by_level(self) -> tuple[Group, ...]:
        """The instances whose best anchor lies on each level."""
        levels = enumerate(self.anchors.levels)
        bands = [InstanceGroup(level.name, np.flatnonzero(self.placed_level == number)) for number, level in levels]
        return _groups(bands, self.placed_best_iou)

    def uncovered(self, threshold: float = 0.5) -> Int64[ndarray, " m"]:
        """Rows of the instances that no anchor of the grid reaches with this IoU."""
        return np.flatnonzero(self.placed_best_iou < threshold)

    def only_on_level(self, threshold: float = 0.5) -> Int64[ndarray, " l"]:
        """How many instances each level alone reaches with this IoU on the grid: those that are lost without it."""
        reached = self.placed_level_iou >= threshold
        return (reached & (reached.sum(axis=1, keepdims=True) == 1)).sum(axis=0)

    def best_anchors(self, rows: Int64[ndarray, " m"]) -> Float64[ndarray, "m 4"]:
        """The anchor (x0, y0, x1, y1) of the grid that overlaps each of these instances most, in pixels of the input."""
        boxes, canvas_wh = self.instances.boxes[rows], self.instances.canvas_wh[rows]
        return best_grid_anchors(boxes, canvas_wh, self.anchors, strides=self.strides, rounded=self.rounded)

    def worst(self, count: int) -> Int64[ndarray, " m"]:
        """Rows of the worst covered instances, by best IoU, then by annotation id."""
        if count < len(self.best_iou):
            limit = np.partition(self.best_iou, count)[count]
            rows = np.flatnonzero(self.best_iou <= limit)
        else:
            rows = np.arange(len(self.best_iou))
        ids = self.instances.dataset.instances.ids[rows]
        return rows[np.lexsort((rows, ids, self.best_iou[rows]))][:count]


def anchor_metrics(
    instances: ResizedInstances, anchors: AnchorSet, *, strides: str = "exact", rounded: bool = False
) -> AnchorMetrics:
    """Score anchors on the instances of a dataset, by shape and as placed on the grid.

    ``strides`` and ``rounded`` tell how a framework lays anchors, see :class:`detect.anchors.generator.AnchorGenerator`.

    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 640, "height": 480}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [48, 48, 32, 32]}],
    ... })
    >>> instances = ResizedInstances.of(dataset, parse_resize("none"))
    >>> score = anchor_metrics(instances, AnchorSet.of([[(32, 64)]], strides=[16]))
    >>> score.average_iou, score.recall(0.5), round(score.grid_average_iou, 3)
    (0.5, 1.0, 0.333)
    """
    best, nearest = best_shape_iou(instances.shapes, anchors.shapes)
    placed = grid_iou_by_level(instances.boxes, instances.canvas_wh, anchors, strides=strides, rounded=rounded)
    return AnchorMetrics(anchors, instances, best, nearest, placed, strides, rounded)


def recall_curve(best_iou: Float64[ndarray, " n"]) -> Float64[ndarray, " thresholds"]:
    """Recall at each threshold of ``CURVE``."""
    ordered = np.sort(best_iou)
    return 1 - np.searchsorted(ordered, CURVE, side="left") / max(len(ordered), 1)


def _groups(bands: Sequence[InstanceGroup], best_iou: Float64[ndarray, " n"]) -> tuple[Group, ...]:
    return tuple(_group(band.name, best_iou[band.rows]) for band in bands)


def _group(name: str, best_iou: Float64[ndarray, " m"]) -> Group:
    return Group(name, len(best_iou), _mean(best_iou), {t: _mean(best_iou >= t) for t in THRESHOLDS})


def _mean(values: Float64[ndarray, " n"] | Bool[ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
