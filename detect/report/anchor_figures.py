"""Figures of anchors: shapes among the boxes, IoU by width and height, shapes to scale, recall, number of shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.distributions import ShapeCells
from detect.anchors.instances import area_ranges
from detect.anchors.metrics import COVERED, CURVE, AnchorMetrics, recall_curve
from detect.fitting.fit import KCurve
from detect.report import plots
from detect.report.plots import BOX, MISSED, MUTED, OCTAVE, Key, Panel, label, level_keys, panel, set_color
from detect.wording import plural

MAX_POINTS = 6_000  # drawn as SVG, which every browser shows; more boxes are drawn as counts in cells
CELLS_PER_OCTAVE = 6
LABEL_DISTANCE = 0.07  # share of the axis; a shape nearer than this to a labelled one gets no label
SIZE_COLORS = ("#0f4c81", "#2f93c8", "#e08a2b")  # small, medium, large
IOU_COLORS = [  # ColorBrewer's RdBu, which colour-blind readers tell apart
    *([0.0, "#67001f"], [0.15, "#b2182b"], [0.3, "#d6604d"], [0.42, "#f4a582"], [0.5, "#f7f7f7"]),
    *([0.65, "#92c5de"], [0.8, "#4393c3"], [1.0, "#2166ac"]),
]
HALO = "0 0 2px white, 0 0 2px white, 0 0 3px white"


def boxes_and_shapes(score: AnchorMetrics, colors: Mapping[int, str]) -> Panel:
    """Draw width against height: boxes as points, or as counts in cells if there are many, with the shapes over them."""
    shapes = score.instances.shapes
    low, high = _extent(score)
    diagonal = go.Scatter(x=[low / 8, high * 8], y=[low / 8, high * 8], mode="lines", hoverinfo="skip")
    diagonal.line = {"color": "#d4dae0", "dash": "dot"}
    traces, keys = [diagonal], []
    if len(shapes) <= MAX_POINTS:
        coloraxis: dict[str, Any] = {}
        missed = score.best_iou < COVERED
        for rows, color in ((~missed, BOX), (missed, MISSED)):
            width, height = shapes[rows].T
            points = go.Scatter(x=width, y=height, mode="markers", marker={"color": color, "size": 4, "opacity": 0.5})
            points.hovertemplate = "%{x:.1f} x %{y:.1f} px<extra></extra>"
            traces.append(points)
        keys = [Key("box", BOX, "dot"), Key(f"box with best IoU by shape below {COVERED}", MISSED, "dot")]
        how = f"Each dot is one of {plural(len(shapes), 'box')} after the resize rule"
    else:
        density, coloraxis = _box_density(shapes)
        traces.append(density)
        how = f"Darker cells hold more of the {len(shapes):,} boxes after the resize rule, on a logarithmic scale"
    caption = f"{how}; diamonds are the shapes of “{score.anchors.name}”. Boxes on the dotted line are squares."
    return _over_sizes("boxes", "Boxes and shapes", caption, traces, score, colors, keys=keys, coloraxis=coloraxis)


def iou_map(score: AnchorMetrics, colors: Mapping[int, str]) -> Panel:
    """Draw the mean best IoU on the grid of the boxes in each cell of (width, height), with the shapes over it."""
    shapes = score.instances.shapes
    cells = ShapeCells.of(shapes, cells_per_octave(len(shapes)))
    counts = cells.sums(np.ones(len(shapes)))
    means = cells.sums(score.grid_best_iou) / counts  # plotly does not draw the NaN of an empty cell
    heat = go.Heatmap(x=cells.x, y=cells.y, z=means, customdata=counts, coloraxis="coloraxis")
    heat.hovertemplate = "%{x:.3g} x %{y:.3g} px<br>boxes: %{customdata:,}<br>mean IoU %{z:.3f}<extra></extra>"
    axis = {"cmin": 0, "cmax": 1, "colorscale": IOU_COLORS, "colorbar": {"dtick": 0.25, "tickformat": ".2f"}}
    caption = (
        f"Mean best IoU on the grid of the boxes in each cell, with the anchors of “{score.anchors.name}”. Red cells are "
        "sizes that these anchors miss; white is IoU 0.5."
    )
    return _over_sizes("iou-map", "IoU by width and height", caption, [heat], score, colors, coloraxis=axis)


def _extent(score: AnchorMetrics) -> tuple[float, float]:
    """The shortest and the longest side of all boxes and shapes."""
    sides = np.concatenate([score.instances.shapes, score.anchors.shapes])
    return float(sides.min()), float(sides.max())


def _over_sizes(
    name: str,
    title: str,
    caption: str,
    traces: Sequence[Any],
    score: AnchorMetrics,
    colors: Mapping[int, str],
    *,
    keys: Sequence[Key] = (),
    **layout: Any,
) -> Panel:
    """A figure over width and height with the shapes on top."""
    low, high = _extent(score)
    layout["xaxis"], layout["yaxis"] = (plots.pixels_axis(f"{side}, px", low, high) for side in ("width", "height"))
    markers = _shape_markers(score, colors, OCTAVE / 10 + np.log10(high / low))
    keys = (*keys, *level_keys(score.anchors, colors))
    return panel(name, title, caption, [*traces, *markers], keys=keys, height=500, **layout)


def cells_per_octave(num_boxes: int) -> int:
    """Choose finer cells for more boxes, so that most cells hold several.

    >>> [cells_per_octave(count) for count in (10, 2_000, 50_000, 1_000_000)]
    [3, 4, 6, 8]
    """
    return min(max(math.ceil(math.log2(max(num_boxes, 1)) / 2) - 2, 3), 8)


def _box_density(shapes: Float64[ndarray, "n 2"]) -> tuple[Any, dict[str, Any]]:
    """A heat map of the logarithms of the counts, and a colour axis that reads them as counts."""
    cells = ShapeCells.of(shapes, CELLS_PER_OCTAVE)
    counts = cells.sums(np.ones(len(shapes)))
    density = go.Heatmap(x=cells.x, y=cells.y, z=np.log10(counts), customdata=counts, coloraxis="coloraxis")
    density.hovertemplate = "%{customdata:,} boxes<extra></extra>"
    powers = list(range(int(np.nanmax(density.z)) + 1))
    ticks = {"tickvals": powers, "ticktext": [f"{10**power:,}" for power in powers]}
    return density, {"cmin": 0, "colorbar": ticks}


def _shape_markers(score: AnchorMetrics, colors: Mapping[int, str], span: float) -> list[Any]:
    """The shapes, one trace per level; a shape near a labelled one gets no label."""
    labelled: list[Float64[ndarray, " 2"]] = []
    traces = []
    for level in score.anchors.levels:
        name, texts = label(level.name), []
        for shape in level.shapes:
            place = np.log10(shape) / span
            free = all(np.abs(place - other).max() > LABEL_DISTANCE for other in labelled)
            texts.append(f"<b>{name}</b>" if free else "")
            labelled += [place] if free else []
        width, height = zip(*level.shapes, strict=True) if level.shapes else ((), ())
        trace = go.Scatter(x=width, y=height, mode="markers+text", text=texts, textposition="top center")
        trace.marker = {"color": colors[level.stride], "symbol": "diamond", "size": 12}
        trace.marker.line = {"color": "white", "width": 1.5}
        trace.textfont = {"color": plots.INK, "size": 12, "shadow": HALO}
        trace.hovertemplate = f"{name}, stride {level.stride}<br>%{{x:.1f}} x %{{y:.1f}} px<extra></extra>"
        traces.append(trace)
    return traces


def shapes_to_scale(score: AnchorMetrics, colors: Mapping[int, str]) -> Panel:
    """Draw all shapes around one centre, in true proportion."""
    reach = float(score.anchors.shapes.max()) * 0.54
    axis = {"range": [-reach, reach], "constrain": "domain", "title": "px from the centre"}
    own = f"The shapes of “{score.anchors.name}” around one centre, to one scale."
    caption = f"{own} Gaps between outlines are sizes without a shape."
    traces = []
    for level in score.anchors.levels:
        xs, ys, texts = list[float | None](), list[float | None](), list[str]()
        for width, height in level.shapes:
            xs += [-width / 2, width / 2, width / 2, -width / 2, -width / 2, None]
            ys += [-height / 2, -height / 2, height / 2, height / 2, -height / 2, None]
            texts += [f"{label(level.name)}: {width:g} x {height:g} px"] * 6
        line = {"color": colors[level.stride], "width": 2}
        traces.append(go.Scatter(x=xs, y=ys, mode="lines", line=line, text=texts, hoverinfo="text"))
    layout: dict[str, Any] = {"xaxis": axis, "yaxis": {**axis, "scaleanchor": "x"}, "height": 500}
    return panel("scale", "Shapes to scale", caption, traces, keys=level_keys(score.anchors, colors), **layout)


def recall_over_iou(scores: Sequence[AnchorMetrics], columns: int) -> Panel:
    """Draw recall at each IoU threshold, by shape and on the grid."""
    traces = []
    for number, score in enumerate(scores):
        line, name = {"color": set_color(number), "width": 2}, label(score.anchors.name)
        traces.append(_recall_line(score.best_iou, f"{name}, by shape", {**line, "dash": "solid"}))
        traces.append(_recall_line(score.grid_best_iou, f"{name}, on the grid", {**line, "dash": "dash"}))
    caption = (
        "Share of boxes whose best IoU reaches the threshold: solid by shape, dashed on the grid. The strides cause the "
        "gap between the two, not the shapes."
    )
    keys = plots.set_keys(scores, first="line", others="line")
    keys += (Key("by shape", MUTED, "line"), Key("on the grid", MUTED, "dash"))
    title = "Recall over the IoU threshold"
    return _recall_panel("recall", title, caption, traces, height=500, columns=columns, keys=keys)


def recall_by_size(score: AnchorMetrics, columns: int) -> Panel:
    """Draw recall on the grid at each IoU threshold for small, medium and large boxes."""
    traces, keys, without = [], [], ""
    for each, color in zip(area_ranges(score.instances), SIZE_COLORS, strict=True):
        if len(each.rows):
            line = {"color": color, "width": 2}
            traces.append(_recall_line(score.grid_best_iou[each.rows], label(each.name), line))
            keys.append(Key(f"{each.name}: {plural(len(each.rows), 'box')}", color, "line"))
        else:
            without += f" {each.name.split(',')[0].capitalize()}: none."
    caption = f"Recall on the grid with the anchors of “{score.anchors.name}”. Size is the square root of the area."
    return _recall_panel("recall-by-size", "Recall by box size", caption + without, traces, columns=columns, keys=keys)


def _recall_line(best_iou: Float64[ndarray, " n"], name: str, line: Mapping[str, Any]) -> Any:
    return go.Scatter(x=CURVE, y=recall_curve(best_iou), mode="lines", name=name, line=line, hovertemplate="%{y:.3f}")


def _recall_panel(name: str, title: str, caption: str, traces: Sequence[Any], **layout: Any) -> Panel:
    layout["xaxis"] = {"title": "IoU threshold", "range": [0, 1], "dtick": 0.1, "hoverformat": ".2f"}
    layout["yaxis"] = {"title": "recall", "range": [0, 1.02], "dtick": 0.2, "tickformat": ".1f"}
    return panel(name, title, caption, traces, hovermode="x unified", **layout)


def k_curve_panel(curve: KCurve) -> Panel:
    """Draw average IoU by shape over the number of shapes k, with its knee."""
    ks, heights = list(curve.average_iou), list(curve.average_iou.values())
    knee_iou = curve.average_iou[curve.knee]
    line = go.Scatter(x=ks, y=heights, mode="lines+markers", line={"color": set_color(0), "width": 2})
    line.hovertemplate = "k = %{x}<br>average IoU %{y:.3f}<extra></extra>"
    knee = go.Scatter(x=[curve.knee], y=[knee_iou], mode="markers", hoverinfo="skip")
    knee.marker = {"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": MISSED, "width": 2}}
    caption = "Average IoU by shape of k shapes, fitted on a coarse histogram. After the circled knee, more add little."
    xaxis = {"title": "number of shapes, k", "dtick": 1 if len(ks) <= 20 else None}
    yaxis = {"title": "average IoU by shape", "tickformat": ".2f", "nticks": 7}
    drawn = panel("k-curve", "How many shapes", caption, [line, knee], xaxis=xaxis, yaxis=yaxis)
    text = f"knee: k = {curve.knee}, average IoU {knee_iou:.3f}"
    corner = {"x": 0.97, "y": 0.06, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
    drawn.figure.add_annotation(text=text, showarrow=False, font={"color": MISSED, "size": 13}, **corner)
    return drawn
