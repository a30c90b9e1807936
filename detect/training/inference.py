"""A detector run over images: what it finds, as COCO results in pixels of the images themselves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch import Tensor

from detect.data import CocoResults
from detect.data.coco_reader import Progress
from detect.detectors.landmarks import LandmarkDetector
from detect.evaluation.boxes import evaluate_boxes
from detect.evaluation.coco_points import evaluate_landmarks
from detect.heads.postprocess import Detections
from detect.keypoints.coordinates import SHIFTS
from detect.keypoints.keypoints import CocoKeypoints
from detect.keypoints.peaks import Peaks
from detect.loading.dataset import Batch, DetectionData
from detect.loading.labels import Labels
from detect.loading.transforms import View, resized_view
from detect.ops.box_arrays import xyxy_to_xywh
from detect.training.builder import Detector
from detect.training.loaders import image_loader

FOUND = 1.0  # what COCO's results have for a keypoint's visibility


@dataclass(frozen=True, eq=False)
class _Found:
    """What is found in one image, in its own pixels; boxes x, y, width, height or points, the other being NaN."""

    category_ids: Int64[ndarray, " n"]
    scores: Float64[ndarray, " n"]
    boxes_xywh: Float64[ndarray, "n 4"]
    points: Float64[ndarray, "n 2"]

    def by_score(self) -> _Found:
        """The highest first."""
        order = np.argsort(-self.scores, kind="stable")
        return _Found(self.category_ids[order], self.scores[order], self.boxes_xywh[order], self.points[order])


def find_objects(
    model: Detector,
    data: DetectionData,
    labels: Labels,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    score_threshold: float | None = None,
    pixel_origin: str = "center",
    on_progress: Progress | None = None,
) -> CocoResults:
    """What a detector finds in the images of a dataset: by image, in falling order of score.

    Boxes are cut to their image, and dropped where nothing of them is left; points that lie more than a cell of the heatmap
    outside their image, in the padding of the resize rule, are dropped. Only images of one size in the network's input make
    a batch, so that an image's results do not depend on what other images there are, but for the last digits.

    Args:
        model: set to evaluation, with its weights on ``device``.
        data: the images, without augmentation, under the resize rule that the model was trained for.
        labels: which category each class, or landmark type, stands for.
        batch_size: how many images at once.
        device: to run on.
        num_workers: processes that read images.
        score_threshold: results have scores above it; by default the model's own.
        pixel: convention of the landmarks that the model was trained on, see :mod:`detect.keypoints.coordinates`.
        progress: called as ``progress(what, done, total)``.
    """
    read = _reader(model, labels, pixel_origin)
    model = model if score_threshold is None else with_threshold(model, score_threshold)
    rows: list[int] = []
    found: list[_Found] = []
    for batch, views in _batches(data, batch_size, num_workers):
        with torch.inference_mode():
            each = model.detect(batch.images.to(device), batch.image_hw.to(device))
        found += [of_image.by_score() for of_image in read(each, views)]
        rows += batch.image_rows.tolist()
        if on_progress:
            on_progress("detecting", len(rows), len(data))
    return _as_results(rows, found)


def with_threshold(model: Detector, score_threshold: float) -> Detector:
    """The same detector, with the same weights, that gives what has a score above this."""
    model = copy.copy(model)  # shares the weights
    if isinstance(model, LandmarkDetector):
        model.threshold = score_threshold
    else:
        model.post_process = replace(model.post_process, score_threshold=score_threshold)
    return model


def _batches(data: DetectionData, batch_size: int, num_workers: int) -> Iterator[tuple[Batch, list[View]]]:
    places = places_by_size(data, batch_size)
    for batch in image_loader(data, places, num_workers=num_workers):
        sizes = data.dataset.images.wh[batch.image_rows.numpy()].tolist()
        yield batch, [resized_view(data.resize, (width, height)) for width, height in sizes]


def places_by_size(data: DetectionData, batch_size: int) -> list[list[int]]:
    """The places of batches of images that the resize rule gives one size."""
    canvas_wh = data.resize.resize_images(data.dataset.images.wh[data.image_rows]).canvas_wh
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place, size in enumerate(canvas_wh.tolist()):
        by_size.setdefault(tuple(size), []).append(place)
    return [
        places[start : start + batch_size] for places in by_size.values() for start in range(0, len(places), batch_size)
    ]


def _reader(model: Detector, labels: Labels, pixel_origin: str) -> Callable[[Any, list[View]], list[_Found]]:
    """From what the model gives for a batch to what is in each image."""
    if isinstance(model, LandmarkDetector):
        return _landmark_reader(model, labels, pixel_origin)
    return _box_reader(labels)


def _box_reader(labels: Labels) -> Callable[[list[Detections], list[View]], list[_Found]]:
    ids = np.array(labels.category_ids, np.int64)

    def read(found: list[Detections], views: list[View]) -> list[_Found]:
        of_images: list[_Found] = []
        for each, view in zip(found, views, strict=True):
            boxes = view.restore_boxes(_numbers(each.boxes))
            there = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            scores, classes = _numbers(each.scores)[there], each.classes.cpu().numpy()[there]
            nowhere = np.full((len(scores), 2), np.nan)
            of_images.append(_Found(ids[classes], scores, xyxy_to_xywh(boxes[there]), nowhere))
        return of_images

    return read


def _landmark_reader(
    model: LandmarkDetector, labels: Labels, pixel_origin: str
) -> Callable[[Peaks, list[View]], list[_Found]]:
    ids, margin = _categories_of_types(labels), float(model.stride)

    def read(found: Peaks, views: list[View]) -> list[_Found]:
        of_images: list[_Found] = []
        image = found.image.cpu().numpy()
        for number, view in enumerate(views):
            own = image == number
            points, types = _numbers(found.cells)[own], found.types.cpu().numpy()[own]
            corner, end = view.move_points(np.array([[0.0, 0.0], view.image_wh])) - SHIFTS["center"]
            there = ((points >= corner - margin) & (points <= end + margin)).all(axis=1)
            placed = view.restore_points(points[there], pixel_origin="center") + SHIFTS["center"] - SHIFTS[pixel_origin]
            scores = _numbers(found.scores)[own][there]
            of_images.append(_Found(ids[types[there]], scores, np.full((len(scores), 4), np.nan), placed))
        return of_images

    return read


def _categories_of_types(labels: Labels) -> Int64[ndarray, " j"]:
    ids = np.zeros(len(labels.type_names), np.int64)
    for category, types in labels.category_types.items():
        ids[list(types)] = category
    return ids


def _as_results(rows: list[int], found: list[_Found]) -> CocoResults:
    order = np.argsort(rows, kind="stable").tolist()  # batches go by size
    rows, found = [rows[place] for place in order], [found[place] for place in order]
    found = [
        *found,
        _Found(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)), np.zeros((0, 2))),
    ]  # none is no special case
    categories, scores, boxes, points = (
        np.concatenate([getattr(each, column.name) for each in found]) for column in fields(_Found)
    )
    image_rows = np.repeat(np.array(rows, np.int64), [len(each.scores) for each in found[:-1]])
    marked = np.concatenate([points, np.full((len(points), 1), FOUND)], axis=1)
    keypoints = tuple(each[None] if np.isfinite(each).all() else np.zeros((0, 3)) for each in marked)
    return CocoResults(np.arange(len(scores)), image_rows, categories, scores, boxes, keypoints, ())


def _numbers(values: Tensor) -> ndarray:
    return values.cpu().double().numpy()  # on the CPU: not every device has doubles


MAIN_METRIC = {"boxes": "ap", "landmarks": "f1_5px"}  # the best checkpoint has most of it


def validate(
    model: Detector,
    data: DetectionData,
    labels: Labels,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    pixel_origin: str = "center",
) -> dict[str, float]:
    """Of boxes COCO's twelve numbers; of landmarks F1 at each radius and the mean error of the count. NaN: not defined.

    Arguments are those of :func:`detect.training.inference.find_objects`.
    """
    results = find_objects(
        model, data, labels, batch_size=batch_size, device=device, num_workers=num_workers, pixel_origin=pixel_origin
    )
    if data.landmarks is None or not labels.category_types:
        scores = asdict(evaluate_boxes(results, data.dataset).overall)
        return {name: math.nan if value is None else float(value) for name, value in scores.items()}
    return _of_landmarks(data.landmarks, results)


def _of_landmarks(landmarks: CocoKeypoints, results: CocoResults) -> dict[str, float]:
    evaluation = evaluate_landmarks(results, landmarks)
    numbers = {f"f1_{scores.radius:g}px": float(scores.micro.f1) for scores in evaluation.overall}
    return {**numbers, "count_mae": float(evaluation.overall[0].count.mae)}
