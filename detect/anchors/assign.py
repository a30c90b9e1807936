"""Assign: which anchors a matcher gives to each instance of a dataset, without any training.

Each image is a batch of its own. Boxes are matched in single precision, as a detector matches them. Crowd regions are left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import Assignment
from detect.anchors.assignment_sums import AssignmentSums
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import num_cells
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.conventions import IGNORE
from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.ops.grid_matcher import AnchorPairs
from detect.ops.matcher import Matcher, MaxIoU, best_per_anchor, perfect_predictions


def assign(
    instances: ResizedInstances,
    generator: AnchorGenerator,
    matcher: Matcher | None = None,
    *,
    on_progress: Progress | None = None,
) -> Assignment:
    """Match the anchors of a generator with the instances of each image.

    Args:
        instances: boxes after the detector's resize rule.
        generator: anchors and their convention; for the cells of a level see :func:`level_hw`.
        matcher: by default :class:`detect.ops.matcher.MaxIoU`. One that chooses by predictions is given perfect ones, see
            :func:`detect.ops.matcher.perfect_predictions`: the number of an instance's positives is then an upper bound, and
            their levels mean nothing.
        on_progress: called as ``on_progress("matching", images done, images)``.

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
    images = rows_by_value(instances.dataset.instances.image_rows)
    for done, rows in enumerate(images.values(), start=1):
        boxes = torch.from_numpy(instances.boxes[rows]).float()
        width, height = instances.canvas_wh[rows[0]].tolist()
        anchors = generator.generate(level_hw(generator, (height, width)), (height, width))
        predictions = perfect_predictions(anchors.level_grids, boxes) if matcher.uses_predictions else None
        pairs = matcher.foreground_pairs(anchors.level_grids, boxes, predictions)
        matches = matcher.match(anchors.level_grids, boxes, predictions)
        counts[:, rows], in_image = _counted(matches, pairs, anchors.num_per_level, len(boxes))
        totals += in_image
        if on_progress:
            on_progress("matching", done, len(images))
    names = tuple(level.name for level in levels)
    assignment = Assignment(instances, names, *counts, *totals)
    return replace(assignment, by_predictions=matcher.uses_predictions)


def assign_sets(
    dataset: CocoDataset, *, sets: Sequence[AnchorSet], rules: Sequence[str], convention: str, matcher: Matcher
) -> tuple[AssignmentSums, ...]:
    """The counts of :func:`assign` for several sets of anchors on a dataset or a shard, each under its resize rule."""
    by_rule = {rule: ResizedInstances.of(dataset, rule) for rule in rules}
    generators = [AnchorGenerator(each, convention=convention) for each in sets]
    return tuple(assign(by_rule[rule], each, matcher).sums for each, rule in zip(generators, rules, strict=True))


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
