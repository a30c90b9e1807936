"""The page of oracle round trips: scores of a perfect network by stride and sigma, as the text of one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from detect.evaluation.oracle import GOOD_F1, OracleScores, coarsest_good, nearest_neighbors
from detect.keypoints.coco_keypoints import CocoKeypoints
from detect.keypoints.keypoints import UNLABELLED
from detect.report.page import Sections, block, page, tiles
from detect.report.plots import LEVEL_COLORS, PLAIN, Key, Panel, panel, pixels_axis
from detect.report.tables import Html, table
from detect.wording import by_nouns

CAPTION = f"""Heatmap targets are drawn for the dataset and read back as a perfect network's output would be read.
Merged points lie inside their image but have no peak of their own. The bold row is the coarsest stride with an F1 of at
least {GOOD_F1:g}, at its best sigma."""


TYPES_CAPTION = "The median distance from a point to the nearest of its type in the same image."


def oracle_page(oracles: Sequence[OracleScores], truth: CocoKeypoints, *, title: str) -> str:
    """Return the page of round trips of a dataset's keypoints at several strides and sigmas.

    Raises:
        ValueError: ``oracles`` is empty.
    """
    if not oracles:
        raise ValueError("need scores of at least one oracle round trip, got none")
    radius = oracles[0].scores.radius
    about = f"Radius {radius:g} px · pixel origin <code>{truth.pixel_origin}</code>"
    dataset, labelled = truth.dataset, truth.landmarks.visibility != UNLABELLED
    counts = {"image": len(dataset.images), "point": int(np.count_nonzero(labelled))}
    counts |= {"keypoint type": truth.landmarks.num_types, "ignored region": sum(map(len, truth.ignored))}
    counts = by_nouns(counts) | {"invalid": len(dataset.invalid), "suspicious": len(dataset.suspicious)}
    found = f"A point counts as found if a peak lies within {radius:g} px."
    error = "Mean distance between found points and their peaks."
    merged = "Points without a peak of their own."
    panels = [
        _curves("f1", "F1", found, [(each, each.scores.micro.f1) for each in oracles]),
        _curves("error", "Mean error, px", error, [(each, each.mean_error) for each in oracles]),
        _curves("merged", "Points merged", merged, [(each, each.merged) for each in oracles]),
        _neighbors(truth),
    ]
    summary = [tiles(counts), block("Stride and sigma", CAPTION, oracle_table(oracles))]
    if len(truth.type_names) > 1:
        summary.append(block("Keypoint types", TYPES_CAPTION, types_table(truth)))
    sections: Sections = {"summary": ("Summary", summary), "curves": ("Curves", [panels])}
    return page(title, about, sections, read_from=dataset.files)


def oracle_table(oracles: Sequence[OracleScores]) -> str:
    """Return a table with one row for each stride and sigma, as markup."""
    counts = ("merged", "farther", "same cell", "outside")
    titles = ("stride", "sigma, cells", "F1", "precision", "recall", "mean error, px", *counts)
    best = coarsest_good(oracles)
    rows = [[Html(f"<b>{cell}</b>") if each is best else cell for cell in oracle_cells(each)] for each in oracles]
    return table(titles, rows, align="r")


def types_table(truth: CocoKeypoints) -> str:
    """Return a table of keypoint types: their points, and how far the nearest of the same type is, as markup."""
    labelled = truth.landmarks.visibility != UNLABELLED
    types, distances = np.asarray(truth.landmarks.types)[labelled], nearest_neighbors(truth)
    rows = []
    for number, (name, count) in enumerate(truth.count_by_type().items()):
        near = distances[(types == number) & np.isfinite(distances)]
        median = f"{np.median(near):.1f}" if len(near) else "-"
        rows.append([name, f"{count:,}", f"{count - len(near):,}", median])
    return table(("keypoint type", "points", "alone in their image", "nearest other, px"), rows)


def oracle_cells(oracle: OracleScores) -> list[str]:
    """Return stride, sigma, F1, precision, recall, mean error, and the counts of points in a table's row, as text."""
    rates, error = oracle.scores.micro, oracle.mean_error
    shares = [f"{rate:.4f}" for rate in (rates.f1, rates.precision, rates.recall)]
    counts = [f"{count:,}" for count in (oracle.merged, oracle.farther, oracle.same_cell, oracle.outside)]
    sigma = " x ".join(f"{each:g}" for each in np.atleast_1d(oracle.sigma))
    return [f"{oracle.stride:g}", sigma, *shares, "-" if error is None else f"{error:.3f}", *counts]


def _curves(name: str, axis: str, caption: str, values: Sequence[tuple[OracleScores, float | None]]) -> Panel:
    traces, keys = [], []
    for number, stride in enumerate(sorted({each.stride for each, _ in values})):
        own = sorted((pair for pair in values if pair[0].stride == stride), key=lambda pair: pair[0].mean_sigma)
        line = go.Scatter(x=[each.mean_sigma for each, _ in own], y=[value for _, value in own], mode="lines+markers")
        line.line = {"color": LEVEL_COLORS[number % len(LEVEL_COLORS)]}
        line.hovertemplate = f"stride {stride:g}, sigma %{{x}}: %{{y:.4f}}<extra></extra>"
        traces.append(line)
        keys.append(Key(f"stride {stride:g}", line.line.color, "line"))
    return panel(name, axis, caption, traces, keys=keys, xaxis={"title": "sigma, cells"}, yaxis={"title": axis})


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
    layout: dict[str, Any] = {"xaxis": pixels_axis("px", low, high), "yaxis": {"title": "points"}, "bargap": 0.05}
    return panel("neighbors", "Nearest neighbours", caption, [bars], **layout)
