"""Areas, IoU and encoding of boxes (x0, y0, x1, y1) in continuous pixels: a side is x1 - x0, with no pixel added.

An inverted box, or one with a side of 0, has area 0 and overlaps nothing: its IoU is 0, even with itself, and never NaN.
Half precision is computed and returned in float32, since the area of a box of 256 pixels would be infinite.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, runtime_checkable

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


def pairwise_iou(boxes: Float[Tensor, "*b n 4"], others: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Intersection over union of each box with each of the others, in each image.

    >>> pairwise_iou(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[2.0, 0.0, 6.0, 3.0], [5.0, 0.0, 6.0, 3.0]]))
    tensor([[0.3333, 0.0000]])
    """
    return _iou(boxes[..., :, None, :], others[..., None, :, :])


def pairwise_ioa(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """The share of each box that lies in each of the others: intersection over its own area, as in COCO's crowd rule.

    >>> pairwise_ioa(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[2.0, 0.0, 60.0, 30.0]]))
    tensor([[0.5000]])
    """
    return _ratio(intersection_area(boxes[:, None], others), box_area(boxes)[:, None])


def matched_iou(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Intersection over union, row by row.

    >>> matched_iou(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[2.0, 0.0, 6.0, 3.0]]))
    tensor([0.3333])
    """
    if boxes.shape != others.shape:
        raise ValueError(f"boxes are compared row by row, got {tuple(boxes.shape)} and {tuple(others.shape)}")
    return _iou(boxes, others)


def intersection_area(boxes: Float[Tensor, "*#rows 4"], others: Float[Tensor, "*#rows 4"]) -> Float[Tensor, "*rows"]:
    """Area of the intersection in square pixels; leading axes broadcast.

    >>> intersection_area(torch.tensor([0.0, 0.0, 4.0, 3.0]), torch.tensor([2.0, 1.0, 6.0, 9.0]))
    tensor(4.)
    """
    x0, y0, x1, y1 = _columns(boxes)
    other_x0, other_y0, other_x1, other_y1 = _columns(others)
    widths = torch.minimum(x1, other_x1).sub_(torch.maximum(x0, other_x0)).relu_()
    heights = torch.minimum(y1, other_y1).sub_(torch.maximum(y0, other_y0)).relu_()
    return widths * heights  # not in place: the gradient of relu needs its result


def _iou(boxes: Float[Tensor, "*#rows 4"], others: Float[Tensor, "*#rows 4"]) -> Float[Tensor, "*rows"]:
    intersection = intersection_area(boxes, others)
    union = box_area(boxes) + box_area(others)
    return _ratio(intersection, union.sub_(intersection))  # torchvision's order of operations: equal bit for bit


def _ratio(part: Float[Tensor, "*#rows"], whole: Float[Tensor, "*#rows"]) -> Float[Tensor, "*rows"]:
    return part.div_(whole.clamp_(min=torch.finfo(whole.dtype).tiny))  # 0 / 0 is 0; both are new tensors, so in place


def _columns(boxes: Float[Tensor, "*rows 4"]) -> tuple[Tensor, ...]:
    return widened(boxes).movedim(-1, 0).contiguous().unbind()  # one copy costs less than four strided reads


def widened(values: Tensor) -> Tensor:
    """Half precision as float32, any other precision as it is."""
    return values.float() if values.dtype.itemsize < 4 else values


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a few numbers of the host to a device, where it can be done without waiting for the device."""
    return values.to(device, non_blocking=device.type == "cuda")  # elsewhere the host's memory may be freed too early


def at_most(count: int, size: int) -> int:
    """The smaller of the two, as one expression while an export traces sizes."""
    return torch.sym_min(count, size)  # type: ignore[no-untyped-call]


MAX_LOG_DISTANCE = math.log(1000.0)  # strides
MAX_LOG_SCALE = math.log(1000 / 16)  # Detectron's BBOX_XFORM_CLIP: a 16 pixel anchor grows to at most 1000 pixels


