"""Figures of calibrated counts: true over counted points, and how often images have any over the probability given."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool
from numpy import ndarray

from detect.evaluation.count_reliability import CountReliability
from detect.report.plots import MISSED, MUTED, SET_COLORS, Key, Panel, panel

COUNT_CAPTION = (
    "A circle stands for the images with these counts, its area for their number; red ones have a true count outside their "
    "interval. Each image is predicted by a calibration on others. On the line both counts are equal."
)
PRESENCE_CAPTION = "Quarters of the images by rising probability. On the line as many have a point as were given."
LARGEST_PX = 26


def count_panels(identity: str, name: str, reliability: CountReliability) -> list[Panel]:
    """The panel of counts and, if it was calibrated, that of presence; ``identity`` begins their ids in the page."""
    presence = reliability.presence()
    columns = 12 if presence is None else 6
    count, truth = reliability.prediction.count, reliability.truth
    top = float(max(count.max(), truth.max())) + 1
    covered = reliability.covered
    largest = int(np.unique(np.stack([count, truth]), axis=1, return_counts=True)[1].max())
    circles = [_circles(reliability, covered, SET_COLORS[0], largest), _circles(reliability, ~covered, MISSED, largest)]
    axes: dict[str, Any] = {
        "xaxis": {"title": "counted points", "range": [-0.7, top]},
        "yaxis": {"title": "true points", "range": [-0.7, top]},
    }
    keys = (Key("inside the interval", SET_COLORS[0], "dot"), Key("outside", MISSED, "dot"))
    title = f"True and counted points: {name}"
    panels = [
        panel(
            identity, title, COUNT_CAPTION, [_diagonal(top), *circles], columns=columns, keys=keys, height=380, **axes
        )
    ]
    if presence:
        given, share, number = np.array(presence.bins).T
        dots = go.Scatter(
            x=given, y=share, customdata=number, mode="markers", marker={"size": 10, "color": SET_COLORS[0]}
        )
        dots.hovertemplate = "given %{x:.3f}, have a point %{y:.3f}<br>%{customdata} images<extra></extra>"
        axes = {
            "xaxis": {"title": "probability of a point", "range": [-0.02, 1.02]},
            "yaxis": {"title": "share with a point", "range": [-0.02, 1.04]},
        }
        title, traces = f"Presence: {name}", [_diagonal(1.0), dots]
        panels.append(panel(f"{identity}-presence", title, PRESENCE_CAPTION, traces, columns=6, height=380, **axes))
    return panels


def _circles(reliability: CountReliability, rows: Bool[ndarray, " b"], color: str, largest: int) -> go.Scatter:
    """One circle for each pair of counts of these images."""
    pairs = np.stack([reliability.prediction.count[rows], reliability.truth[rows]])
    (x, y), number = np.unique(pairs, axis=1, return_counts=True)
    marker = {"size": LARGEST_PX * np.sqrt(number / largest), "sizemin": 3, "color": color, "opacity": 0.6}
    circles = go.Scatter(x=x, y=y, customdata=number, mode="markers", marker=marker)
    circles.hovertemplate = "counted %{x}, true %{y}<br>images: %{customdata}<extra></extra>"
    return circles


def _diagonal(end: float) -> go.Scatter:
    return go.Scatter(
        x=[0, end], y=[0, end], mode="lines", line={"color": MUTED, "width": 1, "dash": "dot"}, hoverinfo="skip"
    )
