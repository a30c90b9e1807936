"""The page of a level report: what each pyramid level contributes and costs, as the text of one HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.metrics import COVERED, AnchorMetrics
from detect.report.page import Sections, block, page, tiles
from detect.report.plots import INK, MISSED, PLAIN, SET_COLORS, Panel, label, level_colors, level_keys, panel
from detect.report.tables import Html, decimal, escape, notes_list, percent, swatch, table
from detect.wording import by_nouns

if TYPE_CHECKING:
    from detect.anchors.levels import KeptLevels, LevelReport  # imports torch, which takes seconds

NUM_BARS = 20
HALF_WIDTH = 6  # columns of the page
WITHOUT = """Metrics on the grid without each level in turn. Lost boxes are covered by all levels together, but not by the
remaining ones. Boxes below the threshold have no anchor at the foreground threshold: only the low-quality match that gives
each box its best anchor trains them."""
ADVICE = "From matching anchors with the boxes as a detector does in training. No network was trained."
SUBSETS = "Subsets of levels that save the most operations among all that lose as few boxes. The suggested one is bold."


def level_table(score: AnchorMetrics, colors: Mapping[int, str], report: LevelReport | None = None) -> str:
    """Return a table with a row for each level: share of boxes, average IoU, boxes lost without it, and anchors.

    A report on the levels of ``score`` adds positives and operations.
    """
    titles = ["level", "stride, px", "shapes", "best for", "average IoU", "lost without it", "anchors"]
    titles += ["positives", "GFLOPs"] if report else []
    threshold = report.threshold if report else COVERED
    canvas_wh = score.instances.rule.resize_images(score.instances.dataset.images.wh).canvas_wh
    costs = level_costs(canvas_wh, score.anchors, HeadSize(1))
    count, lost = len(score.instances), score.only_on_level(threshold).tolist()
    rows: list[list[str | Html]] = []
    for number, (level, group) in enumerate(zip(score.anchors.levels, score.by_level, strict=True)):
        share = group.count / count if count else math.nan
        cells = [f"{level.stride}", f"{len(level.shapes)}", percent(share), decimal(group.grid_average_iou)]
        cells += [f"{lost[number]:,}", "-" if math.isnan(costs[number].anchors) else f"{costs[number].anchors:,.0f}"]
        if report:
            usage = report.levels[number]
            cells += [percent(usage.positives), f"{usage.cost.flops / 1e9:.2f}" if usage.cost.flops > 0 else "-"]
        rows.append([swatch(colors[level.stride], level.name), *cells])
    return table(titles, rows)


def level_caption(threshold: float = COVERED) -> str:
    """Return the caption of :func:`level_table`."""
    return (
        "Best for: share of boxes whose best anchor on the grid is on the level; average IoU is that of these boxes. "
        f"Lost without it: boxes that reach IoU {threshold:g} on no other level. Anchors are counted for an input of "
        "average size."
    )


def grid_iou_by_level(score: AnchorMetrics, colors: Mapping[int, str], columns: int) -> Panel:
    """Draw the histogram of best IoUs on the grid, stacked by the level of the best anchor."""
    edges = np.linspace(0, 1, NUM_BARS + 1)
    traces = []
    for number, level in enumerate(score.anchors.levels):
        counts, _ = np.histogram(score.grid_best_iou[score.best_level == number], edges)
        bars = go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=counts, width=0.9 / NUM_BARS, name=label(level.name))
        bars.update(marker={"color": colors[level.stride]}, hovertemplate="%{y:,}")
        traces.append(bars)
    layout: dict[str, Any] = {
        "xaxis": {"title": "best IoU on the grid", "range": [0, 1], "dtick": 0.1, "tickformat": ".1f"},
        "yaxis": {"title": "boxes", "tickformat": ",d", "nticks": 6, "rangemode": "tozero"},
        "height": 280 if columns > HALF_WIDTH else 360,
        "barmode": "stack",
        "hovermode": "x unified",
    }
    caption = (
        "Boxes by their best IoU on the grid, in the colour of the level with the best anchor. Boxes left of the dotted "
        f"line at {COVERED:g} are missed."
    )
    keys = level_keys(score.anchors, colors, "square")
    drawn = panel("iou-by-level", "Best IoU by level", caption, traces, columns=columns, keys=keys, **layout)
    drawn.figure.add_vline(x=COVERED, line={"color": INK, "width": 1.2, "dash": "dot"})
    return drawn


def kept_table(kept: Iterable[KeptLevels], suggested: KeptLevels | None = None) -> str:
    """Return a table with a row for each subset of levels; the suggested one is bold."""
    titles = ("kept", "dropped", "lost", "recall", "average IoU", "below the threshold", "anchors saved")
    rows: list[list[str | Html]] = []
    for each in kept:
        cells = [f"{len(each.lost):,}", percent(each.recall), decimal(each.average_iou), f"{each.without_threshold:,}"]
        cells += [percent(each.anchors_saved), percent(each.flops_saved)]
        cells = [", ".join(each.names), ", ".join(each.dropped) or "none", *cells]
        bold = suggested is not None and each.levels == suggested.levels
        rows.append([Html(f"<b>{escape(cell)}</b>") if bold else cell for cell in cells])
    return table((*titles, "operations saved"), rows, align="llr", scroll=len(rows) > NUM_BARS)


def savings_panel(report: LevelReport) -> Panel:
    """Draw the operations that each subset of levels saves against the boxes it loses."""
    groups = (report.pareto_front, list(report.subsets()), [report.suggested])
    step, dots, ring = (_savings(kept, report.num_instances) for kept in groups)
    step.update(mode="lines", line={"color": SET_COLORS[0], "width": 1.5, "shape": "vh"}, hoverinfo="skip")
    dots.update(mode="markers", marker={"color": PLAIN, "size": 7, "line": {"color": "white", "width": 1}})
    dots.hovertemplate = "%{text}<br>saves %{x:.1%} of operations<br>loses %{y:.2%} of boxes<extra></extra>"
    circle = {"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": MISSED, "width": 2}}
    ring.update(mode="markers", marker=circle, hoverinfo="skip")
    xaxis = {"title": "operations of the head saved", "tickformat": ".0%", "range": [-0.03, 1.03]}
    yaxis = {"title": "boxes lost", "tickformat": ".0%", "rangemode": "tozero", "nticks": 6}
    caption = (
        "Each dot is a subset of the levels. The line is the Pareto front: no subset saves as much and loses fewer boxes. "
        "The suggested subset is circled."
    )
    axes: dict[str, Any] = {"xaxis": xaxis, "yaxis": yaxis, "height": 360}
    return panel("savings", "Operations saved and boxes lost", caption, [step, dots, ring], **axes)


def _savings(subsets: Sequence[KeptLevels], num_instances: int) -> Any:
    names = [label(" ".join(each.names), 60) for each in subsets]
    saved = [each.flops_saved for each in subsets]
    lost = [len(each.lost) / max(num_instances, 1) for each in subsets]
    return go.Scatter(x=saved, y=lost, text=names, cliponaxis=False)


def level_page(report: LevelReport, *, title: str) -> str:
    """Return the page on what each level contributes and costs, on dropping levels, and on an extra level."""
    score = report.score
    colors, dataset = level_colors([score]), score.instances.dataset
    panels = [grid_iou_by_level(score, colors, HALF_WIDTH), savings_panel(report)]
    about = f"Anchors “{escape(score.anchors.name)}” · resize rule <code>{escape(str(score.instances.rule))}</code>"
    levels = block("Levels", level_caption(report.threshold), level_table(score, colors, report))
    counts = {"image": len(dataset.images), "instance": len(score.instances), "level": len(report.levels)}
    counts |= {"shape": score.anchors.num_anchors, "lost instance": len(report.suggested.lost)}
    shown = by_nouns(counts) | {"levels to keep": len(report.suggested.levels)}
    each = [report.keep(range(len(report.levels))), *report.without_each]
    without, best = kept_table(each, report.suggested), kept_table(report.pareto_front, report.suggested)
    share = f"{len(report.pareto_front)} of {2 ** len(report.levels) - 1:,}"
    front = block(f"Pareto front of subsets <b>{share}</b>", SUBSETS, best)
    sections: Sections = {
        "summary": ("Summary", [tiles(shown), block("Advice", ADVICE, notes_list(report.advice))]),
        "levels": ("Levels", [levels, _extra_level(report)]),
        "dropping": ("Dropping levels", [panels, block("Without one level", WITHOUT, without), front]),
    }
    return page(title, about, sections, read_from=dataset.files)


def _extra_level(report: LevelReport) -> str:
    extra = report.extra_level
    if extra is None:
        return block("Extra level", "None: the finest stride is odd and has no half.", "")
    count = len(report.score.instances)
    titles = ("level", "stride, px", "gained", "recall", "average IoU", "pays", "width x height, px")
    cells = [f"{extra.stride}", f"{extra.gained:,}", percent(extra.recall), decimal(extra.average_iou)]
    words = escape(extra.words) if count else "There are no boxes"
    shapes = ", ".join(f"{width:.4g} x {height:.4g}" for width, height in extra.shapes)
    row = [extra.name, *cells, "yes" if extra.pays else "no", shapes]
    return block("Extra level", f"{words}.", table(titles, [row], align="lrrrrl"))
