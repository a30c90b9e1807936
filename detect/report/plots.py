"""Shared parts of all figures: colours, escaped names, layout, limits.

Text of a :class:`Panel` is plain text, which the page escapes. Text inside a plotly figure must go through :func:`label`,
because plotly reads a subset of HTML in ticks, legends and hover boxes.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.metrics import AnchorMetrics

INK, MUTED, EDGE, GRID = "#1f2933", "#64707d", "#c3cad2", "#e8ebef"
BOX, MISSED, PLAIN = "#9aa7b5", "#d1495b", "#7c93ab"
DENSITY = [[0.0, "#eaf1f8"], [0.35, "#a8c4dd"], [0.7, "#5b8cb8"], [1.0, "#2a5d8f"]]
SET_COLORS = ("#2b6ca3", "#dd8a2e", "#7d5ba6", "#3f9c8f", "#b0476a", "#77808a")
LEVEL_COLORS = ("#46327e", "#2a7f9e", "#1fa287", "#86b817", "#d9a406", "#96602c")  # fine to coarse

LABEL_CHARS = 24
MAX_TEXT_CHARS = 300
JOINERS = "\u200c\u200d"  # invisible, but part of the spelling of some scripts and emoji
OCTAVE = math.log10(2)  # length of a factor of two on a logarithmic axis
MIN_OCTAVES = 3


@dataclass(frozen=True)
class Key:
    """One entry of a legend; ``mark`` is ``"line"``, ``"dash"``, ``"dot"``, ``"diamond"`` or ``"square"``."""

    label: str
    color: str
    mark: str = "square"


@dataclass(frozen=True)
class Panel:
    """A figure with a caption on how to read it; ``name`` is its id in the page, ``columns`` its width in twelfths."""

    name: str
    title: str
    caption: str
    figure: go.Figure
    columns: int
    keys: tuple[Key, ...]


def panel(
    name: str,
    title: str,
    caption: str,
    traces: Iterable[Any],
    *,
    columns: int = 6,
    keys: Iterable[Key] = (),
    height: int = 330,
    **layout: Any,
) -> Panel:
    """Return a figure of these traces in the shared layout; ``layout`` holds the axes and other settings of plotly."""
    chart = go.Figure(list(traces), {"template": _TEMPLATE, "height": height, **layout})
    return Panel(name, title, caption, chart, columns, tuple(keys))


def visible(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Return text from a file that is safe to show, with its middle cut out beyond ``limit`` characters.

    Control, direction and stray surrogate characters are replaced.

    >>> visible("cat\\u202egpj.exe"), visible("anchors/of/last/week.yaml", 12)
    ('cat\ufffdgpj.exe', 'anchor….yaml')
    """
    text = "".join("\ufffd" if unicodedata.category(c)[0] == "C" and c not in JOINERS else c for c in text)
    kept = limit - 1
    return text if len(text) <= limit else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def label(text: str, limit: int = LABEL_CHARS) -> str:
    """Return text that a plotly figure shows literally.

    >>> label("<b>R&D</b>")
    '&lt;b&gt;R&amp;D&lt;/b&gt;'
    """
    return html.escape(visible(text, limit), quote=False).replace("$", "&#36;")  # or plotly would look for MathJax


def level_colors(scores: Sequence[AnchorMetrics]) -> dict[int, str]:
    """Return a colour for each stride in any of the sets, from fine to coarse."""
    strides = sorted({level.stride for score in scores for level in score.anchors.levels})
    return {stride: LEVEL_COLORS[row % len(LEVEL_COLORS)] for row, stride in enumerate(strides)}


def set_color(number: int) -> str:
    """Return the colour of an anchor set or curve; colours repeat after six."""
    return SET_COLORS[number % len(SET_COLORS)]


def set_keys(scores: Sequence[AnchorMetrics], *, first: str = "square", others: str = "square") -> tuple[Key, ...]:
    """Return a legend entry for each set; ``first`` and ``others`` are marks."""
    names = enumerate(score.anchors.name for score in scores)
    return tuple(Key(name, set_color(number), others if number else first) for number, name in names)


def level_keys(anchors: AnchorSet, colors: Mapping[int, str], mark: str = "diamond") -> tuple[Key, ...]:
    """Return a legend entry for each level; a stride without a colour is grey."""
    levels = anchors.levels
    return tuple(Key(f"{each.name} (stride {each.stride})", colors.get(each.stride, PLAIN), mark) for each in levels)


def pixels_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis in pixels with a tick at every power of two, or at fewer on a long axis."""
    low, high = math.log10(low), math.log10(high)
    margin = max(0.06, (MIN_OCTAVES * OCTAVE - (high - low)) / 2)
    low, high = low - margin, high + margin
    step = max(1, math.ceil((high - low) / OCTAVE / 12))
    ticks = {"tick0": 0, "dtick": step * OCTAVE, "tickformat": ".6~r"}
    return {"title": title, "type": "log", "range": [low, high], **ticks}


_AXIS = {
    "title": {"standoff": 8, "font": {"size": 12, "color": MUTED}},
    "gridcolor": GRID,
    "zeroline": False,
    "showline": True,
    "linecolor": EDGE,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": EDGE,
    "automargin": True,
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "showlegend": False,
        "hoverlabel": {"bgcolor": "white", "bordercolor": EDGE, "font": {"size": 12, "color": INK}},
        "bargap": 0.25,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {
            "colorscale": DENSITY,
            "colorbar": {"thickness": 8, "outlinewidth": 0, "len": 1, "x": 1.0, "xpad": 6, "ypad": 0},
        },
    }
)
