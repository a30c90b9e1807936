"""An extra pyramid level of half the finest stride: the instances it would cover, and its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detect.anchors.anchor_set import AnchorLevel, AnchorSet, level_name
from detect.anchors.grid_iou import grid_iou_by_level
from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.instances import sizes_counted
from detect.anchors.metrics import AnchorMetrics
from detect.ops.exact_sums import ExactMean, Sums

SCALES = (0.5, 1.0)  # of the finest level's shapes: the next octave of the pyramid, or the same shapes on a denser grid
MIN_GAIN = 0.01  # share of instances


@dataclass(frozen=True, kw_only=True)
class ExtraLevel:
    """A level of half the finest stride added to a set; it pays if it covers 1 % of the instances in addition."""

    name: str
    stride: int
    finest: str
    """The finest level of the set; ``shapes`` are its shapes times ``scale``."""
    scale: float
    shapes: tuple[tuple[float, float], ...]
    recall: float
    """On the grid with all levels, as is ``average_iou``."""
    average_iou: float
    gained: int
    """Instances covered by this level and no other."""
    gained_share: float
    anchors_added: float
    """Anchors of this level / anchors of the set."""
    flops_added: float
    """The head's operations on this level / on the levels of the set."""
    pays: bool

    @property
    def words(self) -> str:
        """The result as a sentence."""
        shapes = f"the shapes of {self.finest}" + (" halved" if self.scale < 1 else "")
        return (
            f"{self.name} with {shapes} would cover {self.gained:,} more ({self.gained_share:.1%} of instances) and add "
            f"{self.anchors_added:.1f} times the anchors and {self.flops_added:.1f} times the operations: "
            f"it {'pays' if self.pays else 'does not pay'}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return vars(self) | {"shapes": [list(shape) for shape in self.shapes]}


@dataclass(frozen=True)
class ExtraSums(Sums):
    """An extra level on its own, and the instances it covers together with the levels of a set."""

    alone: AnchorSet
    gained: int
    covered: ExactMean
    iou: ExactMean


def extra_level(metrics: AnchorMetrics, head: HeadSize, *, threshold: float) -> ExtraLevel | None:
    """The extra level that covers more, with the finest level's shapes halved or as they are; None if its stride is odd.

    ``metrics`` are those of the set without it; an instance counts as covered from an IoU of ``threshold`` on the grid.

    >>> from detect.anchors.metrics import anchor_metrics
    >>> from detect.anchors.instances import ResizedInstances
    >>> from detect.data import read_coco
    >>> dataset = read_coco({
    ...     "images": [{"id": 1, "width": 64, "height": 64}], "categories": [{"id": 1, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 8, 8]}],
    ... })
    >>> metrics = anchor_metrics(ResizedInstances.of(dataset, "none"), AnchorSet.of([[(16, 16)]], strides=[16]))
    >>> extra_level(metrics, HeadSize(num_classes=1), threshold=0.5).words
    'P3 with the shapes of P4 halved would cover 1 more (100.0% of instances) and add 4.0 times the anchors and 4.0 times the
    operations: it pays'
    """
    sums, sizes = extra_sums(metrics, threshold=threshold), sizes_counted(metrics.instances.image_canvas_wh)
    return extra_level_of(sums, metrics.anchors, sizes, head)


def extra_sums(metrics: AnchorMetrics, *, threshold: float) -> tuple[ExtraSums, ...]:
    """The instances that an extra level would cover, for each of ``SCALES``; none if the finest stride is odd."""
    finest, instances, before = metrics.anchors.levels[0], metrics.instances, metrics.grid_best_iou
    found = []
    for scale in () if finest.stride % 2 else SCALES:
        stride = finest.stride // 2
        shapes = [(width * scale, height * scale) for width, height in finest.shapes]
        level = AnchorLevel(level_name(stride), stride, shapes)
        alone = AnchorSet((level,), center_offset=metrics.anchors.center_offset)
        (iou,) = grid_iou_by_level(instances.boxes, instances.canvas_wh, alone, convention=metrics.convention).T
        best = np.maximum(iou, before)
        gained = int(((iou >= threshold) & (before < threshold)).sum())
        found.append(ExtraSums(alone, gained, ExactMean.of(best >= threshold), ExactMean.of(best)))
    return tuple(found)


def extra_level_of(
    sums: Sequence[ExtraSums], anchors: AnchorSet, canvases: Mapping[tuple[int, int], int], head: HeadSize
) -> ExtraLevel | None:
    """The extra level from its sums; see :func:`extra_level`."""
    tried = [_level(scale, own, anchors, canvases, head) for scale, own in zip(SCALES, sums, strict=False)]
    return max(tried, key=lambda level: (level.gained, level.average_iou), default=None)


def _level(
    scale: float, sums: ExtraSums, anchors: AnchorSet, canvases: Mapping[tuple[int, int], int], head: HeadSize
) -> ExtraLevel:
    (level,), count = sums.alone.levels, sums.iou.count
    (cost,), others = (level_costs(canvases, each, head) for each in (sums.alone, anchors))
    return ExtraLevel(
        name=level.name,
        stride=level.stride,
        finest=anchors.levels[0].name,
        scale=scale,
        shapes=tuple(level.shapes),
        recall=sums.covered.value,
        average_iou=sums.iou.value,
        gained=sums.gained,
        gained_share=sums.gained / count if count else math.nan,
        anchors_added=cost.anchors / sum(other.anchors for other in others),
        flops_added=cost.flops / sum(other.flops for other in others),
        pays=sums.gained >= max(1, MIN_GAIN * count),
    )
