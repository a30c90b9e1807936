"""Build the anchors and the detector of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from detect.anchors.anchor_set import AnchorSet, strides_of
from detect.anchors.assignment import Assignment
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.anchors.positive_weights import assign_sample, counts_of
from detect.catalog.detectors import find_detector
from detect.data import CocoDataset
from detect.data.coco_reader import Progress
from detect.data.resize import parse_resize
from detect.detectors.backbones import Backbone, build_backbone
from detect.detectors.downloads import download_of
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.pretrained_weights import load_checkpoint, plain_names
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConfigError, ConvertError
from detect.fitting.fit_levels import fit_levels
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.postprocess import PostProcess
from detect.heads.prediction_matchers import MATCHERS
from detect.loading.labels import LabelMap
from detect.losses import batch_normalizer
from detect.ops.boxes import BoxCoder, DistanceCoder
from detect.ops.matcher import Matcher
from detect.training.config import FIT, POINTS, TrainConfig

BACKBONE_STRIDES = (2, 4, 8, 16, 32)  # maps coarser than the levels feed the pyramid's top-down path

# fields of a configuration that are arguments of what they build
MATCHER = {"fg_iou_thresh", "bg_iou_thresh", "allow_low_quality_matches", "low_quality_mode"}
CRITERION = {"box_loss", "box_weight", "class_loss", "alpha", "gamma"}
POST_PROCESS = {"score_threshold", "topk_per_level", "nms", "iou_threshold", "sigma", "class_agnostic"}
POST_PROCESS |= {"detections_per_image"}
HEAD = {"pyramid_channels", "num_convs", "norm"}
HEATMAPS = {"stride", "sigma_cells", "threshold", "orientation_weight"}

Detector = RetinaNetDetector | LandmarkDetector


def training_anchors(config: TrainConfig, dataset: CocoDataset) -> AnchorSet | None:
    """The anchors of a box run: read from a file, known by name, or fitted to the resized training boxes.

    A run on landmarks has no anchors.

    Raises:
        AnchorFileError: ``model.anchors`` is neither a known name nor a readable file.
        ConfigError: the anchors are for another resize rule.
        FitError: there are no boxes to fit to.
    """
    if config.task == "landmarks":
        return None
    model, resize = config.model, parse_resize(config.data.resize)
    if model.anchors == POINTS:
        strides = strides_of(model.levels)
        return AnchorSet.of([[(stride, stride)] for stride in strides], strides=strides, resize=resize, name=POINTS)
    if model.anchors == FIT:
        instances, strides = ResizedInstances.of(dataset, resize), strides_of(model.levels)
        return fit_levels(instances, strides, per_level=model.per_level, max_strides=model.max_strides).anchors
    anchors = load_anchors(model.anchors)
    others = anchors.resize and anchors.resize_rule != resize
    if others and not find_detector(model.anchors):  # known anchors serve as baselines at any size
        raise ConfigError(
            f"{model.anchors}: made for resize {anchors.resize}, the run resizes by {resize}: "
            "fit anchors for this rule, or set data.resize"
        )
    return replace(anchors, resize=str(resize))


def matching_rule(config: TrainConfig) -> Matcher:
    """Which anchors learn which instances."""
    name = config.model.matching
    return MATCHERS[name](**(config.model.model_dump(include=MATCHER) if name == "max_iou" else {}))


def training_assignment(
    config: TrainConfig, dataset: CocoDataset, anchors: AnchorSet | None, *, on_progress: Progress | None = None
) -> Assignment | None:
    """What the anchors of a box run learn, in some training images: see :mod:`detect.anchors.positive_weights`."""
    if anchors is None:
        return None
    return assign_sample(dataset, anchors, matching_rule(config), resize=config.data.resize, on_progress=on_progress)


def training_weights(
    config: TrainConfig, assignment: Assignment | None, *, dataset: CocoDataset, labels: LabelMap
) -> list[float] | None:
    """The weight of each class's positive anchors, see :mod:`detect.anchors.positive_weights`; None if all weigh 1.

    A category without training boxes has the weight 1.
    """
    if assignment is None or config.model.positive_weights == "none" or len(labels.category_ids) < 2:
        return None
    found = assignment.positive_weights(counts_of(dataset))
    return [found.get(category, 1.0) for category in labels.category_ids]


def without_weights(config: TrainConfig) -> TrainConfig:
    """The same configuration for a detector whose weights are loaded anyway: nothing is downloaded or read to build it."""
    model = config.model
    frozen = model.starts_from_weights if model.freeze_statistics is None else model.freeze_statistics
    update = {"pretrained": False, "weights": None, "init": None, "freeze_statistics": frozen}
    return config.model_copy(update={"model": model.model_copy(update=update)})


def check_backbone(config: TrainConfig, log: Callable[[str], None] | None = None) -> None:
    """Build the backbone and forget it: a run whose weights are missing fails here, before its images are read.

    ``log`` is told before anything is downloaded.

    Raises:
        ConfigError: the backbone is unknown, or its weights are not available or do not fit.
        MissingExtraError: a package that it needs is not installed.
    """
    model = config.model
    download = download_of(model.backbone) if model.pretrained and model.weights is None else None
    if download and log:
        log(download)
    with torch.random.fork_rng(devices=[]):
        _backbone(config, BACKBONE_STRIDES[-1:])


def _backbone(config: TrainConfig, strides: Sequence[int]) -> Backbone:
    model = config.model
    return build_backbone(
        model.backbone,
        strides=strides,
        in_channels=config.data.channels,
        pretrained=model.pretrained,
        weights=None if model.weights is None else _weights_of(model.weights),
        freeze_statistics=without_weights(config).model.freeze_statistics,
        freeze_stride=model.freeze_stride,
        seed=config.seed,
    )


def _weights_of(path: Path) -> dict[str, Tensor]:
    try:
        return plain_names(load_checkpoint(path))
    except ConvertError as error:
        raise ConfigError(f"model.weights: {error}") from None


def build_detector(
    config: TrainConfig,
    labels: LabelMap,
    *,
    anchors: AnchorSet | None = None,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> Detector:
    """Build the detector of a configuration, with weights drawn from its seed.

    Images from 0 to 1 have this ``mean`` and ``std``: one number, or one for each channel. A box run needs ``anchors``.

    >>> from detect.training.config import parse_config
    >>> config = parse_config({"task": "landmarks", "data": {"train": ["a.json"], "images": "images", "channels": 1}})
    >>> detector = build_detector(config, LabelMap((1,), ("cell",), ("cell",), {1: (0,)}))
    >>> type(detector).__name__, detector.stride
    ('LandmarkDetector', 2)

    Raises:
        ConfigError: the backbone is unknown, or levels or channels do not fit.
    """
    model = config.model
    options = {**model.model_dump(include=HEAD), "mean": mean, "std": std}
    options["seed"] = config.seed + 1  # the backbone has config.seed, and both should draw different numbers
    levels = [level.stride for level in anchors.levels if level.shapes] if anchors else [model.stride]
    with torch.random.fork_rng(devices=[]):  # layers draw from torch's global generator before they are seeded
        try:
            strides = sorted({*levels, *(stride for stride in BACKBONE_STRIDES if stride >= min(levels))})
            backbone = _backbone(config, strides)
            if config.task == "landmarks":
                options |= {**model.model_dump(include=HEATMAPS), "orientation": config.data.orientation}
                return LandmarkDetector(backbone, len(labels.type_names), **options)
            if anchors is None:
                raise ValueError("a box detector needs anchors")
            coder = DistanceCoder() if model.anchors == POINTS else BoxCoder()
            return RetinaNetDetector(
                backbone,
                anchors,
                len(labels.category_ids),
                criterion=RetinaNetCriterion(
                    matcher=matching_rule(config),
                    coder=coder,
                    normalizer=batch_normalizer,
                    **model.model_dump(include=CRITERION),
                ),
                post_process=PostProcess(coder=coder, **model.model_dump(include=POST_PROCESS)),
                **options,
            )
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
