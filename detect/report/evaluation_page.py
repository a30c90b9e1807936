"""The page of an evaluation: tables of scores, precision-recall curves and pictures, as the text of one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import Key, Panel, figure, label, set_color
from detect.report.tables import Column, escape, table

MAX_LINES = 12  # readers cannot tell more apart


@dataclass(frozen=True)
class ScoreTable:
    """Rows of a name and numbers; None, for a score that does not exist, is shown as a dash."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision at increasing recall, and the lowest score kept at each point; NaN if it is not known."""

    name: str
    recall: Float[ndarray, " k"]
    precision: Float[ndarray, " k"]
    scores: Float[ndarray, " k"]


@dataclass(frozen=True)
class CurvePanel:
    """Curves to compare; the first ``MAX_LINES`` are drawn."""

    title: str
    caption: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Pictures:
    """A contact sheet as PNG, and a caption on how to read it."""

    caption: str
    png: bytes


def evaluation_page(
    title: str,
    about: str,
    *,
    read_from: Sequence[str],
    counts: Mapping[str, int],
    tables: Sequence[ScoreTable],
    curves: Sequence[CurvePanel],
    pictures: Pictures | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page of results that are already computed; equal input gives equal text. All texts are plain text.

    Args:
        title: heading of the page.
        about: the line below the heading.
        read_from: names of the annotation files.
        counts: numbers at the top of the page, by name.
        tables: tables of scores.
        curves: panels of precision-recall curves.
        pictures: a contact sheet; without it, that section is left out.
        notes: lines under the heading.
    """
    columns = 12 if len(curves) == 1 else 6
    panels = [_curve_panel(f"curves-{number}", each, columns) for number, each in enumerate(curves)]
    sections = {"summary": "Summary", "curves": "Precision-recall curves"} | (
        {"pictures": "Pictures"} if pictures else {}
    )
    body = [
        header(title, escape(about), read_from=read_from, sections=sections, notes=notes),
        section("summary", sections["summary"], tiles(counts) + "".join(map(_score_table, tables))),
        section("curves", sections["curves"], grid(panels)),
    ]
    if pictures:
        body.append(section("pictures", sections["pictures"], _sheet(pictures)))
    return document(title, "\n".join(body), panels)


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
    columns = [Column(name, numeric=number > 0) for number, name in enumerate(scores.columns)]
    rows = [[score_cell(value) for value in row] for row in scores.rows]
    return block(escape(scores.title), escape(scores.caption), table(columns, rows, scroll=len(rows) > MAX_LINES))


def _curve_panel(name: str, panel: CurvePanel, columns: int) -> Panel:
    shown = panel.curves[:MAX_LINES]
    traces: list[go.Scatter] = []
    keys: list[Key] = []
    for number, curve in enumerate(shown):
        dashed = set_color(number) in {key.color for key in keys}
        line = go.Scatter(x=curve.recall, y=curve.precision, customdata=_score_texts(curve), mode="lines")
        line.line = {"color": set_color(number), "width": 2, "dash": "dash" if dashed else "solid"}
        line.hovertemplate = (
            f"{label(curve.name, 60)}<br>recall %{{x:.3f}}, precision %{{y:.3f}}%{{customdata}}<extra></extra>"
        )
        traces.append(line)
        keys.append(Key(curve.name, set_color(number), "dash" if dashed else "line"))
    share = {"range": [0, 1.02], "tickformat": ".1f"}
    chart = figure(
        traces,
        xaxis={"title": {"text": "recall"}, **share},
        yaxis={"title": {"text": "precision"}, **share},
        height=380,
    )
    cut = f" The first {MAX_LINES} of {len(panel.curves):,} curves are drawn." if len(panel.curves) > MAX_LINES else ""
    return Panel(name, panel.title, panel.caption + cut, chart, columns, tuple(keys))


def _score_texts(curve: Curve) -> list[str]:
    return ["" if np.isnan(score) else f"<br>score at least {score:.3f}" for score in curve.scores]


def _sheet(pictures: Pictures) -> str:
    source = f"data:image/png;base64,{base64.b64encode(pictures.png).decode()}"
    image = f'<p><img src="{source}" alt="" style="display:block;width:100%"></p>'
    return f'<div class="block"><p class="caption">{escape(pictures.caption)}</p>{image}</div>'
