"""Assignment: which anchors a matcher gives to each instance of a dataset, without any training.

Each image is a batch of its own. Boxes are matched in single precision, as a detector matches them. Crowd regions are left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import num_cells
from detect.anchors.instances import (
    InstanceGroup,
    ResizedInstances,
    area_ranges,
    category_groups,
    ratio_bins,
    rows_by_value,
)
from detect.anchors.metrics import mean_or_nan
from detect.conventions import IGNORE
from detect.ops.grid_matcher import AnchorPairs
from detect.ops.matcher import Matcher, MaxIoU, best_per_anchor

NEGLECTED = 0.2  # share of the mean number of positives
MAX_NAMED = 3  # neglected categories named in a sentence


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
    """The anchors that a matcher gives to the instances of a dataset; made by :func:`assign`.

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
    def neglected(self) -> tuple[AssignedGroup, ...]:
        """Categories with fewer positives per instance than ``NEGLECTED`` times the mean of all instances, fewest first.

        The other categories dominate the loss: in docs/evidence.md a short training hardly learns such a category.
        """
        groups = sorted(self.by_category, key=lambda group: group.positives)
        return tuple(group for group in groups if group.positives < NEGLECTED * self.overall.positives)

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
        named = ", ".join(f"{group.name} {group.positives:.1f}" for group in self.neglected[:MAX_NAMED])
        more = f" and {len(self.neglected) - MAX_NAMED} more categories" if len(self.neglected) > MAX_NAMED else ""
        return f"uneven assignment: positive anchors per box: {named}{more}; mean of all boxes {self.overall.positives:.1f}"


def assign(instances: ResizedInstances, generator: AnchorGenerator, matcher: Matcher | None = None) -> Assignment:
    """Match the anchors of a generator with the instances of each image.

    Args:
        instances: boxes after the detector's resize rule.
        generator: anchors and their convention; for the cells of a level see :func:`level_hw`.
        matcher: by default :class:`detect.ops.matcher.MaxIoU`.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [
    ...         {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 16]},
    ...         {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 15]},
    ...         {"id": 3, "image_id": 1, "category_id": 1, "bbox": [40, 40, 5, 5]},
    ...     ],
    ... })
    >>> instances = ResizedInstances.of(dataset, "none")
    >>> assignment = assign(instances, AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16])))
    >>> assignment.positives.ravel(), assignment.low_quality_only, assignment.unassigned, assignment.ambiguous
    (array([1, 0, 1]), array([2]), array([1]), array([1]))
    """
    matcher = matcher or MaxIoU()
    levels = generator.anchors.levels
    counts = np.zeros((3, len(instances), len(levels)), np.int64)
    totals = np.zeros((3, len(levels)), np.int64)
    for rows in rows_by_value(instances.dataset.instances.image_rows).values():
        boxes = torch.from_numpy(instances.boxes[rows]).float()
        width, height = instances.canvas_wh[rows[0]].tolist()
        anchors = generator.generate(level_hw(generator, (height, width)), (height, width))
        pairs = matcher.foreground_pairs(anchors.level_grids, boxes)
        matches = matcher.match(anchors.level_grids, boxes)
        counts[:, rows], in_image = _counted(matches, pairs, anchors.num_per_level, len(boxes))
        totals += in_image
    return Assignment(instances, tuple(level.name for level in levels), *counts, *totals)


def level_hw(generator: AnchorGenerator, image_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) of each level for a padded input of this size, as repeated halving with padding leaves them.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> level_hw(AnchorGenerator(AnchorSet.of([[(8, 8)], [(99, 99)]], strides=(8, 64))), (100, 640))
    [(13, 80), (2, 10)]
    """
    sizes = [num_cells(np.array(image_hw), level.stride).tolist() for level in generator.anchors.levels]
    return [(rows, columns) for rows, columns in sizes]


def _counted(
    matches: Int64[Tensor, " a"], pairs: AnchorPairs, num_per_level: Sequence[int], num_instances: int
) -> tuple[Int64[ndarray, "3 n l"], Int64[ndarray, "3 l"]]:
    """Per instance and level: positives, those by threshold, candidates; per level: anchors, ignored, ambiguous."""
    ends, num_levels = np.cumsum(num_per_level), len(num_per_level)

    def levels_of(anchors: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
        return np.searchsorted(ends, anchors, side="right")

    def table(anchors: Int64[ndarray, " m"], rows: Int64[ndarray, " m"]) -> Int64[ndarray, "n l"]:
        cells = np.bincount(rows * num_levels + levels_of(anchors), minlength=num_instances * num_levels)
        return cells.reshape(num_instances, num_levels)

    def by_level(chosen: Bool[ndarray, " a"] | Int64[ndarray, " m"]) -> Int64[ndarray, " l"]:
        return np.bincount(levels_of(np.flatnonzero(chosen)), minlength=num_levels)

    best, instance = (each.numpy() for each in best_per_anchor(pairs, len(matches)))
    matched, candidates = matches.numpy(), pairs.anchors.numpy()
    learned, by_threshold = np.flatnonzero(matched >= 0), np.flatnonzero(best > 0)
    tables = [
        table(learned, matched[learned]),
        table(by_threshold, instance[by_threshold]),
        table(candidates, pairs.instances.numpy()),
    ]
    ignored, ambiguous = by_level(matched == IGNORE), by_level(np.bincount(candidates) > 1)
    return np.stack(tables), np.stack([np.array(num_per_level), ignored, ambiguous])
