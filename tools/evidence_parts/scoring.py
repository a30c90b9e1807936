"""Scores for any weights of the images, as a bootstrap over images needs them; a weight of w stands for w copies."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from detect.data import CocoDataset, CocoResults
from detect.evaluation.coco_points import point_results
from detect.evaluation.point_matching import match_points
from detect.keypoints.coco_keypoints import CocoKeypoints

RECALLS = np.linspace(0.0, 1.0, 101)  # pycocotools' recThrs
RADII_PX = (3.0, 5.0)


@dataclass(frozen=True)
class _Category:
    image: Int64[ndarray, " n"]
    """Image of each detection, by falling score."""
    matched: Bool[ndarray, "t n"]
    counted: Bool[ndarray, "t n"]
    truth: Float64[ndarray, " b"]
    """Instances of each image."""


@dataclass(frozen=True)
class BoxMatches:
    """Which detections match an instance at each COCO threshold, by pycocotools' matching."""

    categories: tuple[_Category, ...]
    num_images: int

    @classmethod
    def of(cls, dataset: CocoDataset, results: CocoResults) -> BoxMatches:
        """Match the detections with the instances of their images."""
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
            evaluation = COCOeval(_coco(dataset, _truth(dataset)), _coco(dataset, _found(results)), "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
        count, thresholds = len(dataset.images), len(evaluation.params.iouThrs)
        numbers = range(len(evaluation.params.catIds))
        own = [evaluation.evalImgs[number * count : (number + 1) * count] for number in numbers]
        return cls(tuple(_category(each, thresholds) for each in own), count)

    def average_precision(self, weights: Float64[ndarray, " b"] | None = None) -> tuple[float, float]:
        """AP and AP50, NaN without instances."""
        weights = np.ones(self.num_images) if weights is None else weights
        tables = [_precision(each, weights) for each in self.categories]
        defined = np.array([table for table in tables if not np.isnan(table).any()])
        if not len(defined):
            return float("nan"), float("nan")
        return float(defined.mean()), float(defined[:, 0].mean())

    def by_category(self) -> Float64[ndarray, " c"]:
        """AP of each category in the order of the dataset's ids, NaN without instances."""
        return np.array([_precision(each, np.ones(self.num_images)).mean() for each in self.categories])


def _category(of_images: Sequence[dict[str, Any] | None], thresholds: int) -> _Category:
    known = [(row, each) for row, each in enumerate(of_images) if each is not None]
    nothing = np.zeros((thresholds, 0), bool)
    scores = np.concatenate([np.zeros(0), *(np.asarray(each["dtScores"], float) for _, each in known)])
    image = np.concatenate([np.zeros(0, np.int64), *(np.full(len(each["dtScores"]), row) for row, each in known)])
    matched = np.concatenate([nothing, *(each["dtMatches"].reshape(thresholds, -1) > 0 for _, each in known)], axis=1)
    ignored = np.concatenate([nothing, *(each["dtIgnore"].reshape(thresholds, -1) > 0 for _, each in known)], axis=1)
    truth = np.zeros(len(of_images))
    for row, each in known:
        truth[row] = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
    order = np.argsort(-scores, kind="mergesort")
    return _Category(image[order], matched[:, order], ~ignored[:, order], truth)


def _precision(category: _Category, weights: Float64[ndarray, " b"]) -> Float64[ndarray, " t"]:
    """Average precision at each threshold: the mean over ``RECALLS`` of precision, made non-increasing."""
    total = float(weights @ category.truth)
    if not total:
        return np.full(len(category.matched), np.nan)
    own = weights[category.image]
    right = np.cumsum(own * (category.matched & category.counted), axis=1)
    wrong = np.cumsum(own * (~category.matched & category.counted), axis=1)
    precision = right / np.maximum(right + wrong, np.spacing(1))
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    falling = np.concatenate([falling, np.zeros((len(falling), 1))], axis=1)  # recall that is not reached
    places = [np.searchsorted(row / total, RECALLS - 1e-12, side="left") for row in right]
    return np.array([row[place].mean() for row, place in zip(falling, places, strict=True)])


def _truth(dataset: CocoDataset) -> list[dict[str, Any]]:
    every = dataset.annotations
    columns = (every.image_rows, every.category_ids, every.boxes_xywh, every.iscrowd)
    return [_entry(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _found(results: CocoResults) -> list[dict[str, Any]]:
    columns = (results.image_rows.tolist(), results.category_ids.tolist(), results.boxes_xywh.tolist())
    rows = zip(*columns, results.scores.tolist(), strict=True)
    return [_entry(image, category, box, False) | {"score": score} for image, category, box, score in rows]


def _entry(image: int, category: int, box: Sequence[float], crowd: bool) -> dict[str, Any]:
    area = box[2] * box[3]
    return {"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}


def _coco(dataset: CocoDataset, entries: Sequence[dict[str, Any]]) -> Any:
    """With rows as ids of images, so that they come in order."""
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": row} for row in range(len(dataset.images))],
        "categories": [{"id": category} for category in dataset.categories],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, 1)],
    }
    made.createIndex()
    return made


def point_counts(landmarks: CocoKeypoints, results: CocoResults) -> Int64[ndarray, "b 4"]:
    """For each image the number of true points, of predicted points, and of pairs within each of ``RADII_PX``."""
    tables = [point_results(results, landmarks, radius=radius) for radius in RADII_PX]
    counts = [[len(points) for points in tables[0].truth], [len(points) for points in tables[0].predicted]]
    for radius, table in zip(RADII_PX, tables, strict=True):
        pairs = zip(table.predicted, table.truth, strict=True)
        counts.append([len(match_points(*each, radius=radius).distances) for each in pairs])
    return np.array(counts, np.int64).T


def point_scores(
    counts: Int64[ndarray, "b 4"], weights: Float64[ndarray, " b"] | None = None
) -> tuple[float, float, float]:
    """F1 within each of ``RADII_PX`` over the points of all images, and the mean error of the count.

    >>> point_scores(np.array([[2, 1, 0, 1], [1, 1, 1, 1]]))  # 2 * 1 / (3 + 2), 2 * 2 / (3 + 2), (1 + 0) / 2
    (0.4, 0.8, 0.5)
    """
    weights = np.ones(len(counts)) if weights is None else weights
    truth, predicted, *matched = (weights @ counts).tolist()
    both = truth + predicted
    narrow, wide = (2 * pairs / both if both else 1.0 for pairs in matched)
    return narrow, wide, float(weights @ np.abs(counts[:, 1] - counts[:, 0]) / weights.sum())
