"""Objects that no anchor learns, by a detector's own matching, in the images where objects can lose anchors to each other.

With the low-quality rule an object learns its best anchor, unless another object of the image takes it. An anchor a that
another object j takes from i overlaps both: 1 - IoU is a metric, so IoU(i, j) >= IoU(a, i) + IoU(a, j) - 1 (Kosub 2019). And
an anchor of IoU b with an object extends beyond it by less than 1 / b of its width or height. Objects that are not so close
to another keep their best anchor, and images of such objects alone are not matched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.advice.overlaps import overlapping_pairs
from detect.anchors.anchor_set import AnchorSet
from detect.anchors.detector_score import score_for
from detect.anchors.instances import ResizedInstances
from detect.catalog.detectors import AnchorDetector
from detect.catalog.matching import MaxIoURule

ROUNDING = 1e-6

AnchorChoice = AnchorSet | Callable[[ResizedInstances, AnchorDetector], AnchorSet]
"""Anchors, or a function that fits them to instances for the levels of a detector."""


def without_anchor(instances: ResizedInstances, anchors: AnchorChoice, detector: AnchorDetector) -> Bool[ndarray, " n"]:
    """Whether each object learns no anchor.

    >>> from detect.anchors.known import load_anchors
    >>> from detect.catalog.detectors import anchor_detectors
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "letterbox:640")
    >>> yolo = anchor_detectors()["yolov5"]
    >>> int(without_anchor(instances, load_anchors("yolov5"), yolo).sum()), len(instances)
    (0, 4886)
    """
    anchors = anchors if isinstance(anchors, AnchorSet) else anchors(instances, detector)
    score, rule = score_for(instances, anchors, detector), detector.matching
    if not isinstance(rule, MaxIoURule):
        return score.assignment.positives.sum(axis=1) == 0
    reached = score.best > 0 if rule.allow_low_quality_matches else score.best >= rule.fg_iou_thresh
    image_rows = instances.dataset.instances.image_rows
    images = np.unique(image_rows[close_to_others(instances.boxes, image_rows, score.best)])
    lost = ~reached
    if len(images):
        part = ResizedInstances.of(instances.dataset.take_images(images), instances.rule)
        own = np.isin(image_rows, images)  # in the same order
        lost[own] = score_for(part, anchors, detector).assignment.positives.sum(axis=1) == 0
    return lost


def close_to_others(
    boxes: Float64[ndarray, "n 4"], image_rows: Int64[ndarray, " n"], best_iou: Float64[ndarray, " n"]
) -> Bool[ndarray, " n"]:
    """Whether another object of the image could take the best anchor of each object, whose IoU is ``best_iou``.

    >>> boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [30, 0, 40, 10]])
    >>> close_to_others(boxes, np.zeros(3, int), np.array([0.8, 0.8, 0.8]))
    array([ True,  True, False])
    """
    iou = np.maximum(best_iou, ROUNDING)
    beyond = (boxes[:, 2:] - boxes[:, :2]) / iou[:, None]
    pairs = overlapping_pairs(np.concatenate([boxes[:, :2] - beyond, boxes[:, 2:] + beyond], axis=1), image_rows)
    low = np.maximum(boxes[pairs.first, :2], boxes[pairs.second, :2])
    high = np.minimum(boxes[pairs.first, 2:], boxes[pairs.second, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    between = shared / (areas[pairs.first] + areas[pairs.second] - shared)
    weaker = np.minimum(iou[pairs.first], iou[pairs.second])
    result = np.zeros(len(boxes), bool)
    for own in (pairs.first, pairs.second):
        result[own[between >= iou[own] + weaker - 1 - ROUNDING]] = True
    return result
