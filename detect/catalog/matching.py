"""Which anchors, cells or queries of a detector learn an object: the matching rules of the catalog, as data."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

Share = Annotated[float, Meta(gt=0, le=1)]
Number = Annotated[int, Meta(ge=1, le=1000)]


class SideRatio(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="side-ratio"):
    """YOLOv5, YOLOv7: anchors of each level whose sides differ from the box's by less than a factor, in nearby cells."""

    ratio: Annotated[float, Meta(gt=1)] = 4.0
    neighbours: Annotated[int, Meta(ge=0, le=2)] = 2
    """Cells beside the one that holds the box's centre."""


class BestShape(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="best-shape"):
    """Darknet: the anchor of highest IoU by shape over all levels, in the cell that holds the box's centre."""

    iou: Share | None = None
    """YOLOv4's iou_thresh: anchors of a higher IoU by shape learn the box too."""


class CenterCell(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="center-cell"):
    """mmdetection's GridAssigner: in the cells that hold the box's centre, the best anchor and those above an IoU."""

    iou: Share = 0.5


class MaxIoURule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="max-iou"):
    """Anchors by IoU on the grid; the fields are those of :class:`detect.ops.matcher.MaxIoU`."""

    fg_iou_thresh: Share = 0.5
    bg_iou_thresh: Share = 0.4
    allow_low_quality_matches: bool = True
    low_quality_mode: Literal["own", "forced"] = "own"


class AtssRule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="atss"):
    """Adaptive training sample selection: :class:`detect.ops.matcher.Atss`."""

    num_candidates: Number = 9


AnchorMatching = SideRatio | BestShape | CenterCell | MaxIoURule | AtssRule


class CenterInBox(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="center-in-box"):
    """TOOD, YOLOv8 and later, PP-YOLOE, RTMDet: of the cells whose centre lies inside a box, the best by the predictions."""

    top_k: Number = 10
    """Cells of an object at most."""
    widen_to_level: Annotated[int, Meta(ge=0, le=7)] | None = None
    """Sides shorter than the stride of this level, 0 the finest, are lengthened to it for the test."""
    margin_px: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """A centre counts as inside if it is more than this far from every side."""

    def least_side_px(self, strides: list[int]) -> float:
        """The length to which shorter sides are lengthened; 0 if they are not."""
        return 0.0 if self.widen_to_level is None else float(strides[min(self.widen_to_level, len(strides) - 1)])


class FcosRanges(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="fcos"):
    """FCOS: cells near a box's centre whose farthest side is in the level's range; the smallest object gets the cell.

    The fields are those of :class:`detect.advice.fcos_assignment.FcosRule`, ranges in strides of their level.
    """

    range_strides: tuple[float, float] = (4.0, 8.0)
    """Limits of a level's range; the finest level's begins at 0, and the coarsest's has no end."""
    radius: Annotated[float, Meta(gt=0)] = 1.5
    origin: Annotated[float, Meta(ge=0, le=1)] = 0.5
    is_open: bool = False
    area_step: Annotated[float, Meta(ge=0)] = 0.0

    def ranges(self, strides: list[int]) -> tuple[tuple[float, float], ...]:
        """The range of each level, in pixels."""
        low, high = self.range_strides
        ranges = [(low * stride, high * stride) for stride in strides]
        ranges[0] = (0.0 if self.is_open else -1.0, ranges[0][1])
        ranges[-1] = (ranges[-1][0], math.inf)
        return tuple(ranges)


class CenterPeak(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="center-peak"):
    """CenterNet: the cell that holds a box's centre, one object of each category in a cell."""


class OneQuery(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="one-query"):
    """DETR and its kin: each object is matched with one query, whichever predicts it best."""


CellMatching = CenterInBox | FcosRanges | CenterPeak | OneQuery
CELL_RULES = ("center-in-box", "fcos", "center-peak", "one-query")  # their tags
