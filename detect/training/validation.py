"""The numbers of a validation, by name."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch

from detect.coco import CocoResults
from detect.keypoints.coco_landmarks import CocoLandmarks
from detect.training.data import DetectionData
from detect.training.evaluation import evaluate_boxes, evaluate_landmarks
from detect.training.inference import find_objects
from detect.training.model import Detector, Labels

MAIN_METRIC = {"boxes": "ap", "landmarks": "f1_5px"}  # the best checkpoint has most of it


def validate(
    model: Detector,
    data: DetectionData,
    labels: Labels,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    pixel: str = "center",
) -> dict[str, float]:
    """Of boxes COCO's twelve numbers; of landmarks F1 at each radius and the mean error of the count. NaN: not defined.

    Arguments are those of :func:`detect.training.inference.find_objects`.
    """
    results = find_objects(
        model, data, labels, batch_size=batch_size, device=device, num_workers=num_workers, pixel=pixel
    )
    if data.landmarks is None or not labels.joints:
        scores = asdict(evaluate_boxes(data.dataset, results).overall)
        return {name: math.nan if value is None else float(value) for name, value in scores.items()}
    return _of_landmarks(data.landmarks, results)


def _of_landmarks(landmarks: CocoLandmarks, results: CocoResults) -> dict[str, float]:
    evaluation = evaluate_landmarks(landmarks, results)
    numbers = {f"f1_{scores.radius:g}px": float(scores.micro.f1) for scores in evaluation.overall}
    return {**numbers, "count_mae": float(evaluation.overall[0].count.mae)}
