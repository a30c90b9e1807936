"""MetricSums: the metrics of anchors on a dataset, as sums. Sums of shards add up to those of the dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.anchors.metrics import AnchorMetrics, GroupMetrics, MetricNumbers, anchor_metrics
from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts
from detect.ops.exact_sums import ExactMean, FirstItems, Sums


class WorstInstance(NamedTuple):
    """An instance of low IoU, in the order of :meth:`AnchorMetrics.worst`."""

    best_iou: float
    annotation_id: int
    grid_best_iou: float
    height: float
    width: float
    """In pixels after the resize rule."""
    file_name: str
    category_id: int


@dataclass(frozen=True)
class GroupedMetrics(Sums):
    """Metrics of groups of instances, and the worst of them."""

    by_size: tuple[GroupMetrics, ...]
    by_ratio: tuple[GroupMetrics, ...]
    by_level: tuple[GroupMetrics, ...]
    of_category: Mapping[int, GroupMetrics]
    worst: FirstItems[WorstInstance]

    @property
    def by_category(self) -> tuple[GroupMetrics, ...]:
        """In the order of category ids."""
        return tuple(self.of_category.values())

    @classmethod
    def of(cls, metrics: AnchorMetrics, worst: int) -> GroupedMetrics:
        ids = rows_by_value(metrics.instances.dataset.instances.category_ids)
        of_category = dict(zip(ids, metrics.by_category, strict=True))
        listed = FirstItems(len(metrics.best_iou), tuple(_worst(metrics, metrics.worst(worst))), worst)
        return cls(metrics.by_size, metrics.by_ratio, metrics.by_level, of_category, listed)


@dataclass(frozen=True)
class MetricSums(Sums, MetricNumbers):
    """The metrics of one set of anchors, with the names of :class:`detect.anchors.metrics.AnchorMetrics`.

    >>> import numpy as np
    >>> from detect.anchors.instances import ResizedInstances
    >>> from detect.anchors.known import load_anchors
    >>> from detect.anchors.metrics import anchor_metrics
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> whole = read_coco(sample_annotations("bccd"))
    >>> shards = [whole.take_images(np.arange(first, len(whole.images), 2)) for first in (0, 1)]
    >>> def sums(dataset):
    ...     return MetricSums.of(anchor_metrics(ResizedInstances.of(dataset, "none"), load_anchors("retinanet")))
    >>> sums(shards[0]).average_iou == sums(whole).average_iou
    False
    >>> (sums(shards[0]) + sums(shards[1])).average_iou == sums(whole).average_iou
    True
    """

    anchors: AnchorSet
    resize: str
    dataset: DatasetCounts
    overall: GroupMetrics
    side_ratio: ExactMean
    within_ratio: ExactMean
    groups: GroupedMetrics | None = None

    @classmethod
    def of(cls, metrics: AnchorMetrics, *, counts: DatasetCounts | None = None, worst: int | None = None) -> MetricSums:
        """The sums of metrics on a dataset or a shard; with ``worst``, those of groups and the worst instances too."""
        return cls(
            metrics.anchors,
            str(metrics.instances.rule),
            counts or DatasetCounts.of(metrics.instances.dataset),
            metrics.overall,
            metrics.side_ratio,
            metrics.within_ratio,
            None if worst is None else GroupedMetrics.of(metrics, worst),
        )


def score_sets(
    dataset: CocoDataset, *, sets: Sequence[AnchorSet], rules: Sequence[str], convention: str, worst: int | None = None
) -> tuple[MetricSums, ...]:
    """The sums of several sets of anchors on a dataset or a shard, each under its resize rule; see :class:`MetricSums`."""
    by_rule = {rule: ResizedInstances.of(dataset, rule) for rule in rules}
    counts = {rule: DatasetCounts.of(each.dataset) for rule, each in by_rule.items()}
    metrics = (
        anchor_metrics(by_rule[rule], each, convention=convention) for each, rule in zip(sets, rules, strict=True)
    )
    return tuple(MetricSums.of(each, counts=counts[str(each.instances.rule)], worst=worst) for each in metrics)


def _worst(metrics: AnchorMetrics, rows: Int64[ndarray, " m"]) -> list[WorstInstance]:
    own, names = metrics.instances.dataset.instances, metrics.instances.dataset.images.file_names
    columns = (metrics.best_iou, own.ids, metrics.grid_best_iou, *metrics.instances.shapes.T[::-1])
    numbers = zip(*(column[rows].tolist() for column in columns), strict=True)
    files = [names[row] for row in own.image_rows[rows].tolist()]
    each = zip(numbers, files, own.category_ids[rows].tolist(), strict=True)
    return [WorstInstance._make((*values, file, category)) for values, file, category in each]
