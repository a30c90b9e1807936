"""What all figures of the page share: colours, escaping of names, layout, and how much is drawn.

Text of a :class:`Panel` is plain text, which the page escapes. Text inside a plotly figure goes through :func:`label`:
plotly reads a subset of HTML in ticks, legends and hover boxes.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from detect.anchors.metrics import AnchorMetrics

INK, MUTED, GRID = "#1f2933", "#64707d", "#e8ebef"
BOX, MISSED, PLAIN = "#9aa7b5", "#d1495b", "#7c93ab"
DENSITY = [[0.0, "#eaf1f8"], [0.35, "#a8c4dd"], [0.7, "#5b8cb8"], [1.0, "#2a5d8f"]]
SET_COLORS = ("#2b6ca3", "#dd8a2e", "#7d5ba6", "#3f9c8f", "#b0476a", "#77808a")
LEVEL_COLORS = ("#46327e", "#2a7f9e", "#1fa287", "#86b817", "#d9a406", "#96602c")  # fine to coarse

LABEL_CHARS = 24
MAX_TEXT_CHARS = 300
MAX_CATEGORIES = 40
JOINERS = "\u200c\u200d"  # invisible, but part of how some scripts and emoji are spelled
OCTAVE = math.log10(2)  # one step of a logarithmic axis
LEAST_OCTAVES = 3


@dataclass(frozen=True)
class Key:
    """One entry of a legend; ``mark`` is ``"line"``, ``"dash"``, ``"dot"``, ``"diamond"`` or ``"square"``."""

    label: str
    color: str
    mark: str = "square"


@dataclass(frozen=True)
class Panel:
    """A figure with one sentence on how to read it; ``name`` is its id in the page, ``columns`` its width in twelfths."""

    name: str
    title: str
    caption: str
    figure: go.Figure
    columns: int = 6
    keys: tuple[Key, ...] = ()


def figure(
    traces: Iterable[Any],
    *,
    xaxis: Mapping[str, Any],
    yaxis: Mapping[str, Any],
    height: int = 330,
    **layout: Any,
) -> go.Figure:
    """Traces in the layout that all figures share; the legend is the panel's."""
    return go.Figure(list(traces), {"template": _TEMPLATE, "height": height, "xaxis": xaxis, "yaxis": yaxis, **layout})


def visible(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Text from a file as it can be shown: control, direction and stray surrogate characters replaced, the middle cut out.

    >>> visible("cat\\u202egpj.exe"), visible("anchors/of/last/week.yaml", 12)
    ('cat\ufffdgpj.exe', 'anchor….yaml')
    """
    text = "".join("\ufffd" if unicodedata.category(c)[0] == "C" and c not in JOINERS else c for c in text)
    kept = limit - 1
    return text if len(text) <= limit else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def label(text: str, limit: int = LABEL_CHARS) -> str:
    """A name for a plotly figure, shown literally.

    >>> label("<b>R&D</b>")
    '&lt;b&gt;R&amp;D&lt;/b&gt;'
    """
    return html.escape(visible(text, limit), quote=False).replace("$", "&#36;")  # no formula for MathJax


def level_colors(scores: Sequence[AnchorMetrics]) -> dict[int, str]:
    """The colour of each stride in any of the sets."""
    strides = sorted({level.stride for score in scores for level in score.anchors.levels})
    return {stride: LEVEL_COLORS[row % len(LEVEL_COLORS)] for row, stride in enumerate(strides)}


def set_color(number: int) -> str:
    return SET_COLORS[number % len(SET_COLORS)]


def set_keys(scores: Sequence[AnchorMetrics], *, first: str = "square", others: str = "square") -> tuple[Key, ...]:
    """A legend entry for each set."""
    return tuple(
        Key(score.anchors.name, set_color(number), others if number else first) for number, score in enumerate(scores)
    )


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "box"), plural(2400, "image")
    ('1 box', '2,400 images')
    """
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{ending}"


def pixels_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis in pixels with a tick at every power of two, or at fewer where they are many."""
    low, high = math.log10(low), math.log10(high)
    beside = max(0.06, (LEAST_OCTAVES * OCTAVE - (high - low)) / 2)
    low, high = low - beside, high + beside
    step = max(1, math.ceil((high - low) / OCTAVE / 12))
    return {
        "title": {"text": title},
        "type": "log",
        "range": [low, high],
        "tick0": 0,
        "dtick": step * OCTAVE,
        "tickformat": ".6~r",
    }


_AXIS = {
    "gridcolor": GRID,
    "linecolor": "#c3cad2",
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#c3cad2",
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 12, "color": MUTED}},
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "showlegend": False,
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#c3cad2", "font": {"size": 12, "color": INK}},
        "bargap": 0.25,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {
            "colorscale": DENSITY,
            "colorbar": {"thickness": 8, "outlinewidth": 0, "len": 1, "x": 1.0, "xpad": 6, "ypad": 0},
        },
    }
)
