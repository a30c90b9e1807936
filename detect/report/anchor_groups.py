"""Figures of average IoU by groups of boxes: size, aspect ratio, category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from detect.anchors.coverage import Coverage, Group
from detect.report.plots import INK, MAX_CATEGORIES, Key, Panel, figure, label, plural, set_color, set_keys

FEW_GROUPS = 8


@dataclass(frozen=True)
class _Groups:
    """The groups of one set of anchors, as the grid puts them and by shape, in one order."""

    placed: Sequence[Group]
    by_shape: Sequence[Group]


def average_iou_panels(scores: Sequence[Coverage]) -> list[Panel]:
    """Average IoU by size, by aspect ratio and by category, on the grid and by shape."""
    ranked = sorted(range(len(scores[0].by_category)), key=lambda row: -scores[0].by_category[row].count)
    shown = ranked[:MAX_CATEGORIES]
    widths = (3, 6, 3) if len(shown) <= FEW_GROUPS else (5, 7, 12)
    caption = "Average best IoU where the grid puts the anchors, the number of boxes under each name"
    cut = f"; the {len(shown)} of {len(ranked)} categories with the most boxes" if len(ranked) > len(shown) else ""
    sizes = [_Groups(score.placed_by_size, score.by_size) for score in scores]
    ratios = [_Groups(score.placed_by_ratio, score.by_ratio) for score in scores]
    categories = [
        _Groups([score.placed_by_category[row] for row in shown], [score.by_category[row] for row in shown])
        for score in scores
    ]
    return [
        _group_panel("by-size", "By size", f"{caption}; size is the root of the area.", scores, sizes, widths[0]),
        _group_panel("by-ratio", "By aspect ratio", f"{caption}; h/w is height over width.", scores, ratios, widths[1]),
        _group_panel("by-category", "By category", f"{caption}{cut}.", scores, categories, widths[2]),
    ]


def _group_panel(
    name: str, title: str, caption: str, scores: Sequence[Coverage], groups: Sequence[_Groups], columns: int
) -> Panel:
    """Bars and lines for the first set, diamonds for those it is compared with; ``groups`` are those of each set."""
    names = [(group.name, group.count) for group in groups[0].placed]
    chart = figure(
        _bars(scores[0], groups[0])
        + [_diamonds(number, scores[number], groups[number]) for number in range(1, len(scores))],
        xaxis=names_axis(names),
        yaxis={"title": {"text": "average IoU"}, "range": [0, 1], "dtick": 0.2, "tickformat": ".1f"},
        height=330 if len(names) <= FEW_GROUPS else 400,
    )
    keys = (*set_keys(scores, others="diamond"), Key("by shape", INK, "line"))
    return Panel(name, title, caption, chart, columns, keys)


def _bars(score: Coverage, groups: _Groups) -> list[Any]:
    rows = list(range(len(groups.placed)))
    hover = [_group_hover(score, *pair) for pair in zip(groups.placed, groups.by_shape, strict=True)]
    bars = go.Bar(x=rows, y=[group.average_iou for group in groups.placed], hovertext=hover, hoverinfo="text")
    bars.update(marker={"color": set_color(0), "opacity": 0.72}, width=min(0.72, 0.14 * len(rows)))
    lines = go.Scatter(x=rows, y=[group.average_iou for group in groups.by_shape], mode="markers", hoverinfo="skip")
    width = 22 if len(rows) <= FEW_GROUPS else 13
    lines.marker = {"symbol": "line-ew", "size": width, "line": {"color": INK, "width": 2}}
    return [bars, lines]


def _diamonds(number: int, score: Coverage, groups: _Groups) -> Any:
    hover = [_group_hover(score, *pair) for pair in zip(groups.placed, groups.by_shape, strict=True)]
    heights = [group.average_iou for group in groups.placed]
    diamonds = go.Scatter(x=list(range(len(heights))), y=heights, mode="markers", hovertext=hover, hoverinfo="text")
    diamonds.marker = {
        "color": set_color(number),
        "symbol": "diamond",
        "size": 8,
        "line": {"color": "white", "width": 1},
    }
    return diamonds


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


def _group_hover(score: Coverage, placed: Group, by_shape: Group) -> str:
    lines = [f"<b>{label(placed.name, 60)}</b>", label(score.anchors.name), plural(placed.count, "box")]
    if placed.count:
        lines += [f"average IoU {placed.average_iou:.3f}, by shape {by_shape.average_iou:.3f}"]
        lines += [f"recall at {at:g}: {recall:.3f}" for at, recall in placed.recall.items()]
    return "<br>".join(lines)
