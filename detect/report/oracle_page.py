"""The report of what a perfect network would reach, by stride and sigma, as the text of one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial import KDTree

from detect.evaluation.oracle import GOOD_F1, OracleScores, coarsest_good
from detect.keypoints.keypoints import UNLABELLED, CocoKeypoints
from detect.report.page import block, document, grid, header, section, tiles
from detect.report.plots import LEVEL_COLORS, PLAIN, Key, Panel, figure, pixels_axis
from detect.report.tables import Column, Html, table

CAPTION = f"""Targets drawn for the data and read back, as if a network had learnt them perfectly.
Merged points lie inside their image, but share the peak of another. Bold is the best sigma of the coarsest
stride with an F1 of at least {GOOD_F1:g}: the smallest maps that lose next to nothing."""


def ceiling_page(ceilings: Sequence[OracleScores], found: CocoKeypoints, *, title: str) -> str:
    """What was found at several strides and sigmas; equal input gives equal text.

    Raises:
        ValueError: no ceilings.
    """
    if not ceilings:
        raise ValueError("a page needs at least one ceiling, got none")
    radius, dataset = ceilings[0].scores.radius, found.dataset
    panels = [
        _curves("f1", "F1", f"Of points found within {radius:g} px.", ceilings, lambda each: each.scores.micro.f1),
        _curves("error", "Mean error, px", "How far the peaks lie from their points.", ceilings, mean_error),
        _curves("merged", "Points merged", "Points that no peak stands for.", ceilings, lambda each: each.merged),
        _neighbours(found),
    ]
    about = f"Radius {radius:g} px · pixel <code>{found.pixel_origin}</code>"
    counts = {
        "images": len(dataset.images),
        "points": int(np.count_nonzero(found.landmarks.visibility != UNLABELLED)),
        "landmark types": found.landmarks.num_types,
        "ignored regions": sum(map(len, found.ignored)),
        "refused": len(dataset.invalid),
        "odd": len(dataset.suspicious),
    }
    body = [
        header(title, about, read_from=dataset.files, sections=("summary", "curves")),
        section("summary", "Summary", tiles(counts) + block("Stride and sigma", CAPTION, ceiling_table(ceilings))),
        section("curves", "Curves", grid(panels)),
    ]
    return document(title, "\n".join(body), panels)


def ceiling_table(ceilings: Sequence[OracleScores]) -> str:
    """One row for each stride and sigma, as markup."""
    names = ("stride", "sigma, cells", "F1", "precision", "recall", "mean error, px", "merged", "same cell", "outside")
    best = coarsest_good(ceilings)
    rows = []
    for each in ceilings:
        rates, error = each.scores.micro, mean_error(each)
        numbers = [f"{rates.f1:.4f}", f"{rates.precision:.4f}", f"{rates.recall:.4f}"]
        numbers += ["-" if error is None else f"{error:.3f}"]
        numbers += [f"{count:,}" for count in (each.merged, each.collisions, each.outside)]
        cells = [f"{each.stride:g}", f"{each.sigma:g}", *numbers]
        rows.append([Html(f"<b>{cell}</b>") if each is best else cell for cell in cells])
    return table([Column(name, numeric=True) for name in names], rows)


def mean_error(each: OracleScores) -> float | None:
    """Over the points that were found, in pixels; None where none was."""
    return None if each.scores.error is None else each.scores.error.mean


def _curves(
    name: str,
    axis: str,
    caption: str,
    ceilings: Sequence[OracleScores],
    value: Callable[[OracleScores], float | None],
) -> Panel:
    """A number over sigma, a line for each stride."""
    strides = sorted({each.stride for each in ceilings})
    colors = {stride: LEVEL_COLORS[number % len(LEVEL_COLORS)] for number, stride in enumerate(strides)}
    traces = []
    for stride in strides:
        own = sorted((each for each in ceilings if each.stride == stride), key=lambda each: each.sigma)
        line = go.Scatter(x=[each.sigma for each in own], y=[value(each) for each in own], mode="lines+markers")
        line.line = {"color": colors[stride]}
        line.hovertemplate = f"stride {stride:g}, sigma %{{x}}: %{{y:.4f}}<extra></extra>"
        traces.append(line)
    chart = figure(traces, xaxis={"title": {"text": "sigma, cells"}}, yaxis={"title": {"text": axis}})
    keys = tuple(Key(f"stride {stride:g}", colors[stride], "line") for stride in strides)
    return Panel(name, axis, caption, chart, 6, keys)


def _neighbours(found: CocoKeypoints) -> Panel:
    """How near the next point of the same type lies: what a map has to keep apart."""
    distances = nearest_neighbours(found)
    caption = "Distance to the next point of the same type in the same image; alone in their image: "
    caption += f"{np.isinf(distances).sum():,}."
    near = distances[np.isfinite(distances) & (distances > 0)]
    low, high = (float(near.min()), float(near.max())) if len(near) else (1.0, 100.0)
    edges = np.geomspace(low, max(high * 1.0001, low * 2), 30)  # a bar that can be seen, where all are as far
    counts, _ = np.histogram(near, edges)
    bars = go.Bar(x=np.sqrt(edges[1:] * edges[:-1]), y=counts, width=np.diff(edges), marker={"color": PLAIN})
    bars.hovertemplate = "%{x:.1f} px: %{y}<extra></extra>"
    chart = figure([bars], xaxis=pixels_axis("px", low, high), yaxis={"title": {"text": "points"}}, bargap=0.05)
    return Panel("neighbours", "Nearest neighbours", caption, chart, 6)


def nearest_neighbours(found: CocoKeypoints) -> Float[ndarray, " n"]:
    """Of each labelled point the distance in pixels to the next of its type in its image, infinite where there is none."""
    landmarks = found.landmarks
    labelled = np.asarray(landmarks.visibility) != UNLABELLED
    points = np.asarray(landmarks.points)[labelled]
    group = (np.asarray(landmarks.image) * landmarks.num_types + np.asarray(landmarks.types))[labelled]
    apart = 4 * (np.abs(points).max(initial=0) + 1)  # farther than any two points of one image
    placed = np.concatenate([points, group[:, None] * apart], axis=1)
    distances = KDTree(placed).query(placed, k=2)[0][:, 1] if len(placed) else np.zeros(0)
    return np.where(distances < apart, distances, np.inf)
