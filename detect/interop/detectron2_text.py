"""Anchor texts of detectron2: a part of its YAML, or a generator of free shapes, which sizes by ratios cannot say."""

from __future__ import annotations

from detect.anchors.anchor_set import AnchorSet
from detect.interop.anchor_text import Conversion, find_grids, numbers, one_row_a_level, strides_of_levels

GRID = """\
MODEL:
  ANCHOR_GENERATOR:
    NAME: DefaultAnchorGenerator
    SIZES: {sizes}  # on strides {strides}
    ASPECT_RATIOS: {ratios}  # height / width, within each size
    OFFSET: {offset:g}"""
FREE_SHAPES = """\
import torch
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY, BufferList, DefaultAnchorGenerator,
)


@ANCHOR_GENERATOR_REGISTRY.register()
class FittedAnchorGenerator(DefaultAnchorGenerator):
    \"\"\"Free (width, height) shapes on each level, which sizes by ratios cannot say.\"\"\"

    SHAPES = [
{rows}
    ]

    def _calculate_anchors(self, sizes, aspect_ratios):
        corners = [[(-w / 2, -h / 2, w / 2, h / 2) for w, h in level] for level in self.SHAPES]
        return BufferList([torch.tensor(level) for level in corners])


def use_fitted_anchors(cfg):
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "FittedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = {offset:g}"""
ORDER = "detectron2 orders the anchors of a cell by size, then by ratio; this set has another order"


def detectron2(anchors: AnchorSet) -> Conversion:
    """SIZES and ASPECT_RATIOS of every level; a class of free shapes where a level is not sizes by ratios."""
    grids = find_grids(anchors)
    if not grids:
        rows = one_row_a_level(anchors, numbers, 8)
        return Conversion(FREE_SHAPES.format(rows=rows, offset=anchors.center_offset))
    text = GRID.format(
        sizes=numbers([grid.sizes for grid in grids]),
        strides=", ".join(map(str, strides_of_levels(anchors))),
        ratios=numbers([grid.ratios for grid in grids]),
        offset=anchors.center_offset,
    )
    return Conversion(text, () if all(grid.size_outer for grid in grids) else (ORDER,))
