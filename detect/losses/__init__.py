"""The losses of detector heads: for classes, boxes and heatmaps, and what divides their sums.

A class is an index from 0, ``BACKGROUND`` or ``IGNORE``. The losses of classes and of heatmaps give one sum for each image,
the box losses one value for each row. A batch's loss is ``(sums / divisors).sum()``, where one rule makes the divisors, one
for each image, from the numbers of positives: :func:`image_divisors`, :func:`batch_divisors` or :class:`MovingDivisors`.
Images without positives, and no rows, are ordinary. Half precision is computed and returned in float32.
"""

from detect.losses.boxes import ciou_loss, diou_loss, giou_loss, l1_loss, smooth_l1_loss
from detect.losses.divisors import MovingDivisors, batch_divisors, image_divisors, mean_over_processes
from detect.losses.focal import focal_loss, quality_focal_loss, soft_focal_loss
from detect.losses.heatmaps import (
    adaptive_wing_loss,
    heatmap_bce_loss,
    heatmap_focal_loss,
    heatmap_mse_loss,
    points_l1_loss,
)

__all__ = [
    "MovingDivisors",
    "adaptive_wing_loss",
    "batch_divisors",
    "ciou_loss",
    "diou_loss",
    "focal_loss",
    "giou_loss",
    "heatmap_bce_loss",
    "heatmap_focal_loss",
    "heatmap_mse_loss",
    "image_divisors",
    "l1_loss",
    "mean_over_processes",
    "points_l1_loss",
    "quality_focal_loss",
    "smooth_l1_loss",
    "soft_focal_loss",
]
