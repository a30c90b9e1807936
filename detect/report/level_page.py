"""What the levels of a pyramid do for a dataset, as tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from detect.anchors.head_cost import HeadSize, level_costs
from detect.anchors.metrics import AnchorMetrics
from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import INK, MISSED, PLAIN, SET_COLORS, Key, Panel, figure, label, level_colors
from detect.report.tables import Column, Html, decimal, escape, percent, swatch, table

if TYPE_CHECKING:
    from detect.anchors.levels import (
        KeptLevels,
        LevelReport,
    )  # which needs torch: seconds, for pages that do without

COVERED = 0.5
NUM_BARS = 20
WIDE = 6  # columns


def level_table(score: AnchorMetrics, colors: Mapping[int, str], preference: LevelReport | None = None) -> str:
    """A row for each level: what finds its best anchor there, and what no other level reaches; costs, where they are known.

    With a preference, its score is to be this one.
    """
    titles = ["stride, px", "shapes", "best for", "their average IoU", "lost without it", "anchors"]
    titles += ["positives", "GFLOPs"] if preference else []
    threshold = preference.threshold if preference else COVERED
    canvas_wh = score.instances.rule.resize_images(score.instances.dataset.images.wh).canvas_wh
    costs = level_costs(canvas_wh, score.anchors, HeadSize(1))
    count, lost = len(score.instances), score.only_on_level(threshold).tolist()
    rows: list[list[str | Html]] = []
    for number, (level, group) in enumerate(zip(score.anchors.levels, score.by_level, strict=True)):
        share = group.count / count if count else math.nan
        cells = [f"{level.stride}", f"{len(level.shapes)}", percent(share), decimal(group.grid_average_iou)]
        cells += [f"{lost[number]:,}", _whole(costs[number].anchors)]
        if preference:
            told = preference.levels[number]
            cells += [percent(told.positives), f"{told.cost.flops / 1e9:.2f}" if told.cost.flops > 0 else "-"]
        rows.append([swatch(colors[level.stride], level.name), *cells])
    return table([Column("level"), *(Column(title, numeric=True) for title in titles)], rows)


def level_caption(threshold: float = COVERED) -> str:
    """How to read the table."""
    return (
        "Best for: the share of boxes that find their best anchor on the level, where the grid puts it, and how good those "
        f"anchors are. Lost without it: boxes that reach IoU {threshold:g} on no other level. Anchors are counted in an "
        "input of average size."
    )


def advice_list(preference: LevelReport) -> str:
    """What each level does, what to keep, and whether a finer one would pay, in words."""
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in preference.advice) + "</ul>"


def grid_iou_by_level(score: AnchorMetrics, colors: Mapping[int, str], columns: int) -> Panel:
    """How the best IoUs on the grid are spread, each box under the level of its best anchor."""
    edges = np.linspace(0, 1, NUM_BARS + 1)
    traces = []
    for number, level in enumerate(score.anchors.levels):
        counts, _ = np.histogram(score.grid_best_iou[score.best_level == number], edges)
        bars = go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=counts, width=0.9 / NUM_BARS, name=label(level.name))
        bars.update(marker={"color": colors[level.stride]}, hovertemplate="%{y:,}")
        traces.append(bars)
    chart = figure(
        traces,
        xaxis={"title": {"text": "best IoU on the grid"}, "range": [0, 1], "dtick": 0.1, "tickformat": ".1f"},
        yaxis={"title": {"text": "boxes"}, "tickformat": ",d", "nticks": 6, "rangemode": "tozero"},
        height=280 if columns > WIDE else 360,
        barmode="stack",
        hovermode="x unified",
    )
    chart.add_vline(x=COVERED, line={"color": INK, "width": 1.2, "dash": "dot"})
    caption = (
        f"Boxes by their best IoU, in the colour of the level that has it; those left of the dotted line, {COVERED:g}, "
    )
    caption += "are missed."
    keys = tuple(Key(f"{each.name} (stride {each.stride})", colors[each.stride]) for each in score.anchors.levels)
    return Panel("iou-by-level", "Best IoU by level", caption, chart, columns, keys)


def kept_table(kept: Iterable[KeptLevels], suggested: KeptLevels | None = None) -> str:
    """What remains with some of the levels; the suggested ones are bold."""
    titles = ("lost", "recall", "average IoU", "below the threshold", "anchors saved", "operations saved")
    rows: list[list[str | Html]] = []
    for each in kept:
        cells = [f"{len(each.lost):,}", percent(each.recall), decimal(each.average_iou), f"{each.without_threshold:,}"]
        cells += [percent(each.anchors_saved), percent(each.flops_saved)]
        cells = [", ".join(each.names), ", ".join(each.dropped) or "none", *cells]
        bold = suggested is not None and each.levels == suggested.levels
        rows.append([Html(f"<b>{escape(cell)}</b>") if bold else cell for cell in cells])
    columns = [Column("kept"), Column("dropped"), *(Column(title, numeric=True) for title in titles)]
    return table(columns, rows, scroll=len(rows) > NUM_BARS)


def undominated(subsets: Sequence[KeptLevels]) -> list[KeptLevels]:
    """Those that save more than all that lose as few instances, from the least saved to the most."""
    ordered = sorted(subsets, key=lambda kept: (-kept.flops_saved, len(kept.lost)))
    chosen: list[KeptLevels] = []
    for kept in ordered:
        if not chosen or len(kept.lost) < len(chosen[-1].lost):
            chosen.append(kept)
    return chosen[::-1]


def savings_panel(subsets: Sequence[KeptLevels], suggested: KeptLevels, num_instances: int) -> Panel:
    """Every subset of the levels: what it saves against what it loses."""
    best = undominated(subsets)
    step, dots, ring = (_savings(kept, num_instances) for kept in (best, subsets, [suggested]))
    step.update(mode="lines", line={"color": SET_COLORS[0], "width": 1.5, "shape": "vh"}, hoverinfo="skip")
    dots.update(mode="markers", marker={"color": PLAIN, "size": 7, "line": {"color": "white", "width": 1}})
    dots.hovertemplate = "%{text}<br>saves %{x:.1%} of operations<br>loses %{y:.2%} of boxes<extra></extra>"
    circle = {"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": MISSED, "width": 2}}
    ring.update(mode="markers", marker=circle, hoverinfo="skip")
    chart = figure(
        [step, dots, ring],
        xaxis={"title": {"text": "operations of the head saved"}, "tickformat": ".0%", "range": [-0.03, 1.03]},
        yaxis={"title": {"text": "boxes lost"}, "tickformat": ".0%", "rangemode": "tozero", "nticks": 6},
        height=360,
    )
    caption = "Each dot keeps some of the levels. No dot lies below the line: what saves as much loses as many boxes. "
    caption += "Circled are the levels suggested."
    return Panel("savings", "What dropping levels saves and loses", caption, chart, 6)


def _savings(subsets: Sequence[KeptLevels], num_instances: int) -> Any:
    names = [label(" ".join(each.names), 60) for each in subsets]
    saved = [each.flops_saved for each in subsets]
    lost = [len(each.lost) / max(num_instances, 1) for each in subsets]
    return go.Scatter(x=saved, y=lost, text=names, cliponaxis=False)


def _whole(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


SECTIONS = ("summary", "levels", "dropping")
WITHOUT = """What remains without each level in turn, on the grid. Lost are boxes that all levels together cover, and the
others do not; below the threshold are boxes that no anchor learns but by the rule that gives each box its best one."""
IN_WORDS = "Nothing was trained: anchors were matched with the boxes as a detector would match them."
SUBSETS = "Subsets that save the most among all that lose as few boxes, from all levels down; bold are those suggested."


def level_page(preference: LevelReport, *, title: str, notes: Sequence[str] = ()) -> str:
    """What each level takes and costs, what dropping some saves and loses, and whether a finer one would pay.

    Equal input gives equal text.

    Args:
        preference: what :func:`detect.anchors.levels.level_report` found.
        title: heading of the page.
        notes: lines of plain text under the heading.
    """
    score = preference.score
    colors, dataset = level_colors([score]), score.instances.dataset
    subsets = list(preference.subsets())
    panels = [
        grid_iou_by_level(score, colors, 6),
        savings_panel(subsets, preference.suggested, len(score.instances)),
    ]
    about = f"Anchors “{escape(score.anchors.name)}” · resize rule <code>{escape(str(score.instances.rule))}</code>"
    levels = block("Levels", level_caption(preference.threshold), level_table(score, colors, preference))
    body = [
        header(title, about, read_from=dataset.files, sections=SECTIONS, notes=notes),
        section("summary", "Summary", _counts(preference) + block("In words", IN_WORDS, advice_list(preference))),
        section("levels", "Levels", levels + _finer(preference)),
        section("dropping", "Dropping levels", grid(panels) + _dropping(preference, subsets)),
    ]
    return document(title, "\n".join(body), panels)


def _counts(preference: LevelReport) -> str:
    score, kept = preference.score, preference.suggested
    return tiles(
        {
            "images": len(score.instances.dataset.images),
            "instances": len(score.instances),
            "levels": len(preference.levels),
            "shapes": score.anchors.num_anchors,
            "levels to keep": len(kept.levels),
            "instances lost with these": len(kept.lost),
        }
    )


def _finer(preference: LevelReport) -> str:
    finer = preference.extra_level
    if finer is None:
        return block("A finer level", "The finest stride is odd: there is no level of half of it.", "")
    count = len(preference.score.instances)
    columns = [Column(title, numeric=True) for title in ("stride, px", "covered in addition", "recall", "average IoU")]
    cells = [f"{finer.stride}", f"{finer.gained:,}", percent(finer.recall), decimal(finer.average_iou)]
    words = escape(finer.words) if count else "No boxes to tell it by."
    shapes = ", ".join(f"{width:.4g} x {height:.4g}" for width, height in finer.shapes)
    row = [finer.name, *cells, "yes" if finer.pays else "no", shapes]
    content = table([Column("level"), *columns, Column("pays"), Column("width x height, px")], [row])
    return block("A finer level", f"{words}.", content)


def _dropping(preference: LevelReport, subsets: Sequence[KeptLevels]) -> str:
    each = [preference.keep(range(len(preference.levels))), *preference.without_each]
    best = undominated(subsets)
    return block("Without one level", WITHOUT, kept_table(each, preference.suggested)) + block(
        f"Subsets worth a look <b>{len(best)} of {len(subsets):,}</b>", SUBSETS, kept_table(best, preference.suggested)
    )
