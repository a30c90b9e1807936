"""Figures of anchors: the shapes among the boxes and to scale, recall, average IoU by groups, the choice of k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorLevel
from detect.anchors.coverage import CURVE, Coverage, Group, recall_curve
from detect.anchors.fitting import KCurve
from detect.report.plots import (
    BOX,
    INK,
    MAX_CATEGORIES,
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

MISSED_IOU = 0.5
MAX_POINTS = 6_000  # as SVG, which every browser draws; more are drawn as counts in cells
CELLS_PER_OCTAVE = 6
LABEL_DISTANCE = 0.07  # of the axis: shapes nearer to a labelled one than this have their level by colour alone
FEW_GROUPS = 8
HALO = "0 0 2px white, 0 0 2px white, 0 0 3px white"


def boxes_and_shapes(score: Coverage, colors: Mapping[int, str]) -> Panel:
    """Width against height of all boxes, or of how many there are, with the shapes over them."""
    shapes = score.instances.shapes
    every = np.concatenate([shapes, score.anchors.shapes])
    low, high = float(every.min()), float(every.max())
    if few := len(shapes) <= MAX_POINTS:
        traces = _box_points(score)
        how = f"Each dot is one of {plural(len(shapes), 'box')} after the resize rule"
    else:
        traces = [_box_density(shapes)]
        how = f"Darker cells hold more of the {len(shapes):,} boxes, on a logarithmic scale"
    diagonal = go.Scatter(
        x=[low / 8, high * 8], y=[low / 8, high * 8], mode="lines", line={"color": "#d4dae0", "dash": "dot"}
    )
    diagonal.hoverinfo = "skip"
    chart = figure(
        [diagonal, *traces, *_shape_markers(score, colors, OCTAVE / 10 + np.log10(high / low))],
        xaxis=pixels_axis("width, px", low, high),
        yaxis=pixels_axis("height, px", low, high),
        height=500,
        coloraxis=_count_axis(traces),
    )
    keys = [Key("box", BOX, "dot"), Key(f"box under IoU {MISSED_IOU} with every shape", MISSED, "dot")] if few else []
    caption = f"{how}; diamonds are the shapes of “{score.anchors.name}”, and on the dotted line width equals height."
    return Panel("boxes", "Boxes and shapes", caption, chart, 6, (*keys, *_level_keys(score, colors)))


def shapes_to_scale(score: Coverage, colors: Mapping[int, str]) -> Panel:
    """All shapes around one centre, in true proportion."""
    reach = float(score.anchors.shapes.max()) * 0.54
    traces = [_outlines(level, colors[level.stride]) for level in score.anchors.levels]
    axis = {"range": [-reach, reach], "constrain": "domain"}
    chart = figure(
        traces,
        xaxis={**axis, "title": {"text": "px from the centre"}},
        yaxis={**axis, "scaleanchor": "x", "title": {"text": "px from the centre"}},
        height=500,
    )
    caption = f"The shapes of “{score.anchors.name}” around one centre, all to one scale: gaps between outlines are "
    caption += "sizes that nothing was made for."
    return Panel("scale", "Shapes to scale", caption, chart, 6, _level_keys(score, colors))


def recall_over_iou(scores: Sequence[Coverage], columns: int) -> Panel:
    """Recall at each IoU threshold, by shape and placed."""
    traces = []
    for number, score in enumerate(scores):
        for kind, best_iou, dash in (
            ("by shape", score.best_iou, "solid"),
            ("placed", score.placed_best_iou, "dash"),
        ):
            line = go.Scatter(x=CURVE, y=recall_curve(best_iou), mode="lines", name=f"{_name(score)}, {kind}")
            line.line = {"color": set_color(number), "dash": dash, "width": 2}
            line.hovertemplate = "%{y:.3f}"
            traces.append(line)
    chart = figure(
        traces,
        xaxis={"title": {"text": "IoU threshold"}, "range": [0, 1], "dtick": 0.1, "hoverformat": ".2f"},
        yaxis={"title": {"text": "recall"}, "range": [0, 1.02], "dtick": 0.2, "tickformat": ".1f"},
        hovermode="x unified",
    )
    caption = (
        "Share of boxes that some anchor reaches: solid with a shared centre, dashed where the grid puts the anchors. "
    )
    caption += "What lies between the two is lost to strides, not to shapes."
    keys = (
        *set_keys(scores, first="line", others="line"),
        Key("by shape", MUTED, "line"),
        Key("placed", MUTED, "dash"),
    )
    return Panel("recall", "Recall over the IoU threshold", caption, chart, columns, keys)


def k_curve_panel(curve: KCurve) -> Panel:
    """Average IoU over the number of shapes, with its knee."""
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
    caption = (
        "Average IoU that k shapes can reach, fitted on a coarse histogram; after the circled knee each further shape "
    )
    caption += "buys little."
    return Panel("k-curve", "How many shapes", caption, chart, 6)


def average_iou_panels(scores: Sequence[Coverage]) -> list[Panel]:
    """Average IoU by size, by aspect ratio and by category."""
    ranked = sorted(range(len(scores[0].by_category)), key=lambda row: -scores[0].by_category[row].count)
    shown = ranked[:MAX_CATEGORIES]
    widths = (3, 6, 3) if len(shown) <= FEW_GROUPS else (5, 7, 12)
    caption = "Average best IoU by shape, the number of boxes under each name"
    cut = f"; the {len(shown)} of {len(ranked)} categories with the most boxes" if len(ranked) > len(shown) else ""
    sizes = [score.by_size for score in scores]
    ratios = [score.by_ratio for score in scores]
    categories = [[score.by_category[row] for row in shown] for score in scores]
    return [
        _group_panel("by-size", "By size", f"{caption}; size is the root of the area.", scores, sizes, widths[0]),
        _group_panel("by-ratio", "By aspect ratio", f"{caption}; h/w is height over width.", scores, ratios, widths[1]),
        _group_panel("by-category", "By category", f"{caption}{cut}.", scores, categories, widths[2]),
    ]


def _group_panel(
    name: str,
    title: str,
    caption: str,
    scores: Sequence[Coverage],
    groups: Sequence[Sequence[Group]],
    columns: int,
) -> Panel:
    """Bars for the first set, diamonds for those it is compared with; ``groups`` are those of each set, in one order."""
    rows = list(range(len(groups[0])))
    traces: list[Any] = []
    for number, (score, of_set) in enumerate(zip(scores, groups, strict=True)):
        heights = [group.average_iou for group in of_set]
        hover = [_group_hover(score, group) for group in of_set]
        color = set_color(number)
        look: dict[str, Any] = {"x": rows, "y": heights, "hovertext": hover, "hoverinfo": "text"}
        if number == 0:
            traces.append(go.Bar(**look, marker={"color": color, "opacity": 0.72}, width=min(0.72, 0.14 * len(rows))))
        else:
            marker = {"color": color, "symbol": "diamond", "size": 8, "line": {"color": "white", "width": 1}}
            traces.append(go.Scatter(**look, mode="markers", marker=marker))
    chart = figure(
        traces,
        xaxis=names_axis([(group.name, group.count) for group in groups[0]]),
        yaxis={"title": {"text": "average IoU"}, "range": [0, 1], "dtick": 0.2, "tickformat": ".1f"},
        height=330 if len(rows) <= FEW_GROUPS else 400,
    )
    return Panel(name, title, caption, chart, columns, set_keys(scores, others="diamond"))


def names_axis(names: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Positions 0, 1, ... with names and counts under them: equal names stay apart, and none is read as a number or date."""
    few = len(names) <= FEW_GROUPS
    ticks = [_tick(name, count, few) for name, count in names]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": ticks,
        "range": [-0.6, len(names) - 0.4],
        "showgrid": False,
        "ticks": "",
        "autotickangles": [0, -90] if few else [-90],
        "tickfont": {"size": 11},
    }


