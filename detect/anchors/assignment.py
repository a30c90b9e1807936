"""What a matcher does with the instances of a dataset: which anchors learn each, before any training.

Each image is alone in its input; boxes are matched in single precision, as a detector matches them. Crowd regions take no
part.
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
from detect.anchors.grid_iou import cells_of
from detect.anchors.instances import InstanceGroup, ResizedInstances, area_ranges, category_groups, ratio_bins
from detect.conventions import IGNORE
from detect.ops.grid_matcher import AnchorPairs
from detect.ops.matcher import Matcher, MaxIoU, best_per_anchor

NEGLECTED = 0.2
MOST_TOLD = 3


@dataclass(frozen=True)
class AssignedGroup:
    """What one kind of instances gets."""

    name: str
    count: int
    positives: float
    """Anchors that learn an instance, on average."""
    low_quality_only: int
    """Instances that the low-quality rule alone gives anchors."""
    unassigned: int
    """Instances that no anchor learns."""
    outbid: int
    """Anchors that would suit an instance of this kind and learn another."""


@dataclass(frozen=True)
class AssignedLevel:
    """What one level does, over all images that have instances; anchors that are neither are background."""

    name: str
    num_anchors: int
    positives: int
    by_threshold: int
    """Positives without the low-quality rule."""
    ignored: int
    collisions: int
    """Anchors that would suit several instances."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a matcher does with the instances of a dataset; made by :func:`assign`.

    An anchor suits an instance that it reaches with the foreground threshold (of ATSS: with that instance's own), whichever
    instance it then learns.
    """

    instances: ResizedInstances
    level_names: tuple[str, ...]
    positives: Int64[ndarray, "n l"]
    """Anchors of each level that learn each instance."""
    by_threshold: Int64[ndarray, "n l"]
    """The same without the low-quality rule."""
    suitable: Int64[ndarray, "n l"]
    """Anchors of each level that would suit each instance."""
    num_anchors: Int64[ndarray, " l"]
    ignored: Int64[ndarray, " l"]
    collisions: Int64[ndarray, " l"]
    """Anchors that suit several instances."""

    @cached_property
    def low_quality_only(self) -> Int64[ndarray, " m"]:
        """Rows of the instances that only the low-quality rule gives anchors."""
        return np.flatnonzero((self.positives.sum(axis=1) > 0) & (self.by_threshold.sum(axis=1) == 0))

    @cached_property
    def unassigned(self) -> Int64[ndarray, " m"]:
        """Rows of the instances that no anchor learns."""
        return np.flatnonzero(self.positives.sum(axis=1) == 0)

    @cached_property
    def by_level(self) -> tuple[AssignedLevel, ...]:
        columns = zip(
            self.level_names,
            self.num_anchors.tolist(),
            self.positives.sum(axis=0).tolist(),
            self.by_threshold.sum(axis=0).tolist(),
            self.ignored.tolist(),
            self.collisions.tolist(),
            strict=True,
        )
        return tuple(AssignedLevel(*column) for column in columns)

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
        """Categories whose instances have less than ``NEGLECTED`` of the positives that instances have on average, rising.

        Nearly all of the loss is of the others: in docs/evidence.md such a category is hardly learned in a short run.
        """
        groups = sorted(self.by_category, key=lambda group: group.positives)
        return tuple(group for group in groups if group.positives < NEGLECTED * self.overall.positives)

    @cached_property
    def overall(self) -> AssignedGroup:
        return self._groups([InstanceGroup("all", np.arange(len(self.instances)))])[0]

    def _groups(self, bands: Sequence[InstanceGroup]) -> tuple[AssignedGroup, ...]:
        positives, outbid = self.positives.sum(axis=1), (self.suitable - self.by_threshold).sum(axis=1)
        saved, none = np.zeros((2, len(positives)), bool)
        saved[self.low_quality_only] = none[self.unassigned] = True
        return tuple(
            AssignedGroup(
                band.name,
                len(band.rows),
                float(positives[band.rows].mean()) if len(band.rows) else float("nan"),
                int(saved[band.rows].sum()),
                int(none[band.rows].sum()),
                int(outbid[band.rows].sum()),
            )
            for band in bands
        )

    def neglect_in_words(self) -> str | None:
        """Which categories are neglected, beside the mean of all instances; None where none is."""
        if not self.neglected:
            return None
        told = ", ".join(f"{group.name} {group.positives:.1f}" for group in self.neglected[:MOST_TOLD])
        more = f" and {len(self.neglected) - MOST_TOLD} more categories" if len(self.neglected) > MOST_TOLD else ""
        return f"unevenly shared: positive anchors a box {told}{more}, on average {self.overall.positives:.1f}"


def assign(instances: ResizedInstances, grid: AnchorGenerator, matcher: Matcher | None = None) -> Assignment:
    """Match the anchors of a grid with the instances of each image.

    Args:
        instances: boxes after the detector's resize rule.
        grid: anchors, and how they are laid; a level of stride s has ceil(canvas / s) cells along an axis.
        matcher: by default :class:`detect.ops.matcher.MaxIoU`.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [
    ...         {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 16]},
    ...         {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 15]},
    ...         {"id": 3, "image_id": 1, "category_id": 1, "bbox": [40, 40, 5, 5]},
    ...     ],
    ... })
    >>> instances = ResizedInstances.of(dataset, parse_resize("none"))
    >>> assignment = assign(instances, AnchorGenerator(AnchorSet.of([[(16, 16)]], strides=[16])))
    >>> assignment.positives.ravel(), assignment.low_quality_only, assignment.unassigned, assignment.collisions
    (array([1, 0, 1]), array([2]), array([1]), array([1]))
    """
    matcher = matcher or MaxIoU()
    levels = grid.anchors.levels
    counts = np.zeros((3, len(instances), len(levels)), np.int64)
    totals = np.zeros((3, len(levels)), np.int64)
    for rows in _rows_by_image(instances):
        boxes = torch.from_numpy(instances.boxes[rows]).float()
        width, height = instances.canvas_wh[rows[0]].tolist()
        anchors = grid.generate(level_hw(grid, (height, width)), (height, width))
        pairs = matcher.foreground_pairs(anchors.level_grids, boxes)
        matches = matcher.match(anchors.level_grids, boxes)
        counts[:, rows], in_image = _counted(matches, pairs, anchors.num_per_level, len(boxes))
        totals += in_image
    return Assignment(instances, tuple(level.name for level in levels), *counts, *totals)


def level_hw(grid: AnchorGenerator, image_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of each level for a padded input of this size, as halvings with padding leave them.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> level_hw(AnchorGenerator(AnchorSet.of([[(8, 8)], [(99, 99)]], strides=(8, 64))), (100, 640))
    [(13, 80), (2, 10)]
    """
    sizes = [cells_of(np.array(image_hw), level.stride).tolist() for level in grid.anchors.levels]
    return [(rows, columns) for rows, columns in sizes]


