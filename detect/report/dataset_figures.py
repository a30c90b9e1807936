"""Figures of the dataset: image sizes, boxes per image, object sizes, box centres, categories, and IoU by group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from detect.anchors import distributions
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import AnchorMetrics, GroupMetrics
from detect.conventions import MEDIUM_LARGE_PX, SMALL_MEDIUM_PX
from detect.data import CocoDataset
from detect.report.plots import INK, MUTED, PLAIN, Key, Panel, label, panel, pixels_axis, set_color, set_keys
from detect.wording import plural

FEW_GROUPS = 8
MAX_CATEGORIES = 40
MAX_SIZES = 2_000
MAX_BARS = 50
BARS_PER_OCTAVE = 4
CENTER_CELLS, FEW_BOXES = 32, 4_000  # cells along an axis; half of them for fewer boxes than this

Kind = tuple[str, str, str, Sequence[Sequence[GroupMetrics]]]  # name, title, end of the caption, groups of each set


def average_iou_panels(scores: Sequence[AnchorMetrics]) -> list[Panel]:
    """Draw average IoU by size, by aspect ratio and by category, on the grid and by shape."""
    ranked = sorted(range(len(scores[0].by_category)), key=lambda row: -scores[0].by_category[row].count)
    shown = ranked[:MAX_CATEGORIES]
    categories = [[score.by_category[row] for row in shown] for score in scores]
    cut = f"; the {len(shown)} of {len(ranked)} categories with the most boxes" if len(ranked) > len(shown) else ""
    kinds: tuple[Kind, ...] = (
        ("by-size", "By size", "; size is the square root of the area", [score.by_size for score in scores]),
        ("by-ratio", "By aspect ratio", "; h/w is height / width", [score.by_ratio for score in scores]),
        ("by-category", "By category", cut, categories),
    )
    widths = (3, 6, 3) if len(shown) <= FEW_GROUPS else (5, 7, 12)
    return [_group_panel(kind, scores, columns) for kind, columns in zip(kinds, widths, strict=True)]


def _group_panel(kind: Kind, scores: Sequence[AnchorMetrics], columns: int) -> Panel:
    """Bars and lines for the first set, diamonds for the other sets."""
    name, title, words, groups = kind
    few = len(groups[0]) <= FEW_GROUPS
    bars = _bars([group.grid_average_iou for group in groups[0]], _hover(scores[0], groups[0]))
    bars.marker = {"color": set_color(0), "opacity": 0.72}
    places = list(range(len(groups[0])))
    lines = go.Scatter(x=places, y=[group.average_iou for group in groups[0]], mode="markers", hoverinfo="skip")
    lines.marker = {"symbol": "line-ew", "size": 22 if few else 13, "line": {"color": INK, "width": 2}}
    traces = [bars, lines]
    for number in range(1, len(scores)):
        heights, hover = [group.grid_average_iou for group in groups[number]], _hover(scores[number], groups[number])
        diamonds = go.Scatter(x=places, y=heights, mode="markers", hovertext=hover, hoverinfo="text")
        diamonds.marker = {"color": set_color(number), "symbol": "diamond", "size": 8}
        diamonds.marker.line = {"color": "white", "width": 1}
        traces.append(diamonds)
    layout: dict[str, Any] = {
        "xaxis": _names_axis([(group.name, group.count) for group in groups[0]]),
        "yaxis": {"title": "average IoU", "range": [0, 1], "dtick": 0.2, "tickformat": ".1f"},
        "height": 330 if few else 400,
    }
    keys = (*set_keys(scores, others="diamond"), Key("by shape", INK, "line"))
    caption = f"Average IoU on the grid, with the number of boxes under each name{words}."
    return panel(name, title, caption, traces, columns=columns, keys=keys, **layout)


def _bars(heights: Sequence[float], hover: Sequence[str]) -> Any:
    """A bar at each of the positions of :func:`_names_axis`."""
    width = min(0.72, 0.14 * len(heights))
    return go.Bar(x=list(range(len(heights))), y=heights, width=width, hovertext=hover, hoverinfo="text")


def _hover(score: AnchorMetrics, groups: Sequence[GroupMetrics]) -> list[str]:
    texts = []
    for group in groups:
        lines = [f"<b>{label(group.name, 60)}</b>", label(score.anchors.name), plural(group.count, "box")]
        if group.count:
            lines += [f"average IoU on the grid {group.grid_average_iou:.3f}, by shape {group.average_iou:.3f}"]
            lines += [f"recall on the grid at {at:g}: {recall:.3f}" for at, recall in group.grid_recall.items()]
        texts.append("<br>".join(lines))
    return texts


def _names_axis(names: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """An axis of positions 0, 1, ... with names and counts as tick texts.

    Equal names stay apart, and plotly reads no name as a number or date.
    """
    few = len(names) <= FEW_GROUPS
    if few:
        ticks = ["<br>".join([*map(label, name.split(", ", 1)), f"{count:,}"]) for name, count in names]
    else:
        ticks = [f"{label(name)}  {count:,}" for name, count in names]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": ticks,
        "range": [-0.6, len(names) - 0.4],
        "showgrid": False,
        "ticks": "",
        "tickfont": {"size": 11},
        "autotickangles": [0, -90] if few else [-90],
    }


def dataset_panels(score: AnchorMetrics) -> list[Panel]:
    """Draw everything about the dataset that needs no anchors."""
    dataset = score.instances.dataset
    sizes = object_sizes(score.instances)
    return [image_sizes(dataset), boxes_per_image(dataset), sizes, box_centers(dataset), class_balance(score)]


def image_sizes(dataset: CocoDataset) -> Panel:
    """Draw width against height of the images, one dot for each size."""
    sizes, counts = np.unique(dataset.images.wh, axis=0, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:MAX_SIZES]
    width, height = sizes[common].T
    # areas proportional to counts; the largest diameter is at most 26 px, and less for many dots
    largest = np.clip(260 / np.sqrt(max(len(common), 1)), 6, 26)
    diameters = np.maximum(largest * np.sqrt(counts[common] / counts.max(initial=1)), 3.0)
    marker = {"size": diameters, "color": PLAIN, "opacity": 0.65, "line": {"width": 0}}
    dots = go.Scatter(x=width, y=height, customdata=counts[common], mode="markers", marker=marker)
    dots.hovertemplate = "%{x} x %{y} px<br>%{customdata:,} images<extra></extra>"
    xaxis, yaxis = (
        {"title": f"{side}, px", "rangemode": "tozero", "nticks": 6, "tickformat": "d"} for side in ("width", "height")
    )
    cut = f" The {MAX_SIZES:,} most common sizes are drawn." if len(sizes) > MAX_SIZES else ""
    caption = (
        f"{plural(len(dataset.images), 'image')} of {plural(len(sizes), 'size')} before the resize rule. The area of a dot "
        f"grows with the number of images.{cut}"
    )
    return panel("image-sizes", "Image sizes", caption, [dots], xaxis=xaxis, yaxis=yaxis, columns=4)


def boxes_per_image(dataset: CocoDataset) -> Panel:
    """Draw the histogram of the number of boxes per image."""
    boxes = distributions.boxes_per_image(dataset)
    step = max(1, -(-(int(boxes.max(initial=0)) + 1) // MAX_BARS))
    counts = np.bincount(boxes // step)
    lowest = np.arange(len(counts)) * step
    names = [f"{low}" if step == 1 else f"{low} to {low + step - 1}" for low in lowest]
    bars = go.Bar(x=lowest + (step - 1) / 2, y=counts, width=0.9 * step, marker={"color": PLAIN}, customdata=names)
    bars.hovertemplate = "%{customdata} boxes: %{y:,} images<extra></extra>"
    xaxis, yaxis = _axis("boxes in an image", len(lowest) * step), _axis("images", int(counts.max(initial=0)))
    caption = f"Histogram of the number of boxes in an image. Images without boxes: {(boxes == 0).sum():,}."
    return panel("boxes-per-image", "Boxes per image", caption, [bars], xaxis=xaxis, yaxis=yaxis, columns=4)


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
    caption = (
        f"After the resize rule {instances.rule}. The dotted lines are COCO's limits of {SMALL_MEDIUM_PX:.0f} and "
        f"{MEDIUM_LARGE_PX:.0f} px."
    )
    drawn = panel("object-sizes", "Object sizes", caption, [bars], xaxis=xaxis, yaxis=yaxis, bargap=0, columns=4)
    for limit in (SMALL_MEDIUM_PX, MEDIUM_LARGE_PX):
        drawn.figure.add_vline(x=limit, line={"color": INK, "width": 1.2, "dash": "dot"})
    stops = [xaxis["range"][0], np.log10(SMALL_MEDIUM_PX), np.log10(MEDIUM_LARGE_PX), xaxis["range"][1]]
    for name, (low, high) in zip(("small", "medium", "large"), pairwise(stops), strict=True):
        middle = (low + high) / 2  # plotly positions annotations on a logarithmic axis by the logarithm
        drawn.figure.add_annotation(x=middle, y=1, yref="paper", yanchor="top", text=name, showarrow=False)
    drawn.figure.update_annotations(font={"color": MUTED, "size": 11})
    return drawn


def box_centers(dataset: CocoDataset) -> Panel:
    """Draw how many box centres lie in each cell of the image, in relative coordinates."""
    along = CENTER_CELLS if len(dataset.instances) >= FEW_BOXES else CENTER_CELLS // 2
    counts, edges = distributions.center_counts(dataset, along), np.linspace(0, 1, along + 1)
    heat = go.Heatmap(x=edges, y=edges, z=counts, coloraxis="coloraxis", hovertemplate="%{z:,} boxes<extra></extra>")
    layout: dict[str, Any] = {
        "xaxis": {"title": "x / image width", "range": [0, 1], "showgrid": False},
        "yaxis": {"title": "y / image height", "range": [1, 0], "showgrid": False},
        "coloraxis": {"cmin": 0, "colorbar": {"tickformat": ",d", "nticks": 5}},
    }
    caption = "Box centres in relative image coordinates; darker cells hold more."
    return panel("centers", "Box centres", caption, [heat], columns=5, height=380, **layout)


def class_balance(score: AnchorMetrics) -> Panel:
    """Draw the number of boxes of each category."""
    ranked = sorted(score.by_category, key=lambda group: -group.count)
    shown = ranked[:MAX_CATEGORIES]
    hover = [f"<b>{label(group.name, 60)}</b><br>{plural(group.count, 'box')}" for group in shown]
    bars = _bars([group.count for group in shown], hover)
    bars.marker = {"color": PLAIN}
    xaxis = _names_axis([(group.name, group.count) for group in shown])
    yaxis = _axis("boxes", max((group.count for group in shown), default=0))
    empty = len(score.instances.dataset.categories) - len(ranked)
    without = f" Categories without boxes: {empty:,}." if empty > 0 else ""
    cut = f", the {len(shown)} largest of {len(ranked)} categories" if len(ranked) > len(shown) else ""
    caption = f"Boxes of each category{cut}.{without}"
    return panel("classes", "Class balance", caption, [bars], xaxis=xaxis, yaxis=yaxis, columns=7, height=380)


def _axis(title: str, highest: float, **options: Any) -> dict[str, Any]:
    """An axis of counts, with ticks at whole numbers only."""
    steps = {"dtick": 1} if highest < 6 else {"nticks": 7}
    return {"title": title, "tickformat": ",d", **steps, **options}
