"""From boxes to an AnchorSet: count shapes, find the best or cluster them, put them on pyramid levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet, levels_of_shapes, place_shapes
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances, weighted_histograms
from detect.errors import FitError
from detect.fitting.kmeans import (
    Members,
    best_of_starts,
    improve_centers,
    require_enough,
    sorted_by_area,
    spread_seeds,
)
from detect.fitting.objective import Objective
from detect.fitting.search import optimal_anchors
from detect.ops.box_arrays import best_shape_iou

METHODS = ("optimal", "kmeans", "euclidean", "log-euclidean", "mixture")
FEW_BOXES = 20_000  # counted in cells so fine that they tell the boxes apart
FINE_CELLS_PER_OCTAVE = 1024
COARSE_CELLS_PER_OCTAVE = 16  # starts run on this many; the best of them is then improved on the full histogram
CURVE_CELLS_PER_OCTAVE = 8
CURVE_KS = tuple(range(1, 16))
MAX_ANCHORS = 1000


@dataclass(frozen=True)
class KCurve:
    """Average IoU for each number of shapes, and its knee: where more shapes begin to buy little."""

    average_iou: Mapping[int, float]
    knee: int
    bic: Mapping[int, float] = field(default_factory=dict)
    """The Bayesian information criterion of mixtures, if requested; its minimum suggests their k."""


def fit_anchors(
    instances: ResizedInstances,
    *,
    k: int = 9,
    per_level: int | None = None,
    method: str = "optimal",
    strides: Sequence[int] = (8, 16, 32, 64, 128),
    seed: int = 0,
    certify: float | None = None,
    objective: str | Objective = "shape",
    fixed: Sequence[tuple[float, float]] = (),
    weights: Float64[ndarray, " n"] | None = None,
    covariance_type: str = "full",
    shrinkage: str | None = None,
) -> AnchorSet:
    """Anchors for the instances of a dataset by their shapes, each shape on the pyramid level of its size.

    Where they will lie on the grid takes no part: for that, see :func:`detect.fitting.fit_levels.fit_levels`.

    Args:
        instances: boxes after the detector's resize rule.
        k: number of shapes in all, each put on the level of its size.
        per_level: instead of ``k``: split the boxes by size over the levels, and fit this many shapes to each level's
            boxes, as frameworks want it whose heads are shared by all levels.
        method: one of ``METHODS``; ``optimal`` and ``kmeans`` are for IoU, the others baselines.
        strides: of the pyramid's levels, in pixels.
        seed: of the random starts, which ``optimal`` has none of; equal input and seed give equal anchors, whatever the
            order of the boxes.
        certify: with ``optimal`` and ``k``: prove that no k shapes reach a score higher by more than this share, or come as
            close to it as time allows. The proofs are in the result's ``proofs``.
        objective: by shape; another than the average IoU, and the next two, with ``optimal`` and ``k`` only.
        fixed: (width, height) of anchors that are there in any case, among the k.
        weights: how much each instance counts, see :func:`detect.anchors.instances.instance_weights`.
        covariance_type: of the mixture, see :class:`LogGaussianMixture`.
        shrinkage: likewise.

    Raises:
        FitError: no usable boxes, fewer distinct shapes than asked for, or options that do not go together.
    """
    parsed = Objective.parse(objective)
    if method not in METHODS:
        raise FitError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if not 1 <= (per_level or k) <= MAX_ANCHORS:
        raise FitError(f"the number of anchors must lie between 1 and {MAX_ANCHORS}, got {per_level or k}")
    instances.require_boxes()
    if parsed.on_grid:
        raise FitError("shapes alone are fitted here: of a placed objective, see fit_levels")
    if (method != "optimal" or per_level is not None) and (parsed != Objective() or fixed or weights is not None):
        raise FitError("an objective, fixed shapes and weights need the method optimal, and k")
    settings: dict[str, Any] = {"seed": seed, "covariance_type": covariance_type, "shrinkage": shrinkage}
    resize = str(instances.rule)
    if per_level is None:
        fields: dict[str, Any] = {}
        if method == "optimal":
            shapes, fields = _fit_optimal(instances, k, parsed, fixed, weights, certify)
        else:
            shapes = fit_shapes(_histogram_for(instances.shapes, method), k, method, **settings)
        return AnchorSet(place_shapes(shapes, strides).levels, resize=resize, name="fitted", **fields)
    strides = sorted(strides)
    level_of = levels_of_shapes(instances.shapes, strides)
    used = np.unique(level_of)  # a level without boxes gets no anchors
    groups = []
    for level in used:
        histogram = _histogram_for(instances.shapes[level_of == level], method)
        try:
            shapes = fit_shapes(histogram, per_level, method, **settings)
        except FitError as error:
            stride = strides[level]
            raise FitError(f"level of stride {stride}: {error}, or leave the level out (--levels)") from None
        groups.append([(float(width), float(height)) for width, height in shapes])
    return AnchorSet.of(groups, strides=[strides[level] for level in used], resize=resize, name="fitted")


def _fit_optimal(
    instances: ResizedInstances,
    k: int,
    objective: Objective,
    fixed: Sequence[tuple[float, float]],
    weights: Float64[ndarray, " n"] | None,
    certify: float | None,
) -> tuple[Float64[ndarray, "k 2"], dict[str, Any]]:
    """Shapes, and the fields of an anchor set that tell how good they are."""
    counts: Any = None
    histogram: Any = _histogram_for(instances.shapes, "optimal")
    if weights is not None:
        histogram, counts = weighted_histograms(instances.shapes, weights, histogram.cells_per_octave)
    try:
        best = optimal_anchors(histogram, k, objective=objective, weights=counts, fixed=fixed, certify=certify)
    except ValueError as error:
        raise FitError(str(error)) from None
    name = objective.score_name(weighted=weights is not None)
    return best.shapes, {"scores": {name: best.score}, "proofs": {name: best.proof} if best.proof else {}}


def fit_shapes(
    histogram: ShapeHistogram,
    k: int,
    method: str = "optimal",
    *,
    seed: int = 0,
    covariance_type: str = "full",
    shrinkage: str | None = None,
) -> Float64[ndarray, "k 2"]:
    """k shapes for a histogram, sorted by area.

    Raises:
        FitError: fewer distinct shapes than k.
    """
    if method == "optimal":
        return optimal_anchors(histogram, k, certify=None).shapes
    if method == "kmeans":
        return _fit_in_iou(histogram, k, seed)
    from detect.fitting.clustering import (  # scikit-learn takes longer to import than to fit
        EuclideanKMeans,
        ShapeClustering,
    )
    from detect.fitting.mixture import LogGaussianMixture

    model: ShapeClustering
    if method == "mixture":
        model = LogGaussianMixture(k, covariance_type=covariance_type, shrinkage=shrinkage, random_state=seed)
    else:
        model = EuclideanKMeans(k, log=method == "log-euclidean", random_state=seed)
    return model.fit(histogram.shapes, sample_weight=histogram.counts).cluster_centers_


def k_curve(
    histogram: ShapeHistogram, ks: Sequence[int] = CURVE_KS, *, seed: int = 0, mixture: Mapping[str, Any] | None = None
) -> KCurve:
    """Average IoU over numbers of shapes, on a coarse histogram: it is there to be looked at.

    With ``mixture``, the options of :class:`LogGaussianMixture`, the curve of their BIC as well.
    """
    coarse, finer = _coarsened(histogram, CURVE_CELLS_PER_OCTAVE), _coarsened(histogram, COARSE_CELLS_PER_OCTAVE)
    members = _members(coarse)
    random = _random(seed)
    shapes = np.zeros((0, 2))
    scores = {}
    for k in sorted(k for k in ks if k <= len(coarse)):
        one_more = improve_centers(members, spread_seeds(members, k, random, after=shapes))  # so that the curve rises
        fresh = best_of_starts(members, k, random, n_init=2)
        shapes = max(one_more, fresh, key=lambda solution: solution.total_iou).centers
        scores[k] = float(np.average(best_shape_iou(finer.shapes, shapes)[0], weights=finer.counts))
    if mixture is None:
        return KCurve(scores, knee(scores))
    from detect.fitting.mixture import bic_curve

    return KCurve(scores, knee(scores), bic_curve(coarse.shapes, coarse.counts, tuple(scores), **mixture))


def knee(scores: Mapping[int, float]) -> int:
    """The point of a rising, flattening curve that lies highest above the chord between its ends (Satopaa et al. 2011).

    >>> knee({1: 0.2, 2: 0.5, 3: 0.58, 4: 0.61, 5: 0.63})
    2
    """
    ks, heights = np.array(list(scores), float), np.array(list(scores.values()))
    if len(ks) < 3:
        return int(ks[-1])
    chord = heights[0] + (heights[-1] - heights[0]) * (ks - ks[0]) / (ks[-1] - ks[0])
    return int(ks[np.argmax(heights - chord)])


def _fit_in_iou(histogram: ShapeHistogram, k: int, seed: int) -> Float64[ndarray, "k 2"]:
    """Starts are cheap on few cells; the best of them is improved on all."""
    require_enough(histogram.shapes, k)
    coarse = _coarsened(histogram, COARSE_CELLS_PER_OCTAVE)
    start = best_of_starts(_members(coarse if len(coarse) >= k else histogram), k, _random(seed))
    return sorted_by_area(improve_centers(_members(histogram), start.centers).centers)


def _histogram_for(shapes: Float64[ndarray, "n 2"], method: str) -> ShapeHistogram:
    """The finer its cells, the closer to the best and the tighter the proof."""
    if method == "optimal" and len(shapes) <= FEW_BOXES:
        return ShapeHistogram.of(shapes, cells_per_octave=FINE_CELLS_PER_OCTAVE)
    return ShapeHistogram.of(shapes)


def _members(histogram: ShapeHistogram) -> Members:
    return Members(histogram.shapes, histogram.counts.astype(float))


def _random(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


def _coarsened(histogram: ShapeHistogram, cells_per_octave: int) -> ShapeHistogram:
    return ShapeHistogram.of(histogram.shapes, counts=histogram.counts, cells_per_octave=cells_per_octave)
