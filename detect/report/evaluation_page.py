"""The page of an evaluation: tables of scores, precision-recall curves and pictures, as the text of one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from detect.evaluation.precision_recall import PrecisionRecall
from detect.report.page import Sections, block, page, tiles
from detect.report.plots import Key, Panel, label, panel, set_color
from detect.report.tables import escape, table

MAX_LINES = 12  # readers cannot tell more apart
CURVE_CAPTION = "Precision and recall as the score threshold falls."


@dataclass(frozen=True)
class ScoreTable:
    """Rows of a name and numbers; None, for a score that does not exist, is shown as a dash."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


def evaluation_page(
    title: str,
    about: str,
    *,
    read_from: Sequence[str],
    counts: Mapping[str, int],
    tables: Sequence[ScoreTable],
    curves: Sequence[PrecisionRecall],
    pictures: tuple[str, bytes] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page of results that are already computed. All texts are plain text.

    ``about`` is the line below the heading, ``notes`` are lines under it, ``read_from`` names the annotation files. Curves
    of all categories together share one panel; curves of single categories have a panel for each ``at``. ``pictures`` are a
    caption and a contact sheet as PNG.
    """
    sections: Sections = {
        "summary": ("Summary", [tiles(counts), *map(_score_table, tables)]),
        "curves": ("Precision-recall curves", [_curve_panels(curves)]),
        "pictures": ("Pictures", [_sheet(*pictures)] if pictures else []),
    }
    return page(title, escape(about), sections, read_from=read_from, notes=notes)


def score_cell(value: str | float | None) -> str:
    """Format a number with three digits, a count with commas, a name as it is, and None as a dash.

    >>> [score_cell(value) for value in ("cell", 1200, 0.51239, None)]
    ['cell', '1,200', '0.512', '-']
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _score_table(scores: ScoreTable) -> str:
    rows = [[score_cell(value) for value in row] for row in scores.rows]
    content = table(scores.columns, rows, scroll=len(rows) > MAX_LINES)
    return block(escape(scores.title), escape(scores.caption), content)


def _curve_panels(curves: Sequence[PrecisionRecall]) -> list[Panel]:
    groups = {"All together": [(each.at, each) for each in curves if not each.category]}
    for each in (curve for curve in curves if curve.category):
        groups.setdefault(f"Each, {each.at}", []).append((each.category, each))
    columns = 12 if len(groups) == 1 else 6
    return [_curve_panel(f"curves-{number}", *group, columns) for number, group in enumerate(groups.items())]


def _curve_panel(name: str, title: str, curves: Sequence[tuple[str, PrecisionRecall]], columns: int) -> Panel:
    traces: list[go.Scatter] = []
    keys: list[Key] = []
    for number, (text, curve) in enumerate(curves[:MAX_LINES]):
        color = set_color(number)
        dashed = color in {key.color for key in keys}
        scores = ["" if np.isnan(score) else f"<br>score at least {score:.3f}" for score in curve.scores]
        line = go.Scatter(x=curve.recall, y=curve.precision, customdata=scores, mode="lines")
        line.line = {"color": color, "width": 2, "dash": "dash" if dashed else "solid"}
        line.hovertemplate = (
            f"{label(text, 60)}<br>recall %{{x:.3f}}, precision %{{y:.3f}}%{{customdata}}<extra></extra>"
        )
        traces.append(line)
        keys.append(Key(text, color, "dash" if dashed else "line"))
    xaxis, yaxis = ({"title": axis, "range": [0, 1.02], "tickformat": ".1f"} for axis in ("recall", "precision"))
    cut = f" The first {MAX_LINES} of {len(curves):,} curves are drawn." if len(curves) > MAX_LINES else ""
    layout = {"xaxis": xaxis, "yaxis": yaxis}
    return panel(name, title, CURVE_CAPTION + cut, traces, columns=columns, keys=keys, height=380, **layout)


def _sheet(caption: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = f'<p><img src="{source}" alt="" style="display:block;width:100%"></p>'
    return f'<div class="block"><p class="caption">{escape(caption)}</p>{image}</div>'
