"""Weights of positive anchors that give the instances of all categories the same share of the loss.

The losses are sums over positive anchors, so a category whose instances have many outvotes one whose instances have few.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.assignment import Assignment
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.resize import ResizeRule
from detect.ops.matcher import Matcher

MOST_IMAGES = 2000  # in which anchors are assigned, but for very many categories
IMAGES_OF_A_CATEGORY = (5, 200)


def positive_weights(
    dataset: CocoDataset, anchors: AnchorSet, matcher: Matcher | None = None, *, resize: str | ResizeRule
) -> dict[int, float]:
    """The weight of the positive anchors of each category that has instances, by category id.

    Anchors are assigned in the images of :func:`assign_sample`; for the weights see
    :meth:`detect.anchors.assignment.Assignment.positive_weights`.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> anchors = AnchorSet.of([[(20, 20), (50, 50)]], strides=[8])
    >>> cells = read_coco(sample_annotations("bccd")).take_images(np.arange(30))
    >>> weights = positive_weights(cells, anchors, resize="stretch:320x240")
    >>> {category: round(weight, 2) for category, weight in weights.items()}
    {1: 0.33, 2: 1.07, 3: 5.73}
    """
    assignment = assign_sample(dataset, anchors, matcher, resize=resize)
    return assignment.positive_weights(counts_of(dataset))


def counts_of(dataset: CocoDataset) -> dict[int, int]:
    """The number of instances of each category that has some, by category id."""
    return {category: len(rows) for category, rows in rows_by_value(dataset.instances.category_ids).items()}


def assign_sample(
    dataset: CocoDataset,
    anchors: AnchorSet,
    matcher: Matcher | None = None,
    *,
    resize: str | ResizeRule,
    on_progress: Progress | None = None,
) -> Assignment:
    """Assign anchors in some images of each category, evenly spaced among its images.

    They are 200 for up to ten categories, and fewer for more: see ``MOST_IMAGES`` and ``IMAGES_OF_A_CATEGORY``.
    """
    of_categories, chosen = rows_by_value(dataset.instances.category_ids), []
    least, most = IMAGES_OF_A_CATEGORY
    number = min(max(MOST_IMAGES // max(len(of_categories), 1), least), most)
    for rows in of_categories.values():
        images = np.unique(dataset.instances.image_rows[rows])
        chosen.append(images[:: max(-(-len(images) // number), 1)])
    instances = ResizedInstances.of(dataset.take_images(_union(chosen)), resize)
    return assign(instances, AnchorGenerator(anchors), matcher, on_progress=on_progress)


def _union(rows: list[Int64[ndarray, " _"]]) -> Int64[ndarray, " _"]:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *rows]))
