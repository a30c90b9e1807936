"""How well anchors cover a dataset: average IoU, recall, and the instances that are missed, in the detector's pixels.

By shape: a box and an anchor share a centre. Placed: the anchor lies where its grid puts it, and the box where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.pyramid import placed_iou
from detect.boxes import best_shape_iou
from detect.shapes import MEDIUM_LARGE_PX, SMALL_MEDIUM_PX

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
CURVE = np.linspace(0.0, 1.0, 101)
YOLOV5_RATIO = 4.0  # anchor_t in YOLOv5's hyperparameters
RATIO_EDGES = (1 / 3, 2 / 3, 3 / 2, 3.0)


@dataclass(frozen=True)
class Group:
    """The coverage of one kind of instances."""

    name: str
    count: int
    average_iou: float
    recall: Mapping[float, float]


@dataclass(frozen=True)
class Coverage:
    """How well one set of anchors covers the instances of a dataset; made by :func:`coverage`.

    ``best_iou`` and ``nearest`` (the row of ``anchors.shapes``) are by shape; ``placed_best_iou`` is on the grid.
    """

    anchors: AnchorSet
    instances: ResizedInstances
    best_iou: Float64[ndarray, " n"]
    nearest: Int64[ndarray, " n"]
    placed_best_iou: Float64[ndarray, " n"]

    @property
    def average_iou(self) -> float:
        """Mean over instances of the best IoU with a shape that shares the centre (Redmon and Farhadi 2017, table 1)."""
        return _mean(self.best_iou)

    @property
    def placed_average_iou(self) -> float:
        return _mean(self.placed_best_iou)

    def recall(self, threshold: float) -> float:
        """Share of instances whose best IoU by shape reaches a threshold."""
        return _mean(self.best_iou >= threshold)

    def placed_recall(self, threshold: float) -> float:
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
        """Small, medium and large, by the square root of the area after the resize rule (COCO's 32 and 96 pixels)."""
        size = np.sqrt(self.instances.shapes.prod(axis=1))
        names = (f"small, under {SMALL_MEDIUM_PX:.0f} px", "medium", f"large, from {MEDIUM_LARGE_PX:.0f} px")
        return self._banded(size, (SMALL_MEDIUM_PX, MEDIUM_LARGE_PX), names)

    @cached_property
    def by_ratio(self) -> tuple[Group, ...]:
        """Bands of height / width."""
        ratio = self.instances.shapes[:, 1] / self.instances.shapes[:, 0]
        names = ("wide, h/w under 1/3", "h/w 1/3 to 2/3", "h/w 2/3 to 3/2", "h/w 3/2 to 3", "tall, h/w from 3")
        return self._banded(ratio, RATIO_EDGES, names)

    @cached_property
    def by_category(self) -> tuple[Group, ...]:
        """One group for each category that has instances, in the order of their ids."""
        ids, rows = np.unique(self.instances.dataset.instances.category_ids, return_inverse=True)
        order = np.argsort(rows, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(rows, minlength=len(ids)))[:-1])
        name = self.instances.dataset.category_name
        return tuple(self._group(name(int(key)), part) for key, part in zip(ids, parts, strict=False) if len(part))

    def worst(self, count: int) -> Int64[ndarray, " m"]:
        """Rows of the worst covered instances, by best IoU, then by annotation id."""
        if count < len(self.best_iou):
            limit = np.partition(self.best_iou, count)[count]
            rows = np.flatnonzero(self.best_iou <= limit)
        else:
            rows = np.arange(len(self.best_iou))
        ids = self.instances.dataset.instances.ids[rows]
        return rows[np.lexsort((rows, ids, self.best_iou[rows]))][:count]

    def _banded(
        self, values: Float64[ndarray, " n"], edges: tuple[float, ...], names: tuple[str, ...]
    ) -> tuple[Group, ...]:
        band = np.searchsorted(edges, values, side="right")
        return tuple(self._group(name, np.flatnonzero(band == number)) for number, name in enumerate(names))

    def _group(self, name: str, rows: Int64[ndarray, " m"]) -> Group:
        best = self.best_iou[rows]
        return Group(name, len(rows), _mean(best), {t: _mean(best >= t) for t in THRESHOLDS})


def coverage(instances: ResizedInstances, anchors: AnchorSet) -> Coverage:
    """Score anchors on the instances of a dataset, by shape and as placed on the grid.

    >>> from detect.coco import read_coco
    >>> from detect.resize import parse_resize
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 640, "height": 480}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [48, 48, 32, 32]}],
    ... })
    >>> instances = ResizedInstances.of(dataset, parse_resize("none"))
    >>> score = coverage(instances, AnchorSet.of([[(32, 64)]], strides=[16]))
    >>> score.average_iou, score.recall(0.5), round(score.placed_average_iou, 3)
    (0.5, 1.0, 0.333)
    """
    best, nearest = best_shape_iou(instances.shapes, anchors.shapes)
    placed = placed_iou(instances.boxes, instances.canvas_wh, anchors)
    return Coverage(anchors, instances, best, nearest, placed)


def recall_curve(best_iou: Float64[ndarray, " n"]) -> Float64[ndarray, " thresholds"]:
    """Recall at each threshold of ``CURVE``."""
    ordered = np.sort(best_iou)
    return 1 - np.searchsorted(ordered, CURVE, side="left") / max(len(ordered), 1)


def _mean(values: Float64[ndarray, " n"] | Bool[ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
