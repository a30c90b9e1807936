"""One level of a feature pyramid as a lattice of anchors: the same boxes, moved from cell to cell.

What makes matching sparse: where a box can meet an anchor follows from the strides, without a look at every anchor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lattice:
    """Anchor (row, column, k) of a level is ``cell_boxes[k]`` moved right by column * stride_x, down by row * stride_y.

    Strides are in pixels of the network's input; ``cell_boxes`` (x0, y0, x1, y1) are those of the first cell.

    >>> Lattice(1, 2, (8.0, 8.0), torch.tensor([[0.0, 0.0, 4.0, 2.0]])).boxes()
    tensor([[ 0.,  0.,  4.,  2.],
            [ 8.,  0., 12.,  2.]])
    """

    height: int
    width: int
    stride_xy: tuple[float, float]
    cell_boxes: Float[Tensor, "k 4"]

    @property
    def num_anchors(self) -> int:
        return self.height * self.width * self.cell_boxes.shape[0]

    def boxes(self) -> Float[Tensor, "a 4"]:
        """All anchors, in the order of row, column, k: that of a head's outputs."""
        like = self.cell_boxes
        x = torch.arange(self.width, dtype=like.dtype, device=like.device) * self.stride_xy[0]
        y = torch.arange(self.height, dtype=like.dtype, device=like.device) * self.stride_xy[1]
        shifts = torch.stack([x.expand(self.height, -1), y[:, None].expand(-1, self.width)], dim=-1).repeat(1, 1, 2)
        return (shifts[:, :, None] + like).reshape(-1, 4)
