"""The report of anchors, as the text of one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detect.anchors.coverage import YOLOV5_RATIO, Coverage
from detect.anchors.fitting import KCurve
from detect.report.anchor_plots import (
    average_iou_panels,
    boxes_and_shapes,
    k_curve_panel,
    recall_over_iou,
    shapes_to_scale,
)
from detect.report.dataset_plots import dataset_panels
from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import Panel, level_colors
from detect.report.tables import MAX_WORST, anchors_table, escape, findings, headline_table, worst_table

SECTIONS = ("summary", "shapes", "coverage", "dataset", "findings")
REFUSED = "Entries that cannot be used: nothing on this page counts them."
ODD = "Entries that are used, though something about them is not as it should be."
ANCHORS = "Shapes after the resize rule, level by level, in the order of the head's channels."
HEADLINE = f"""R@t is the share of boxes whose best IoU reaches t: by shape where box and anchor share a centre, placed
where the grid puts the anchors. The last column is YOLOv5's “best possible recall”, a ratio test: the share of boxes for
which some anchor is within a factor of {YOLOV5_RATIO:g} in width and in height, whatever their IoU."""
OTHER_RULE = " A set made for another resize rule is scored as it stands."
WORST = "Where to look first: boxes that no shape comes near, with the best IoU by shape and as placed on the grid."


def anchor_page(scores: Sequence[Coverage], curve: KCurve | None, *, title: str, notes: Sequence[str] = ()) -> str:
    """The report of a fit, as the text of one HTML file; equal input gives equal text.

    Args:
        scores: the set that was fitted, then those it is compared with.
        curve: average IoU over the number of shapes, or None to leave that figure out.
        title: heading of the page.
        notes: lines of plain text under the heading.

    Raises:
        ValueError: no scores.
    """
    if not scores:
        raise ValueError("a page needs at least one Coverage, got none")
    panels = _panels(scores, curve)
    instances = scores[0].instances
    rule = f"Resize rule <code>{escape(str(instances.rule))}</code>"
    body = [
        header(title, rule, read_from=instances.dataset.files, sections=SECTIONS, notes=notes),
        section("summary", "Summary", _counts(scores[0]) + _headline(scores)),
        section("shapes", "Shapes", grid(panels["shapes"]) + block("Anchors by level", ANCHORS, _anchors(scores))),
        section("coverage", "Coverage", grid(panels["coverage"]) + _worst(scores[0])),
        section("dataset", "Dataset", grid(panels["dataset"])),
        section("findings", "Findings", _findings(scores[0])),
    ]
    return document(title, "\n".join(body), [panel for group in panels.values() for panel in group])


def _panels(scores: Sequence[Coverage], curve: KCurve | None) -> Mapping[str, list[Panel]]:
    colors = level_colors(scores)
    k_curve = [k_curve_panel(curve)] if curve else []
    return {
        "shapes": [boxes_and_shapes(scores[0], colors), shapes_to_scale(scores[0], colors)],
        "coverage": [recall_over_iou(scores, 6 if k_curve else 12), *k_curve, *average_iou_panels(scores)],
        "dataset": dataset_panels(scores[0]),
    }


def _counts(score: Coverage) -> str:
    dataset = score.instances.dataset
    return tiles(
        {
            "images": len(dataset.images),
            "instances": len(score.instances),
            "categories": len(dataset.categories),
            "crowd regions": len(dataset.crowd),
            "refused": len(dataset.refused),
            "odd": len(dataset.odd),
        }
    )


def _headline(scores: Sequence[Coverage]) -> str:
    rules = {score.anchors.resize for score in scores}
    caption = HEADLINE if rules == {str(scores[0].instances.rule)} else HEADLINE + OTHER_RULE
    return block("Anchor sets", caption, headline_table(scores))


def _anchors(scores: Sequence[Coverage]) -> str:
    return anchors_table(scores, level_colors(scores))


def _worst(score: Coverage) -> str:
    count = min(MAX_WORST, len(score.instances))
    return block(f"Worst covered instances <b>{count}</b>", WORST, worst_table(score))


def _findings(score: Coverage) -> str:
    dataset = score.instances.dataset
    tables = findings("refused", REFUSED, dataset.refused), findings("odd", ODD, dataset.odd)
    return "\n".join(f'<div class="block">{content}</div>' for content in tables)
