"""Metrics of anchors on a dataset: average IoU, recall, and the instances that are missed, in the detector's pixels.

By shape, a box and an anchor share a centre. On the grid, each lies at its own position: the anchor at a cell of its feature
map, the box in its image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_convention import Convention, as_convention
from detect.anchors.grid_iou import best_grid_anchors, grid_iou_by_level
from detect.anchors.instances import InstanceGroup, ResizedInstances, area_ranges, category_groups, ratio_bins
from detect.ops.box_arrays import best_shape_iou, best_side_ratio
from detect.ops.exact_sums import ExactMean, Sums, mean_or_nan

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
COVERED = 0.5  # IoU on the grid from which an instance counts as covered
CURVE = np.linspace(0.0, 1.0, 101)
YOLOV5_RATIO = 4.0  # anchor_t in YOLOv5's hyperparameters


@dataclass(frozen=True)
class GroupMetrics(Sums):
    """Metrics of one group of instances; ``recall`` and ``grid_recall`` go by the thresholds in ``THRESHOLDS``."""

    name: str
    iou: ExactMean
    reached: tuple[ExactMean, ...]
    grid_iou: ExactMean
    grid_reached: tuple[ExactMean, ...]

    @classmethod
    def of(cls, name: str, best_iou: Float64[ndarray, " m"], grid_best_iou: Float64[ndarray, " m"]) -> GroupMetrics:
        """The metrics of instances with these best IoUs by shape and on the grid."""
        means = [
            (ExactMean.of(best), tuple(ExactMean.of(best >= threshold) for threshold in THRESHOLDS))
            for best in (best_iou, grid_best_iou)
        ]
        return cls(name, *means[0], *means[1])

    @property
    def count(self) -> int:
        return self.iou.count

    @property
    def average_iou(self) -> float:
        return self.iou.value

    @property
    def recall(self) -> Mapping[float, float]:
        return {threshold: share.value for threshold, share in zip(THRESHOLDS, self.reached, strict=True)}

    @property
    def grid_average_iou(self) -> float:
        return self.grid_iou.value

    @property
    def grid_recall(self) -> Mapping[float, float]:
        return {threshold: share.value for threshold, share in zip(THRESHOLDS, self.grid_reached, strict=True)}


class MetricNumbers:
    """The metrics of all instances together, from their sums."""

    overall: GroupMetrics
    side_ratio: ExactMean
    """Mean of the best side ratio of each instance: the objective ``ratio``."""
    within_ratio: ExactMean
    """Share of the instances whose best side ratio is above 1 / ``YOLOV5_RATIO``."""

    @property
    def average_iou(self) -> float:
        """Mean over instances of the best IoU with a shape that shares the centre (Redmon and Farhadi 2017, table 1)."""
        return self.overall.average_iou

    @property
    def grid_average_iou(self) -> float:
        return self.overall.grid_average_iou

    def recall(self, threshold: float) -> float:
        """Share of instances whose best IoU reaches one of ``THRESHOLDS``, by shape; :meth:`grid_recall`: on the grid."""
        return self.overall.recall[threshold]

    def grid_recall(self, threshold: float) -> float:
        return self.overall.grid_recall[threshold]

    @property
    def ratio_recall(self) -> float:
        """YOLOv5's "best possible recall", which is not a recall in IoU.

        The share of instances with an anchor whose width and height both differ by less than a factor of 4.
        """
        return self.within_ratio.value

    @property
    def average_side_ratio(self) -> float:
        return self.side_ratio.value


@dataclass(frozen=True)
class AnchorMetrics(MetricNumbers):
    """Metrics of one set of anchors on the instances of a dataset; made by :func:`anchor_metrics`."""

    anchors: AnchorSet
    instances: ResizedInstances
    best_iou: Float64[ndarray, " n"]
    """The best IoU of each instance with a shape that shares its centre."""
    nearest: Int64[ndarray, " n"]
    """The row of that shape in ``anchors.shapes``."""
    grid_level_iou: Float64[ndarray, "n l"]
    """The best IoU of each instance with the anchors of each level, on the grid."""
    convention: Convention

    @cached_property
    def grid_best_iou(self) -> Float64[ndarray, " n"]:
        return self.grid_level_iou.max(axis=1, initial=0.0)

    @cached_property
    def best_level(self) -> Int64[ndarray, " n"]:
        """The index of the level with each instance's best anchor on the grid; the finest on ties."""
        return self.grid_level_iou.argmax(axis=1)

    @cached_property
    def overall(self) -> GroupMetrics:  # type: ignore[override]
        """The metrics of all instances together."""
        return GroupMetrics.of("all", self.best_iou, self.grid_best_iou)

    def recall(self, threshold: float) -> float:
        """At any threshold."""
        return mean_or_nan(self.best_iou >= threshold)

    def grid_recall(self, threshold: float) -> float:
        """At any threshold."""
        return mean_or_nan(self.grid_best_iou >= threshold)

    @cached_property
    def side_ratio(self) -> ExactMean:  # type: ignore[override]
        return ExactMean.of(self.best_side_ratio)

    @cached_property
    def within_ratio(self) -> ExactMean:  # type: ignore[override]
        return ExactMean.of(self.best_side_ratio > 1 / YOLOV5_RATIO)

    @cached_property
    def best_side_ratio(self) -> Float64[ndarray, " n"]:
        """See :func:`detect.ops.box_arrays.best_side_ratio`."""
        return best_side_ratio(self.instances.shapes, self.anchors.shapes)

    @cached_property
    def by_size(self) -> tuple[GroupMetrics, ...]:
        return self._groups(area_ranges(self.instances))

    @cached_property
    def by_ratio(self) -> tuple[GroupMetrics, ...]:
        return self._groups(ratio_bins(self.instances))

    @cached_property
    def by_category(self) -> tuple[GroupMetrics, ...]:
        return self._groups(category_groups(self.instances))

    @cached_property
    def by_level(self) -> tuple[GroupMetrics, ...]:
        """Metrics of the instances whose best anchor on the grid is on each level."""
        rows = [np.flatnonzero(self.best_level == number) for number in range(len(self.anchors.levels))]
        names = [level.name for level in self.anchors.levels]
        return self._groups(list(map(InstanceGroup, names, rows)))

    def missed(self, threshold: float = COVERED) -> Int64[ndarray, " m"]:
        """Rows of the instances whose best IoU on the grid is below the threshold."""
        return np.flatnonzero(self.grid_best_iou < threshold)

    def only_on_level(self, threshold: float = COVERED) -> Int64[ndarray, " l"]:
        """For each level of the grid, the number of instances that reach the threshold on it alone."""
        reached = self.grid_level_iou >= threshold
        return (reached & (reached.sum(axis=1, keepdims=True) == 1)).sum(axis=0)

    def best_anchors(self, rows: Int64[ndarray, " m"]) -> Float64[ndarray, "m 4"]:
        """The best anchor (x0, y0, x1, y1) of the grid for each of these instances, in pixels of the network's input."""
        boxes, canvas_wh = self.instances.boxes[rows], self.instances.canvas_wh[rows]
        return best_grid_anchors(boxes, canvas_wh, self.anchors, convention=self.convention)

    def worst(self, count: int) -> Int64[ndarray, " m"]:
        """Rows of the instances with the lowest best IoU by shape; annotation ids break ties, then shapes."""
        near = np.flatnonzero(self.best_iou <= _kth_lowest(self.best_iou, count))
        ids = self.instances.dataset.instances.ids[near]
        order = np.lexsort((*self.instances.shapes[near].T, self.grid_best_iou[near], ids, self.best_iou[near]))
        return near[order][:count]

    def _groups(self, groups: Sequence[InstanceGroup]) -> tuple[GroupMetrics, ...]:
        return tuple(
            GroupMetrics.of(group.name, self.best_iou[group.rows], self.grid_best_iou[group.rows]) for group in groups
        )


