"""The page of oracle round trips: scores of a perfect network by stride and sigma, as the text of one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from detect.evaluation.oracle import GOOD_F1, OracleScores, coarsest_good, nearest_neighbors
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints
from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import LEVEL_COLORS, PLAIN, Key, Panel, figure, pixels_axis
from detect.report.tables import Column, Html, table

SECTIONS = {"summary": "Summary", "curves": "Curves"}
CAPTION = f"""Heatmap targets are drawn for the dataset and read back as a perfect network's output would be read.
Merged points lie inside their image but have no peak of their own. The bold row is the coarsest stride with an F1 of at
least {GOOD_F1:g}, at its best sigma."""


def oracle_page(oracles: Sequence[OracleScores], truth: CocoKeypoints, *, title: str) -> str:
    """Return the page for several strides and sigmas; equal input gives equal text.

    Args:
        oracles: scores at each stride and sigma; see :func:`detect.evaluation.oracle.oracle_round_trip`.
        truth: the keypoints of the dataset.
        title: heading of the page.

    Raises:
        ValueError: ``oracles`` is empty.
    """
    if not oracles:
        raise ValueError("need scores of at least one oracle round trip, got none")
    radius, panels = oracles[0].scores.radius, _panels(oracles, truth)
    about = f"Radius {radius:g} px · pixel origin <code>{truth.pixel_origin}</code>"
    summary = _counts(truth) + block("Stride and sigma", CAPTION, oracle_table(oracles))
    body = [
        header(title, about, read_from=truth.dataset.files, sections=SECTIONS),
        section("summary", SECTIONS["summary"], summary),
        section("curves", SECTIONS["curves"], grid(panels)),
    ]
    return document(title, "\n".join(body), panels)


def oracle_table(oracles: Sequence[OracleScores]) -> str:
    """Return a table with one row for each stride and sigma, as markup."""
    names = ("stride", "sigma, cells", "F1", "precision", "recall", "mean error, px", "merged", "same cell", "outside")
    best = coarsest_good(oracles)
    rows = []
    for each in oracles:
        rates, error = each.scores.micro, each.mean_error
        numbers = [f"{rates.f1:.4f}", f"{rates.precision:.4f}", f"{rates.recall:.4f}"]
        numbers += ["-" if error is None else f"{error:.3f}"]
        numbers += [f"{count:,}" for count in (each.merged, each.same_cell, each.outside)]
        cells = [f"{each.stride:g}", f"{each.sigma:g}", *numbers]
        rows.append([Html(f"<b>{cell}</b>") if each is best else cell for cell in cells])
    return table([Column(name, numeric=True) for name in names], rows)


def _counts(truth: CocoKeypoints) -> str:
    return tiles(
        {
            "images": len(truth.dataset.images),
            "points": int(np.count_nonzero(truth.landmarks.visibility != UNLABELLED)),
            "keypoint types": truth.landmarks.num_types,
            "ignored regions": sum(map(len, truth.ignored)),
            "invalid": len(truth.dataset.invalid),
            "suspicious": len(truth.dataset.suspicious),
        }
    )


def _panels(oracles: Sequence[OracleScores], truth: CocoKeypoints) -> list[Panel]:
    found = f"A point counts as found if a peak lies within {oracles[0].scores.radius:g} px."
    error = "Mean distance between found points and their peaks."
    merged = "Points inside their image without a peak of their own."
    return [
        _curves("f1", "F1", found, oracles, lambda each: each.scores.micro.f1),
        _curves("error", "Mean error, px", error, oracles, lambda each: each.mean_error),
        _curves("merged", "Points merged", merged, oracles, lambda each: each.merged),
        _neighbors(truth),
    ]


def _curves(
    name: str,
    axis: str,
    caption: str,
    oracles: Sequence[OracleScores],
    value: Callable[[OracleScores], float | None],
) -> Panel:
    """Draw a number over sigma, with a line for each stride."""
    strides = sorted({each.stride for each in oracles})
    colors = {stride: LEVEL_COLORS[number % len(LEVEL_COLORS)] for number, stride in enumerate(strides)}
    traces = []
    for stride in strides:
        own = sorted((each for each in oracles if each.stride == stride), key=lambda each: each.sigma)
        line = go.Scatter(x=[each.sigma for each in own], y=[value(each) for each in own], mode="lines+markers")
        line.line = {"color": colors[stride]}
        line.hovertemplate = f"stride {stride:g}, sigma %{{x}}: %{{y:.4f}}<extra></extra>"
        traces.append(line)
    chart = figure(traces, xaxis={"title": {"text": "sigma, cells"}}, yaxis={"title": {"text": axis}})
    keys = tuple(Key(f"stride {stride:g}", colors[stride], "line") for stride in strides)
    return Panel(name, axis, caption, chart, 6, keys)


def _neighbors(truth: CocoKeypoints) -> Panel:
    """Draw the histogram of distances to the nearest point of the same type, which a heatmap must separate."""
    distances = nearest_neighbors(truth)
    alone = np.isinf(distances).sum()
    caption = f"Distance to the nearest point of the same type in the same image. Points that are alone: {alone:,}."
    near = distances[np.isfinite(distances) & (distances > 0)]
    low, high = (float(near.min()), float(near.max())) if len(near) else (1.0, 100.0)
    # at least an octave, so that equal distances make a visible bar
    edges = np.geomspace(low, max(high * 1.0001, low * 2), 30)
    counts, _ = np.histogram(near, edges)
    bars = go.Bar(x=np.sqrt(edges[1:] * edges[:-1]), y=counts, width=np.diff(edges), marker={"color": PLAIN})
    bars.hovertemplate = "%{x:.1f} px: %{y}<extra></extra>"
    chart = figure([bars], xaxis=pixels_axis("px", low, high), yaxis={"title": {"text": "points"}}, bargap=0.05)
    return Panel("neighbors", "Nearest neighbours", caption, chart, 6)
