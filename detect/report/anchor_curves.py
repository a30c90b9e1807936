"""Curves of anchors: recall over the IoU threshold, of all boxes and by their size, and the choice of k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from detect.anchors.bands import size_bands
from detect.anchors.coverage import CURVE, Coverage, recall_curve
from detect.anchors.fitting import KCurve
from detect.report.plots import MISSED, MUTED, Key, Panel, figure, label, plural, set_color, set_keys

SIZE_COLORS = ("#0f4c81", "#2f93c8", "#e08a2b")  # small, medium, large


def recall_over_iou(scores: Sequence[Coverage], columns: int) -> Panel:
    """Recall at each IoU threshold, by shape and placed."""
    traces = []
    for number, score in enumerate(scores):
        for kind, best_iou, dash in (
            ("by shape", score.best_iou, "solid"),
            ("placed", score.placed_best_iou, "dash"),
        ):
            line = go.Scatter(
                x=CURVE, y=recall_curve(best_iou), mode="lines", name=f"{label(score.anchors.name)}, {kind}"
            )
            line.line = {"color": set_color(number), "dash": dash, "width": 2}
            line.hovertemplate = "%{y:.3f}"
            traces.append(line)
    caption = (
        "Share of boxes that some anchor reaches: solid with a shared centre, dashed where the grid puts the anchors. "
    )
    caption += "What lies between the two is lost to strides, not to shapes."
    keys = (
        *set_keys(scores, first="line", others="line"),
        Key("by shape", MUTED, "line"),
        Key("placed", MUTED, "dash"),
    )
    return Panel("recall", "Recall over the IoU threshold", caption, _recall_chart(traces, 500), columns, keys)


def recall_by_size(score: Coverage, columns: int) -> Panel:
    """Recall at each IoU threshold of small, medium and large boxes, where the grid puts the anchors."""
    bands = size_bands(score.instances)
    traces, keys = [], []
    for band, color in zip(bands, SIZE_COLORS, strict=True):
        if len(band.rows):
            line = go.Scatter(x=CURVE, y=recall_curve(score.placed_best_iou[band.rows]), mode="lines")
            line.update(line={"color": color, "width": 2}, name=label(band.name), hovertemplate="%{y:.3f}")
            traces.append(line)
            keys.append(Key(f"{band.name}: {plural(len(band.rows), 'box')}", color, "line"))
    without = "".join(f" {band.name.split(',')[0].capitalize()}: none." for band in bands if not len(band.rows))
    caption = (
        f"Share of boxes that some anchor of “{score.anchors.name}” reaches where the grid puts it; size is the root "
    )
    caption += f"of the area.{without}"
    return Panel("recall-by-size", "Recall by size of box", caption, _recall_chart(traces, 330), columns, tuple(keys))


def _recall_chart(traces: Sequence[Any], height: int) -> go.Figure:
    return figure(
        traces,
        xaxis={"title": {"text": "IoU threshold"}, "range": [0, 1], "dtick": 0.1, "hoverformat": ".2f"},
        yaxis={"title": {"text": "recall"}, "range": [0, 1.02], "dtick": 0.2, "tickformat": ".1f"},
        height=height,
        hovermode="x unified",
    )


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
    if curve.bic:
        least = min(curve.bic, key=curve.bic.__getitem__)
        caption += f" Of mixtures, the Bayesian information criterion is least at k = {least}."
    return Panel("k-curve", "How many shapes", caption, chart, 6)
