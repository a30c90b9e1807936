"""COCO's metrics of keypoints grouped into objects, by object keypoint similarity (OKS), computed by pycocotools.

OKS measures the distance of a keypoint relative to the object's size and to the precision of human labels: ``sigmas``, one
for each keypoint of an object, are the standard deviations of labels over the square root of the object's area. COCO's
sigmas of persons do not apply to other data: measure them on objects that two people have labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detect.data import CocoResults
from detect.errors import CocoError
from detect.evaluation.boxes import dataset_as_coco, metrics_of, results_as_coco, run_pycocotools
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import is_predicted


@dataclass(frozen=True)
class OksScores:
    """COCO's ten keypoint metrics: average precision and recall over OKS .5 to .95, at .5, at .75, and by object area.

    At most 20 detections of an image count. A metric is None if no object counts for it.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None
    ar50: float | None
    ar75: float | None
    ar_medium: float | None
    ar_large: float | None


def evaluate_oks(predicted: CocoResults, truth: CocoKeypoints, *, sigmas: Sequence[float]) -> OksScores:
    """Compute average precision and recall by pycocotools.

    Crowds and objects without a labelled keypoint are ignored, together with the detections that match them best. A keypoint
    that is not predicted lies at 0, 0, as in COCO's own evaluation; results with another number of keypoints are left out.

    Raises:
        CocoError: instances have another number of keypoints than there are sigmas.
    """
    for category, types in truth.category_types.items():
        if len(types) != len(sigmas):
            name = truth.dataset.category_name(category)
            raise CocoError(f"OKS needs one sigma for each of {len(types)} keypoints of {name!r}, got {len(sigmas)}")
    objects, unlabelled = dataset_as_coco(truth.dataset), np.zeros((len(sigmas), 3))
    tables = truth.dataset.annotations.keypoints or [unlabelled] * len(truth.dataset.annotations)
    for entry, table in zip(objects["annotations"], tables, strict=True):
        own = table if len(table) == len(sigmas) else unlabelled  # ignored, with the results that match it
        entry |= {"keypoints": own.ravel().tolist(), "num_keypoints": int((own[:, 2] > 0).sum())}
    results = []
    for entry, table in zip(results_as_coco(predicted, truth.dataset), predicted.keypoints, strict=True):
        there = is_predicted(table)
        if len(table) == len(sigmas) and there.any():
            own = np.where(there[:, None], table, 0.0)
            corner, size = own[:, :2].min(axis=0), np.ptp(own[:, :2], axis=0)
            box = {"bbox": [*corner.tolist(), *size.tolist()], "area": float(size.prod())}
            results.append({**entry, **box, "keypoints": own.ravel().tolist()})
    return OksScores(*metrics_of(run_pycocotools(objects, results, "keypoints", np.array(sigmas, np.float64))))
