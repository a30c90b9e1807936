"""Stability of fitted anchors: bootstrap intervals, and scores on training against validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.stability import Generalisation, Interval, Stability
from detect.report.page import block
from detect.report.plots import PLAIN, Panel, label, level_keys, panel, pixels_axis
from detect.report.tables import Html, decimal, percent, swatch, table

NAMES = {
    "average_iou": "average IoU, by shape",
    "recall": "recall, by shape",
    "grid_average_iou": "average IoU, on the grid",
    "grid_recall": "recall, on the grid",
}
UNSTABLE = 1.5  # upper / lower end of an interval


def stability_blocks(stability: Stability, colors: Mapping[int, str]) -> str:
    """Return the tables of a bootstrap: scores, and shapes with their intervals."""
    failed = f"; {stability.failed:,} of them could not be fitted" if stability.failed else ""
    caption = (
        f"From {stability.resamples:,} resamples of the images{failed}. Out of bag: anchors refitted to a resample, scored "
        "on the images it leaves out. If these scores are well below the others, there are too few boxes."
    )
    titles = ("score", "all images", "interval", "refitted, out of bag", "interval")
    rows: list[list[str | Html]] = []
    for name, interval in stability.scores.items():
        other = stability.out_of_bag[name]
        rows.append([NAMES.get(name, name), *_value_and_interval(interval), *_value_and_interval(other)])
    scores = block("Stability of scores", caption, table(titles, rows))
    names = {level.stride: level.name for level in stability.anchors.levels}
    rows = []
    for shape, stride in zip(stability.shapes, strides_of_shapes(stability.anchors), strict=True):
        sides = (*_value_and_interval(shape.width, pixels=True), *_value_and_interval(shape.height, pixels=True))
        rows.append([swatch(colors.get(stride, PLAIN), names[stride]), *sides, percent(shape.found)])
    shapes = table(("level", "width, px", "interval", "height, px", "interval", "found in refits"), rows)
    return scores + block("Stability of shapes", stability_words(stability), shapes)


def stability_words(stability: Stability) -> str:
    """Name the shapes with an interval that spans more than a factor of ``UNSTABLE``."""
    unstable = [
        f"{shape.width.value:.4g} x {shape.height.value:.4g}"
        for shape in stability.shapes
        if max(side.high / side.low for side in (shape.width, shape.height)) > UNSTABLE  # NaN without a match: stable
    ]
    if not unstable:
        return f"All shapes are stable: no interval of a width or height spans more than a factor of {UNSTABLE:g}."
    are = "is unstable: the interval of its" if len(unstable) == 1 else "are unstable: the intervals of their"
    return f"{', '.join(unstable)} px {are} width or height spans more than a factor of {UNSTABLE:g}."


def stable_shapes_panel(stability: Stability, colors: Mapping[int, str]) -> Panel:
    """Draw each shape as a cross whose arms are its intervals of width and height."""
    sides = [side for shape in stability.shapes for side in (shape.width, shape.height)]
    ends = [value for side in sides for value in (side.value, side.low, side.high) if value > 0]  # NaN without a match
    strides = strides_of_shapes(stability.anchors)
    traces = []
    for level in stability.anchors.levels:
        shapes = [shape for shape, stride in zip(stability.shapes, strides, strict=True) if stride == level.stride]
        color, xs, ys = colors.get(level.stride, PLAIN), list[float | None](), list[float | None]()
        for width, height in ((shape.width, shape.height) for shape in shapes):
            xs += [width.low, width.high, None, width.value, width.value, None]
            ys += [height.value, height.value, None, height.low, height.high, None]
        traces.append(go.Scatter(x=xs, y=ys, mode="lines", line={"color": color, "width": 2}, hoverinfo="skip"))
        points = go.Scatter(x=[shape.width.value for shape in shapes], y=[shape.height.value for shape in shapes])
        points.update(mode="markers", marker={"color": color, "symbol": "diamond", "size": 9})
        points.hovertemplate = f"{label(level.name)}<br>%{{x:.1f}} x %{{y:.1f}} px<extra></extra>"
        traces.append(points)
    low, high = min(ends, default=1.0), max(ends, default=2.0)
    xaxis, yaxis = (pixels_axis(f"{side}, px", low, high) for side in ("width", "height"))
    layout: dict[str, Any] = {"xaxis": xaxis, "yaxis": yaxis, "height": 420, "columns": 12}
    caption = (
        "Each fitted shape with the intervals of its width and height. A shape with long arms depends on the choice of "
        "images."
    )
    keys = level_keys(stability.anchors, colors)
    return panel("stable-shapes", "Stability of shapes", caption, traces, keys=keys, **layout)


def generalisation_block(generalisation: Generalisation) -> str:
    """Return the table of scores on training and on validation images."""
    titles = ("score", "train", "interval", "validation", "interval", "train - validation", "interval", "overfitted")
    sides = (generalisation.train, generalisation.validation, generalisation.loss)
    rows: list[list[str | Html]] = []
    for name in generalisation.train:
        cells = [cell for side in sides for cell in _value_and_interval(side[name])]
        over = name in generalisation.overfitted
        rows.append([NAMES.get(name, name), *cells, Html("<b>yes</b>") if over else "no"])
    scores = table(titles, rows, align="lrrrrrrl")
    return block("Train and validation images", generalisation_words(generalisation), scores)


def generalisation_words(generalisation: Generalisation) -> str:
    """Name the scores that are overfitted."""
    over = [NAMES.get(name, name) for name in generalisation.overfitted]
    if not over:
        return "No score is significantly lower on the validation images: there is no sign of overfitting."
    return (
        f"Overfitted: {'; '.join(over)} {'is' if len(over) == 1 else 'are'} significantly lower on the validation images: "
        "the whole interval of the difference is above zero."
    )


def strides_of_shapes(anchors: AnchorSet) -> list[int]:
    """Return the stride of each of ``anchors.shapes``, which are sorted by area.

    >>> strides_of_shapes(AnchorSet.of([[(9, 9), (30, 30)], [(20, 20)]], strides=(8, 16)))
    [8, 16, 8]
    """
    shapes: Float64[ndarray, "a 2"] = np.array([shape for level in anchors.levels for shape in level.shapes], float)
    strides = [level.stride for level in anchors.levels for _ in level.shapes]
    return [strides[row] for row in np.lexsort((shapes[:, 0], shapes.prod(axis=1)))]


def _value_and_interval(interval: Interval, *, pixels: bool = False) -> list[str]:
    value, low, high = (
        f"{number:.1f}" if pixels and not math.isnan(number) else decimal(number)
        for number in (interval.value, interval.low, interval.high)
    )
    return [value, "-" if math.isnan(interval.low) else f"{low} to {high}"]
