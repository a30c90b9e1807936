"""What a run reads before its first step: annotations, images, what is told apart, and the images' mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detect.coco import CocoDataset, read_coco
from detect.coco.reading import Progress
from detect.errors import ConfigError
from detect.keypoints.coco_landmarks import CocoLandmarks, keypoint_landmarks
from detect.resize import parse_resize
from detect.training.augment import Augment
from detect.training.config import TrainConfig
from detect.training.data import DetectionData
from detect.training.model import Labels
from detect.training.normalisation import measure_normalisation

MEASURED_IMAGES = 2000  # of more, so many, evenly spaced, give mean and deviation


@dataclass(frozen=True, eq=False)
class Inputs:
    """The data of a run; made by :func:`read_inputs`."""

    train: DetectionData
    val: DetectionData | None
    labels: Labels
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_inputs(config: TrainConfig, *, overfit: int | None = None, progress: Progress | None = None) -> Inputs:
    """The data that a configuration names.

    Args:
        config: of the run.
        overfit: instead of all, so many images that have objects, without augmentation and without validation.
        progress: called as ``progress(what, done, total)`` while the images are checked.

    Raises:
        CocoError: annotations that cannot be read, or a category of the validation data that training does not have.
        ImageError: images are missing or broken, and are not to be skipped.
        ConfigError: nothing to detect, or too few images with objects to overfit.
    """
    dataset: CocoDataset = read_coco(config.data.train, keypoints=config.task == "landmarks")
    held_out: CocoDataset | None
    if config.data.val_share:
        dataset, held_out = hold_out(dataset, config.data.val_share)
    else:
        held_out = read_validation(config)
    if not len(dataset.images):
        raise ConfigError(f"{', '.join(dataset.files)}: no images to train on")
    landmarks = _landmarks(config, dataset)
    labels = Labels.of(dataset, landmarks)
    train = _data(config, dataset, landmarks, labels, config.data.images, progress, augmented=overfit is None)
    val = None if held_out is None or overfit is not None else _validation(config, held_out, labels, progress)
    if overfit is not None:
        _keep_few(train, overfit)
    if config.data.mean and config.data.std:
        return Inputs(train, val, labels, tuple(config.data.mean), tuple(config.data.std))
    measured = measure_normalisation(train, max_images=MEASURED_IMAGES)
    return Inputs(train, val, labels, measured.mean, measured.std)


def read_validation(
    config: TrainConfig, *, strict: bool = False, progress: Progress | None = None
) -> CocoDataset | None:
    """The annotations of the images that a run validates on, those of a share held out among them; None without.

    Raises:
        CocoError: annotations that cannot be read.
    """
    data = config.data
    files = data.train if data.val_share else data.val
    if not files:
        return None
    read = read_coco(files, keypoints=config.task == "landmarks", strict=strict, progress=progress)
    return hold_out(read, data.val_share)[1] if data.val_share else read


def validation_folder(config: TrainConfig) -> Path:
    """Where the images to validate on are."""
    return config.data.val_images or config.data.images


def hold_out(dataset: CocoDataset, share: float) -> tuple[CocoDataset, CocoDataset]:
    """The images to train on, and a share of all, evenly spaced in the order of ids, to validate on: one at least.

    >>> from detect.samples import sample_annotations
    >>> train, val = hold_out(read_coco(sample_annotations("bccd")), 0.25)
    >>> len(train.images), val.images.ids[:3], len(train.annotations) + len(val.annotations)
    (273, array([ 4,  8, 12]), 4886)
    """
    rows = np.arange(len(dataset.images))
    is_held = np.floor((rows + 1) * share) > np.floor(rows * share)
    is_held[-1:] |= not is_held.any()
    return dataset.take_images(np.flatnonzero(~is_held)), dataset.take_images(np.flatnonzero(is_held))


def _landmarks(config: TrainConfig, dataset: CocoDataset) -> CocoLandmarks | None:
    return keypoint_landmarks(dataset, pixel=config.data.pixel) if config.task == "landmarks" else None


def _validation(config: TrainConfig, dataset: CocoDataset, labels: Labels, progress: Progress | None) -> DetectionData:
    landmarks = _landmarks(config, dataset)
    labels.check_names(dataset)
    if landmarks:
        landmarks = landmarks.with_types(labels.joint_names, labels.joints)
    data = _data(config, dataset, landmarks, labels, validation_folder(config), progress, augmented=False)
    return data.usable()


def _data(
    config: TrainConfig,
    dataset: CocoDataset,
    landmarks: CocoLandmarks | None,
    labels: Labels,
    folder: Path,
    progress: Progress | None,
    *,
    augmented: bool,
) -> DetectionData:
    fields = config.augment.model_dump()
    enabled = fields.pop("enabled") and augmented
    return DetectionData(
        dataset,
        folder,
        resize=parse_resize(config.data.resize),
        channels=config.data.channels,
        augment=Augment(**fields) if enabled else None,
        seed=config.seed,
        on_broken=config.data.on_broken,
        landmarks=landmarks,
        category_ids=labels.category_ids,
        progress=progress,
    )


def _keep_few(data: DetectionData, count: int) -> None:
    """The first images that have objects."""
    rows = data.image_rows[np.isin(data.image_rows, data.dataset.instances.image_rows)]
    if count < 1 or len(rows) < count:
        raise ConfigError(f"--overfit {count}: there are {len(rows)} images with objects")
    data.image_rows = rows[:count]
