"""Confusion matrices with background: which categories are taken for which, what is missed and what is made up.

Predictions are matched to true objects irrespective of category: the pair that agrees best first, each prediction and each
object once. Of pairs that agree equally, one of the right category comes first, then that of the higher score. What is left
on either side is matched to background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from scipy.spatial.distance import cdist

from detect.data import CocoDataset, CocoResults
from detect.evaluation.point_matching import check_images
from detect.keypoints.keypoints import by_group
from detect.ops.array_kinds import AnyArray, in_arrays

BACKGROUND_NAME = "background"
MIN_IOU = 0.5


class ImageMatches(NamedTuple):
    """What :func:`count_confusions` needs of one image; the predictions are in falling order of score.

    ``agreement`` is IoU, or minus the distance. ``ignored`` predictions lie in crowds and count only if they are matched.
    """

    agreement: Float64[ndarray, "n m"]
    predicted: Int64[ndarray, " n"]
    truth: Int64[ndarray, " m"]
    ignored: Bool[ndarray, " n"]


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Counts of true (rows) and predicted (columns) categories; the last row and column are background.

    A row adds up to the true objects of its category, a column to the predictions of ``threshold`` or more, of which
    ``num_ignored`` in crowds are left out. ``at`` names the criterion of a match.
    """

    names: tuple[str, ...]
    counts: Int64[AnyArray, "c c"]
    threshold: float
    at: str
    num_ignored: int

    def to_dict(self) -> dict[str, Any]:
        """Return the matrix as plain values for JSON."""
        return {**vars(self), "names": list(self.names), "counts": self.counts.tolist()}


def count_confusions(
    images: Iterable[ImageMatches], *, least: float, names: Sequence[str], threshold: float, at: str
) -> ConfusionMatrix:
    """Match each image's predictions and objects that agree by ``least`` or more, and count the categories of both.

    >>> agreement = np.array([[0.9, 0.0], [0.6, 0.7], [0.0, 0.0]])  # three predictions, two objects
    >>> image = ImageMatches(agreement, np.array([0, 0, 1]), np.array([0, 1]), np.zeros(3, bool))
    >>> count_confusions([image], least=0.5, names=["cell", "speck"], threshold=0.3, at="IoU .50").counts
    array([[1, 0, 0],
           [1, 0, 0],
           [0, 1, 0]])
    """
    nothing, num_ignored = len(names), 0
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for agreement, predicted, truth, ignored in images:
        rows, columns = np.nonzero(agreement >= least)
        order = np.lexsort((rows, predicted[rows] != truth[columns], -agreement[rows, columns]))
        partner, is_free = np.full(len(predicted), nothing), np.ones(len(truth), bool)
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if partner[row] == nothing and is_free[column]:
                partner[row], is_free[column] = truth[column], False
        counted = ~ignored | (partner != nothing)
        num_ignored += int((~counted).sum())
        np.add.at(counts, (partner[counted], predicted[counted]), 1)
        np.add.at(counts[:, nothing], truth[is_free], 1)
    return ConfusionMatrix((*names, BACKGROUND_NAME), counts, threshold, at, num_ignored)


def box_confusions(predicted: CocoResults, truth: CocoDataset, *, threshold: float) -> ConfusionMatrix:
    """Count confusions of boxes that overlap by an IoU of .5; half of an ignored box lies in a crowd."""
    from pycocotools.mask import iou  # noqa: PLC0415 - loaded only for an evaluation

    every, categories = truth.annotations, np.array(truth.category_ids, np.int64)
    is_known = np.isin(predicted.category_ids, categories)  # COCO's numbers leave out the others too
    kept = np.flatnonzero(is_known & predicted.has_box & (predicted.scores >= threshold))
    kept = kept[np.argsort(-predicted.scores[kept], kind="stable")]
    found = by_group(kept, predicted.image_rows[kept], len(truth.images))
    objects = by_group(np.arange(len(every)), every.image_rows, len(truth.images))

    def matches(rows: Int64[ndarray, " n"], own: Int64[ndarray, " m"]) -> ImageMatches:
        is_crowd = every.iscrowd[own].astype(bool)
        overlap = iou(predicted.boxes_xywh[rows], every.boxes_xywh[own], is_crowd.astype(np.uint8))
        overlap = np.asarray(overlap, np.float64).reshape(len(rows), len(own))  # an empty list without boxes
        ids = predicted.category_ids[rows], every.category_ids[own]
        of_predicted, of_truth = (np.searchsorted(categories, each) for each in ids)
        in_crowd = np.any(overlap[:, is_crowd] >= MIN_IOU, axis=1)
        return ImageMatches(overlap[:, ~is_crowd], of_predicted, of_truth[~is_crowd], in_crowd)

    images = (matches(*both) for both in zip(found, objects, strict=True))
    names = [truth.category_name(category) for category in categories.tolist()]
    return count_confusions(images, least=MIN_IOU, names=names, threshold=threshold, at="IoU .50")


@in_arrays
def point_confusions(
    predicted: Sequence[ndarray],
    truth: Sequence[ndarray],
    *,
    scores: Sequence[ndarray],
    names: Sequence[str],
    radius: float,
    threshold: float,
) -> ConfusionMatrix:
    """Count confusions of points at most ``radius`` pixels apart; groups are ordered by image, then keypoint type."""
    check_images(predicted, truth, scores=scores)
    if not names or len(truth) % len(names):
        raise ValueError(f"need points of each of {len(names)} keypoint types in each image, got {len(truth)} groups")

    def joined(groups: Sequence[ndarray]) -> tuple[ndarray, ndarray]:
        return np.concatenate(groups), np.repeat(np.arange(len(names)), [len(each) for each in groups])

    def matches(first: int) -> ImageMatches:
        own = slice(first, first + len(names))
        (points, types), (others, other_types) = joined(predicted[own]), joined(truth[own])
        values = np.concatenate(scores[own])
        rows = np.argsort(-values, kind="stable")
        rows = rows[values[rows] >= threshold]
        return ImageMatches(-cdist(points[rows], others), types[rows], other_types, np.zeros(len(rows), bool))

    images = (matches(first) for first in range(0, len(truth), len(names)))
    return count_confusions(images, least=-radius, names=names, threshold=threshold, at=f"within {radius:g} px")
