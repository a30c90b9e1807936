"""The page of an anchor fit or a comparison of anchor sets, as the text of one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detect.anchors.detector_score import DetectorScore
from detect.anchors.metrics import YOLOV5_RATIO, AnchorMetrics
from detect.anchors.stability import Generalisation, Stability
from detect.fitting.fit import KCurve
from detect.report import anchor_figures as figures
from detect.report import tables
from detect.report.anchor_stability import generalisation_block, stability_blocks, stable_shapes_panel
from detect.report.dataset_figures import average_iou_panels, dataset_panels
from detect.report.detector_section import detector_section
from detect.report.level_page import grid_iou_by_level, level_caption, level_table
from detect.report.object_pictures import MAX_TRIED, ObjectPictures, object_pictures, pictures_block
from detect.report.page import Sections, block, page, tiles
from detect.report.plots import Panel, level_colors
from detect.report.tables import escape, notes_list
from detect.wording import by_nouns

INVALID = "Entries that cannot be used. No number on this page includes them."
SUSPICIOUS = "Entries that are used although they look wrong."
ANCHORS = "Shapes of each level after the resize rule, in the order of the head's channels."
HEADLINE = f"""R@t, the recall at t, is the share of boxes whose best IoU is at least t. By shape, box and anchor share a
centre; on the grid, each lies at its own position. The last column is YOLOv5's “best possible recall”, a ratio test: the
share of boxes with an anchor whose width and height differ by less than a factor of {YOLOV5_RATIO:g}, whatever the IoU."""
OTHER_RULE = " Sets made for another resize rule are scored without conversion."
WORST = "Boxes with the lowest best IoU by shape, and their best IoU on the grid. Look at these first."


def anchor_page(
    scores: Sequence[AnchorMetrics],
    curve: KCurve | None,
    *,
    title: str,
    images: str | Path | None = None,
    stability: Stability | None = None,
    generalisation: Generalisation | None = None,
    detectors: Sequence[DetectorScore] = (),
) -> str:
    """Return the page as the text of one HTML file.

    Args:
        scores: metrics of the fitted set, then of the sets it is compared with.
        curve: average IoU by number of shapes.
        title: plain text.
        images: folder of the images, to show the instances with the lowest IoU over them.
        stability, generalisation: of the first set.
        detectors: scores under the rule of the detector that the first set is for, of this set and of others.

    Raises:
        ValueError: ``scores`` is empty.
    """
    if not scores:
        raise ValueError("need metrics of at least one anchor set, got none")
    first, dataset = scores[0], scores[0].instances.dataset
    colors = level_colors(scores)
    counts = {"image": len(dataset.images), "instance": len(first.instances), "category": len(dataset.categories)}
    counts = by_nouns({**counts, "crowd region": len(dataset.crowd)})
    counts |= {name: len(getattr(dataset, name)) for name in ("invalid", "suspicious")}
    levels = block("Levels", level_caption(), level_table(first, colors))
    rules = {score.anchors.resize for score in scores} - {""}
    headline = HEADLINE if rules == {str(first.instances.rule)} else HEADLINE + OTHER_RULE
    bounds = notes_list(tables.bounds_in_words(first))
    num_worst = min(tables.MAX_WORST, len(first.instances))
    worst = block(f"Instances with the lowest IoU <b>{num_worst}</b>", WORST, tables.worst_table(first))
    kinds = (("invalid", INVALID), ("suspicious", SUSPICIOUS))
    entries = (tables.findings(name, caption, getattr(dataset, name)) for name, caption in kinds)
    shapes = [figures.boxes_and_shapes(first, colors), figures.shapes_to_scale(first, colors)]
    by_level = block("Anchors by level", ANCHORS, tables.anchors_table(scores, colors))
    k_curve = [figures.k_curve_panel(curve)] if curve else []
    recalls = [figures.recall_over_iou(scores, 6), figures.recall_by_size(first, 6 if k_curve else 12)]
    metrics = [figures.iou_map(first, colors), *recalls, *k_curve, *average_iou_panels(scores)]
    stable: list[str | list[Panel]] = []
    if stability:
        stable += [[stable_shapes_panel(stability, colors)], stability_blocks(stability, colors)]
    if generalisation:
        stable.append(generalisation_block(generalisation))
    sections: Sections = {
        "summary": ("Summary", [tiles(counts), block("Anchor sets", headline, tables.headline_table(scores) + bounds)]),
        "detector": ("The detector", detector_section(detectors)),
        "shapes": ("Shapes", [shapes, by_level]),
        "metrics": ("IoU and recall", [metrics]),
        "levels": ("Levels", [levels, [grid_iou_by_level(first, colors, 12)]]),
        "stability": ("Stability", stable),
        "worst": ("Lowest IoU", [worst_block(first, images) if images else "", worst]),
        "dataset": ("Dataset", [dataset_panels(first)]),
        "findings": ("Findings", ["\n".join(f'<div class="block">{content}</div>' for content in entries)]),
    }
    rule = f"Resize rule <code>{escape(str(first.instances.rule))}</code>"
    return page(title, rule, sections, read_from=dataset.files)


def worst_pictures(score: AnchorMetrics, folder: str | Path) -> ObjectPictures:
    """Draw the instances with the lowest IoU whose image can be opened, each with its best anchor on the grid."""
    rows, dataset = score.worst(MAX_TRIED), score.instances.dataset
    resized = score.instances.rule.resize_images(dataset.images.wh[dataset.instances.image_rows[rows]])
    scale, offset = np.tile(resized.scale_xy, 2), np.tile(resized.offset_xy, 2)
    anchors = (score.best_anchors(rows) - offset) / scale
    return object_pictures(dataset, rows.tolist(), folder, anchors=anchors)


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
