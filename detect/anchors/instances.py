"""The boxes of a dataset as a detector sees them: after its resize rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.histogram import ShapeHistogram
from detect.anchors.tiles import cut_tiles
from detect.boxes import row_blocks
from detect.coco import CocoDataset
from detect.errors import FitError
from detect.resize import ResizeRule


@dataclass(frozen=True)
class ResizedInstances:
    """Columns over the instances of a dataset (crowd regions left out), in pixels of the network's input."""

    dataset: CocoDataset
    rule: ResizeRule
    boxes: Float64[ndarray, "n 4"]
    """(x0, y0, x1, y1)"""
    shapes: Float64[ndarray, "n 2"]
    """(width, height)"""
    canvas_wh: Int64[ndarray, "n 2"]
    """The size of the network's input for the image that the instance is in."""

    @classmethod
    def of(cls, dataset: CocoDataset, rule: ResizeRule) -> ResizedInstances:
        """The instances of a dataset under a resize rule; ``tiles`` cut it first (:mod:`detect.anchors.tiles`)."""
        dataset = cut_tiles(dataset, rule)
        instances = dataset.instances
        images = rule.resize_images(dataset.images.wh)
        boxes, shapes = np.empty((len(instances), 4)), np.empty((len(instances), 2))
        canvas_wh = np.empty((len(instances), 2), np.int64)
        for rows in row_blocks(len(instances)):
            boxes_xywh, resized = instances.boxes_xywh[rows], images.take(instances.image_rows[rows])
            boxes[rows] = resized.move_boxes(boxes_xywh)
            shapes[rows] = boxes_xywh[:, 2:] * resized.scale_xy
            canvas_wh[rows] = resized.canvas_wh
        return cls(dataset, rule, boxes, shapes, canvas_wh)

    @cached_property
    def histogram(self) -> ShapeHistogram:
        """The counts of their shapes."""
        return ShapeHistogram.of(self.shapes)

    def require_boxes(self) -> None:
        """Fail where there is nothing to fit to, and say what became of the entries.

        Raises:
            FitError: no usable boxes.
        """
        if len(self):
            return
        dataset = self.dataset
        crowd = f", {len(dataset.crowd)} are crowd regions" if len(dataset.crowd) else ""
        first = f": {dataset.refused[0]}" if dataset.refused else ""
        where = ", ".join(dataset.files)
        raise FitError(f"{where}: no usable boxes; {len(dataset.refused)} entries refused{crowd}{first}")

    def __len__(self) -> int:
        return len(self.boxes)
