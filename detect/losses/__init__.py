"""Losses of detector heads for classes, boxes and heatmaps, and their normalizers.

A class is an index from 0, ``BACKGROUND`` or ``IGNORE``. Class and heatmap losses return one sum for each image, box losses
one value for each row. The loss of a batch is ``(sums / normalizer(num_positives)).sum()`` with :func:`image_normalizer`,
:func:`batch_normalizer` or :class:`EmaNormalizer`, which return one divisor for each image. Images without positives and
empty rows need no special case. Half precision is computed and returned in float32.
"""

from detect.losses.boxes import ciou_loss, diou_loss, giou_loss, l1_loss, smooth_l1_loss
from detect.losses.focal import focal_loss, quality_focal_loss
from detect.losses.heatmaps import (
    adaptive_wing_loss,
    heatmap_bce_loss,
    heatmap_focal_loss,
    heatmap_mse_loss,
    points_l1_loss,
)
from detect.losses.normalizers import EmaNormalizer, batch_normalizer, image_normalizer, mean_over_processes

__all__ = [
    "EmaNormalizer",
    "adaptive_wing_loss",
    "batch_normalizer",
    "ciou_loss",
    "diou_loss",
    "focal_loss",
    "giou_loss",
    "heatmap_bce_loss",
    "heatmap_focal_loss",
    "heatmap_mse_loss",
    "image_normalizer",
    "l1_loss",
    "mean_over_processes",
    "points_l1_loss",
    "quality_focal_loss",
    "smooth_l1_loss",
]
