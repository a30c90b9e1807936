"""Conventions: how frameworks generate anchors on feature maps.

Frameworks differ in four things: whether sizes or ratios vary faster within a cell, whether corners are rounded to whole
pixels, the position of an anchor in its cell, and the stride of a level whose input is not a multiple of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors.anchor_set import CENTER_OF_CELL

STRIDE_MODES = ("exact", "floor", "ratio")


def _check_stride_mode(stride_mode: str) -> None:
    if stride_mode not in STRIDE_MODES:
        raise ValueError(f"stride_mode is 'exact', 'floor' or 'ratio', got {stride_mode!r}")


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How a framework generates anchors on feature maps.

    ``center_offset`` and ``size_outer`` are for making sets (``AnchorGenerator.of_sizes``, fits); a set that exists has its
    own offset and order.

    Args:
        stride_mode: ``"exact"``: the level's stride. ``"floor"``: size of the padded input / number of cells, rounded down,
            for each axis. ``"ratio"``: the same without rounding.
        round_corners: round each corner, relative to the anchor's centre, to whole pixels (halves to even).
        center_offset: position of an anchor's centre in its cell, from 0 (top left corner) to 1; 0.5 is the middle.
        size_outer: within a cell ratios vary faster than sizes.

    Raises:
        ValueError: ``stride_mode`` is not known.
    """

    stride_mode: str = "exact"
    round_corners: bool = False
    center_offset: float = CENTER_OF_CELL
    size_outer: bool = False

    def __post_init__(self) -> None:
        _check_stride_mode(self.stride_mode)


CONVENTIONS = {
    "exact": Convention(),
    # torchvision 0.28, models/detection/anchor_utils.py
    "torchvision": Convention(stride_mode="floor", round_corners=True, center_offset=0.0),
    # detectron2, modeling/anchor_generator.py; MODEL.ANCHOR_GENERATOR.OFFSET is 0.0
    "detectron2": Convention(center_offset=0.0, size_outer=True),
    # mmdetection 3, models/task_modules/prior_generators/anchor_generator.py; scale_major is True
    "mmdet": Convention(center_offset=0.0),
    # efficientdet-pytorch, effdet/anchors.py
    "effdet": Convention(stride_mode="ratio", size_outer=True),
}


def as_convention(convention: str | Convention) -> Convention:
    """The convention of a framework's name; a :class:`Convention` is returned as it is.

    >>> as_convention("torchvision").stride_mode
    'floor'

    Raises:
        ValueError: the name is not known.
    """
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r} is not one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[convention]


def num_cells(canvas: Int64[ndarray, "*n"], stride: int) -> Int64[ndarray, "*n"]:
    """Cells of a level along an axis: ceil(canvas / stride), as repeated halving with padding leaves them.

    >>> import numpy as np
    >>> num_cells(np.array([640, 100]), 64)
    array([10,  2])
    """
    return -(-canvas // stride)


def cell_step(canvas: Int64[ndarray, "*n"], stride: int, stride_mode: str) -> float | Float64[ndarray, "*n"]:
    """Distance in pixels between neighbouring cells along an axis, for a padded input of ``canvas`` pixels.

    >>> import numpy as np
    >>> cell_step(np.array([640, 100]), 64, "floor")
    array([64., 50.])

    Raises:
        ValueError: ``stride_mode`` is not known.
    """
    _check_stride_mode(stride_mode)
    if stride_mode == "exact":
        return float(stride)
    cells = num_cells(canvas, stride)
    return canvas / cells if stride_mode == "ratio" else (canvas // cells).astype(float)
