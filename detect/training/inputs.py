"""The inputs of a run: annotations, images, the label map, and mean and standard deviation of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detect.data import CocoDataset, read_coco
from detect.data.coco_reader import Progress
from detect.errors import ConfigError
from detect.keypoints.keypoints import CocoKeypoints, coco_keypoints
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData
from detect.loading.labels import LabelMap
from detect.loading.normalization import measure_normalization
from detect.training.config import TrainConfig

MEASURED_IMAGES = 2000  # the most that give mean and standard deviation


@dataclass(frozen=True, eq=False)
class Inputs:
    """The data of a run; made by :func:`read_inputs`."""

    train: DetectionData
    val: DetectionData | None
    labels: LabelMap
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_inputs(config: TrainConfig, *, overfit: int | None = None, on_progress: Progress | None = None) -> Inputs:
    """Read the data of a configuration.

    Args:
        config: the run.
        overfit: use only this many images with objects, without augmentation and validation.
        on_progress: called as ``on_progress(what, done, total)`` while the images are checked.

    Raises:
        CocoError: annotations cannot be read, or validation data has a category that training data lacks.
        ImageError: images are missing or broken, and data.on_broken is not "skip".
        ConfigError: there is nothing to detect, or there are too few images with objects to overfit.
    """
    dataset: CocoDataset = read_coco(config.data.train, keypoints=config.task == "landmarks")
    validation: CocoDataset | None
    if config.data.val_share:
        dataset, validation = hold_out(dataset, config.data.val_share)
    else:
        validation = read_validation(config)
    if not len(dataset.images):
        raise ConfigError(f"{', '.join(dataset.files)}: no images to train on")
    keypoints = _keypoints(config, dataset)
    labels = LabelMap.of(dataset, keypoints)
    options = _data_options(config, labels, on_progress)
    train = DetectionData(dataset, config.data.images, keypoints=keypoints, augment=_augment(config), **options)
    val = None
    if overfit is not None:
        train.augment = None
        train.image_rows = _rows_with_objects(train, overfit)
    elif validation is not None:
        labels.check_names(validation)
        keypoints = _keypoints(config, validation)
        keypoints = keypoints and keypoints.with_types(labels.type_names, labels.category_types)
        val = DetectionData(validation, validation_folder(config), keypoints=keypoints, **options).without_broken()
    mean, std = _normalization(config, train)
    return Inputs(train, val, labels, mean, std)


def read_validation(
    config: TrainConfig, *, strict: bool = False, on_progress: Progress | None = None
) -> CocoDataset | None:
    """Read the annotations of the validation images, or hold out their share; None if a run has neither.

    Raises:
        CocoError: the annotations cannot be read.
    """
    data = config.data
    files = data.train if data.val_share else data.val
    if not files:
        return None
    read = read_coco(files, keypoints=config.task == "landmarks", strict=strict, on_progress=on_progress)
    return hold_out(read, data.val_share)[1] if data.val_share else read


def validation_folder(config: TrainConfig) -> Path:
    """The folder of the validation images."""
    return config.data.val_images or config.data.images


def hold_out(dataset: CocoDataset, share: float) -> tuple[CocoDataset, CocoDataset]:
    """Split off a share of the images, at least one, evenly spaced in the order of ids: (training, validation).

    >>> from detect.samples import sample_annotations
    >>> train, val = hold_out(read_coco(sample_annotations("bccd")), 0.25)
    >>> len(train.images), val.images.ids[:3], len(train.annotations) + len(val.annotations)
    (273, array([ 4,  8, 12]), 4886)
    """
    rows = np.arange(len(dataset.images))
    is_held = np.floor((rows + 1) * share) > np.floor(rows * share)
    is_held[-1:] |= not is_held.any()
    return dataset.take_images(np.flatnonzero(~is_held)), dataset.take_images(np.flatnonzero(is_held))


def _keypoints(config: TrainConfig, dataset: CocoDataset) -> CocoKeypoints | None:
    return coco_keypoints(dataset, pixel_origin=config.data.pixel_origin) if config.task == "landmarks" else None


def _data_options(config: TrainConfig, labels: LabelMap, on_progress: Progress | None) -> dict[str, Any]:
    """The arguments that training and validation data share."""
    return {
        "resize": config.data.resize,
        "channels": config.data.channels,
        "seed": config.seed,
        "on_broken": config.data.on_broken,
        "category_ids": labels.category_ids,
        "on_progress": on_progress,
    }


def _augment(config: TrainConfig) -> Augment | None:
    fields = config.augment.model_dump()
    enabled = fields.pop("enabled")
    return Augment(**fields) if enabled else None


def _rows_with_objects(data: DetectionData, count: int) -> np.ndarray:
    """The first rows of images with objects."""
    rows = data.image_rows[np.isin(data.image_rows, data.dataset.instances.image_rows)]
    if count < 1 or len(rows) < count:
        raise ConfigError(f"--overfit {count}: there are {len(rows)} images with objects")
    return rows[:count]


def _normalization(config: TrainConfig, data: DetectionData) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel: given, or measured."""
    if config.data.mean and config.data.std:
        return tuple(config.data.mean), tuple(config.data.std)
    measured = measure_normalization(data, max_images=MEASURED_IMAGES)
    return measured.mean, measured.std
