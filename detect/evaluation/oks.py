"""COCO's metrics of keypoints grouped into objects, by object keypoint similarity (OKS), computed by pycocotools.

OKS measures the distance of a keypoint relative to the object's size and to the precision of human labels: ``sigmas``, one
for each keypoint type, are the standard deviations of labels over the square root of the object's area. COCO's sigmas of
persons do not apply to other data: measure them on objects that two people have labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from detect.evaluation.boxes import metrics_of, run_pycocotools
from detect.ops.array_kinds import check_shape, to_numpy

# nose, eyes, ears, shoulders, elbows, wrists, hips, knees and ankles, in tenths
OF_PARTS = [0.26, 0.25, 0.35, 0.79, 0.72, 0.62, 1.07, 0.87, 0.89]
PERSON_SIGMAS = np.repeat(OF_PARTS, [1] + [2] * 8) / 10  # pycocotools.cocoeval.Params, to the last bit


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

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def evaluate_oks(
    predicted: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Any],
    *,
    sigmas: Sequence[float] | Float[ndarray, " j"] = PERSON_SIGMAS,
) -> OksScores:
    """Compute average precision and recall by pycocotools.

    Crowds and objects with ``num_keypoints`` 0 are ignored, together with the detections that match them best. If an
    annotation lacks ``num_keypoints``, its keypoints of visibility above 0 are counted.

    >>> person = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [50, 50, 2], "area": 5000.0, "iscrowd": 0}
    >>> truth = {
    ...     "images": [{"id": 1}],
    ...     "categories": [{"id": 1, "name": "nose"}],
    ...     "annotations": [person | {"bbox": [0, 0, 100, 100]}],
    ... }
    >>> found = {"image_id": 1, "category_id": 1, "keypoints": [51, 50, 1], "score": 0.9}
    >>> round(evaluate_oks([found], truth, sigmas=[0.05]).ap, 4), evaluate_oks([], truth, sigmas=[0.05]).ap
    (1.0, 0.0)

    Args:
        predicted: results in COCO's form: image_id, category_id, keypoints (x, y and any third number for each) and score.
        truth: the content of a COCO keypoint file.
        sigmas: one for each keypoint type; those of COCO's persons by default.

    Raises:
        ValueError: an annotation or result has another number of keypoints than there are sigmas, or the image of a result
            is not in the truth.
    """
    spreads = np.asarray(to_numpy(sigmas), dtype=np.float64)
    check_shape("one sigma for each keypoint type,", spreads, spreads.shape[:1])
    _check_entries(predicted, truth, len(spreads))
    annotations = []  # copies: pycocotools writes into them
    for entry in truth["annotations"]:
        labelled = sum(visibility > 0 for visibility in entry["keypoints"][2::3])
        annotations.append({"num_keypoints": labelled, **entry})
    results = []
    for entry in predicted:
        x, y = np.array(entry["keypoints"][0::3]), np.array(entry["keypoints"][1::3])
        left, top, width, height = float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))
        results.append({**entry, "area": width * height, "bbox": [left, top, width, height]})
    evaluation = run_pycocotools({**truth, "annotations": annotations}, results, "keypoints", spreads)
    return OksScores(*metrics_of(evaluation))


def _check_entries(predicted: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], num_types: int) -> None:
    for kind, entries in (("annotation", truth["annotations"]), ("result", predicted)):
        for place, entry in enumerate(entries):
            if (count := len(entry["keypoints"])) != 3 * num_types:
                raise ValueError(
                    f"{kind} {place} has {count} numbers in keypoints, not 3 for each of {num_types} sigmas"
                )
    unknown = {result["image_id"] for result in predicted} - {image["id"] for image in truth["images"]}
    if unknown:
        raise ValueError(f"results of images that are not in the truth: {sorted(unknown)[:5]}")
