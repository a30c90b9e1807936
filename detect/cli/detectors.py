"""Trained detectors: load one onto a device, run it over images, mark its results on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from detect.cli.output import note, reading_bar
from detect.conventions import ORIGIN_SHIFTS
from detect.data import CocoDataset, CocoResults
from detect.data.resize import parse_resize
from detect.errors import ConfigError, ResizeError
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import UNLABELLED, is_predicted
from detect.keypoints.orientations import NO_ORIENTATION, PER_TURN
from detect.loading.dataset import DetectionData
from detect.ops.box_arrays import xywh_to_xyxy
from detect.report.pictures import Marks, score_text
from detect.training.checkpoints import TrainedDetector, load_detector
from detect.training.inference import find_objects


def load_on(path: str | Path, device: str) -> TrainedDetector:
    """The detector of a checkpoint or of a run's folder; a device that does not exist is a ConfigError."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without support for it
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return load_detector(Path(path), device)


def open_images(
    trained: TrainedDetector,
    dataset: CocoDataset,
    folder: Path,
    *,
    on_broken: str | None = None,
    landmarks: CocoKeypoints | None = None,
) -> DetectionData:
    """The images of a dataset as a detector takes them; broken ones fail or are skipped, by default as in its run.

    Skipped images are printed. ``landmarks`` are the true points.
    """
    options: dict[str, Any] = {name: getattr(trained, name) for name in ("resize", "channels", "category_ids")}
    with reading_bar() as on_progress:
        data = DetectionData(dataset, folder, keypoints=landmarks, on_broken="skip", on_progress=on_progress, **options)
    if (on_broken or trained.config.data.on_broken) == "fail":
        data.refuse_broken("--on-broken skip")
    if data.exif_warning:
        note(f"warning: {data.exif_warning}")
    for broken in data.broken:
        note(f"skipped: {broken.reason}")
    return data


def run_detector(
    trained: TrainedDetector,
    data: DetectionData,
    *,
    device: str,
    batch_size: int,
    tiles: str | None = None,
    turned: bool = False,
) -> CocoResults:
    """The objects that a detector finds in images, with ``tiles`` SIZE:OVERLAP in tiles of those that are larger."""
    if turned and trained.task != "landmarks":
        raise ConfigError(f"--turns: only for landmarks, {trained.name} finds boxes")
    if turned and not (trained.config.augment.enabled and trained.config.augment.turns):
        raise ConfigError(
            f"--turns: {trained.name} was trained without augment.turns, so it knows upright images alone"
        )
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "turned": turned}
    try:
        options["tiles"] = parse_resize(f"tiles:{tiles}") if tiles else None
    except ResizeError:
        raise ConfigError(
            f"--slice {tiles}: expected SIZE:OVERLAP in pixels, or the overlap as a share: 640:0.2"
        ) from None
    options |= {"labels": trained.labels, "pixel_origin": trained.config.data.pixel_origin}
    with reading_bar() as on_progress:
        return find_objects(trained.model, data, on_progress=on_progress, **options)


@dataclass(frozen=True, eq=False)
class ResultMarks:
    """Results of score ``min_score`` or more, and the annotations of a dataset, as marks on its images.

    With ``landmarks`` the truth is their points, otherwise boxes. Crowds are not drawn. ``orientation`` is that of results
    with angles, by default that of the landmarks.
    """

    dataset: CocoDataset
    results: CocoResults
    min_score: float
    landmarks: CocoKeypoints | None = None
    pixel_origin: str = "center"
    orientation: str | None = None

    def predicted(self, image_row: int) -> Marks:
        """The results in an image, drawn in rising order of score."""
        start, end = np.searchsorted(self.results.image_rows, [image_row, image_row + 1], sorter=self._order)
        rows = self._order[start:end]
        rows = rows[self.results.scores[rows] >= self.min_score]
        rows = rows[
            np.isin(self.results.category_ids[rows], self._categories)
        ]  # the dataset may lack some of a detector's
        boxed = rows[self.results.has_box[rows]]
        tables = [self.results.keypoints[row] for row in rows.tolist()]
        flat = np.concatenate([np.zeros((0, 3)), *tables])
        drawn = is_predicted(flat)
        points = flat[drawn, :2] + ORIGIN_SHIFTS[self.pixel_origin]
        classes = np.concatenate(
            [
                np.searchsorted(self._categories, self.results.category_ids[boxed]),
                self._types(rows, [len(table) for table in tables])[drawn],
            ]
        )
        texts = []
        for category, score in zip(
            self.results.category_ids[boxed].tolist(), self.results.scores[boxed].tolist(), strict=True
        ):
            name = self.dataset.category_name(category) if len(self._categories) > 1 else ""
            texts.append(score_text(name, score))
        angles = None
        if self.results.angles_deg is not None:
            angles = np.deg2rad(np.repeat(self.results.angles_deg[rows], [len(table) for table in tables])[drawn])
        boxes = xywh_to_xyxy(self.results.boxes_xywh[boxed])
        return Marks(boxes, points, classes, tuple(texts), angles, self._two_sided)

    def truth(self, image_row: int) -> Marks:
        """The annotations of an image."""
        if self.landmarks is None:
            instances = self.dataset.instances
            own = instances.image_rows == image_row
            classes = np.searchsorted(self._categories, instances.category_ids[own])
            return Marks(xywh_to_xyxy(instances.boxes_xywh[own]), np.zeros((0, 2)), classes)
        points = self.landmarks.landmarks
        own = (np.asarray(points.image) == image_row) & (np.asarray(points.visibility) != UNLABELLED)
        places = np.asarray(points.points)[own] + ORIGIN_SHIFTS[self.landmarks.pixel_origin]
        angles = None if points.angles is None else np.asarray(points.angles)[own]
        types = np.asarray(points.types)[own].astype(np.int64)
        return Marks(np.zeros((0, 4)), places, types, (), angles, self._two_sided)

    @property
    def _two_sided(self) -> bool:
        orientation = self.orientation or (self.landmarks and self.landmarks.orientation)
        return PER_TURN.get(orientation or NO_ORIENTATION) == 2

    def _types(self, rows: Int64[ndarray, " n"], counts: Sequence[int]) -> Int64[ndarray, " m"]:
        """The keypoint type of each point of these results, or its category if there are no true points to name types."""
        categories = self.results.category_ids[rows].tolist()
        if self.landmarks is None:
            return np.repeat(np.searchsorted(self._categories, categories), counts)
        own = [
            np.resize(np.array(self.landmarks.category_types.get(category, (0,)), np.int64), count)
            for category, count in zip(categories, counts, strict=True)
        ]
        return np.concatenate([np.zeros(0, np.int64), *own])

    @cached_property
    def _order(self) -> Int64[ndarray, " n"]:
        """Rows of the results by image, then rising score."""
        return np.lexsort((self.results.scores, self.results.image_rows)).astype(np.int64)

    @cached_property
    def _categories(self) -> Int64[ndarray, " c"]:
        return np.array(self.dataset.category_ids, np.int64)


def spread_evenly(rows: Sequence[int] | ndarray, count: int) -> list[int]:
    """``count`` of the rows at equal distances, the first and the last among them; all, if there are no more.

    >>> spread_evenly([3, 4, 5, 6, 7], 3)
    [3, 5, 7]
    """
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return np.asarray(rows)[places].tolist()
