"""Figures of anchors: shapes among the boxes, IoU by width and height, shapes to scale, recall, number of shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorLevel
from detect.anchors.distributions import ShapeCells
from detect.anchors.instances import area_ranges
from detect.anchors.metrics import COVERED, CURVE, AnchorMetrics, recall_curve
from detect.fitting.fit import KCurve
from detect.report.plots import (
    BOX,
    INK,
    MISSED,
    MUTED,
    OCTAVE,
    Key,
    Panel,
    figure,
    label,
    pixels_axis,
    plural,
    set_color,
    set_keys,
)

MAX_POINTS = 6_000  # drawn as SVG, which every browser shows; more boxes are drawn as counts in cells
CELLS_PER_OCTAVE = 6
LABEL_DISTANCE = 0.07  # share of the axis; a shape nearer than this to a labelled one gets no label
IOU_COLORS = [  # ColorBrewer's RdBu, which colour-blind readers tell apart
    [0.0, "#67001f"],
    [0.15, "#b2182b"],
    [0.3, "#d6604d"],
    [0.42, "#f4a582"],
    [0.5, "#f7f7f7"],
    [0.65, "#92c5de"],
    [0.8, "#4393c3"],
    [1.0, "#2166ac"],
]
HALO = "0 0 2px white, 0 0 2px white, 0 0 3px white"


def boxes_and_shapes(score: AnchorMetrics, colors: Mapping[int, str]) -> Panel:
    """Draw width against height: boxes as points, or as counts in cells if there are many, with the shapes over them."""
    shapes = score.instances.shapes
    every = np.concatenate([shapes, score.anchors.shapes])
    low, high = float(every.min()), float(every.max())
    if few := len(shapes) <= MAX_POINTS:
        traces = _box_points(score)
        how = f"Each dot is one of {plural(len(shapes), 'box')} after the resize rule"
    else:
        traces = [_box_density(shapes)]
        how = f"Darker cells hold more of the {len(shapes):,} boxes after the resize rule, on a logarithmic scale"
    diagonal = go.Scatter(
        x=[low / 8, high * 8], y=[low / 8, high * 8], mode="lines", line={"color": "#d4dae0", "dash": "dot"}
    )
    diagonal.hoverinfo = "skip"
    chart = figure(
        [diagonal, *traces, *shape_markers(score, colors, OCTAVE / 10 + np.log10(high / low))],
        xaxis=pixels_axis("width, px", low, high),
        yaxis=pixels_axis("height, px", low, high),
        height=500,
        coloraxis=_count_axis(traces),
    )
    keys = [Key("box", BOX, "dot"), Key(f"box with best IoU by shape below {COVERED}", MISSED, "dot")] if few else []
    caption = f"{how}; diamonds are the shapes of “{score.anchors.name}”. Boxes on the dotted line are squares."
    return Panel("boxes", "Boxes and shapes", caption, chart, 6, (*keys, *level_keys(score, colors)))


def shapes_to_scale(score: AnchorMetrics, colors: Mapping[int, str]) -> Panel:
    """Draw all shapes around one centre, in true proportion."""
    reach = float(score.anchors.shapes.max()) * 0.54
    traces = [_outlines(level, colors[level.stride]) for level in score.anchors.levels]
    axis = {"range": [-reach, reach], "constrain": "domain"}
    chart = figure(
        traces,
        xaxis={**axis, "title": {"text": "px from the centre"}},
        yaxis={**axis, "scaleanchor": "x", "title": {"text": "px from the centre"}},
        height=500,
    )
    caption = f"The shapes of “{score.anchors.name}” around one centre, to one scale. Gaps between outlines are sizes "
    caption += "without a shape."
    return Panel("scale", "Shapes to scale", caption, chart, 6, level_keys(score, colors))


def iou_map(score: AnchorMetrics, colors: Mapping[int, str]) -> Panel:
    """Draw the mean best IoU on the grid of the boxes in each cell of (width, height), with the shapes over it."""
    shapes = score.instances.shapes
    every = np.concatenate([shapes, score.anchors.shapes])
    low, high = float(every.min()), float(every.max())
    chart = figure(
        [_mean_iou_cells(score), *shape_markers(score, colors, OCTAVE / 10 + np.log10(high / low))],
        xaxis=pixels_axis("width, px", low, high),
        yaxis=pixels_axis("height, px", low, high),
        height=500,
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": IOU_COLORS, "colorbar": {"dtick": 0.25, "tickformat": ".2f"}},
    )
    caption = f"Mean best IoU on the grid of the boxes in each cell, with the anchors of “{score.anchors.name}”. "
    caption += "Red cells are sizes that these anchors miss; white is IoU 0.5."
    return Panel("iou-map", "IoU by width and height", caption, chart, 6, level_keys(score, colors))


def _mean_iou_cells(score: AnchorMetrics) -> Any:
    """The heat map of the means; plotly does not draw the NaN of an empty cell."""
    shapes = score.instances.shapes
    cells = ShapeCells.of(shapes, cells_per_octave(len(shapes)))
    counts = cells.sums(np.ones(len(shapes)))
    means = cells.sums(score.grid_best_iou) / counts
    heat = go.Heatmap(x=cells.x, y=cells.y, z=means, customdata=counts, coloraxis="coloraxis")
    heat.hovertemplate = "%{x:.3g} x %{y:.3g} px<br>boxes: %{customdata:,}<br>mean IoU %{z:.3f}<extra></extra>"
    return heat


def cells_per_octave(num_boxes: int) -> int:
    """Choose finer cells for more boxes, so that most cells hold several.

    >>> [cells_per_octave(count) for count in (10, 2_000, 50_000, 1_000_000)]
    [3, 4, 6, 8]
    """
    return min(max(math.ceil(math.log2(max(num_boxes, 1)) / 2) - 2, 3), 8)


def _box_points(score: AnchorMetrics) -> list[Any]:
    missed = score.best_iou < COVERED
    traces = []
    for rows, color in ((~missed, BOX), (missed, MISSED)):
        width, height = score.instances.shapes[rows].T
        points = go.Scatter(x=width, y=height, mode="markers", marker={"color": color, "size": 4, "opacity": 0.5})
        points.hovertemplate = "%{x:.1f} x %{y:.1f} px<extra></extra>"
        traces.append(points)
    return traces


def _box_density(shapes: Float64[ndarray, "n 2"]) -> Any:
    """The heat map of the counts; plotly does not draw the NaN of an empty cell."""
    cells = ShapeCells.of(shapes, CELLS_PER_OCTAVE)
    counts = cells.sums(np.ones(len(shapes)))
    density = go.Heatmap(x=cells.x, y=cells.y, z=np.log10(counts), customdata=counts, coloraxis="coloraxis")
    density.hovertemplate = "%{customdata:,} boxes<extra></extra>"
    return density


def _count_axis(traces: Sequence[Any]) -> dict[str, Any]:
    """The colours of a density's logarithms, read as counts."""
    if not isinstance(traces[0], go.Heatmap):
        return {}
    powers = range(int(np.nanmax(traces[0].z)) + 1)
    return {"cmin": 0, "colorbar": {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}}


