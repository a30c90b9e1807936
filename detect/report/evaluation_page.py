"""The page of an evaluation: tables of scores, curves, confusions and pictures, as the text of one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64, Int64
from numpy import ndarray

from detect.evaluation.confusion import ConfusionMatrix
from detect.evaluation.precision_recall import PrecisionRecall
from detect.report.page import Sections, block, page, picture_block, tiles
from detect.report.plots import Key, Panel, label, panel, set_color
from detect.report.tables import Html, escape, prose, shaded, table

MAX_LINES = 12  # readers cannot tell more apart
MAX_POINTS = 1000  # of a line; more do not show
CURVE_CAPTION = "Precision and recall as the score threshold falls."
SCORE_CAPTION = "Precision, recall and F1 of the results with at least this score, {at}."


ScoreRow = tuple[str | int | float | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """Rows of a name and numbers; None, for a score that does not exist, is shown as a dash."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


def evaluation_page(
    title: str,
    about: str,
    *,
    read_from: Sequence[str],
    counts: Mapping[str, int],
    tables: Sequence[ScoreTable],
    curves: Sequence[PrecisionRecall],
    by_score: Sequence[PrecisionRecall] = (),
    counts_by_image: Sequence[Panel] = (),
    confusion: ConfusionMatrix | None = None,
    pictures: tuple[str, bytes] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page of results that are already computed. All texts are plain text.

    ``about`` is the line below the heading, ``notes`` are lines under it, ``read_from`` names the annotation files.
    ``by_score`` is the curve of all categories at every score, then those of single ones. ``counts_by_image`` are panels of
    calibrated counts. ``pictures`` are a caption and a contact sheet as PNG.
    """
    sections: Sections = {
        "summary": ("Summary", [tiles(counts), *map(_score_table, tables)]),
        "counts": ("Counts", [counts_by_image] if counts_by_image else []),
        "scores": ("Score thresholds", [_score_panels(by_score)] if by_score else []),
        "confusion": ("Confusions", [_confusion_table(confusion)] if confusion else []),
        "curves": ("Precision-recall curves", [_curve_panels(curves)]),
        "pictures": ("Pictures", [picture_block(*pictures)] if pictures else []),
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
    return block(escape(scores.title), prose(scores.caption), content)


def _curve_panels(curves: Sequence[PrecisionRecall]) -> list[Panel]:
    groups = {"All together": [(each.at, each) for each in curves if not each.category]}
    for each in (curve for curve in curves if curve.category):
        groups.setdefault(f"Each, {each.at}", []).append((each.category, each))
    columns = 12 if len(groups) == 1 else 6
    return [_curve_panel(f"curves-{number}", *group, columns) for number, group in enumerate(groups.items())]


def _curve_panel(name: str, title: str, curves: Sequence[tuple[str, PrecisionRecall]], columns: int) -> Panel:
    lines = []
    for text, curve in curves:
        at = _thinned(len(curve.recall))
        scores = ["" if np.isnan(score) else f"<br>score at least {score:.3f}" for score in curve.scores[at]]
        line = go.Scatter(x=curve.recall[at], y=curve.precision[at], customdata=scores, mode="lines")
        numbers = "recall %{x:.3f}, precision %{y:.3f}%{customdata}"
        line.hovertemplate = f"{label(text, 60)}<br>{numbers}<extra></extra>"
        lines.append((text, line))
    return _lines_panel(name, title, CURVE_CAPTION, lines, ("recall", "precision"), columns=columns)


def _score_panels(by_score: Sequence[PrecisionRecall]) -> list[Panel]:
    """Precision, recall and F1 of all categories at each score, with the best F1 marked; and F1 of each category."""
    overall, *alone = by_score
    caption, columns = SCORE_CAPTION.format(at=overall.at), 6 if alone else 12
    columns_of = {"F1": overall.f1, "precision": overall.precision, "recall": overall.recall}
    lines = [(name, _score_line(name, overall, values)) for name, values in columns_of.items()]
    best = overall.best_f1()
    if best:
        caption += f" F1 is highest, {best.value:.3f}, from a score of {best.threshold:.3g} on."
    panels = [_lines_panel("scores-0", "All together", caption, lines, ("score threshold", ""), columns=columns)]
    if best:
        panels[0].figure.add_vline(best.threshold, line={"width": 1, "dash": "dot"})
    if alone:
        lines = [(each.category, _score_line(each.category, each, each.f1)) for each in alone]
        panels.append(_lines_panel("scores-1", "F1 of each", "", lines, ("score threshold", "F1"), columns=columns))
    return panels


def _score_line(name: str, curve: PrecisionRecall, values: Float64[ndarray, " k"]) -> go.Scatter:
    at = _thinned(len(values))
    line = go.Scatter(x=curve.scores[at], y=values[at], mode="lines")
    line.hovertemplate = f"{label(name, 60)} %{{y:.3f}}<br>at a score of %{{x:.3f}} or more<extra></extra>"
    line.line.shape = "hv"  # a threshold keeps what the next score above it does
    return line


def _lines_panel(
    name: str, title: str, caption: str, lines: Sequence[tuple[str, go.Scatter]], axes: tuple[str, str], **layout: int
) -> Panel:
    """Lines from 0 to 1 along both axes, the first ``MAX_LINES`` of them, each in its colour."""
    keys: list[Key] = []
    for number, (text, line) in enumerate(lines[:MAX_LINES]):
        color = set_color(number)
        dashed = color in {key.color for key in keys}
        line.line.update(color=color, width=2, dash="dash" if dashed else "solid")
        keys.append(Key(text, color, "dash" if dashed else "line"))
    xaxis, yaxis = ({"title": axis, "range": [0, 1.02], "tickformat": ".1f"} for axis in axes)
    caption += f" The first {MAX_LINES} of {len(lines):,} curves are drawn." if len(lines) > MAX_LINES else ""
    traces = [line for _, line in lines[:MAX_LINES]]
    return panel(name, title, caption, traces, keys=keys, height=380, xaxis=xaxis, yaxis=yaxis, **layout)


def _thinned(count: int) -> Int64[ndarray, " n"]:
    """Indices of at most ``MAX_POINTS`` points, the first and the last among them."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, MAX_POINTS)).round().astype(np.int64))


def _confusion_table(confusion: ConfusionMatrix) -> str:
    """The matrix, its cells shaded by their share of the true objects, or in the last row of the predictions."""
    caption = (
        "Rows are true, columns predicted categories. Objects are paired with results of a score of at least "
        f"{confusion.threshold:.3g} ({confusion.at}), whatever their categories. The last column counts missed objects, the "
        "last row results without an object."
    )
    rows: list[list[str | Html]] = [
        [name, *(shaded(f"{count:,}" if count else "", count / max(sum(counts), 1)) for count in counts)]
        for name, counts in zip(confusion.names, confusion.counts.tolist(), strict=True)
    ]
    content = table(("", *confusion.names), rows, scroll=len(rows) > MAX_LINES)
    return block("Confusion matrix", prose(caption), content)
