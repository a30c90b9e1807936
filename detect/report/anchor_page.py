"""The report of anchors, as the text of one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detect.anchors.metrics import YOLOV5_RATIO, AnchorMetrics
from detect.anchors.stability import Generalisation, Stability
from detect.fitting.fit import KCurve
from detect.report.anchor_figures import (
    boxes_and_shapes,
    iou_map,
    k_curve_panel,
    recall_by_size,
    recall_over_iou,
    shapes_to_scale,
)
from detect.report.anchor_pictures import worst_block
from detect.report.anchor_stability import generalisation_block, stability_blocks, stable_shapes_panel
from detect.report.dataset_figures import average_iou_panels, dataset_panels
from detect.report.level_page import advice_list, grid_iou_by_level, level_caption, level_table
from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import Panel, level_colors
from detect.report.tables import (
    MAX_WORST,
    anchors_table,
    bounds_in_words,
    escape,
    findings,
    headline_table,
    worst_table,
)

if TYPE_CHECKING:
    from detect.anchors.levels import LevelReport  # which needs torch: seconds, for pages that do without

TITLES = {"worst": "Worst covered"}
REFUSED = "Entries that cannot be used: nothing on this page counts them."
ODD = "Entries that are used, though something about them is not as it should be."
ANCHORS = "Shapes after the resize rule, level by level, in the order of the head's channels."
HEADLINE = f"""R@t is the share of boxes whose best IoU reaches t: by shape where box and anchor share a centre, placed
where the grid puts the anchors. The last column is YOLOv5's “best possible recall”, a ratio test: the share of boxes for
which some anchor is within a factor of {YOLOV5_RATIO:g} in width and in height, whatever their IoU."""
OTHER_RULE = " A set made for another resize rule is scored as it stands."
WORST = "Where to look first: boxes that no shape comes near, with the best IoU by shape and as placed on the grid."


def anchor_page(
    scores: Sequence[AnchorMetrics],
    curve: KCurve | None,
    *,
    title: str,
    notes: Sequence[str] = (),
    images: str | Path | None = None,
    stability: Stability | None = None,
    generalisation: Generalisation | None = None,
    preference: LevelReport | None = None,
) -> str:
    """The report of a fit, as the text of one HTML file; equal input gives equal text.

    Args:
        scores: the set that was fitted, then those it is compared with.
        curve: average IoU over the number of shapes, or None to leave that figure out.
        title: heading of the page.
        notes: lines of plain text under the heading.
        images: folder of the images, to draw the worst covered instances over them; one that is missing or broken is
            left out, and the page says so.
        stability: of the first set, over the choice of images.
        generalisation: of the first set, from the images it was fitted to to others.
        preference: of the first set's levels, as the page's table of levels is to tell it.

    Raises:
        ValueError: no scores.
    """
    if not scores:
        raise ValueError("a page needs at least one Coverage, got none")
    of_levels = preference.score if preference else scores[0]
    colors = level_colors([of_levels, *scores])
    panels = _panels(scores, of_levels, colors, curve, stability)
    parts = {
        "summary": _counts(scores[0]) + _headline(scores),
        "shapes": grid(panels["shapes"]) + block("Anchors by level", ANCHORS, anchors_table(scores, colors)),
        "coverage": grid(panels["coverage"]),
        "levels": _levels(of_levels, colors, preference) + grid(panels["levels"]),
        "stability": _stability(panels["stability"], stability, generalisation, colors),
        "worst": (worst_block(scores[0], images) if images else "") + _worst(scores[0]),
        "dataset": grid(panels["dataset"]),
        "findings": _findings(scores[0]),
    }
    shown = [name for name, content in parts.items() if content]
    instances = scores[0].instances
    rule = f"Resize rule <code>{escape(str(instances.rule))}</code>"
    body = [
        header(title, rule, read_from=instances.dataset.files, sections=shown, notes=notes),
        *(section(name, TITLES.get(name, name.capitalize()), parts[name]) for name in shown),
    ]
    return document(title, "\n".join(body), [panel for group in panels.values() for panel in group])


def _panels(
    scores: Sequence[AnchorMetrics],
    of_levels: AnchorMetrics,
    colors: Mapping[int, str],
    curve: KCurve | None,
    stability: Stability | None,
) -> Mapping[str, Sequence[Panel]]:
    k_curve = [k_curve_panel(curve)] if curve else []
    sizes = recall_by_size(scores[0], 6 if k_curve else 12)
    return {
        "shapes": [boxes_and_shapes(scores[0], colors), shapes_to_scale(scores[0], colors)],
        "coverage": [
            iou_map(scores[0], colors),
            recall_over_iou(scores, 6),
            sizes,
            *k_curve,
            *average_iou_panels(scores),
        ],
        "levels": [grid_iou_by_level(of_levels, colors, 12)],
        "stability": [stable_shapes_panel(stability, colors)] if stability else [],
        "dataset": dataset_panels(scores[0]),
    }


def _levels(score: AnchorMetrics, colors: Mapping[int, str], preference: LevelReport | None) -> str:
    caption = level_caption(preference.threshold) if preference else level_caption()
    words = advice_list(preference) if preference else ""
    return block("Levels", caption, level_table(score, colors, preference) + words)


def _stability(
    panels: Sequence[Panel],
    stability: Stability | None,
    generalisation: Generalisation | None,
    colors: Mapping[int, str],
) -> str:
    of_shapes = grid(panels) + stability_blocks(stability, colors) if stability else ""
    return of_shapes + (generalisation_block(generalisation) if generalisation else "")


def _counts(score: AnchorMetrics) -> str:
    dataset = score.instances.dataset
    return tiles(
        {
            "images": len(dataset.images),
            "instances": len(score.instances),
            "categories": len(dataset.categories),
            "crowd regions": len(dataset.crowd),
            "refused": len(dataset.invalid),
            "odd": len(dataset.suspicious),
        }
    )


def _headline(scores: Sequence[AnchorMetrics]) -> str:
    rules = {score.anchors.resize for score in scores}
    caption = HEADLINE if rules == {str(scores[0].instances.rule)} else HEADLINE + OTHER_RULE
    lines = "".join(f"<li>{escape(line)}</li>" for line in bounds_in_words(scores[0]))
    bounds = f'<ul class="notes">{lines}</ul>' if lines else ""
    return block("Anchor sets", caption, headline_table(scores) + bounds)


def _worst(score: AnchorMetrics) -> str:
    count = min(MAX_WORST, len(score.instances))
    return block(f"Worst covered instances <b>{count}</b>", WORST, worst_table(score))


def _findings(score: AnchorMetrics) -> str:
    dataset = score.instances.dataset
    tables = findings("refused", REFUSED, dataset.invalid), findings("odd", ODD, dataset.suspicious)
    return "\n".join(f'<div class="block">{content}</div>' for content in tables)
