"""The inputs of a run: annotations, images, the label map, mean and standard deviation of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.read_dataset import read_dataset
from detect.detectors.pretrained_weights import Normalization, pretrained_normalization
from detect.errors import ConfigError
from detect.keypoints.coco_keypoints import CocoKeypoints, coco_keypoints
from detect.keypoints.orientations import NO_ORIENTATION
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData
from detect.loading.image_ops import measure_normalization
from detect.loading.labels import LabelMap
from detect.loading.sampling import EpochBatchSampler, repeat_factors
from detect.loading.sharing import from_main
from detect.training.checkpoints import Checkpoint
from detect.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

IGNORE_OPTION = "data.ignore_categories"


@dataclass(frozen=True, eq=False)
class Inputs:
    """The data of a run; made by :func:`read_inputs`."""

    train: DetectionData
    val: DetectionData | None
    labels: LabelMap
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_inputs(
    config: TrainConfig,
    *,
    initial: Checkpoint | None = None,
    overfit: int | None = None,
    on_progress: Progress | None = None,
) -> Inputs:
    """Read the data of a configuration.

    A run that starts from a checkpoint, ``initial``, takes its mean and standard deviation of the images by default.
    ``overfit`` leaves only this many images with objects, without augmentation and validation. While the images are checked,
    ``on_progress(what, done, total)`` is called. All processes of a run call this; they share the check of the images.

    Raises:
        CocoError: annotations cannot be read, or validation data has a category that training data lacks.
        ImageError: images are missing or broken, and data.on_broken is not "skip".
        ConfigError: there is nothing to detect, or there are too few images with objects to overfit.
    """
    dataset = read_labels(config, config.data.train, config.data.images, on_progress=on_progress)
    validation: CocoDataset | None
    if config.data.val_share:
        dataset, validation = hold_out(dataset, config.data.val_share)
    else:
        validation = read_validation(config, on_progress=on_progress)
    if not len(dataset.images):
        raise ConfigError(f"{', '.join(dataset.files)}: no images to train on")
    keypoints = _keypoints(config, dataset)
    labels = LabelMap.of(dataset, keypoints)
    options: dict[str, Any] = {
        "resize": config.data.resize,
        "channels": config.data.channels,
        "seed": config.seed,
        "on_broken": "skip",
        "unlabelled": config.data.unlabelled,
        "category_ids": labels.category_ids,
        "shared": True,
        "on_progress": on_progress,
    }
    train = DetectionData(dataset, config.data.images, keypoints=keypoints, augment=_augment(config), **options)
    fails, val = config.data.on_broken == "fail", None
    if fails:
        train.refuse_broken("data.on_broken=skip")
    if overfit is not None:
        train.augment = None
        train.image_rows = _rows_with_objects(train, overfit)
    elif validation is not None:
        labels.check_names(validation)
        keypoints = _keypoints(config, validation)
        keypoints = keypoints and keypoints.with_types(labels.type_names, labels.category_types)
        val = DetectionData(validation, validation_folder(config), keypoints=keypoints, **options).without_broken()
        if fails:
            val.refuse_broken("data.on_broken=skip")
    mean, std = _normalization(config, train, initial)
    return Inputs(train, val, labels, mean, std)


def data_checksum(inputs: Inputs) -> int:
    """A number that tells whether processes have read the same labels and images."""
    total = crc32(repr(inputs.labels).encode())
    for data in [inputs.train] if inputs.val is None else [inputs.train, inputs.val]:
        images, instances = data.dataset.images, data.dataset.instances
        total = crc32("\n".join(images.file_names).encode(), total)
        for array in (data.image_rows, images.ids, instances.image_rows, instances.category_ids, instances.boxes_xywh):
            total = crc32(array.tobytes(), total)
    return total


def read_validation(
    config: TrainConfig, *, strict: bool = False, on_progress: Progress | None = None
) -> CocoDataset | None:
    """Read the annotations of the validation images, or hold out their share; None if a run has neither."""
    data, files = config.data, validation_files(config)
    if not files:
        return None
    read = read_labels(config, files, validation_folder(config), strict=strict, on_progress=on_progress)
    return hold_out(read, data.val_share)[1] if data.val_share else read


def validation_files(config: TrainConfig) -> Sequence[str]:
    """The files of the validation images; those of training if a share of these is held out."""
    return config.data.train if config.data.val_share else config.data.val


def validation_folder(config: TrainConfig) -> Path:
    """The folder of the validation images; a share of the training images lies with them."""
    data = config.data
    return data.images if data.val_share else data.val_images or data.images


def hold_out(dataset: CocoDataset, share: float) -> tuple[CocoDataset, CocoDataset]:
    """Split off a share of the images, at least one, evenly spaced in the order of ids: (training, validation).

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> train, val = hold_out(read_coco(sample_annotations("bccd")), 0.25)
    >>> len(train.images), val.images.ids[:3], len(train.annotations) + len(val.annotations)
    (273, array([ 4,  8, 12]), 4886)
    """
    rows = np.arange(len(dataset.images))
    is_held = np.floor((rows + 1) * share) > np.floor(rows * share)
    is_held[-1:] |= not is_held.any()
    return dataset.take_images(np.flatnonzero(~is_held)), dataset.take_images(np.flatnonzero(is_held))


def epoch_batches(config: TrainConfig, data: DetectionData, fabric: Fabric) -> EpochBatchSampler:
    """The batches of this process, in the parts they are computed in."""
    optimisation = config.optimisation
    if optimisation.batch_size % (fabric.world_size * optimisation.accumulate):
        raise ConfigError(
            f"optimisation: a batch of {optimisation.batch_size} images cannot be divided among {fabric.world_size} "
            f"processes with {optimisation.accumulate} parts each"
        )
    threshold = config.data.repeat_threshold
    return EpochBatchSampler(
        len(data),
        batch_size=optimisation.batch_size,
        seed=config.seed,
        repeats=None if threshold is None else repeat_factors(data.dataset, data.image_rows, threshold=threshold),
        rank=fabric.global_rank,
        num_processes=fabric.world_size,
        num_parts=optimisation.accumulate,
    )


def read_labels(config: TrainConfig, files: Sequence[str], images: str | Path, **options: Any) -> CocoDataset:
    """Read annotations as a run's own are read; ``options`` are those of :func:`~detect.data.read_dataset.read_dataset`."""
    data = config.data
    of_points = config.task == "landmarks"
    options |= {"keypoints": of_points, "angles": of_points and data.orientation != NO_ORIENTATION}
    options |= {"exif": data.exif, "bbox": data.bbox}
    dataset: CocoDataset = read_dataset(files, images=images, **options)
    return dataset.without_categories(data.ignore_categories, IGNORE_OPTION)


