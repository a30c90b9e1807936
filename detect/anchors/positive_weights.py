"""Weights of positive anchors that give the instances of all categories the same share of the loss.

The losses are sums over positive anchors, so a category whose instances have many outvotes one whose instances have few.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.assignment import Assignment
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.data import CocoDataset
from detect.data.resize import ResizeRule
from detect.ops.matcher import Matcher

MAX_WEIGHT = 30.0
IMAGES_OF_A_CATEGORY = 200  # images in which the anchors of a category are assigned, evenly spaced


def positive_weights(
    dataset: CocoDataset, anchors: AnchorSet, matcher: Matcher | None = None, *, resize: str | ResizeRule
) -> dict[int, float]:
    """The weight of the positive anchors of each category that has instances, by category id.

    It is inversely proportional to the mean number of positives of an instance, at most ``MAX_WEIGHT``, and the weighted
    positives of the dataset are as many as its positives. Anchors are assigned in up to ``IMAGES_OF_A_CATEGORY`` images of
    each category, as in training without augmentation.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> anchors = AnchorSet.of([[(20, 20), (50, 50)]], strides=[8])
    >>> weights = positive_weights(read_coco(sample_annotations("bccd")), anchors, resize="stretch:320x240")
    >>> {category: round(weight, 2) for category, weight in weights.items()}
    {1: 0.3, 2: 1.15, 3: 6.86}
    """
    instances = ResizedInstances.of(dataset.take_images(_images_of_each_category(dataset)), resize)
    positives = mean_positives(assign(instances, AnchorGenerator(anchors), matcher))
    rows = rows_by_value(dataset.instances.category_ids)
    counts = {category: len(rows[category]) for category in positives}
    return balanced_weights(positives, counts)


def mean_positives(assignment: Assignment) -> dict[int, float]:
    """The mean number of positive anchors of an instance of each category, by category id."""
    positives = assignment.positives.sum(axis=1)
    rows = rows_by_value(assignment.instances.dataset.instances.category_ids)
    return {category: float(positives[own].mean()) for category, own in rows.items() if len(own)}


def balanced_weights(
    positives: Mapping[int, float], counts: Mapping[int, int], *, limit: float = MAX_WEIGHT
) -> dict[int, float]:
    """Weights inversely proportional to the mean positives of an instance, at most ``limit``; both arguments by category.

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


def _images_of_each_category(dataset: CocoDataset) -> Int64[ndarray, " r"]:
    """Rows of the images in which anchors are assigned."""
    instances = dataset.instances
    chosen = []
    for rows in rows_by_value(instances.category_ids).values():
        images = np.unique(instances.image_rows[rows])
        chosen.append(images[:: max(-(-len(images) // IMAGES_OF_A_CATEGORY), 1)])
    return np.unique(np.concatenate([np.zeros(0, np.int64), *chosen]))
