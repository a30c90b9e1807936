"""What the labels of a few images show: that they are wrong, or why a detector with these settings cannot find all of them.

Every sentence is about numbers that were compared; a cause that the data do not show is not named.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.assign import assign
from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_iou import grid_iou_by_level
from detect.anchors.instances import ResizedInstances, rows_by_value
from detect.conventions import ORIGIN_SHIFTS
from detect.data.coco_forms import LARGEST_NORMALISED, TINY_PX
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import UNLABELLED
from detect.loading.dataset import Batch, DetectionData
from detect.ops.box_arrays import xywh_to_xyxy
from detect.ops.boxes import pairwise_iou
from detect.training.builder import matching_rule
from detect.training.config import TrainConfig

COUNTED = 100  # detections of an image and category that COCO's AP counts
APART_CELLS = 2  # points of one type that lie closer make one peak


def wrong_labels(data: DetectionData) -> list[str]:
    """Say how the labels of a dataset are not what they are read as; nothing can be learned from such labels."""
    if data.keypoints is None:
        places = xywh_to_xyxy(data.dataset.instances.boxes_xywh)
        what = f"boxes are under 1 px: normalised? the coordinates of all {len(places):,} boxes lie"
    else:
        places = _labelled(data.keypoints)
        what = f"points lie within 1 px: normalised? All {len(places):,} lie"
    width, height = data.dataset.images.wh.max(axis=0).tolist()
    faults = []
    if len(places) and places.max() <= LARGEST_NORMALISED and min(width, height) > TINY_PX:
        faults.append(f"{what} from 0 to {places.max():.3g}, in images of up to {width}x{height} px")
    return [*faults, *data.dataset.misread]


def unlearnable(config: TrainConfig, data: DetectionData, batch: Batch, *, anchors: AnchorSet | None) -> list[str]:
    """Say what in the images, the labels and the settings keeps objects from being learned or found.

    ``batch`` holds the images of ``data``.
    """
    found = [*_of_images(data, batch)]
    if anchors is None:
        return found + list(_of_points(config, batch))
    return found + list(_of_boxes(config, data, anchors))


def _of_images(data: DetectionData, batch: Batch) -> Iterator[str]:
    first: dict[tuple[object, ...], tuple[str, bytes]] = {}  # of the images with these pixels: its name and labels
    rows = batch.image_rows.numpy()
    resized = data.resize.resize_images(data.dataset.images.wh[rows])
    starts = resized.offset_xy.round().astype(int).clip(min=0).tolist()
    ends = batch.image_hw.tolist()
    contents = [(slice(y, height), slice(x, width)) for (x, y), (height, width) in zip(starts, ends, strict=True)]
    for number, row in enumerate(rows.tolist()):
        name, content = data.dataset.images.file_names[row], contents[number]
        image = batch.images[(number, slice(None), *content)]
        if image.min() == image.max():
            yield f"{name} is constant: all its pixels are {float(image.min()):.3g}"
            continue
        labels = _label_bytes(batch, number)
        other, others = first.setdefault((image.shape, image.numpy().tobytes()), (name, labels))
        if labels != others:
            yield f"{other} and {name} have the same pixels and different labels"


def _label_bytes(batch: Batch, number: int) -> bytes:
    points = torch.as_tensor(batch.keypoints.points)[torch.as_tensor(batch.keypoints.image) == number]
    tables = (batch.targets[number].boxes, batch.targets[number].classes, points)
    return b"".join(each.numpy().tobytes() for each in tables)


def _of_boxes(config: TrainConfig, data: DetectionData, anchors: AnchorSet) -> Iterator[str]:
    model, instances = config.model, ResizedInstances.of(data.dataset, data.resize)
    num_boxes = len(instances)
    thin = int((instances.shapes < 1).any(axis=1).sum())
    if thin:
        yield f"{thin:,} of {num_boxes:,} boxes are under 1 px wide or high after resize {instances.rule}"
    best = grid_iou_by_level(instances.boxes, instances.canvas_wh, anchors).max(axis=1)
    is_far = best < model.bg_iou_thresh
    if model.matching == "max_iou" and is_far.any():
        far = best[is_far]
        sides, shapes = (np.sqrt(each.prod(axis=1)) for each in (instances.shapes[is_far], anchors.shapes))
        yield (
            f"no anchor reaches {model.bg_iou_thresh:.0%} of {len(far):,} of {num_boxes:,} boxes (their best IoU is "
            f"{far.min():.2f} to {far.max():.2f}; sqrt(area) is {sides.min():.3g} to {sides.max():.3g} px, of anchors "
            f"{shapes.min():.3g} to {shapes.max():.3g} px)"
        )
    unassigned = len(assign(instances, AnchorGenerator(anchors), matching_rule(config)).unassigned)
    if unassigned:
        yield f"{unassigned:,} of {num_boxes:,} boxes have no positive anchor"
    yield from _of_neighbours(config, instances)


def _of_neighbours(config: TrainConfig, instances: ResizedInstances) -> Iterator[str]:
    model, own = config.model, instances.dataset.instances
    overlapping = 0
    for rows in rows_by_value(own.image_rows).values():
        boxes, classes = torch.from_numpy(instances.boxes[rows]), torch.from_numpy(own.category_ids[rows])
        iou = pairwise_iou(boxes, boxes).fill_diagonal_(0.0)
        meets = (classes[:, None] == classes) | torch.tensor(model.class_agnostic)
        overlapping += int(((iou > model.iou_threshold) & meets).any(dim=1).sum())
        if len(rows) > model.detections_per_image:
            yield f"an image has {len(rows):,} boxes, more than model.detections_per_image={model.detections_per_image}"
    if overlapping and model.nms == "hard":
        other = "another" if model.class_agnostic else "another of their category"
        yield (
            f"{overlapping:,} of {len(instances):,} boxes overlap {other} by more than "
            f"model.iou_threshold={model.iou_threshold:g}: suppression keeps one of them"
        )


def _of_points(config: TrainConfig, batch: Batch) -> Iterator[str]:
    table = batch.keypoints
    labelled = torch.as_tensor(table.visibility) != UNLABELLED
    points, types = (torch.as_tensor(each)[labelled] for each in (table.points, table.types))
    images = torch.as_tensor(table.image)[labelled]
    if not len(points):
        yield "no point of these images is labelled: their visibility is 0"
    apart_px = APART_CELLS * config.model.stride
    close = 0
    for image in sorted(set(images.tolist())):
        own, kinds = points[images == image].double(), types[images == image]
        near = (torch.cdist(own, own) < apart_px).fill_diagonal_(fill_value=False)
        close += int((near & (kinds[:, None] == kinds)).any(dim=1).sum())
    if close:
        yield (
            f"{close:,} of {len(points):,} points lie within {APART_CELLS} cells of model.stride={config.model.stride} of "
            "another of their type, which make one peak"
        )


def countable_share(data: DetectionData) -> float:
    """The largest AP that can be reached: COCO counts ``COUNTED`` detections of an image and category."""
    instances = data.dataset.instances
    shares = []
    for rows in rows_by_value(instances.category_ids).values():
        counts = np.unique(instances.image_rows[rows], return_counts=True)[1]
        shares.append(np.minimum(counts, COUNTED).sum() / counts.sum())
    return float(np.mean(shares)) if shares else 1.0


def _labelled(keypoints: CocoKeypoints) -> Float64[ndarray, "n 2"]:
    """The labelled points, in continuous pixels."""
    table = keypoints.landmarks
    labelled = np.asarray(table.visibility) != UNLABELLED
    return np.asarray(table.points, float)[labelled] + ORIGIN_SHIFTS[keypoints.pixel_origin]
