"""From a configuration and what is to be told apart to a detector; and the anchors that it is built on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from detect.anchors.anchor_set import AnchorSet, strides_of
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import KNOWN_ANCHORS, load_anchors
from detect.anchors.level_fitting import fit_levels
from detect.data import CocoDataset
from detect.data.resize import parse_resize
from detect.detectors.backbones import Backbone, build_backbone
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.errors import ConfigError
from detect.heads.criterion import RetinaNetCriterion
from detect.heads.postprocess import PostProcess
from detect.loading.labels import Labels
from detect.losses import batch_normalizer
from detect.ops.matcher import Atss, Matcher, MaxIoU
from detect.training.config import FIT, TrainConfig

BACKBONE_STRIDES = (2, 4, 8, 16, 32)  # those coarser than the levels tell the finer ones what they know

Detector = RetinaNetDetector | LandmarkDetector


def training_anchors(config: TrainConfig, dataset: CocoDataset) -> AnchorSet | None:
    """The anchors of a box run: from their file or by their name, or fitted to the training boxes after the resize rule.

    A run of landmarks has none.

    Raises:
        AnchorFileError: neither a known name nor a readable file.
        ConfigError: anchors made for another resize rule.
        FitError: no boxes to fit to.
    """
    if config.task == "landmarks":
        return None
    resize = parse_resize(config.data.resize)
    if config.model.anchors == FIT:
        instances = ResizedInstances.of(dataset, resize)
        model = config.model
        strides = strides_of(model.levels)
        return fit_levels(instances, strides, per_level=model.per_level, max_strides=model.max_strides).anchors
    anchors = load_anchors(config.model.anchors)
    made_for = parse_resize(anchors.resize)
    if made_for != resize and config.model.anchors not in KNOWN_ANCHORS:  # known ones are there to compare with
        raise ConfigError(
            f"{config.model.anchors}: made for resize {made_for}, the run resizes by {resize}: "
            "fit anchors for it, or set data.resize"
        )
    return replace(anchors, resize=str(resize))


def matching_rule(config: TrainConfig) -> Matcher:
    """Which anchors learn which instances."""
    model = config.model
    if model.assigner == "atss":
        return Atss()
    return MaxIoU(
        fg_iou_thresh=model.foreground,
        bg_iou_thresh=model.background,
        allow_low_quality_matches=model.low_quality is not None,
        low_quality_mode=model.low_quality or "own",
    )


def build_detector(
    config: TrainConfig,
    labels: Labels,
    *,
    anchors: AnchorSet | None = None,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> Detector:
    """The detector of a configuration, with weights drawn from its seed.

    >>> from detect.training.config import parse_config
    >>> config = parse_config({"task": "landmarks", "data": {"train": ["a.json"], "images": "images", "channels": 1}})
    >>> detector = build_detector(config, Labels((1,), ("cell",), ("cell",), {1: (0,)}))
    >>> type(detector).__name__, detector.stride
    ('LandmarkDetector', 2)

    Args:
        config: of the run.
        labels: what is told apart.
        anchors: of a box run.
        mean: of the images, from 0 to 1; one number or one for each channel.
        std: likewise.

    Raises:
        ConfigError: a backbone that is not known, or levels or channels that do not fit.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw from torch's global generator before they are given their own
        try:
            backbone = _backbone(config, anchors)
            if config.task == "landmarks":
                return _landmark_detector(config, backbone, labels, mean, std)
            if anchors is None:
                raise ValueError("a box detector needs anchors")
            return _box_detector(config, backbone, labels, anchors, mean, std)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None


def _backbone(config: TrainConfig, anchors: AnchorSet | None) -> Backbone:
    own = [level.stride for level in anchors.levels if level.shapes] if anchors else [config.model.stride]
    return build_backbone(
        config.model.backbone,
        strides=sorted({*own, *(stride for stride in BACKBONE_STRIDES if stride >= min(own))}),
        in_channels=config.data.channels,
        pretrained=config.model.pretrained,
        seed=config.seed,
    )


def _box_detector(
    config: TrainConfig,
    backbone: Backbone,
    labels: Labels,
    anchors: AnchorSet,
    mean: Sequence[float],
    std: Sequence[float],
) -> RetinaNetDetector:
    model = config.model
    criterion = RetinaNetCriterion(
        matcher=matching_rule(config),
        box_loss=model.box_loss,
        box_weight=model.box_weight,
        class_loss=model.class_loss,
        alpha=model.alpha,
        gamma=model.gamma,
        normalizer=batch_normalizer,  # after 8 epochs on the nuclei .017 AP above image_normalizer
    )
    return RetinaNetDetector(
        backbone,
        anchors,
        len(labels.category_ids),
        pyramid_channels=model.pyramid_channels,
        num_convs=model.num_convs,
        norm=model.norm,
        mean=mean,
        std=std,
        criterion=criterion,
        post_process=PostProcess(
            score_threshold=model.score_threshold,
            topk_per_level=model.topk_per_level,
            iou_threshold=model.iou_threshold,
            detections_per_image=model.detections_per_image,
        ),
        seed=config.seed + 1,  # not the backbone's, lest both draw the same numbers
    )


def _landmark_detector(
    config: TrainConfig, backbone: Backbone, labels: Labels, mean: Sequence[float], std: Sequence[float]
) -> LandmarkDetector:
    model = config.model
    return LandmarkDetector(
        backbone,
        len(labels.type_names),
        stride=model.stride,
        sigma_cells=model.sigma_cells,
        threshold=model.threshold,
        pyramid_channels=model.pyramid_channels,
        num_convs=model.num_convs,
        norm=model.norm,
        mean=mean,
        std=std,
        seed=config.seed + 1,
    )
