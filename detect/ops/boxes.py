"""Areas and overlaps of boxes (x0, y0, x1, y1) in continuous pixels: a side is x1 - x0, with no pixel added.

A box that is turned over or without a side has area 0 and overlaps nothing: its IoU is 0, even with itself, and never NaN.
Half precision, in which the area of a box of 256 pixels is infinite, is computed and returned in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def box_area(boxes: Float[Tensor, "*rows 4"]) -> Float[Tensor, "*rows"]:
    """Area in square pixels.

    >>> box_area(torch.tensor([[0.0, 0.0, 4.0, 3.0], [4.0, 3.0, 0.0, 0.0]]))
    tensor([12.,  0.])
    """
    x0, y0, x1, y1 = _columns(boxes)
    return (x1 - x0).clamp_(min=0).mul_((y1 - y0).clamp_(min=0))


def pairwise_iou(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of each box with each other one.

    >>> pairwise_iou(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[2.0, 0.0, 6.0, 3.0], [5.0, 0.0, 6.0, 3.0]]))
    tensor([[0.3333, 0.0000]])
    """
    return _iou(boxes[:, None], others)


def pairwise_ioa(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over the area of the first: the share of each box that lies in each other one, as COCO's crowd rule.

    >>> pairwise_ioa(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[2.0, 0.0, 60.0, 30.0]]))
    tensor([[0.5000]])
    """
    return _ratio(intersection_area(boxes[:, None], others), box_area(boxes)[:, None])


def matched_iou(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Intersection over union, row by row.

    >>> matched_iou(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[2.0, 0.0, 6.0, 3.0]]))
    tensor([0.3333])

    Raises:
        ValueError: other numbers of rows.
    """
    if boxes.shape != others.shape:
        raise ValueError(f"boxes are compared row by row, got {tuple(boxes.shape)} and {tuple(others.shape)}")
    return _iou(boxes, others)


def intersection_area(boxes: Float[Tensor, "*#rows 4"], others: Float[Tensor, "*#rows 4"]) -> Float[Tensor, "*rows"]:
    """Area that two boxes share, over leading axes that broadcast.

    >>> intersection_area(torch.tensor([0.0, 0.0, 4.0, 3.0]), torch.tensor([2.0, 1.0, 6.0, 9.0]))
    tensor(4.)
    """
    x0, y0, x1, y1 = _columns(boxes)
    other_x0, other_y0, other_x1, other_y1 = _columns(others)
    widths = torch.minimum(x1, other_x1).sub_(torch.maximum(x0, other_x0)).relu_()
    heights = torch.minimum(y1, other_y1).sub_(torch.maximum(y0, other_y0)).relu_()
    return widths * heights  # not in place: relu keeps its result for the gradient, which is 0 where boxes only touch


def _iou(boxes: Float[Tensor, "*#rows 4"], others: Float[Tensor, "*#rows 4"]) -> Float[Tensor, "*rows"]:
    intersection = intersection_area(boxes, others)
    union = (box_area(boxes) + box_area(others)).sub_(intersection)  # in torchvision's order: the same to the last bit
    return _ratio(intersection, union)


def _ratio(part: Float[Tensor, "*#rows"], whole: Float[Tensor, "*#rows"]) -> Float[Tensor, "*rows"]:
    return part.div_(whole.clamp_(min=torch.finfo(whole.dtype).tiny))  # 0 / 0 is 0; both are fresh, and large


def _columns(boxes: Float[Tensor, "*rows 4"]) -> tuple[Tensor, ...]:
    wide = boxes.float() if boxes.dtype.itemsize < 4 else boxes
    return wide.movedim(-1, 0).contiguous().unbind()  # four strided reads of an axis cost more than one copy


MAX_LOG_SCALE = math.log(1000 / 16)  # Detectron's BBOX_XFORM_CLIP: a 16 pixel anchor grows to 1000 pixels at most


@dataclass(frozen=True)
class BoxCoder:
    """Encodes boxes against anchors, and decodes what a head predicts.

    ``weights`` multiply (dx, dy, dw, dh). Decoded dw and dh are cut at ``max_log_scale``, as in torchvision and
    detectron2; with ``clamp_below`` also at its negative, as in mmdetection.

    >>> coder = BoxCoder()
    >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    >>> deltas = coder.encode(torch.tensor([[5.0, 0.0, 25.0, 20.0]]), anchors)
    >>> deltas
    tensor([[1.0000, 0.0000, 0.6931, 0.0000]])
    >>> coder.decode(deltas, anchors)
    tensor([[ 5.,  0., 25., 20.]])
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_log_scale: float = MAX_LOG_SCALE
    clamp_below: bool = False

    def encode(self, boxes: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """Offsets of boxes from anchors; leading axes broadcast. Extents must be positive."""
        center, size = _center_and_size(_at_least_single(boxes))
        anchor_center, anchor_size = _center_and_size(_at_least_single(anchors))
        offsets = torch.cat([(center - anchor_center) / anchor_size, torch.log(size / anchor_size)], dim=-1)
        return offsets * offsets.new_tensor(self.weights)

    def decode(self, deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """Boxes at these offsets from anchors; leading axes broadcast."""
        deltas = _at_least_single(deltas)
        deltas = deltas / deltas.new_tensor(self.weights)
        anchor_center, anchor_size = _center_and_size(_at_least_single(anchors))
        least = -self.max_log_scale if self.clamp_below else None
        center = deltas[..., :2] * anchor_size + anchor_center
        half = deltas[..., 2:].clamp(least, self.max_log_scale).exp() * anchor_size / 2
        return torch.cat([center - half, center + half], dim=-1)


def _center_and_size(boxes: Float[Tensor, "*n 4"]) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n 2"]]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def _at_least_single(values: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    return values.to(torch.promote_types(values.dtype, torch.float32))
