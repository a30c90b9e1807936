"""Detection without learning, as the score that a trained detector has to beat: blobs for points, components for boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from detect.cli.detectors import spread_evenly
from detect.cli.options import note_fetched
from detect.cli.output import progress_over
from detect.data import CocoDataset, CocoResults
from detect.data.images import ImageFiles
from detect.errors import ConfigError
from detect.keypoints.coco_keypoints import CocoKeypoints, coco_keypoints
from detect.keypoints.keypoints import by_group
from detect.loading.image_files import find_broken_images
from detect.ops.box_arrays import xyxy_to_xywh

if TYPE_CHECKING:
    from detect.training.checkpoints import TrainedDetector

MAX_FITTED = 100  # training images that a method is fitted to, evenly spaced
MAX_PIXELS = 100_000_000  # of these images together


def without_learning(
    trained: TrainedDetector, dataset: CocoDataset, folder: Path, landmarks: CocoKeypoints | None
) -> tuple[str, CocoResults]:
    """Fit a method to a run's training images and run it over others; what it is in words, and its results.

    All results have the most frequent category of the training data. Those of points are at the method's own threshold.
    """
    from detect.detectors.blob_detector import fit_blob_detector
    from detect.detectors.component_detector import fit_component_detector
    from detect.training.inputs import hold_out, read_labels

    config = trained.config
    note_fetched(config.data.train)
    train = read_labels(config, config.data.train, config.data.images)
    train = hold_out(train, config.data.val_share)[0] if config.data.val_share else train
    train = _fitted(train, config.data.images, skip_broken=config.data.on_broken == "skip")
    grey = list(grey_images(train, config.data.images))
    others = grey_images(dataset, folder)
    category = _most_frequent(train.instances.category_ids)
    if landmarks is None:
        boxes = by_group(train.instances.boxes_xywh, train.instances.image_rows, len(train.images))
        components = fit_component_detector(grey, boxes)
        found = [components.predict(image) for image in others]
        results = results_of(category, [each.scores for each in found], boxes=[each.boxes for each in found])
        return f"{components}, F1 {components.f1:.3f} on {len(grey)} training images", results
    points = coco_keypoints(train, pixel_origin=config.data.pixel_origin, orientation=config.data.orientation)
    with_points = np.isin(train.instances.category_ids, list(points.category_types))
    category = _most_frequent(train.instances.category_ids[with_points])
    if len(points.category_types[category]) > 1:
        raise ConfigError("--baseline: blobs are points of one type, this category has several keypoints")
    own_type = slice(points.category_types[category][0], None, points.landmarks.num_types)
    truth, origin = points.landmarks.per_image()[own_type], config.data.pixel_origin
    blobs = fit_blob_detector(grey, truth, pixel_origin=origin)
    at, scores = zip(*(blobs.predict(image) for image in others), strict=True)
    return f"{blobs}, F1 {blobs.f1:.3f} on {len(grey)} training images", results_of(category, scores, points=at)


def _fitted(train: CocoDataset, folder: Path, *, skip_broken: bool) -> CocoDataset:
    """Images with objects, evenly spaced: at most ``MAX_FITTED``, and of ``MAX_PIXELS`` in all."""
    rows = np.array(spread_evenly(np.unique(train.instances.image_rows), MAX_FITTED))
    pixels = int(train.images.wh[rows].prod(axis=1).sum())
    rows = rows[:: -(-pixels // MAX_PIXELS)]
    if skip_broken:
        files = ImageFiles(train, folder)
        broken = {each.image_row for each in find_broken_images(lambda place: files.open(int(rows[place])), len(rows))}
        rows = np.delete(rows, sorted(broken))
    return train.take_images(rows)


def _most_frequent(category_ids: ndarray) -> int:
    categories, counts = np.unique(category_ids, return_counts=True)
    return int(categories[counts.argmax()])


def grey_images(dataset: CocoDataset, folder: Path) -> Iterator[ndarray]:
    """Read the images of a dataset in grey, from 0 to their largest value."""
    files = ImageFiles(dataset, folder)
    for row in progress_over(range(len(dataset.images)), "reading images"):
        image = files.open(row)
        deep = image.mode.startswith(("I", "F"))  # more than 8 bits, which L would cut off
        yield np.asarray(image.convert("F" if deep else "L"), np.float32)


def results_of(
    category: int,
    scores: Sequence[ndarray],
    *,
    points: Sequence[ndarray] | None = None,
    boxes: Sequence[ndarray] | None = None,
) -> CocoResults:
    """Results of one category from the points (x, y), or the boxes (x0, y0, x1, y1), of each image."""
    rows = np.repeat(np.arange(len(scores)), [len(each) for each in scores])
    no_boxes, no_points = np.full((len(rows), 4), np.nan), tuple(np.zeros((0, 3)) for _ in rows)
    results = CocoResults(
        *(np.arange(len(rows)), rows, np.full(len(rows), category), np.concatenate([np.zeros(0), *scores])),
        *(no_boxes, no_points, ()),
    )
    if boxes is not None:
        results = replace(results, boxes_xywh=xyxy_to_xywh(np.concatenate([np.zeros((0, 4)), *boxes])))
    if points is not None:
        results = replace(results, keypoints=tuple(np.array([[x, y, 1.0]]) for xy in points for x, y in xy.tolist()))
    return results
