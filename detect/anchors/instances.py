"""The boxes of a dataset as a detector sees them: after its resize rule."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.coco import CocoDataset
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
        """The instances of a dataset under a resize rule."""
        instances = dataset.instances
        image_wh = dataset.images.wh[instances.image_rows]
        resized = rule.resize_images(image_wh)
        boxes = rule.resize_boxes(instances.boxes_xywh, image_wh)
        return cls(dataset, rule, boxes, instances.boxes_xywh[:, 2:] * resized.scale_xy, resized.canvas_wh)

    def __len__(self) -> int:
        return len(self.boxes)
