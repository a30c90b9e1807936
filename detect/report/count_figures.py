"""The figure of calibrated counts: true over counted points, and which of them lie outside their interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool
from numpy import ndarray

from detect.evaluation.count_reliability import CountReliability
from detect.report.plots import MISSED, MUTED, SET_COLORS, Key, Panel, panel

CAPTION = (
    "A circle stands for the images with these counts, its area for their number; red ones have a true count outside their "
    "interval. Each image is predicted by a calibration on others. On the line both counts are equal."
)
LARGEST_PX = 26


def count_panel(identity: str, name: str, reliability: CountReliability) -> Panel:
    """The panel of one keypoint type; ``identity`` is its id in the page."""
    count, truth, covered = reliability.prediction.count, reliability.truth, reliability.covered
    end = float(max(count.max(), truth.max())) + 1
    largest = int(np.unique(np.stack([count, truth]), axis=1, return_counts=True)[1].max())
    diagonal = go.Scatter(x=[0, end], y=[0, end], mode="lines", line={"color": MUTED, "width": 1, "dash": "dot"})
    diagonal.hoverinfo = "skip"
    inside, outside = SET_COLORS[0], MISSED
    traces = [diagonal, _circles(reliability, covered, inside, largest)]
    traces.append(_circles(reliability, ~covered, outside, largest))
    xaxis, yaxis = ({"title": f"{each} points", "range": [-0.7, end]} for each in ("counted", "true"))
    keys = (Key("inside the interval", inside, "dot"), Key("outside", outside, "dot"))
    options: dict[str, Any] = {"columns": 12, "keys": keys, "height": 380, "xaxis": xaxis, "yaxis": yaxis}
    return panel(identity, f"True and counted points: {name}", CAPTION, traces, **options)


def _circles(reliability: CountReliability, rows: Bool[ndarray, " b"], color: str, largest: int) -> go.Scatter:
    """One circle for each pair of counts of these images."""
    pairs = np.stack([reliability.prediction.count[rows], reliability.truth[rows]])
    (x, y), number = np.unique(pairs, axis=1, return_counts=True)
    marker = {"size": LARGEST_PX * np.sqrt(number / largest), "sizemin": 3, "color": color, "opacity": 0.6}
    circles = go.Scatter(x=x, y=y, customdata=number, mode="markers", marker=marker)
    circles.hovertemplate = "counted %{x}, true %{y}<br>images: %{customdata}<extra></extra>"
    return circles
