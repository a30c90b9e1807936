"""Anchor texts of torchvision: Python that makes the anchor generator of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from detect.anchors.anchor_set import CENTER_OF_CELL, AnchorSet
from detect.data.resize import parse_resize
from detect.errors import ConvertError
from detect.interop.anchor_text import (
    Conversion,
    Shape,
    ShapeGrid,
    center_note,
    find_grids,
    numbers,
    one_row_a_level,
    quotient,
    strides_of_levels,
)

GRID = """\
from torchvision.models.detection.anchor_utils import AnchorGenerator

# on strides {strides}; torchvision rounds corners to whole pixels
anchor_generator = AnchorGenerator(
    sizes={sizes},
    aspect_ratios={ratios},  # height / width
)"""
FREE_SHAPES = """\
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

anchor_generator = AnchorGenerator(
    sizes={sizes},
    aspect_ratios={ratios},  # height / width
)
# the very shapes, on {where}; torchvision would round their corners to whole pixels
anchor_generator.cell_anchors = [
{rows}
]"""
SSD = """\
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

anchor_generator = DefaultBoxGenerator(
    {ratios},  # says how many shapes a level has: 2 + 2 for each ratio
    steps={strides},
)
# the very shapes, as fractions of the input of {width} x {height} pixels
anchor_generator._wh_pairs = [
{rows}
]"""
V2 = (
    "retinanet_resnet50_fpn_v2 and fasterrcnn_resnet50_fpn_v2 take no generator: set model.anchor_generator or "
    "model.rpn.anchor_generator, with as many anchors in a cell as the model has"
)


def torchvision(anchors: AnchorSet) -> Conversion:
    """An AnchorGenerator of sizes by ratios if it makes the set's shapes, each corner rounded; otherwise the very shapes."""
    grids = find_grids(anchors)
    if anchors.center_offset == 0 and grids and _makes_its_shapes(anchors, grids):
        strides = ", ".join(map(str, strides_of_levels(anchors)))
        sizes, ratios = _tuples([grid.sizes for grid in grids]), _tuples([grid.ratios for grid in grids])
        return Conversion(GRID.format(strides=strides, sizes=sizes, ratios=ratios), (V2,))
    rows = []
    for level in anchors.levels:
        center = anchors.center_offset * level.stride
        corners = [(center - w / 2, center - h / 2, center + w / 2, center + h / 2) for w, h in level.shapes]
        rows.append(f"    torch.tensor({numbers(corners)}),  # {level.name}, stride {level.stride}")
    places = {CENTER_OF_CELL: "the middle of the cell", 0.0: "the corner of the cell, as torchvision's own"}
    where = places.get(anchors.center_offset, f"{anchors.center_offset:g} cells from the corner")
    text = FREE_SHAPES.format(
        sizes=_tuples([[math.sqrt(w * h) for w, h in level.shapes] for level in anchors.levels]),
        ratios=_tuples([(1.0,)] * len(anchors.levels)),
        where=where,
        rows="\n".join(rows),
    )
    return Conversion(text, (V2,))


def torchvision_ssd(anchors: AnchorSet) -> Conversion:
    """A DefaultBoxGenerator whose shapes are then replaced by the set's.

    Raises:
        ConvertError: the set is for no input of fixed size, or a level has an odd number of shapes.
    """
    rule = parse_resize(anchors.resize) if anchors.resize else None
    if rule is None or rule.name != "stretch":
        raise ConvertError(
            f"takes shapes as fractions of an input of fixed size; this set is for {anchors.resize or 'none'}"
        )
    input_wh = width, height = rule.sizes
    for level in anchors.levels:
        if len(level.shapes) % 2:
            raise ConvertError(f"takes an even number of shapes on each level; {level.name} has {len(level.shapes)}")
    text = SSD.format(
        ratios=numbers([range(2, len(level.shapes) // 2 + 1) for level in anchors.levels]),
        strides=strides_of_levels(anchors),
        width=width,
        height=height,
        rows=one_row_a_level(anchors, partial(_fractions, input_wh), 4),
    )
    clipped = [
        f"{w:g} x {h:g} on {level.name}" for level in anchors.levels for w, h in level.shapes if w > width or h > height
    ]
    notes = (f"torchvision clips anchors to the input, here {', '.join(clipped)}",) if clipped else ()
    return Conversion(text, (*notes, *center_note(anchors, "torchvision's DefaultBoxGenerator")))


def _makes_its_shapes(anchors: AnchorSet, grids: Sequence[ShapeGrid]) -> bool:
    """Whether torchvision makes the corners of every shape, in order, rounded, and those of a level differ."""
    for level, grid in zip(anchors.levels, grids, strict=True):
        made = _rounded_corners(grid)
        wanted = (np.array(level.shapes, np.float32) / 2).round()
        if made.tolist() != wanted.tolist() or made.min() == 0 or len(np.unique(made, axis=0)) < len(made):
            return False
    return True


def _rounded_corners(grid: ShapeGrid) -> Float32[ndarray, "a 2"]:
    """Half widths and heights in whole pixels, computed as torchvision's AnchorGenerator.generate_anchors does."""
    sizes = np.array(grid.sizes, np.float32)
    height = np.sqrt(np.array(grid.ratios, np.float32))
    halves = [(factor[:, None] * sizes[None]).ravel() / np.float32(2) for factor in (1 / height, height)]
    return np.stack(halves, axis=1).round()


def _fractions(input_wh: Sequence[int], shapes: Sequence[Shape]) -> str:
    width, height = input_wh
    fractions = [(quotient(min(w, width), width), quotient(min(h, height), height)) for w, h in shapes]
    return f"torch.tensor({numbers(fractions)})"


def _tuples(rows: Sequence[Sequence[float]]) -> str:
    """Write nested tuples, each with a trailing comma: ``((1, 2,), (3,),)``."""
    inner = (f"({' '.join(f'{value:.6g},' for value in row)})," for row in rows)
    return f"({' '.join(inner)})"