def shape_markers(score: AnchorMetrics, colors: Mapping[int, str], span: float) -> list[Any]:
    """Draw the shapes, one trace per level; a shape near a labelled one gets no label."""
    labelled: list[Float64[ndarray, " 2"]] = []
    traces = []
    for level in score.anchors.levels:
        texts = []
        for shape in level.shapes:
            place = np.log10(shape) / span
            free = all(np.abs(place - other).max() > LABEL_DISTANCE for other in labelled)
            texts.append(f"<b>{label(level.name)}</b>" if free else "")
            labelled += [place] if free else []
        width, height = zip(*level.shapes, strict=True) if level.shapes else ((), ())
        marker = {
            "color": colors[level.stride],
            "symbol": "diamond",
            "size": 12,
            "line": {"color": "white", "width": 1.5},
        }
        trace = go.Scatter(x=width, y=height, mode="markers+text", marker=marker, text=texts, textposition="top center")
        trace.textfont = {"color": INK, "size": 12, "shadow": HALO}
        trace.hovertemplate = f"{label(level.name)}, stride {level.stride}<br>%{{x:.1f}} x %{{y:.1f}} px<extra></extra>"
        traces.append(trace)
    return traces


def _outlines(level: AnchorLevel, color: str) -> Any:
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for width, height in level.shapes:
        xs += [-width / 2, width / 2, width / 2, -width / 2, -width / 2, None]
        ys += [-height / 2, -height / 2, height / 2, height / 2, -height / 2, None]
        texts += [f"{label(level.name)}: {width:g} x {height:g} px"] * 6
    return go.Scatter(x=xs, y=ys, mode="lines", line={"color": color, "width": 2}, text=texts, hoverinfo="text")


def level_keys(score: AnchorMetrics, colors: Mapping[int, str]) -> tuple[Key, ...]:
    """Return a legend entry for each level."""
    levels = score.anchors.levels
    return tuple(Key(f"{level.name} (stride {level.stride})", colors[level.stride], "diamond") for level in levels)


