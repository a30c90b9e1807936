"""What people are told before the first step: what of the data is left out, and which categories have few anchors."""

from __future__ import annotations

import torch

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import assign
from detect.anchors.grid import AnchorGrid
from detect.anchors.instances import ResizedInstances
from detect.coco import CocoDataset
from detect.resize import parse_resize
from detect.training.broken import broken_message
from detect.training.config import FIT, TrainConfig
from detect.training.data import DetectionData
from detect.training.inputs import Inputs, hold_out
from detect.training.model import matching_rule

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

    >>> from detect.coco import read_coco
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
    neglect = assign(instances, AnchorGrid(anchors), matching_rule(config)).neglect_in_words()
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
    lines, refused = [], data.dataset.refused
    if data.broken:
        lines.append(f"skipped: {broken_message(data.broken, len(data) + len(data.broken))}")
    if refused:
        lines.append(f"refused: {len(refused):,} entries of the annotation files, such as {refused[0]}")
    if data.boxes_too_thin:
        lines.append(
            f"left out: of the images to {purpose} on, {data.boxes_too_thin:,} boxes have no extent when resized"
        )
    if data.points_outside:
        outside = f"{data.points_outside:,} labelled points lie outside their images"
        lines.append(f"left out: of the images to {purpose} on, {outside}")
    return lines
