"""Results in COCO's format scored as points: by type of landmark and all together, or by OKS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data import CocoResults, Finding
from detect.errors import CocoError
from detect.evaluation.oks import OksScores, evaluate_oks
from detect.evaluation.oracle import by_group
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints

SOURCES = ("keypoints", "boxes")


@dataclass(frozen=True, eq=False)
class PointResults:
    """Predicted and true points of each image and landmark type, as :func:`score_points` takes them.

    Groups are in the order image, type. Predictions in ignored regions that are near no true point are left out and counted.
    """

    predicted: list[Float64[ndarray, "_ 2"]]
    scores: list[Float64[ndarray, " _"]]
    truth: list[Float64[ndarray, "_ 2"]]
    num_types: int
    num_ignored: int
    invalid: tuple[Finding, ...]

    def of_type(self, joint: int) -> PointResults:
        """Those of one landmark type."""
        own = slice(joint, None, self.num_types)
        return replace(self, predicted=self.predicted[own], scores=self.scores[own], truth=self.truth[own], num_types=1)


def point_results(
    found: CocoKeypoints, results: CocoResults, *, source: str = "keypoints", radius: float = 3.0
) -> PointResults:
    """Results on the images of a dataset, beside its landmarks.

    >>> from detect.data import read_coco
    >>> from detect.keypoints.keypoints import coco_keypoints
    >>> from detect.samples import sample_annotations
    >>> nuclei = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    >>> none = CocoResults(*np.zeros((3, 0), np.int64), np.zeros(0), np.zeros((0, 4)), (), ())
    >>> points = point_results(nuclei, none)
    >>> len(points.truth), sum(map(len, points.truth)), sum(map(len, points.predicted))
    (80, 318, 0)

    Args:
        found: the landmarks of the dataset.
        results: what was predicted on its images.
        source: ``"keypoints"``, or ``"boxes"``, whose centres are the points; as the landmarks were read.
        radius: predictions in an ignored region are kept where a true point lies within it, in image pixels.
    """
    points, joint, row, invalid = _points_of(found, results, source)
    landmarks, num_types = found.landmarks, found.landmarks.num_types
    num_groups = landmarks.num_images * num_types
    labelled = np.asarray(landmarks.visibility) != UNLABELLED
    truth_group = (np.asarray(landmarks.image) * num_types + np.asarray(landmarks.types))[labelled]
    truth = by_group(np.asarray(landmarks.points)[labelled], truth_group, num_groups)
    group = results.image_rows[row] * num_types + joint
    kept = _counted(points, group, truth, found, radius)
    return PointResults(
        by_group(points[kept], group[kept], num_groups),
        by_group(results.scores[row][kept], group[kept], num_groups),
        truth,
        num_types,
        int((~kept).sum()),
        (*results.invalid, *invalid),
    )


def oks_of(found: CocoKeypoints, results: CocoResults, sigmas: Sequence[float]) -> OksScores:
    """COCO's keypoint evaluation, with one sigma for each keypoint; results that :func:`point_results` refuses are left out.

    Raises:
        CocoError: instances have another number of keypoints than there are sigmas.
    """
    dataset = found.dataset
    for category, joints in found.category_types.items():
        if len(joints) != len(sigmas):
            name = dataset.category_name(category)
            raise CocoError(f"OKS needs one sigma for each of {len(joints)} keypoints of {name!r}, got {len(sigmas)}")
    entries = [
        {
            "image_id": int(dataset.images.ids[results.image_rows[row]]),
            "category_id": int(results.category_ids[row]),
            "keypoints": points.reshape(-1).tolist(),
            "score": float(results.scores[row]),
        }
        for row, points in enumerate(results.keypoints)
        if len(points) == len(sigmas) and np.isfinite(points[:, :2]).all()
    ]
    try:
        return evaluate_oks(_as_coco(found, len(sigmas)), entries, sigmas=sigmas)
    except ValueError as error:
        raise CocoError(str(error)) from None


def _as_coco(found: CocoKeypoints, num_types: int) -> dict[str, Any]:
    """The dataset as pycocotools takes it; annotations without keypoints get as many that are not labelled."""
    dataset, every = found.dataset, found.dataset.annotations
    nothing = [0.0] * 3 * num_types
    annotations = [
        {
            "id": row + 1,  # pycocotools takes 0 for none
            "image_id": int(dataset.images.ids[every.image_rows[row]]),
            "category_id": int(every.category_ids[row]),
            "keypoints": points.reshape(-1).tolist() or nothing,
            "bbox": every.boxes_xywh[row].tolist(),
            "area": float(every.area[row]),
            "iscrowd": int(every.iscrowd[row]),
        }
        for row, points in enumerate(every.keypoints or ())
    ]
    return {
        "images": [{"id": image_id} for image_id in dataset.images.ids.tolist()],
        "categories": [{"id": category, "name": name} for category, name in dataset.categories.items()],
        "annotations": annotations,
    }


def _points_of(
    found: CocoKeypoints, results: CocoResults, source: str
) -> tuple[Float64[ndarray, "n 2"], Int64[ndarray, " n"], Int64[ndarray, " n"], list[Finding]]:
    """Points, their types and the rows of their results."""
    if source not in SOURCES:
        raise ValueError(f"source is one of {', '.join(SOURCES)}, got {source!r}")
    points, joints, rows, invalid = [np.zeros((0, 2))], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    centers = results.boxes_xywh[:, :2] + results.boxes_xywh[:, 2:] / 2
    for row, table in enumerate(results.keypoints):
        category = int(results.category_ids[row])
        own = centers[row : row + 1] if source == "boxes" else table[:, :2]
        own = own[np.isfinite(own).all(axis=1)]
        wanted = found.category_types.get(category, ())
        if len(own) == len(wanted) > 0:
            points.append(own)
            joints.append(np.array(wanted, np.int64))
            rows.append(np.full(len(own), row))
        else:
            reason = f"category {category} has {len(wanted)} {source} in the truth, this has {len(own)} that are finite"
            image_id = int(found.dataset.images.ids[results.image_rows[row]])
            invalid.append(Finding("", None, image_id, f"entry {results.places[row]} of the results: {reason}"))
    return np.concatenate(points), np.concatenate(joints), np.concatenate(rows), invalid


def _counted(
    points: Float64[ndarray, "n 2"],
    group: Int64[ndarray, " n"],
    truth: Sequence[Float64[ndarray, "_ 2"]],
    found: CocoKeypoints,
    radius: float,
) -> Bool[ndarray, " n"]:
    """Whether a prediction counts: it lies in no ignored region, or near a true point."""
    counted = np.ones(len(points), bool)
    image = group // found.landmarks.num_types
    doubtful = np.array([len(regions) > 0 for regions in found.ignored], bool)[image]
    for at in np.flatnonzero(doubtful).tolist():
        point, regions = points[at], found.ignored[image[at]]
        inside = ((regions[:, :2] <= point) & (point <= regions[:, 2:])).all(axis=1).any()
        near = (np.linalg.norm(truth[group[at]] - point, axis=1) <= radius).any()
        counted[at] = near or not inside
    return counted
