"""Figures of the dataset: image sizes, boxes per image, object sizes, box centres, categories, and IoU by group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.anchors import distributions
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import AnchorMetrics, GroupMetrics
from detect.conventions import MEDIUM_LARGE_PX, SMALL_MEDIUM_PX
from detect.data import CocoDataset
from detect.report.plots import (
    INK,
    MAX_CATEGORIES,
    MUTED,
    PLAIN,
    Key,
    Panel,
    figure,
    label,
    pixels_axis,
    plural,
    set_color,
    set_keys,
)

FEW_GROUPS = 8
MAX_SIZES = 2_000
MAX_BARS = 50
BARS_PER_OCTAVE = 4
CENTER_CELLS, FEW_BOXES = 32, 4_000  # cells along an axis; half of them for fewer boxes than this


def average_iou_panels(scores: Sequence[AnchorMetrics]) -> list[Panel]:
    """Draw average IoU by size, by aspect ratio and by category, on the grid and by shape."""
    ranked = sorted(range(len(scores[0].by_category)), key=lambda row: -scores[0].by_category[row].count)
    shown = ranked[:MAX_CATEGORIES]
    widths = (3, 6, 3) if len(shown) <= FEW_GROUPS else (5, 7, 12)
    caption = "Average IoU on the grid, with the number of boxes under each name"
    cut = f"; the {len(shown)} of {len(ranked)} categories with the most boxes" if len(ranked) > len(shown) else ""
    sizes = [score.by_size for score in scores]
    ratios = [score.by_ratio for score in scores]
    categories = [[score.by_category[row] for row in shown] for score in scores]
    return [
        _group_panel(
            "by-size", "By size", f"{caption}; size is the square root of the area.", scores, sizes, widths[0]
        ),
        _group_panel("by-ratio", "By aspect ratio", f"{caption}; h/w is height / width.", scores, ratios, widths[1]),
        _group_panel("by-category", "By category", f"{caption}{cut}.", scores, categories, widths[2]),
    ]


def _group_panel(
    name: str,
    title: str,
    caption: str,
    scores: Sequence[AnchorMetrics],
    groups: Sequence[Sequence[GroupMetrics]],
    columns: int,
) -> Panel:
    """Bars and lines for the first set, diamonds for the other sets; ``groups`` holds the groups of each set."""
    names = [(group.name, group.count) for group in groups[0]]
    chart = figure(
        _bars(scores[0], groups[0])
        + [_diamonds(number, scores[number], groups[number]) for number in range(1, len(scores))],
        xaxis=names_axis(names),
        yaxis={"title": {"text": "average IoU"}, "range": [0, 1], "dtick": 0.2, "tickformat": ".1f"},
        height=330 if len(names) <= FEW_GROUPS else 400,
    )
    keys = (*set_keys(scores, others="diamond"), Key("by shape", INK, "line"))
    return Panel(name, title, caption, chart, columns, keys)


def _bars(score: AnchorMetrics, groups: Sequence[GroupMetrics]) -> list[Any]:
    rows = list(range(len(groups)))
    hover = [_group_hover(score, group) for group in groups]
    bars = go.Bar(x=rows, y=[group.grid_average_iou for group in groups], hovertext=hover, hoverinfo="text")
    bars.update(marker={"color": set_color(0), "opacity": 0.72}, width=min(0.72, 0.14 * len(rows)))
    lines = go.Scatter(x=rows, y=[group.average_iou for group in groups], mode="markers", hoverinfo="skip")
    width = 22 if len(rows) <= FEW_GROUPS else 13
    lines.marker = {"symbol": "line-ew", "size": width, "line": {"color": INK, "width": 2}}
    return [bars, lines]


def _diamonds(number: int, score: AnchorMetrics, groups: Sequence[GroupMetrics]) -> Any:
    hover = [_group_hover(score, group) for group in groups]
    heights = [group.grid_average_iou for group in groups]
    diamonds = go.Scatter(x=list(range(len(heights))), y=heights, mode="markers", hovertext=hover, hoverinfo="text")
    diamonds.marker = {
        "color": set_color(number),
        "symbol": "diamond",
        "size": 8,
        "line": {"color": "white", "width": 1},
    }
    return diamonds


def names_axis(names: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return an axis of positions 0, 1, ... with names and counts as tick texts.

    Equal names stay apart, and plotly reads no name as a number or date.
    """
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


