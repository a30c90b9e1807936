"""Warnings about the data of a run: what is left out, and categories that would hardly be learned."""

from __future__ import annotations

import torch

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assignment import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.instances import ResizedInstances
from detect.data import CocoDataset
from detect.data.resize import parse_resize
from detect.loading.dataset import DetectionData
from detect.loading.image_check import broken_message
from detect.training.builder import matching_rule
from detect.training.config import FIT, TrainConfig
from detect.training.inputs import Inputs, hold_out

NUM_ASSIGNED = 200  # images whose anchors are assigned, evenly spaced


def data_warnings(config: TrainConfig, inputs: Inputs, *, anchors: AnchorSet | None) -> list[str]:
    """Warnings for people, one line each; an empty list if all is well.

    Args:
        config: the run.
        inputs: the data of the run.
        anchors: the anchors of a box run.
    """
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
    remedies = _remedies(config)
    advice = f": try {' or '.join(remedies)}" if remedies else ""
    return f"{neglect}; a short training hardly learns categories with few positive anchors{advice}"


def _remedies(config: TrainConfig) -> list[str]:
    """Settings that share anchors more evenly than the current ones."""
    model = config.model
    by_size = ["model.max_strides=4"] if model.anchors == FIT and model.max_strides is None else []
    return [*by_size, *(["model.assigner=atss"] if model.assigner == "max_iou" else [])]


def _left_out(data: DetectionData, part: str) -> list[str]:
    """Images, annotations and points that are not used."""
    lines, invalid = [], data.dataset.invalid
    if data.broken:
        lines.append(f"skipped: {broken_message(data.broken, len(data) + len(data.broken))}")
    if invalid:
        lines.append(f"left out: {len(invalid):,} invalid entries of the annotation files, such as {invalid[0]}")
    if data.num_degenerate_boxes:
        lines.append(f"left out: {data.num_degenerate_boxes:,} {part} boxes have no extent after resizing")
    if data.num_points_outside:
        lines.append(f"left out: {data.num_points_outside:,} labelled {part} points lie outside their images")
    return lines
