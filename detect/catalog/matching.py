"""Which anchors, cells or queries of a detector learn an object: the matching rules of the catalog, as data."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, get_args

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
    per_shape: bool = False


AnchorMatching = SideRatio | BestShape | CenterCell | MaxIoURule | AtssRule


class CenterInBox(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="center-in-box"):
    """TOOD, YOLOv8 and later, PP-YOLOE, RTMDet: of the cells whose centre lies inside a box, the best by the predictions."""

    top_k: Number = 10
    """Cells of an object at most."""
    widen_below: Annotated[int, Meta(ge=0, le=7)] | None = None
    widen_to: Annotated[int, Meta(ge=0, le=7)] = 1
    """Sides shorter than the stride of level ``widen_below``, 0 the finest, count as long as that of ``widen_to``."""
    margin_px: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """A centre is inside if it is more than this far from every side."""
    origin: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Centres of cells lie at (i + ``origin``) strides."""
    any_box: bool = False
    """Whether a cell inside any box of the image may learn any of its objects (RTMDet)."""


class FcosRanges(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="fcos"):
    """FCOS: cells inside a box whose farthest side is in the range of the level; the smallest object gets the cell."""

    limits: tuple[Annotated[float, Meta(gt=0)], ...] = (64, 128, 256, 512)
    """Where the range of a level ends and that of the next begins, in pixels: the first begins at 0, the last has no end."""
    radius: Annotated[float, Meta(gt=0)] | None = None
    """Largest distance of a cell from the centre of the box along an axis, in strides; None takes the whole box."""
    origin: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Centres of cells lie at (i + ``origin``) strides."""
    is_open: bool = False
    """Whether the limits of a range do not belong to it."""
    area_step: Annotated[float, Meta(ge=0)] = 0.0
    """Areas are equal if they round to the same multiple of it, in square pixels; then the first object gets the cell."""

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The range of each level, in pixels."""
        return tuple(pairwise((0.0 if self.is_open else -1.0, *self.limits, math.inf)))


class CenterPeak(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="center-peak"):
    """CenterNet: the cell that holds a box's centre, one object of each category in a cell."""


class OneQuery(Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="one-query"):
    """DETR and its kin: each object is matched with one query, whichever predicts it best."""


CellMatching = CenterInBox | FcosRanges | CenterPeak | OneQuery
CELL_RULES = tuple(kind.__struct_config__.tag for kind in get_args(CellMatching))
