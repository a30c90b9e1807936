"""Warnings before the first step of a run: what is wrong with its data, what is left out, and what would not be learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detect.anchors.assignment import Assignment
from detect.anchors.assignment_sums import AssignedGroup
from detect.keypoints.keypoints import UNLABELLED
from detect.loading.dataset import DetectionData
from detect.loading.image_files import broken_message
from detect.training.config import FIT, TrainConfig
from detect.training.inputs import Inputs
from detect.wording import listed, listed_below, plural


def data_warnings(config: TrainConfig, inputs: Inputs, *, assignment: Assignment | None) -> list[str]:
    """Lines on findings in the annotation files, where angles were read, what is left out, an unused GPU, and objects
    without positive anchors.

    Findings that training and validation data share are said once. ``assignment`` is that of training images, see
    :func:`positives_warnings`.
    """
    parts = {"training": inputs.train, **({"validation": inputs.val} if inputs.val else {})}
    datasets = [part.dataset for part in parts.values()]
    lines = [f"warning: {each}" for each in dict.fromkeys(each for dataset in datasets for each in dataset.warnings)]
    others = f"detect anchors fit {' '.join(config.data.train)} --findings"
    for what, kind in (("invalid, left out", "invalid"), ("suspicious but kept", "suspicious")):
        findings = dict.fromkeys(each for dataset in datasets for each in getattr(dataset, kind))
        lines += listed_below(what, list(findings), others=others)
    points = [part.keypoints for part in parts.values() if part.keypoints is not None]
    lines += dict.fromkeys(each.about_angles for each in points if each.about_angles)
    for name, part in parts.items():
        lines += _left_out(part, name)
    if config.optimisation.accelerator == "cpu" and torch.cuda.is_available():
        lines.append("a GPU is available, but training runs on the CPU: set optimisation.accelerator=cuda")
    lines += _never_seen(inputs)
    num_images = len(inputs.train.dataset.images)
    return lines + (positives_warnings(config, assignment, num_images=num_images) if assignment else [])


def positives_warnings(config: TrainConfig, assignment: Assignment, *, num_images: int) -> list[str]:
    """Lines about boxes, categories and sizes without positive anchors, and about categories that have few.

    ``assignment`` is that of some of ``num_images`` images, or of all.

    >>> from detect.anchors.anchor_set import AnchorSet
    >>> from detect.anchors.positive_weights import assign_sample
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> from detect.training.config import parse_config
    >>> anchors = AnchorSet.of([[(20, 20), (50, 50)]], strides=[8])
    >>> dataset = read_coco(sample_annotations("bccd")).take_images(np.arange(30))
    >>> fields = {"data": {"train": ["unused"], "images": "unused"}, "model": {"positive_weights": "none"}}
    >>> assignment = assign_sample(dataset, anchors, resize="stretch:320x240")
    >>> (line,) = positives_warnings(parse_config(fields), assignment, num_images=len(dataset.images))
    >>> line.split("; ")[:2]
    ['uneven assignment: positive anchors per box: Platelets 1.7', 'mean of all boxes 9.6']
    """
    lines, model, looked = [], config.model, len(assignment.instances.dataset.images)
    if without := _without_positives(assignment):
        remedies = ["model.anchors=fit"] if model.anchors != FIT else ["finer model.levels"]
        if model.matching == "max_iou" and not model.allow_low_quality_matches:
            remedies.append("model.allow_low_quality_matches=true")
        where = f" in {looked:,} images looked at" if looked < num_images else ""
        lines.append(f"{without}{where}: they are never learned; try {' or '.join(remedies)}")
    neglect = assignment.neglect_in_words()
    if neglect and model.positive_weights == "none" and any(group.positives for group in assignment.neglected):
        lines.append(f"{neglect}; the others outvote them: try model.positive_weights=category")
    return lines


def _without_positives(assignment: Assignment) -> str:
    """The categories and sizes that have no positive anchor at all, or else the number of such boxes; empty without any."""

    def named(kind: str, groups: Sequence[AssignedGroup]) -> list[str]:
        return [
            f"{kind}{each.name} ({plural(each.count, 'box')})" for each in groups if 0 < each.count == each.unassigned
        ]

    groups = [*named("category ", assignment.by_category), *named("", assignment.by_size)]
    if groups:
        return f"no positive anchors for {listed(groups)}"
    rows = assignment.unassigned
    if not len(rows):
        return ""
    ids = listed(assignment.instances.dataset.instances.ids[rows].tolist())
    annotations = "annotation" if len(rows) == 1 else "annotations"
    return f"no positive anchors for {len(rows):,} of {len(assignment.instances):,} boxes: {annotations} {ids}"


def _never_seen(inputs: Inputs) -> list[str]:
    """Categories that the files name and no training box, or no labelled point, has."""
    dataset, keypoints, what = inputs.train.dataset, inputs.train.keypoints, "boxes"
    seen = set(dataset.instances.category_ids.tolist())
    if keypoints is not None and inputs.labels.category_types:
        points = keypoints.landmarks
        types = set(np.asarray(points.types)[np.asarray(points.visibility) != UNLABELLED].tolist())
        seen, what = {key for key, own in inputs.labels.category_types.items() if types & set(own)}, "labelled points"
    names = [dataset.category_name(each) for each in inputs.labels.category_ids if each not in seen]
    if not names:
        return []
    return [f"no training {what} of category {listed(names)}: nothing of them is learned"]


def _left_out(data: DetectionData, part: str) -> list[str]:
    """Images, boxes and points that are not used, and images whose orientation is a guess."""
    lines = [data.exif_warning] if data.exif_warning else []
    if data.broken:
        lines.append(
            f"skipped: {broken_message(data.broken, max(len(data.dataset.images), len(data) + len(data.broken)))}"
        )
    if data.num_degenerate_boxes:
        lines.append(f"left out: {data.num_degenerate_boxes:,} {part} boxes have no extent after resizing")
    if data.num_points_outside:
        lines.append(f"left out: {data.num_points_outside:,} labelled {part} points lie outside their images")
    return lines
