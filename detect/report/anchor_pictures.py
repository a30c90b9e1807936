"""Instances with the lowest IoU, drawn over their images with their best anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detect.anchors.metrics import AnchorMetrics
from detect.report.object_pictures import MAX_PICTURES, MAX_TRIED, ObjectPictures, object_pictures, pictures_block
from detect.report.page import block
from detect.report.tables import escape


def worst_pictures(score: AnchorMetrics, folder: str | Path, count: int = MAX_PICTURES) -> ObjectPictures:
    """Draw the instances with the lowest IoU whose image can be opened; the others are listed with the reason.

    Raises:
        ValueError: the resize rule makes tiles; the position of a tile in its image is not stored.
    """
    if score.instances.rule.name == "tiles":
        raise ValueError("instances of tiles cannot be drawn: the position of a tile in its image is not stored")
    rows, dataset = score.worst(max(MAX_TRIED, count)), score.instances.dataset
    resized = score.instances.rule.resize_images(dataset.images.wh[dataset.instances.image_rows[rows]])
    scale, offset = np.tile(resized.scale_xy, 2), np.tile(resized.offset_xy, 2)
    anchors = (score.best_anchors(rows) - offset) / scale
    return object_pictures(dataset, rows.tolist(), folder, anchors=anchors, count=count)


def worst_block(score: AnchorMetrics, folder: str | Path) -> str:
    """Return the pictures and a sentence on how to read them, as markup."""
    title = "Instances with the lowest IoU over their images"
    if score.instances.rule.name == "tiles":
        return block(title, "Not drawn: the position of a tile in its image is not stored.", "")
    caption = (
        "The yellow box is the instance; the dashed blue one is its best anchor on the grid, of "
        f"“{escape(score.anchors.name)}”. Contrast is stretched."
    )

    def heading(row: int) -> str:
        return f"<b>IoU {score.best_iou[row]:.3f}</b>, on the grid {score.grid_best_iou[row]:.3f}"

    return pictures_block(title, caption, worst_pictures(score, folder), score.instances.dataset, heading)
