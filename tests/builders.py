"""Small data that several test files build."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detect.anchors.generator import GridAnchors
from detect.ops.grid_matcher import LevelGrid

# ---- heads, losses, ops, detectors


def one_cell(boxes: Tensor) -> LevelGrid:
    """A level whose only cell has these boxes as its anchors, so that anchors may lie anywhere."""
    return LevelGrid(1, 1, (1.0, 1.0), boxes)


def grid_anchors(boxes: Tensor, num_per_level: Sequence[int] | None = None) -> GridAnchors:
    """Anchors that lie anywhere, some on each level."""
    levels = torch.split(boxes, list(num_per_level or [len(boxes)]))
    return GridAnchors(boxes, tuple(one_cell(level) for level in levels))


def random_boxes(count: int, seed: int, *, side: float = 100.0) -> Tensor:
    """Boxes with corners and sizes of whole pixels, so that many overlaps are equal."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * side
    size = torch.rand(count, 2, generator=random) * side / 2 + 1
    return torch.cat([corner, corner + size], dim=1).round()


def random_images(*shape: int) -> Tensor:
    """Images (b, d, h, w) from 0 to 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))
