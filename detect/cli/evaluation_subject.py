"""What ``detect evaluate`` scores: a results file, or a detector that is run first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detect.cli import output
from detect.cli.detection_marks import Drawer
from detect.cli.detector import load_on
from detect.data import CocoDataset, CocoResults, read_coco, read_results
from detect.errors import ConfigError
from detect.evaluation.boxes import BoxEvaluation, evaluate_boxes
from detect.evaluation.coco_points import LandmarkEvaluation, evaluate_landmarks
from detect.keypoints.keypoints import CocoKeypoints, coco_keypoints
from detect.loading.dataset import DetectionData
from detect.training.checkpoints import TrainedDetector
from detect.training.inference import find_objects
from detect.training.inputs import read_validation, validation_folder

LANDMARK_FLOOR = 0.05  # scores from here on make the curves; counts go by the detector's own threshold


@dataclass(frozen=True, eq=False)
class Subject:
    """Results on a dataset; with ``landmarks`` they are points."""

    name: str
    dataset: CocoDataset
    landmarks: CocoKeypoints | None
    results: CocoResults
    images: Path | None
    threshold: float | None = None
    """Of the detector's own."""

    def evaluate(self, radii: Sequence[float], threshold: float | None) -> BoxEvaluation | LandmarkEvaluation:
        """As boxes or as points."""
        if self.landmarks is None:
            if threshold is not None:
                raise ConfigError("--threshold: it is for landmarks; average precision takes all boxes")
            return evaluate_boxes(self.results, self.dataset)
        threshold = self.threshold if threshold is None else threshold
        return evaluate_landmarks(self.results, self.landmarks, radii=radii, threshold=threshold)

    def drawer(self, least: float) -> Drawer:
        """What pictures show."""
        pixel_origin = "center" if self.landmarks is None else self.landmarks.pixel_origin
        return Drawer(self.dataset, self.results, least, self.landmarks, pixel_origin)


def of_results(
    path: Path, files: Sequence[str], images: Path | None, *, task: str | None, pixel_origin: str, strict: bool
) -> Subject:
    """The content of a results file."""
    dataset = _read(files, keypoints=task == "landmarks", strict=strict)
    results = read_results(path, dataset)
    if task is None and any(map(len, results.keypoints)) and np.isnan(results.boxes_xywh).all():
        task, dataset = "landmarks", _read(files, keypoints=True, strict=strict)
    landmarks = coco_keypoints(dataset, pixel_origin=pixel_origin) if task == "landmarks" else None
    return Subject(str(path), dataset, landmarks, results, images)


def of_detector(
    paths: Sequence[str], images: Path | None, *, device: str, batch_size: int, strict: bool, skip_broken: bool | None
) -> Subject:
    """What the detector of a run finds in the images: those it validates on, or those of files."""
    trained = load_on(Path(paths[0]), device)
    if len(paths) > 1 and images is None:
        raise ConfigError("--images: needed, the folder of the images that the annotation files name")
    if len(paths) == 1:
        dataset = _validated_on(trained, strict)
    else:
        dataset = _read(paths[1:], keypoints=trained.task == "landmarks", strict=strict)
    trained.labels.check_names(dataset)
    data = _open(trained, dataset, images or validation_folder(trained.config), skip_broken=skip_broken)
    for broken in data.broken:
        output.note(f"skipped: {broken.reason}")
    results = _run(trained, data, device, batch_size)
    threshold = None if data.keypoints is None else float(trained.config.model.threshold)
    return Subject(trained.name, data.dataset, data.keypoints, results, data.folder, threshold)


def _validated_on(trained: TrainedDetector, strict: bool) -> CocoDataset:
    with output.reading_bar() as on_progress:
        dataset = read_validation(trained.config, strict=strict, on_progress=on_progress)
    if dataset is None:
        raise ConfigError(f"{trained.name}: the run has no data to validate on: give annotation files")
    return dataset


def _open(trained: TrainedDetector, dataset: CocoDataset, folder: Path, *, skip_broken: bool | None) -> DetectionData:
    """The images that can be used; whether the others are left out is said here, or by the run."""
    fields = trained.config.data
    landmarks = None
    if trained.task == "landmarks":
        learned = trained.labels
        landmarks = coco_keypoints(dataset, pixel_origin=fields.pixel_origin).with_types(
            learned.type_names, learned.category_types
        )
    with output.reading_bar() as on_progress:
        return DetectionData(
            dataset,
            folder,
            resize=trained.resize,
            channels=trained.channels,
            on_broken=fields.on_broken if skip_broken is None else "skip" if skip_broken else "fail",
            keypoints=landmarks,
            category_ids=trained.category_ids,
            on_progress=on_progress,
        ).without_broken()


def _run(trained: TrainedDetector, data: DetectionData, device: str, batch_size: int) -> CocoResults:
    floor = None if data.keypoints is None else min(LANDMARK_FLOOR, float(trained.config.model.threshold))
    with output.reading_bar() as on_progress:
        return find_objects(
            trained.model,
            data,
            labels=trained.labels,
            batch_size=batch_size,
            device=device,
            score_threshold=floor,
            pixel_origin=trained.config.data.pixel_origin,
            on_progress=on_progress,
        )


def _read(files: Sequence[str], *, keypoints: bool, strict: bool) -> CocoDataset:
    with output.reading_bar() as on_progress:
        return read_coco(list(files), keypoints=keypoints, strict=strict, on_progress=on_progress)
