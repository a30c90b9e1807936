"""Boxes as offsets from anchors, and back: what the box subnet of a detector learns (Girshick et al. 2014, appendix C).

    dx = (x - x_a) / w_a,  dy = (y - y_a) / h_a,  dw = ln(w / w_a),  dh = ln(h / h_a)

with (x, y) centres, each offset times its weight. Boxes are (x0, y0, x1, y1) in continuous pixels: no pixel is added.
Halves are computed in single precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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
