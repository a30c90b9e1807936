"""Whether a level finer than the finest would pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, level_name
from detect.anchors.coverage import Coverage
from detect.anchors.grid import AnchorGrid
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.placed import placed_iou_by_level

SCALES = (0.5, 1.0)  # of the finest level's shapes: as the next of a pyramid would be; as they are, but laid closer
MUST_GAIN = 0.01  # share of instances


@dataclass(frozen=True)
class FinerLevel:
    """A level of half the finest stride, beside the others; ``pays`` where it covers 1 % of the instances in addition."""

    name: str
    stride: int
    beside: str
    """The finest level so far, whose shapes times ``scale`` are ``shapes``."""
    scale: float
    shapes: tuple[tuple[float, float], ...]
    recall: float
    average_iou: float
    """Both as placed on the grid, with all levels."""
    gained: int
    """Instances that it covers and no other level does."""
    gained_share: float
    anchors_added: float
    flops_added: float
    """As shares of the head without it."""
    pays: bool

    @property
    def words(self) -> str:
        """All of it in a sentence."""
        shapes = f"the shapes of {self.beside}" + (" halved" if self.scale < 1 else "")
        return (
            f"{self.name} with {shapes} would cover {self.gained:,} more ({self.gained_share:.1%} of instances), for "
            f"{self.anchors_added:.1f} times the anchors and {self.flops_added:.1f} times the operations in addition: "
            f"it {'pays' if self.pays else 'does not pay'}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return vars(self) | {"shapes": [list(shape) for shape in self.shapes]}


def finer_level(score: Coverage, grid: AnchorGrid, head: HeadSize, *, threshold: float) -> FinerLevel | None:
    """Half the finest stride, with the finest level's shapes at one of ``SCALES``: that which covers more.

    None where the finest stride is odd.

    >>> from detect.anchors.coverage import coverage
    >>> from detect.anchors.instances import ResizedInstances
    >>> from detect.coco import read_coco
    >>> from detect.resize import parse_resize
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 8, 8]}],
    ... })
    >>> grid = AnchorGrid(AnchorSet.of([[(16, 16)]], strides=[16]))
    >>> score = coverage(ResizedInstances.of(dataset, parse_resize("none")), grid.anchors)
    >>> finer_level(score, grid, HeadSize(num_classes=1), threshold=0.5).words
    'P3 with the shapes of P4 halved would cover 1 more (100.0% of instances), for 4.0 times the anchors and 4.0 times the
    operations in addition: it pays'
    """
    if grid.anchors.levels[0].stride % 2:
        return None
    tried = [_at_scale(scale, score, grid, head, threshold) for scale in SCALES]
    return max(tried, key=lambda finer: (finer.gained, finer.average_iou))


def _at_scale(scale: float, score: Coverage, grid: AnchorGrid, head: HeadSize, threshold: float) -> FinerLevel:
    finest, instances = grid.anchors.levels[0], score.instances
    stride = finest.stride // 2
    shapes = [(width * scale, height * scale) for width, height in finest.shapes]
    alone = AnchorSet((AnchorLevel(level_name(stride), stride, shapes),), center_offset=grid.anchors.center_offset)
    iou = placed_iou_by_level(
        instances.boxes, instances.canvas_wh, alone, strides=grid.strides, rounded=grid.rounded
    ).max(axis=1)
    best = np.maximum(iou, score.placed_best_iou)
    gained = int(((iou >= threshold) & (score.placed_best_iou < threshold)).sum())
    canvas_wh = instances.rule.resize_images(instances.dataset.images.wh).canvas_wh
    (cost,), others = level_costs(canvas_wh, alone, head), level_costs(canvas_wh, grid.anchors, head)
    count = len(best)
    return FinerLevel(
        name=level_name(stride),
        stride=stride,
        beside=finest.name,
        scale=scale,
        shapes=tuple(shapes),
        recall=float((best >= threshold).mean()) if count else float("nan"),
        average_iou=float(best.mean()) if count else float("nan"),
        gained=gained,
        gained_share=gained / count if count else float("nan"),
        anchors_added=cost.anchors / sum(other.anchors for other in others),
        flops_added=cost.flops / sum(other.flops for other in others),
        pays=gained >= max(1, MUST_GAIN * count),
    )
