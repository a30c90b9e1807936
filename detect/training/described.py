"""The detector of a training configuration as the catalog describes detectors, for advice before it is trained."""

from __future__ import annotations

import re
from typing import Any

from detect.anchors.anchor_set import AnchorSet, level_name, strides_of
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.catalog.detectors import AnchorDetector, Detector, FinerLevel, Nms, Text
from detect.catalog.matching import AtssRule, CenterInBox, MaxIoURule
from detect.data.resize import parse_resize
from detect.errors import ConfigError
from detect.fitting.fit_levels import fit_levels
from detect.heads.prediction_matchers import TaskAligned
from detect.ops.matcher import CENTER_MARGIN
from detect.training.builder import MATCHER
from detect.training.config import FIT, POINTS, TrainConfig


def described(config: TrainConfig, name: str) -> Detector:
    """The levels, matching, suppression and limits of a configuration for boxes.

    Raises:
        ConfigError: the configuration is for landmarks, or its matching is none that advice knows.
    """
    if config.task != "boxes":
        raise ConfigError(f"{name}: advice is for detectors of boxes, and this configuration is for landmarks")
    model = config.model
    known = None if model.anchors in {FIT, POINTS} else load_anchors(model.anchors)
    strides = [level.stride for level in known.levels] if known else list(strides_of(model.levels))
    common: dict[str, Any] = {
        "name": name,
        "strides": strides,
        "resize": config.data.resize,
        "nms": Nms(model.iou_threshold, "all" if model.class_agnostic else "category") if model.nms == "hard" else None,
        "max_det": model.detections_per_image,
        "finer": None if known else _finer(strides),
        "keys": {
            "size": _size_key(config.data.resize),
            "iou": "model.iou_threshold={}",
            "max_det": "model.detections_per_image={}",
        },
    }
    if model.anchors == POINTS and model.matching == "task_aligned":
        return Detector(matching=CenterInBox(top_k=TaskAligned.topk, margin_px=CENTER_MARGIN), **common)
    if model.matching in {"task_aligned", "simota"}:
        raise ConfigError(
            f"{name}: advice does not know assigner={model.matching} with anchors={model.anchors}; it knows anchors by "
            "max_iou and atss, and points by task_aligned"
        )
    return AnchorDetector(
        matching=AtssRule(per_shape=True)
        if model.matching == "atss"
        else MaxIoURule(**model.model_dump(include=MATCHER)),
        per_level=[len(level.shapes) for level in known.levels] if known else model.per_level,
        max_strides=model.max_strides,
        text=Text("anchors.yaml", "anchors.yaml", "model.anchors"),
        **common,
    )


def anchors_of(config: TrainConfig, instances: ResizedInstances, detector: Detector) -> AnchorSet:
    """The anchors of a configuration for these instances and the detector's levels: known ones, or fitted as in training."""
    model = config.model
    if model.anchors != FIT:
        return load_anchors(model.anchors)
    strides = tuple(detector.strides)
    return fit_levels(instances, strides, per_level=model.per_level, max_strides=model.max_strides).anchors


def _finer(strides: list[int]) -> FinerLevel | None:
    """One more level; the cost is the ratio of cells, as the head has most of the operations."""
    if strides[0] <= 2:
        return None
    cells = sum(stride**-2 for stride in strides)
    names = ",".join(level_name(stride).lower().removeprefix("stride") for stride in (strides[0] // 2, *strides))
    return FinerLevel(f"model.levels={names}", 1 + (strides[0] / 2) ** -2 / cells)


def _size_key(resize: str) -> str:
    """The resize rule with places for its sizes."""
    rule = parse_resize(resize)
    return f"data.resize={re.sub('[0-9]+', '{}', str(rule))}" if rule.sizes else "data.resize={}"