def _tick(name: str, count: int, few: bool) -> str:
    if few:
        lines = [label(part) for part in name.split(", ", 1)]
        return "<br>".join([*lines, f"{count:,}"])
    return f"{label(name)}  {count:,}"


def _group_hover(score: Coverage, group: Group) -> str:
    lines = [f"<b>{label(group.name, 60)}</b>", _name(score), plural(group.count, "box")]
    if group.count:
        lines += [f"average IoU {group.average_iou:.3f}"]
        lines += [f"recall at {threshold:g}: {recall:.3f}" for threshold, recall in group.recall.items()]
    return "<br>".join(lines)


def _box_points(score: Coverage) -> list[Any]:
    missed = score.best_iou < MISSED_IOU
    traces = []
    for rows, color in ((~missed, BOX), (missed, MISSED)):
        width, height = score.instances.shapes[rows].T
        points = go.Scatter(x=width, y=height, mode="markers", marker={"color": color, "size": 4, "opacity": 0.5})
        points.hovertemplate = "%{x:.1f} x %{y:.1f} px<extra></extra>"
        traces.append(points)
    return traces


def _box_density(shapes: Float64[ndarray, "n 2"]) -> Any:
    """Counts in cells of the plane (log2 w, log2 h); an empty cell is NaN, which is not drawn."""
    cells = np.floor(np.log2(shapes.T.copy()) * CELLS_PER_OCTAVE).astype(int)
    first = cells.min(axis=1)
    columns, rows = cells.max(axis=1) - first + 1
    flat = (cells[1] - first[1]) * columns + cells[0] - first[0]
    counts = np.bincount(flat, minlength=rows * columns).reshape(rows, columns).astype(float)
    counts[counts == 0] = np.nan
    x, y = (
        2.0 ** ((start + np.arange(length + 1)) / CELLS_PER_OCTAVE)
        for start, length in zip(first, (columns, rows), strict=True)
    )
    density = go.Heatmap(x=x, y=y, z=np.log10(counts), customdata=counts, coloraxis="coloraxis")
    density.hovertemplate = "%{customdata:,} boxes<extra></extra>"
    return density


def _count_axis(traces: Sequence[Any]) -> dict[str, Any]:
    """The colours of a density's logarithms, read as counts."""
    if not isinstance(traces[0], go.Heatmap):
        return {}
    powers = range(int(np.nanmax(traces[0].z)) + 1)
    return {"cmin": 0, "colorbar": {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}}


def _shape_markers(score: Coverage, colors: Mapping[int, str], span: float) -> list[Any]:
    """One trace a level; a label stands only where no other is near."""
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


def _level_keys(score: Coverage, colors: Mapping[int, str]) -> tuple[Key, ...]:
    levels = score.anchors.levels
    return tuple(Key(f"{level.name} (stride {level.stride})", colors[level.stride], "diamond") for level in levels)


def _name(score: Coverage) -> str:
    return label(score.anchors.name)
