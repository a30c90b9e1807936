"""What a run reads before its first step: annotations, images, what is told apart, and the images' mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset, read_coco
from detect.data.coco_reader import Progress
from detect.data.resize import parse_resize
from detect.errors import ConfigError
from detect.keypoints.keypoints import CocoKeypoints, coco_keypoints
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData
from detect.loading.image_check import broken_message
from detect.loading.labels import Labels
from detect.loading.normalization import measure_normalisation
from detect.training.builder import matching_rule
from detect.training.config import FIT, TrainConfig

MEASURED_IMAGES = 2000  # of more, so many, evenly spaced, give mean and deviation


@dataclass(frozen=True, eq=False)
class Inputs:
    """The data of a run; made by :func:`read_inputs`."""

    train: DetectionData
    val: DetectionData | None
    labels: Labels
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_inputs(config: TrainConfig, *, overfit: int | None = None, on_progress: Progress | None = None) -> Inputs:
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
    train = _data(config, dataset, landmarks, labels, config.data.images, on_progress, augmented=overfit is None)
    val = None if held_out is None or overfit is not None else _validation(config, held_out, labels, on_progress)
    if overfit is not None:
        _keep_few(train, overfit)
    if config.data.mean and config.data.std:
        return Inputs(train, val, labels, tuple(config.data.mean), tuple(config.data.std))
    measured = measure_normalisation(train, max_images=MEASURED_IMAGES)
    return Inputs(train, val, labels, measured.mean, measured.std)


def read_validation(
    config: TrainConfig, *, strict: bool = False, on_progress: Progress | None = None
) -> CocoDataset | None:
    """The annotations of the images that a run validates on, those of a share held out among them; None without.

    Raises:
        CocoError: annotations that cannot be read.
    """
    data = config.data
    files = data.train if data.val_share else data.val
    if not files:
        return None
    read = read_coco(files, keypoints=config.task == "landmarks", strict=strict, on_progress=on_progress)
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


def _landmarks(config: TrainConfig, dataset: CocoDataset) -> CocoKeypoints | None:
    return coco_keypoints(dataset, pixel_origin=config.data.pixel_origin) if config.task == "landmarks" else None


def _validation(
    config: TrainConfig, dataset: CocoDataset, labels: Labels, on_progress: Progress | None
) -> DetectionData:
    landmarks = _landmarks(config, dataset)
    labels.check_names(dataset)
    if landmarks:
        landmarks = landmarks.with_types(labels.type_names, labels.category_types)
    data = _data(config, dataset, landmarks, labels, validation_folder(config), on_progress, augmented=False)
    return data.usable()


def _data(
    config: TrainConfig,
    dataset: CocoDataset,
    landmarks: CocoKeypoints | None,
    labels: Labels,
    folder: Path,
    on_progress: Progress | None,
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
        on_progress=on_progress,
    )


def _keep_few(data: DetectionData, count: int) -> None:
    """The first images that have objects."""
    rows = data.image_rows[np.isin(data.image_rows, data.dataset.instances.image_rows)]
    if count < 1 or len(rows) < count:
        raise ConfigError(f"--overfit {count}: there are {len(rows)} images with objects")
    data.image_rows = rows[:count]


LOOKED_AT = 200  # images


def notices(config: TrainConfig, inputs: Inputs, anchors: AnchorSet | None) -> list[str]:
    """Lines for people, none where there is nothing to tell.

    Args:
        config: of the run.
        inputs: that were read.
        anchors: of a box run.
    """
    lines = _left_out(inputs.train, "train") + (_left_out(inputs.val, "validate") if inputs.val else [])
    if config.optimisation.accelerator == "cpu" and torch.cuda.is_available():
        lines.append("there is a GPU, and this runs on the CPU: optimisation.accelerator=cuda")
    neglect = neglect_notice(config, anchors, inputs.train.dataset) if anchors else None
    return list(dict.fromkeys([*lines, *([neglect] if neglect else [])]))  # of files that both are of, once


def neglect_notice(config: TrainConfig, anchors: AnchorSet, dataset: CocoDataset) -> str | None:
    """What to tell of categories that learn from few anchors, None where there are none; of ``LOOKED_AT`` images.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> from detect.training.config import parse_config
    >>> given = {"train": ["unused"], "images": "unused", "resize": "stretch:320x240"}
    >>> config, anchors = parse_config({"task": "boxes", "data": given}), AnchorSet.of([[(20, 20), (50, 50)]], strides=[8])
    >>> notice = neglect_notice(config, anchors, read_coco(sample_annotations("bccd")))
    >>> notice.split(";")[0]
    'unevenly shared: positive anchors a box Platelets 1.6, on average 10.6'
    """
    share = min(LOOKED_AT / max(len(dataset.images), 1), 1.0)
    instances = ResizedInstances.of(hold_out(dataset, share)[1], parse_resize(config.data.resize))
    neglect = assign(instances, AnchorGenerator(anchors), matching_rule(config)).neglect_in_words()
    if neglect is None:
        return None
    remedies = " or ".join(_remedies(config))
    return f"{neglect}; what has few is hardly learned in a short training{': ' if remedies else ''}{remedies}"


def _remedies(config: TrainConfig) -> list[str]:
    """What shares anchors more evenly and is not done yet."""
    model = config.model
    by_size = ["model.max_strides=4"] if model.anchors == FIT and model.max_strides is None else []
    return [*by_size, *(["model.assigner=atss"] if model.assigner == "max_iou" else [])]


def _left_out(data: DetectionData, purpose: str) -> list[str]:
    """Images, annotations and points that are not learned or scored."""
    lines, invalid = [], data.dataset.invalid
    if data.broken:
        lines.append(f"skipped: {broken_message(data.broken, len(data) + len(data.broken))}")
    if invalid:
        lines.append(f"refused: {len(invalid):,} entries of the annotation files, such as {invalid[0]}")
    if data.boxes_too_thin:
        lines.append(
            f"left out: of the images to {purpose} on, {data.boxes_too_thin:,} boxes have no extent when resized"
        )
    if data.points_outside:
        outside = f"{data.points_outside:,} labelled points lie outside their images"
        lines.append(f"left out: of the images to {purpose} on, {outside}")
    return lines