def anchor_metrics(
    instances: ResizedInstances, anchors: AnchorSet, *, convention: str | Convention = "exact"
) -> AnchorMetrics:
    """Compute the metrics of anchors on the instances of a dataset, by shape and on the grid.

    Raises:
        ValueError: the convention, whose stride mode and rounding of corners are used, is not known.

    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 640, "height": 480}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [48, 48, 32, 32]}],
    ... })
    >>> instances = ResizedInstances.of(dataset, "none")
    >>> metrics = anchor_metrics(instances, AnchorSet.of([[(32, 64)]], strides=[16]))
    >>> metrics.average_iou, metrics.recall(0.5), round(metrics.grid_average_iou, 3)
    (0.5, 1.0, 0.333)
    """
    convention = as_convention(convention)
    best, nearest = best_shape_iou(instances.shapes, anchors.shapes)
    by_level = grid_iou_by_level(instances.boxes, instances.canvas_wh, anchors, convention=convention)
    return AnchorMetrics(anchors, instances, best, nearest, by_level, convention)


def recall_curve(best_iou: Float64[ndarray, " n"]) -> Float64[ndarray, " thresholds"]:
    """Recall at each threshold of ``CURVE``."""
    return 1 - np.searchsorted(np.sort(best_iou), CURVE) / max(len(best_iou), 1)


def _kth_lowest(values: Float64[ndarray, " n"], count: int) -> float:
    return float(np.partition(values, count - 1)[count - 1]) if 0 < count <= len(values) else np.inf