def _keypoints(config: TrainConfig, dataset: CocoDataset) -> CocoKeypoints | None:
    if config.task != "landmarks":
        return None
    return coco_keypoints(dataset, pixel_origin=config.data.pixel_origin, orientation=config.data.orientation)


def _augment(config: TrainConfig) -> Augment | None:
    return Augment(**config.augment.model_dump(exclude={"enabled"})) if config.augment.enabled else None


def _rows_with_objects(data: DetectionData, count: int) -> np.ndarray:
    """The first rows of images with objects."""
    rows = data.image_rows[np.isin(data.image_rows, data.dataset.instances.image_rows)]
    if count < 1 or len(rows) < count:
        raise ConfigError(f"--overfit {count}: there are {len(rows)} images with objects")
    return rows[:count]


def _normalization(config: TrainConfig, data: DetectionData, initial: Checkpoint | None) -> Normalization:
    """Mean and standard deviation of each channel: given, those the initial weights were trained with, or measured."""
    if config.data.mean and config.data.std:
        return tuple(config.data.mean), tuple(config.data.std)
    if initial and (own := initial.normalization(config.data.channels)):
        return own
    model = config.model
    if (model.pretrained or model.weights) and (own := pretrained_normalization(model.backbone, config.data.channels)):
        return own
    return from_main(lambda: measure_normalization(data))
