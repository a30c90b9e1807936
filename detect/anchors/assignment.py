"""Assignment: how many anchors of each level learn each instance of a dataset, by size, ratio and category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.instances import (
    InstanceGroup,
    ResizedInstances,
    area_ranges,
    category_groups,
    ratio_bins,
    rows_by_value,
)
from detect.anchors.metrics import mean_or_nan
from detect.wording import listed

NEGLECTED = 0.2  # share of the mean number of positives
MAX_WEIGHT = 30.0  # of a positive anchor; the largest in docs/evidence.md, of k-means anchors on platelets


@dataclass(frozen=True)
class AssignedGroup:
    """The anchors of one group of instances."""

    name: str
    count: int
    positives: float
    """Mean number of positive anchors per instance."""
    low_quality_only: int
    """Instances that have positive anchors only by the low-quality rule."""
    unassigned: int
    """Instances without a positive anchor."""
    ambiguous_lost: int
    """Ambiguous anchors that are candidates for an instance of this group and learn another instance."""


@dataclass(frozen=True)
class AssignedLevel:
    """The anchors of one level over all images that have instances; those not positive or ignored are background."""

    name: str
    num_anchors: int
    positives: int
    by_threshold: int
    """Positives without the low-quality rule."""
    ignored: int
    ambiguous: int


@dataclass(frozen=True, eq=False)
class Assignment:
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
    def by_level(self) -> tuple[AssignedLevel, ...]:
        positives, by_threshold = self.positives.sum(axis=0), self.by_threshold.sum(axis=0)
        columns = np.stack([self.num_anchors, positives, by_threshold, self.ignored, self.ambiguous], axis=1).tolist()
        return tuple(AssignedLevel(name, *column) for name, column in zip(self.level_names, columns, strict=True))

    @cached_property
    def by_size(self) -> tuple[AssignedGroup, ...]:
        return self._groups(area_ranges(self.instances))

    @cached_property
    def by_ratio(self) -> tuple[AssignedGroup, ...]:
        return self._groups(ratio_bins(self.instances))

    @cached_property
    def by_category(self) -> tuple[AssignedGroup, ...]:
        return self._groups(category_groups(self.instances))

    @cached_property
    def evenness(self) -> float:
        """Mean over categories of the mean over instances of min(1, positives / half the mean positives of all instances).

        1 if every instance has at least half the positives of the mean instance.
        """
        positives = self.positives.sum(axis=1)
        enough = np.minimum(1, 2 * positives / max(mean_or_nan(positives), 1e-9))
        rows = rows_by_value(self.instances.dataset.instances.category_ids).values()
        return mean_or_nan(np.array([enough[own].mean() for own in rows]))

    @cached_property
    def neglected(self) -> tuple[AssignedGroup, ...]:
        """Categories with fewer positives per instance than ``NEGLECTED`` times the mean of all instances, fewest first.

        Without weights the other categories dominate the loss: in docs/evidence.md a short training then hardly learns it.
        """
        groups = sorted(self.by_category, key=lambda group: group.positives)
        return tuple(group for group in groups if group.positives < NEGLECTED * self.overall.positives)

    def positive_weights(self, counts: Mapping[int, int] | None = None) -> dict[int, float]:
        """The weight of each category's positive anchors, by category id, with which no category outvotes another.

        Args:
            counts: instances of each category, by default those of this assignment; see :func:`balanced_weights`.
        """
        positives = self.positives.sum(axis=1)
        rows = rows_by_value(self.instances.dataset.instances.category_ids)
        means = {category: float(positives[own].mean()) for category, own in rows.items() if len(own)}
        return balanced_weights(means, counts or {category: len(rows[category]) for category in means})

    @cached_property
    def overall(self) -> AssignedGroup:
        return self._groups([InstanceGroup("all", np.arange(len(self.instances)))])[0]

    def _groups(self, groups: Sequence[InstanceGroup]) -> tuple[AssignedGroup, ...]:
        positives, lost = self.positives.sum(axis=1), (self.candidates - self.by_threshold).sum(axis=1)
        low_quality, unassigned = np.zeros((2, len(positives)), bool)
        low_quality[self.low_quality_only] = unassigned[self.unassigned] = True
        return tuple(
            AssignedGroup(
                group.name,
                len(group.rows),
                mean_or_nan(positives[group.rows]),
                int(low_quality[group.rows].sum()),
                int(unassigned[group.rows].sum()),
                int(lost[group.rows].sum()),
            )
            for group in groups
        )

    def neglect_in_words(self) -> str | None:
        """A sentence with the neglected categories and the mean of all instances; None if no category is neglected."""
        if not self.neglected:
            return None
        named = listed(f"{group.name} {group.positives:.1f}" for group in self.neglected)
        return f"uneven assignment: positive anchors per box: {named}; mean of all boxes {self.overall.positives:.1f}"


def balanced_weights(
    positives: Mapping[int, float], counts: Mapping[int, int], *, limit: float = MAX_WEIGHT
) -> dict[int, float]:
    """Weights inversely proportional to the mean positives of an instance, at most ``limit``; all by category.

    Their mean over all positives is 1: here 100 * 20 * 0.55 + 100 * 2 * 5.5 = 100 * 20 + 100 * 2.

    >>> balanced_weights({1: 20.0, 2: 2.0}, {1: 100, 2: 100})
    {1: 0.55, 2: 5.5}
    """
    order = sorted(positives, key=lambda category: positives[category])
    total = sum(counts[category] * positives[category] for category in order)
    capped = 0.0
    left = sum(counts.values())
    weights = {}
    for category in order:  # the fewest positives first: only these can reach the limit
        number, own = counts[category], positives[category]
        share = (total - capped) / left  # weighted positives of an instance that is not at the limit
        if share >= limit * own:
            weights[category] = limit
            capped += limit * number * own
            left -= number
        else:
            weights[category] = share / own
    return {category: weights[category] for category in positives}
