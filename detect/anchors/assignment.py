"""Assignment: how many anchors of each level learn each instance of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.assignment_sums import MAX_LISTED, AssignedLevel, AssignmentNumbers, AssignmentSums, GroupCounts
from detect.anchors.instances import (
    InstanceGroup,
    ResizedInstances,
    area_ranges,
    category_groups,
    ratio_bins,
    rows_by_value,
)
from detect.ops.exact_sums import ExactMean, FirstItems


@dataclass(frozen=True, eq=False)
class Assignment(AssignmentNumbers):
    """The anchors that each instance of a dataset learns from.

    Made by :func:`detect.anchors.assign.assign` for a matcher, and by :func:`detect.anchors.center_rules.assign_by_center`.
    An anchor is a candidate for every instance whose IoU with it reaches the foreground threshold (with ATSS, the instance's
    own threshold). An anchor is ambiguous if it is a candidate for several instances; it then learns one of them.
    """

    instances: ResizedInstances
    level_names: tuple[str, ...]
    positives: Int64[ndarray, "n l"]
    """Positive anchors of each instance on each level."""
    by_threshold: Int64[ndarray, "n l"]
    """The same without the low-quality rule."""
    candidates: Int64[ndarray, "n l"]
    """Candidate anchors of each instance on each level."""
    num_anchors: Int64[ndarray, " l"]
    ignored: Int64[ndarray, " l"]
    ambiguous: Int64[ndarray, " l"]
    by_predictions: bool = False
    """Whether anchors were chosen by perfect predictions, which do not say on which level."""

    @cached_property
    def low_quality_only(self) -> Int64[ndarray, " m"]:
        """Rows of the instances that have positive anchors only by the low-quality rule."""
        return np.flatnonzero((self.positives.sum(axis=1) > 0) & (self.by_threshold.sum(axis=1) == 0))

    @cached_property
    def unassigned(self) -> Int64[ndarray, " m"]:
        """Rows of the instances without a positive anchor."""
        return np.flatnonzero(self.positives.sum(axis=1) == 0)

    @cached_property
    def sums(self) -> AssignmentSums:
        """The counts of this assignment. Counts of the shards of a dataset add up to those of the dataset."""
        positives, lost = self.positives.sum(axis=1), (self.candidates - self.by_threshold).sum(axis=1)
        low_quality, unassigned = np.zeros((2, len(positives)), bool)
        low_quality[self.low_quality_only] = unassigned[self.unassigned] = True

        def counted(group: InstanceGroup) -> GroupCounts:
            numbers = (int(each[group.rows].sum()) for each in (low_quality, unassigned, lost))
            return GroupCounts(group.name, ExactMean.of(positives[group.rows]), *numbers)

        own = self.instances.dataset.instances
        rows = rows_by_value(own.category_ids)
        return AssignmentSums(
            levels=self._levels,
            all_instances=counted(InstanceGroup("all", np.arange(len(positives)))),
            of_size=tuple(map(counted, area_ranges(self.instances))),
            of_ratio=tuple(map(counted, ratio_bins(self.instances))),
            of_category=dict(zip(rows, map(counted, category_groups(self.instances)), strict=True)),
            numbers={category: _times(positives[each]) for category, each in rows.items()},
            low_quality_only_ids=FirstItems.of(own.ids[self.low_quality_only].tolist(), most=MAX_LISTED),
            unassigned_ids=FirstItems.of(own.ids[self.unassigned].tolist(), most=MAX_LISTED),
            by_predictions=self.by_predictions,
        )

    @property
    def _levels(self) -> tuple[AssignedLevel, ...]:
        positives, by_threshold = self.positives.sum(axis=0), self.by_threshold.sum(axis=0)
        columns = np.stack([self.num_anchors, positives, by_threshold, self.ignored, self.ambiguous], axis=1).tolist()
        return tuple(AssignedLevel(name, *column) for name, column in zip(self.level_names, columns, strict=True))


def _times(values: Int64[ndarray, " m"]) -> dict[int, int]:
    """How often each value occurs."""
    return dict(zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True))
