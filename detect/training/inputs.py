"""The inputs of a run: annotations, images, the label map, mean and standard deviation of the images, and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.read_dataset import read_dataset
from detect.data.resize import parse_resize
from detect.detectors.pretrained_weights import Normalization, pretrained_normalization
from detect.errors import ConfigError
from detect.keypoints.keypoints import CocoKeypoints, coco_keypoints
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData
from detect.loading.image_files import broken_message
from detect.loading.image_ops import measure_normalization
from detect.loading.labels import LabelMap
from detect.loading.sampling import EpochBatchSampler, repeat_factors
from detect.training.builder import matching_rule
from detect.training.checkpoints import Checkpoint
from detect.training.config import FIT, TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MEASURED_IMAGES = 2000  # the most that give mean and standard deviation
IGNORE_OPTION = "data.ignore_categories"
NUM_ASSIGNED = 200  # images whose anchors are assigned for a warning, evenly spaced


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
    ``on_progress(what, done, total)`` is called.

    Raises:
        CocoError: annotations cannot be read, or validation data has a category that training data lacks.
        ImageError: images are missing or broken, and data.on_broken is not "skip".
        ConfigError: there is nothing to detect, or there are too few images with objects to overfit.
    """
    images, points = config.data.images, config.task == "landmarks"
    dataset: CocoDataset = read_dataset(config.data.train, images=images, keypoints=points, exif=config.data.exif)
    dataset = dataset.without_categories(config.data.ignore_categories, IGNORE_OPTION)
    validation: CocoDataset | None
    if config.data.val_share:
        dataset, validation = hold_out(dataset, config.data.val_share)
    else:
        validation = read_validation(config)
    if not len(dataset.images):
        raise ConfigError(f"{', '.join(dataset.files)}: no images to train on")
    keypoints = _keypoints(config, dataset)
    labels = LabelMap.of(dataset, keypoints)
    options: dict[str, Any] = {
        "resize": config.data.resize,
        "channels": config.data.channels,
        "seed": config.seed,
        "on_broken": config.data.on_broken,
        "category_ids": labels.category_ids,
        "on_progress": on_progress,
    }
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
    mean, std = _normalization(config, train, initial)
    return Inputs(train, val, labels, mean, std)


def read_validation(
    config: TrainConfig, *, strict: bool = False, on_progress: Progress | None = None
) -> CocoDataset | None:
    """Read the annotations of the validation images, or hold out their share; None if a run has neither."""
    data = config.data
    files = data.train if data.val_share else data.val
    if not files:
        return None
    points = config.task == "landmarks"
    read = read_dataset(
        files,
        images=validation_folder(config),
        keypoints=points,
        exif=data.exif,
        strict=strict,
        on_progress=on_progress,
    ).without_categories(data.ignore_categories, IGNORE_OPTION)
    return hold_out(read, data.val_share)[1] if data.val_share else read


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


def data_warnings(config: TrainConfig, inputs: Inputs, *, anchors: AnchorSet | None) -> list[str]:
    """Warnings about what is left out, an unused GPU and categories that would hardly be learned, one line each."""
    lines = _left_out(inputs.train, "training") + (_left_out(inputs.val, "validation") if inputs.val else [])
    if config.optimisation.accelerator == "cpu" and torch.cuda.is_available():
        lines.append("a GPU is available, but training runs on the CPU: set optimisation.accelerator=cuda")
    neglect = neglect_warning(config, anchors, dataset=inputs.train.dataset) if anchors else None
    return list(dict.fromkeys([*lines, *([neglect] if neglect else [])]))  # a line about both parts once


def neglect_warning(config: TrainConfig, anchors: AnchorSet, *, dataset: CocoDataset) -> str | None:
    """A warning about categories that have few positive anchors, or None.

    Anchors are assigned in ``NUM_ASSIGNED`` images at most.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> from detect.training.config import parse_config
    >>> data = {"train": ["unused"], "images": "unused", "resize": "stretch:320x240"}
    >>> config, anchors = parse_config({"task": "boxes", "data": data}), AnchorSet.of([[(20, 20), (50, 50)]], strides=[8])
    >>> warning = neglect_warning(config, anchors, dataset=read_coco(sample_annotations("bccd")))
    >>> warning.split("; ")[:2]
    ['uneven assignment: positive anchors per box: Platelets 1.6', 'mean of all boxes 10.6']
    """
    share = min(NUM_ASSIGNED / max(len(dataset.images), 1), 1.0)
    instances = ResizedInstances.of(hold_out(dataset, share)[1], parse_resize(config.data.resize))
    neglect = assign(instances, AnchorGenerator(anchors), matching_rule(config)).neglect_in_words()
    if neglect is None:
        return None
    model = config.model
    remedies = ["model.max_strides=4"] if model.anchors == FIT and model.max_strides is None else []
    remedies += ["model.assigner=atss"] if model.assigner == "max_iou" else []
    advice = f": try {' or '.join(remedies)}" if remedies else ""
    return f"{neglect}; a short training hardly learns categories with few positive anchors{advice}"


def _keypoints(config: TrainConfig, dataset: CocoDataset) -> CocoKeypoints | None:
    return coco_keypoints(dataset, pixel_origin=config.data.pixel_origin) if config.task == "landmarks" else None


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
    measured = measure_normalization(data, max_images=MEASURED_IMAGES)
    return measured.mean, measured.std


def _left_out(data: DetectionData, part: str) -> list[str]:
    """Images, annotations and points that are not used."""
    lines, invalid = list(data.dataset.warnings), data.dataset.invalid
    lines += [data.exif_warning] if data.exif_warning else []
    if data.broken:
        lines.append(f"skipped: {broken_message(data.broken, len(data) + len(data.broken))}")
    if invalid:
        lines.append(f"left out: {len(invalid):,} invalid entries of the annotation files, such as {invalid[0]}")
    if data.num_degenerate_boxes:
        lines.append(f"left out: {data.num_degenerate_boxes:,} {part} boxes have no extent after resizing")
    if data.num_points_outside:
        lines.append(f"left out: {data.num_points_outside:,} labelled {part} points lie outside their images")
    return lines