SIZE_COLORS = ("#0f4c81", "#2f93c8", "#e08a2b")  # small, medium, large


def recall_over_iou(scores: Sequence[AnchorMetrics], columns: int) -> Panel:
    """Draw recall at each IoU threshold, by shape and on the grid."""
    traces = []
    for number, score in enumerate(scores):
        for kind, best_iou, dash in (
            ("by shape", score.best_iou, "solid"),
            ("on the grid", score.grid_best_iou, "dash"),
        ):
            line = go.Scatter(
                x=CURVE, y=recall_curve(best_iou), mode="lines", name=f"{label(score.anchors.name)}, {kind}"
            )
            line.line = {"color": set_color(number), "dash": dash, "width": 2}
            line.hovertemplate = "%{y:.3f}"
            traces.append(line)
    caption = (
        "Share of boxes whose best IoU reaches the threshold: solid by shape, dashed on the grid. The strides cause "
    )
    caption += "the gap between the two, not the shapes."
    keys = (
        *set_keys(scores, first="line", others="line"),
        Key("by shape", MUTED, "line"),
        Key("on the grid", MUTED, "dash"),
    )
    return Panel("recall", "Recall over the IoU threshold", caption, _recall_chart(traces, 500), columns, keys)


def recall_by_size(score: AnchorMetrics, columns: int) -> Panel:
    """Draw recall on the grid at each IoU threshold for small, medium and large boxes."""
    ranges = area_ranges(score.instances)
    traces, keys = [], []
    for area_range, color in zip(ranges, SIZE_COLORS, strict=True):
        if len(area_range.rows):
            line = go.Scatter(x=CURVE, y=recall_curve(score.grid_best_iou[area_range.rows]), mode="lines")
            line.update(line={"color": color, "width": 2}, name=label(area_range.name), hovertemplate="%{y:.3f}")
            traces.append(line)
            keys.append(Key(f"{area_range.name}: {plural(len(area_range.rows), 'box')}", color, "line"))
    without = "".join(
        f" {area_range.name.split(',')[0].capitalize()}: none." for area_range in ranges if not len(area_range.rows)
    )
    caption = (
        f"Recall on the grid with the anchors of “{score.anchors.name}”. Size is the square root of the area.{without}"
    )
    return Panel("recall-by-size", "Recall by box size", caption, _recall_chart(traces, 330), columns, tuple(keys))


def _recall_chart(traces: Sequence[Any], height: int) -> go.Figure:
    return figure(
        traces,
        xaxis={"title": {"text": "IoU threshold"}, "range": [0, 1], "dtick": 0.1, "hoverformat": ".2f"},
        yaxis={"title": {"text": "recall"}, "range": [0, 1.02], "dtick": 0.2, "tickformat": ".1f"},
        height=height,
        hovermode="x unified",
    )


def k_curve_panel(curve: KCurve) -> Panel:
    """Draw average IoU by shape over the number of shapes k, with its knee."""
    ks, heights = list(curve.average_iou), list(curve.average_iou.values())
    knee_iou = curve.average_iou[curve.knee]
    line = go.Scatter(x=ks, y=heights, mode="lines+markers", line={"color": set_color(0), "width": 2})
    line.hovertemplate = "k = %{x}<br>average IoU %{y:.3f}<extra></extra>"
    knee = go.Scatter(x=[curve.knee], y=[knee_iou], mode="markers", hoverinfo="skip")
    knee.marker = {"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": MISSED, "width": 2}}
    chart = figure(
        [line, knee],
        xaxis={"title": {"text": "number of shapes, k"}, "dtick": 1 if len(ks) <= 20 else None},
        yaxis={"title": {"text": "average IoU by shape"}, "tickformat": ".2f", "nticks": 7},
    )
    text = f"knee: k = {curve.knee}, average IoU {knee_iou:.3f}"
    chart.add_annotation(x=0.97, y=0.06, xref="paper", yref="paper", xanchor="right", yanchor="bottom", text=text)
    chart.update_annotations(showarrow=False, font={"color": MISSED, "size": 13})
    caption = "Average IoU by shape of k shapes, fitted on a coarse histogram. After the circled knee, more add little."
    if curve.bic:
        least = min(curve.bic, key=curve.bic.__getitem__)
        caption += f" The Bayesian information criterion of mixtures is lowest at k = {least}."
    return Panel("k-curve", "How many shapes", caption, chart, 6)
