"""The keypoints that COCO results predict, and which of them count beside regions that are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray
from scipy.spatial import KDTree

from detect.data import CocoResults, Finding
from detect.evaluation.boxes import result_finding
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import is_predicted
from detect.keypoints.orientations import NO_ORIENTATION
from detect.ops.array_kinds import check_shape, in_arrays
from detect.wording import plural

SOURCES = {"keypoints": "keypoint", "boxes": "box"}


@dataclass(frozen=True, eq=False)
class PredictedPoints:
    """The keypoints that results predict."""

    points: Float64[ndarray, "n 2"]
    types: Int64[ndarray, " n"]
    rows: Int64[ndarray, " n"]
    """Results of the points."""
    scores: Float64[ndarray, " n"]
    invalid: list[Finding]
    """Results with another number of keypoints than their category has."""

    @classmethod
    def of(cls, predicted: CocoResults, truth: CocoKeypoints, source: str) -> PredictedPoints:
        """The keypoints of results.

        A keypoint that is not finite, or 0, 0, 0, is not predicted. A third number between 0 and 1 is the keypoint's own
        confidence: its score is then the lower of that and the result's.
        """
        if source not in SOURCES:
            raise ValueError(f"source is one of {', '.join(SOURCES)}, got {source!r}")
        tables = _centers(predicted) if source == "boxes" else predicted.keypoints
        counts = np.array([len(table) for table in tables], np.int64)
        categories, own = np.unique(predicted.category_ids, return_inverse=True)
        types = [truth.category_types.get(category, ()) for category in categories.tolist()]
        wanted = np.array([len(each) for each in types], np.int64)[own]
        fits = (counts == wanted) & (wanted > 0)
        invalid = []
        for row in np.flatnonzero(~fits).tolist():
            has = plural(int(wanted[row]), SOURCES[source])
            reason = f"category {predicted.category_ids[row]} has {has} in the truth, this has {counts[row]}"
            if truth.orientation != NO_ORIENTATION:
                reason += ": with orientations, a result is the middle of an object and its angle"
            invalid.append(result_finding(predicted, truth.dataset, row, reason))
        kept = np.flatnonzero(fits)
        flat = np.concatenate([np.zeros((0, 3)), *(tables[row] for row in kept.tolist())])
        rows = np.repeat(kept, counts[kept])
        of_point = [np.zeros(0, np.int64), *(np.array(types[number], np.int64) for number in own[kept].tolist())]
        found, confidence = is_predicted(flat), flat[:, 2]
        own_scores = np.where((confidence > 0) & (confidence < 1), confidence, np.inf)
        scores = np.minimum(predicted.scores[rows], own_scores)
        return cls(flat[found, :2], np.concatenate(of_point)[found], rows[found], scores[found], invalid)


def _centers(predicted: CocoResults) -> list[Float64[ndarray, "_ 3"]]:
    """The centre of each result's box, as a keypoint; none if it has no box."""
    centers = predicted.boxes_xywh[:, :2] + predicted.boxes_xywh[:, 2:] / 2
    tables = list(np.concatenate([centers, np.ones((len(centers), 1))], axis=1)[:, None])
    for row in np.flatnonzero(~predicted.has_box).tolist():
        tables[row] = np.zeros((0, 3))
    return tables


@in_arrays
def are_counted(
    points: Float[ndarray, "n 2"],
    group: Int64[ndarray, " n"],
    true_points: Sequence[Float[ndarray, "_ 2"]],
    regions: Sequence[Float[ndarray, "_ 4"]],
    radius: float,
) -> Bool[ndarray, " n"]:
    """Whether each prediction counts: it is outside all regions of its group, or near a true point of the group."""
    check_shape("one group for each point,", group, (len(points),))
    counted = np.ones(len(points), bool)
    order = np.argsort(group, kind="stable")
    with_regions = [number for number, own in enumerate(regions) if len(own)]
    starts, stops = (np.searchsorted(group[order], with_regions, side=side) for side in ("left", "right"))
    for number, start, stop in zip(with_regions, starts.tolist(), stops.tolist(), strict=True):
        rows = order[start:stop]
        inside = rows[inside_any(points[rows], regions[number])]
        if len(inside) and len(true_points[number]):
            inside = inside[KDTree(true_points[number]).query(points[inside])[0] > radius]
        counted[inside] = False
    return counted


@in_arrays
def inside_any(points: Float[ndarray, "n 2"], regions: Float[ndarray, "r 4"]) -> Bool[ndarray, " n"]:
    """Whether each point lies in one of the regions x0 y0 x1 y1, or on its edge."""
    check_shape("points (x, y),", points, (len(points), 2))
    check_shape("regions x0 y0 x1 y1,", regions, (len(regions), 4))
    order = np.argsort(points[:, 0])
    x, y = points[order].T
    inside = np.zeros(len(points), bool)
    starts, stops = np.searchsorted(x, regions[:, 0]), np.searchsorted(x, regions[:, 2], side="right")
    for start, stop, (y0, y1) in zip(starts.tolist(), stops.tolist(), regions[:, 1::2].tolist(), strict=True):
        inside[start:stop] |= (y0 <= y[start:stop]) & (y[start:stop] <= y1)
    inside[order] = inside.copy()
    return inside