@dataclass(frozen=True)
class BoxCoder:
    """Encodes boxes as deltas from anchors, and decodes a head's deltas.

    ``weights`` are factors of (dx, dy, dw, dh). Decoded dw and dh are at most ``max_log_scale``, as in torchvision and
    detectron2, and with ``clamp_below`` at least ``-max_log_scale``, as in mmdetection.

    >>> coder = BoxCoder()
    >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    >>> deltas = coder.encode(torch.tensor([[5.0, 0.0, 25.0, 20.0]]), anchors)
    >>> deltas
    tensor([[1.0000, 0.0000, 0.6931, 0.0000]])
    >>> coder.decode(deltas, anchors)
    tensor([[ 5.,  0., 25., 20.]])
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    _: KW_ONLY
    max_log_scale: float = MAX_LOG_SCALE
    clamp_below: bool = False

    def encode(self, boxes: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """The deltas (dx, dy, dw, dh) of boxes from anchors, both with positive sides; leading axes broadcast."""
        center, size = _center_and_size(widened(boxes))
        anchor_center, anchor_size = _center_and_size(widened(anchors))
        offsets = torch.cat([(center - anchor_center) / anchor_size, torch.log(size / anchor_size)], dim=-1)
        return offsets * self._weights_like(offsets)

    def decode(self, deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """The boxes at these deltas from anchors; leading axes broadcast."""
        deltas = widened(deltas)
        deltas = deltas / self._weights_like(deltas)
        anchor_center, anchor_size = _center_and_size(widened(anchors))
        least = -self.max_log_scale if self.clamp_below else None
        center = deltas[..., :2] * anchor_size + anchor_center
        half = deltas[..., 2:].clamp(least, self.max_log_scale).exp() * anchor_size / 2
        return torch.cat([center - half, center + half], dim=-1)

    def _weights_like(self, values: Tensor) -> Float[Tensor, " 4"]:
        return to_device(torch.tensor(self.weights, dtype=values.dtype), values.device)


@runtime_checkable
class Coder(Protocol):
    """Encodes boxes as what a head predicts from its anchors, and decodes it."""

    def encode(self, boxes: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """What a head should predict for these boxes."""

    def decode(self, deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """The boxes that a head predicts."""


@dataclass(frozen=True)
class DistanceCoder:
    """Distances of a box's left, upper, right and lower side from a point, in strides (Tian et al. 2019, "FCOS").

    The point is the centre of an anchor whose sides are the stride. A distance is the exponential of what the head
    predicts, as in the paper, or with ``activation="relu"`` its positive part, as in torchvision.

    >>> coder = DistanceCoder(activation="relu")
    >>> anchors = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
    >>> deltas = coder.encode(torch.tensor([[4.0, 8.0, 12.0, 32.0]]), anchors)
    >>> deltas
    tensor([[1.0000, 0.5000, 0.0000, 2.5000]])
    >>> coder.decode(deltas, anchors)
    tensor([[ 4.,  8., 12., 32.]])
    """

    activation: str = "exp"
    _: KW_ONLY
    max_log_scale: float = MAX_LOG_DISTANCE

    def __post_init__(self) -> None:
        if self.activation not in ("exp", "relu"):
            raise ValueError(f"activation is 'exp' or 'relu', got {self.activation!r}")

    def encode(self, boxes: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """The numbers for these boxes; a side on the wrong side of the point is at distance 0, or exp(-max_log_scale)."""
        center, size = _center_and_size(widened(anchors))
        boxes = widened(boxes)
        distances = torch.cat([center - boxes[..., :2], boxes[..., 2:] - center], dim=-1) / torch.cat(
            [size, size], dim=-1
        )
        if self.activation == "relu":
            return distances.clamp(min=0)
        return distances.clamp(min=math.exp(-self.max_log_scale)).log()

    def decode(self, deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*a 4"]) -> Float[Tensor, "*na 4"]:
        """The boxes at these distances."""
        deltas, (center, size) = widened(deltas), _center_and_size(widened(anchors))
        distances = deltas.relu() if self.activation == "relu" else deltas.clamp(max=self.max_log_scale).exp()
        return torch.cat([center - distances[..., :2] * size, center + distances[..., 2:] * size], dim=-1)


def _center_and_size(boxes: Float[Tensor, "*n 4"]) -> tuple[Float[Tensor, "*n 2"], Float[Tensor, "*n 2"]]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