def _counted(
    matches: Int64[Tensor, " a"], pairs: AnchorPairs, num_per_level: Sequence[int], num_instances: int
) -> tuple[Int64[ndarray, "3 n l"], Int64[ndarray, "3 l"]]:
    """Per instance and level: positives, those by threshold, suitable; per level: anchors, ignored, collisions."""
    ends = np.cumsum(num_per_level)
    num_levels = len(num_per_level)

    def levels_of(anchors: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
        return np.searchsorted(ends, anchors, side="right")

    def table(anchors: Int64[ndarray, " m"], rows: Int64[ndarray, " m"]) -> Int64[ndarray, "n l"]:
        cells = np.bincount(rows * num_levels + levels_of(anchors), minlength=num_instances * num_levels)
        return cells.reshape(num_instances, num_levels)

    def by_level(chosen: Bool[ndarray, " a"] | Int64[ndarray, " m"]) -> Int64[ndarray, " l"]:
        return np.bincount(levels_of(np.flatnonzero(chosen)), minlength=num_levels)

    best, instance = best_per_anchor(pairs, len(matches))
    learned = np.flatnonzero(matches.numpy() >= 0)
    by_threshold = np.flatnonzero(best.numpy() > 0)
    suiting = pairs.anchors.numpy()
    tables = [
        table(learned, matches.numpy()[learned]),
        table(by_threshold, instance.numpy()[by_threshold]),
        table(suiting, pairs.instances.numpy()),
    ]
    ignored = by_level(matches.numpy() == IGNORE)
    collisions = by_level(np.bincount(suiting) > 1)
    return np.stack(tables), np.stack([np.array(num_per_level), ignored, collisions])


def _rows_by_image(instances: ResizedInstances) -> list[Int64[ndarray, " m"]]:
    """The rows of each image that has instances."""
    image_rows = instances.dataset.instances.image_rows
    order = np.argsort(image_rows, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(image_rows[order])) + 1)
    return [part for part in parts if len(part)]