def _group_hover(score: AnchorMetrics, group: GroupMetrics) -> str:
    lines = [f"<b>{label(group.name, 60)}</b>", label(score.anchors.name), plural(group.count, "box")]
    if group.count:
        lines += [f"average IoU on the grid {group.grid_average_iou:.3f}, by shape {group.average_iou:.3f}"]
        lines += [f"recall on the grid at {at:g}: {recall:.3f}" for at, recall in group.grid_recall.items()]
    return "<br>".join(lines)


def dataset_panels(score: AnchorMetrics) -> list[Panel]:
    """Draw everything about the dataset that needs no anchors."""
    dataset = score.instances.dataset
    return [
        image_sizes(dataset),
        boxes_per_image(dataset),
        object_sizes(score.instances),
        box_centers(dataset),
        class_balance(score),
    ]


def image_sizes(dataset: CocoDataset) -> Panel:
    """Draw width against height of the images, one dot for each size."""
    sizes, counts = np.unique(dataset.images.wh, axis=0, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:MAX_SIZES]
    width, height = sizes[common].T
    marker = {"size": _diameters(counts[common]), "color": PLAIN, "opacity": 0.65, "line": {"width": 0}}
    dots = go.Scatter(x=width, y=height, customdata=counts[common], mode="markers", marker=marker)
    dots.hovertemplate = "%{x} x %{y} px<br>%{customdata:,} images<extra></extra>"
    chart = figure(
        [dots],
        xaxis={"title": {"text": "width, px"}, "rangemode": "tozero", "nticks": 6, "tickformat": "d"},
        yaxis={"title": {"text": "height, px"}, "rangemode": "tozero", "nticks": 6, "tickformat": "d"},
    )
    cut = f" The {MAX_SIZES:,} most common sizes are drawn." if len(sizes) > MAX_SIZES else ""
    caption = (
        f"{plural(len(dataset.images), 'image')} of {plural(len(sizes), 'size')} before the resize rule. The area of a "
    )
    return Panel("image-sizes", "Image sizes", f"{caption}dot grows with the number of images.{cut}", chart, 4)


