"""LevelSums: what a report on pyramid levels is made of; those of the shards of a dataset add up to its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import Assignment
from detect.anchors.extra_level import ExtraSums, extra_sums
from detect.anchors.instances import sizes_counted
from detect.anchors.metrics import AnchorMetrics
from detect.data.dataset_counts import DatasetCounts
from detect.ops.exact_sums import ExactMean, FirstItems, Sums

MAX_LISTED = 1000  # annotation ids of a subset


@dataclass(frozen=True)
class SubsetSums(Sums):
    """The instances that a subset of the levels covers and loses."""

    covered: ExactMean
    iou: ExactMean
    lost: FirstItems[int]
    """Ids of the annotations that all levels together cover and this subset misses."""
    without_threshold: int
    """Instances without a positive anchor on these levels, except by the low-quality rule."""


@dataclass(frozen=True)
class LevelSums(Sums):
    """The use of each level, and of each subset of the levels by their indices from fine to coarse."""

    anchors: AnchorSet
    resize: str
    dataset: DatasetCounts
    preferred: tuple[int, ...]
    """Instances whose best anchor on the grid is on each level."""
    positives: tuple[int, ...]
    of_subset: Mapping[tuple[int, ...], SubsetSums]
    extra: tuple[ExtraSums, ...]
    canvases: Mapping[tuple[int, int], int]
    """How many images have an input of each (width, height)."""

    @classmethod
    def of(cls, score: AnchorMetrics, assignment: Assignment, threshold: float) -> LevelSums:
        """Count a dataset or a shard; an instance is covered from an IoU of ``threshold`` on the grid."""
        count, instances = len(score.anchors.levels), score.instances
        ids, whole = instances.dataset.instances.ids, score.grid_best_iou >= threshold
        subsets = {}
        for kept in (own for size in range(count, 0, -1) for own in combinations(range(count), size)):
            best = score.grid_level_iou[:, kept].max(axis=1)
            covered = best >= threshold
            lost = FirstItems.of(ids[whole & ~covered].tolist(), most=MAX_LISTED)
            without = int((assignment.by_threshold[:, kept].sum(axis=1) == 0).sum())
            subsets[kept] = SubsetSums(ExactMean.of(covered), ExactMean.of(best), lost, without)
        return cls(
            score.anchors,
            str(instances.rule),
            DatasetCounts.of(instances.dataset),
            tuple(np.bincount(score.best_level, minlength=count).tolist()),
            tuple(assignment.positives.sum(axis=0).tolist()),
            subsets,
            extra_sums(score, threshold=threshold),
            sizes_counted(instances.image_canvas_wh),
        )