def boxes_per_image(dataset: CocoDataset) -> Panel:
    """Draw the histogram of the number of boxes per image."""
    boxes = distributions.boxes_per_image(dataset)
    step = max(1, -(-(int(boxes.max(initial=0)) + 1) // MAX_BARS))
    counts = np.bincount(boxes // step)
    lowest = np.arange(len(counts)) * step
    names = [f"{low}" if step == 1 else f"{low} to {low + step - 1}" for low in lowest]
    bars = go.Bar(x=lowest + (step - 1) / 2, y=counts, width=0.9 * step, marker={"color": PLAIN}, customdata=names)
    bars.hovertemplate = "%{customdata} boxes: %{y:,} images<extra></extra>"
    chart = figure(
        [bars], xaxis=_axis("boxes in an image", len(lowest) * step), yaxis=_axis("images", int(counts.max(initial=0)))
    )
    caption = f"Histogram of the number of boxes in an image. Images without boxes: {(boxes == 0).sum():,}."
    return Panel("boxes-per-image", "Boxes per image", caption, chart, 4)


def object_sizes(instances: ResizedInstances) -> Panel:
    """Draw the histogram of the square root of the area after the resize rule, with COCO's area ranges."""
    edges, counts = distributions.size_histogram(instances, per_octave=BARS_PER_OCTAVE)
    bars = go.Bar(x=edges[:-1], y=counts, width=np.diff(edges), offset=0, marker={"color": PLAIN})
    bars.marker.line = {"color": "white", "width": 1}
    bars.customdata = [f"{low:.3g} to {high:.3g} px" for low, high in pairwise(edges)]
    bars.hovertemplate = "%{customdata}: %{y:,} boxes<extra></extra>"
    low, high = min(edges[0], SMALL_MEDIUM_PX / 4), max(edges[-1], MEDIUM_LARGE_PX * 4)
    xaxis = pixels_axis("square root of the area, px", low, high)
    highest = max(int(counts.max()), 1)
    yaxis = _axis("boxes", highest, range=[0, highest * 1.15])  # room for the names of the area ranges
    chart = figure([bars], xaxis=xaxis, yaxis=yaxis, bargap=0)
    for limit in (SMALL_MEDIUM_PX, MEDIUM_LARGE_PX):
        chart.add_vline(x=limit, line={"color": INK, "width": 1.2, "dash": "dot"})
    _name_area_ranges(chart, xaxis["range"])
    caption = (
        f"After the resize rule {instances.rule}. The dotted lines are COCO's limits of {SMALL_MEDIUM_PX:.0f} and "
    )
    return Panel("object-sizes", "Object sizes", f"{caption}{MEDIUM_LARGE_PX:.0f} px.", chart, 4)


def box_centers(dataset: CocoDataset) -> Panel:
    """Draw how many box centres lie in each cell of the image, in relative coordinates."""
    along = CENTER_CELLS if len(dataset.instances) >= FEW_BOXES else CENTER_CELLS // 2
    counts, edges = distributions.center_counts(dataset, along), np.linspace(0, 1, along + 1)
    heat = go.Heatmap(x=edges, y=edges, z=counts, coloraxis="coloraxis")
    heat.hovertemplate = "%{z:,} boxes<extra></extra>"
    chart = figure(
        [heat],
        xaxis={"title": {"text": "x / image width"}, "range": [0, 1], "showgrid": False},
        yaxis={"title": {"text": "y / image height"}, "range": [1, 0], "showgrid": False},
        height=380,
        coloraxis={"cmin": 0, "colorbar": {"tickformat": ",d", "nticks": 5}},
    )
    caption = "Box centres in relative image coordinates; darker cells hold more."
    return Panel("centers", "Box centres", caption, chart, 5)


def class_balance(score: AnchorMetrics) -> Panel:
    """Draw the number of boxes of each category."""
    ranked = sorted(score.by_category, key=lambda group: -group.count)
    shown = ranked[:MAX_CATEGORIES]
    bars = go.Bar(
        x=list(range(len(shown))),
        y=[group.count for group in shown],
        width=min(0.72, 0.14 * len(shown)),
        marker={"color": PLAIN},
        hovertext=[f"<b>{label(group.name, 60)}</b><br>{plural(group.count, 'box')}" for group in shown],
        hoverinfo="text",
    )
    xaxis = names_axis([(group.name, group.count) for group in shown])
    yaxis = _axis("boxes", max(group.count for group in shown) if shown else 0)
    chart = figure([bars], xaxis=xaxis, yaxis=yaxis, height=380)
    empty = len(score.instances.dataset.categories) - len(ranked)
    without = f" Categories without boxes: {empty:,}." if empty > 0 else ""
    cut = f", the {len(shown)} largest of {len(ranked)} categories" if len(ranked) > len(shown) else ""
    return Panel("classes", "Class balance", f"Boxes of each category{cut}.{without}", chart, 7)


def _name_area_ranges(chart: go.Figure, log_range: list[float]) -> None:
    """Write small, medium and large over the bars, each in the middle of its area range."""
    stops = [log_range[0], np.log10(SMALL_MEDIUM_PX), np.log10(MEDIUM_LARGE_PX), log_range[1]]
    for name, low, high in zip(("small", "medium", "large"), stops, stops[1:], strict=False):
        middle = (low + high) / 2  # plotly positions annotations on a logarithmic axis by the logarithm
        chart.add_annotation(x=middle, y=1, yref="paper", yanchor="top", text=name, showarrow=False)
    chart.update_annotations(font={"color": MUTED, "size": 11})


def _diameters(counts: Int64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Diameters in pixels, with areas proportional to counts; the largest is at most 26, and less for many dots."""
    largest = np.clip(260 / np.sqrt(max(len(counts), 1)), 6, 26)
    return np.maximum(largest * np.sqrt(counts / counts.max(initial=1)), 3.0)


def _axis(title: str, highest: float, **options: Any) -> dict[str, Any]:
    """An axis of counts, with ticks at whole numbers only."""
    steps = {"dtick": 1} if highest < 6 else {"nticks": 7}
    return {"title": {"text": title}, "tickformat": ",d", **steps, **options}
