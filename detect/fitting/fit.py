"""From boxes to an AnchorSet: count shapes, find the best or cluster them, put each on the pyramid level of its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import START, AnchorSet, levels_of_shapes, place_shapes
from detect.anchors.fit_boxes import CountedShapes, FitBoxes
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.instances import ResizedInstances, tells_left_out
from detect.errors import FitError
from detect.fitting.kmeans import Members, best_of_starts, improve_centers, spread_seeds
from detect.fitting.objective import Objective
from detect.fitting.search import COARSE_CELLS_PER_OCTAVE, ROUNDS, OptimalAnchors, kmeans_shapes, optimal_anchors
from detect.ops.box_arrays import best_shape_iou

METHODS = ("optimal", "kmeans", "euclidean", "log-euclidean", "mixture")
CURVE_CELLS_PER_OCTAVE = 8
CURVE_KS = tuple(range(1, 16))
MAX_ANCHORS = 1000
DEFAULT_K = 9


@dataclass(frozen=True)
class KCurve:
    """Average IoU for each number of shapes, and the knee, after which more shapes add little; made by :func:`k_curve`."""

    average_iou: Mapping[int, float]
    knee: int


@tells_left_out
def fit_anchors(
    instances: ResizedInstances | FitBoxes,
    *,
    k: int | None = None,
    per_level: int | None = None,
    method: str = "optimal",
    strides: Sequence[int] = (8, 16, 32, 64, 128),
    seed: int = 0,
    certify: float | None = None,
    rounds: int = ROUNDS,
    objective: str | Objective = "shape",
    fixed: Sequence[tuple[float, float]] = (),
    start: AnchorSet | Float64[ndarray, "a 2"] | None = None,
    weights: Float64[ndarray, " n"] | None = None,
    covariance_type: str = "full",
    shrinkage: str | None = None,
) -> AnchorSet:
    """Fit anchors to the shapes of instances, and put each on the pyramid level of its size.

    The positions of boxes and anchors play no part; for these see :func:`detect.fitting.fit_levels.fit_levels`. Equal input
    gives equal anchors, whatever the order of the boxes.

    Args:
        instances: boxes after the detector's resize rule, or what fits need of them.
        k: number of shapes on all levels; by default that of the start, or 9.
        per_level: instead of ``k``: split the boxes by size over the levels, and fit this number of shapes to the boxes of
            each level, for frameworks whose levels share a head.
        method: one of ``METHODS``; ``optimal`` and ``kmeans`` maximise IoU, the others are baselines.
        strides: strides of the pyramid's levels, in pixels.
        seed: seed of the random starts; ``optimal`` has none.
        certify: with ``optimal`` and ``k``: relative gap to prove between the fit and the best possible one; for ``proofs``.
        rounds: maximum number of rounds of the proof, each on finer cells or with more candidates.
        objective: an objective by shape. Those except ``iou``, and ``fixed``, ``start`` and ``weights``, need ``optimal``
            and ``k``.
        fixed: (width, height) of anchors to include among the k.
        start: at most k shapes to improve: the result is not inferior, and its ``scores`` hold theirs as ``start_...``.
        weights: weight of each instance, see :func:`detect.anchors.instances.instance_weights`.
        covariance_type: see :class:`detect.fitting.mixture.LogGaussianMixture`.
        shrinkage: see :class:`detect.fitting.mixture.LogGaussianMixture`.

    Raises:
        FitError: there are no usable boxes, fewer distinct shapes than k or more in the start, or options that exclude
            each other.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "letterbox:640")
    >>> [(level.name, len(level.shapes)) for level in fit_anchors(instances, k=4).levels]
    [('P3', 1), ('P4', 2), ('P5', 1)]
    """
    parsed = Objective.parse(objective)
    begin = start.shapes if isinstance(start, AnchorSet) else start
    if k is None:
        k = DEFAULT_K if begin is None else len(begin)
    if method not in METHODS:
        raise FitError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if not 1 <= (per_level or k) <= MAX_ANCHORS:
        raise FitError(f"the number of anchors must lie between 1 and {MAX_ANCHORS}, got {per_level or k}")
    boxes = FitBoxes.of(instances, weights)
    boxes.require_boxes()
    if parsed.on_grid:
        raise FitError("fit_anchors fits by shape; for an objective on the grid see fit_levels")
    special = parsed != Objective() or fixed or begin is not None or boxes.weighted
    if special and (method != "optimal" or per_level is not None):
        raise FitError("an objective, fixed shapes, a start and weights need the method optimal, and k")
    settings: dict[str, Any] = {"seed": seed, "covariance_type": covariance_type, "shrinkage": shrinkage}
    fields: dict[str, Any] = {"resize": boxes.resize, "name": "fitted"}
    if per_level is not None:
        return replace(_fit_by_level(boxes, per_level, method, sorted(strides), settings), **fields)
    if method == "optimal":
        how: dict[str, Any] = {"fixed": fixed, "start": begin, "certify": certify, "rounds": rounds}
        if not special and len(boxes.every.histogram) >= k:
            how["rivals"] = [kmeans_shapes(boxes.every.histogram, k, seed)]  # what the method kmeans gives
        best = _fit_optimal(boxes, k, parsed, how)
        name = parsed.score_name(weighted=boxes.weighted)
        scores = {name: best.score} | ({START + name: best.start_score} if best.start_score is not None else {})
        fields |= {"scores": scores, "proofs": {name: best.proof} if best.proof else {}}
        shapes = best.shapes
    else:
        shapes = fit_shapes(boxes.every.histogram, k, method, **settings)
    return replace(place_shapes(shapes, strides), **fields)


def _fit_by_level(
    boxes: FitBoxes, per_level: int, method: str, strides: Sequence[int], settings: dict[str, Any]
) -> AnchorSet:
    """The same number of shapes for the boxes of each level; a level without boxes gets none."""
    if not isinstance(boxes.placed, ResizedInstances):
        raise FitError("shapes for the boxes of each level need all boxes at hand, not their counts")
    level_of = levels_of_shapes(boxes.placed.shapes, strides)
    groups = {}
    for level in np.unique(level_of).tolist():
        counted = CountedShapes.of(boxes.placed.shapes[level_of == level])
        histogram = counted.best if method == "optimal" else counted.histogram
        try:
            groups[strides[level]] = fit_shapes(histogram, per_level, method, **settings)
        except FitError as error:
            raise FitError(f"level of stride {strides[level]}: {error}, or leave the level out (--levels)") from None
    return AnchorSet.of(list(groups.values()), strides=list(groups))


def _fit_optimal(boxes: FitBoxes, k: int, objective: Objective, options: dict[str, Any]) -> OptimalAnchors:
    """The best shapes; few boxes are told apart by fine cells, which bring the optimum closer and tighten the proof."""
    counts: Any = None
    histogram: Any = boxes.every.best
    if boxes.weighted:
        parts, counts = boxes.weighted_parts
        few = boxes.every.fine is not None
        histogram = [each.best if few else each.histogram for each in parts]
    try:
        return optimal_anchors(histogram, k, objective=objective, weights=counts, **options)
    except ValueError as error:
        raise FitError(str(error)) from None


def fit_shapes(
    histogram: ShapeHistogram,
    k: int,
    method: str = "optimal",
    *,
    seed: int = 0,
    covariance_type: str = "full",
    shrinkage: str | None = None,
) -> Float64[ndarray, "k 2"]:
    """k shapes (width, height) for a histogram, sorted by area; arguments as for :func:`fit_anchors`.

    Raises:
        FitError: there are fewer distinct shapes than k.

    >>> fit_shapes(ShapeHistogram.of(np.array([[10.0, 20.0], [50.0, 40.0]])), 2, "kmeans").round(6)
    array([[10., 20.],
           [50., 40.]])
    """
    if method == "optimal":
        return optimal_anchors(histogram, k, rivals=[kmeans_shapes(histogram, k, seed)], certify=None).shapes
    if method == "kmeans":
        return kmeans_shapes(histogram, k, seed)
    # scikit-learn takes longer to import than to fit
    from detect.fitting.clustering import EuclideanKMeans, ShapeClustering
    from detect.fitting.mixture import LogGaussianMixture

    model: ShapeClustering
    if method == "mixture":
        model = LogGaussianMixture(k, covariance_type=covariance_type, shrinkage=shrinkage, random_state=seed)
    else:
        model = EuclideanKMeans(k, log=method == "log-euclidean", random_state=seed)
    return model.fit(histogram.shapes, sample_weight=histogram.counts).cluster_centers_


def k_curve(instances: ResizedInstances | ShapeHistogram, ks: Sequence[int] = CURVE_KS, *, seed: int = 0) -> KCurve:
    """Average IoU over numbers of shapes, computed on a coarse histogram for a plot.

    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> curve = k_curve(ResizedInstances.of(read_coco(sample_annotations("bccd")), "none"), ks=(1, 2, 3, 4))
    >>> curve.average_iou[1] < curve.average_iou[4], curve.knee
    (True, 2)
    """
    histogram = instances if isinstance(instances, ShapeHistogram) else instances.histogram
    coarse, finer = map(histogram.coarsened, (CURVE_CELLS_PER_OCTAVE, COARSE_CELLS_PER_OCTAVE))
    members, random = _members(coarse), np.random.RandomState(seed)
    shapes = np.zeros((0, 2))
    scores = {}
    for k in sorted(k for k in ks if k <= len(coarse)):
        one_more = improve_centers(members, spread_seeds(members, k, random, after=shapes))  # so that the curve rises
        fresh = best_of_starts(members, k, random, n_init=2)
        shapes = max(one_more, fresh, key=lambda solution: solution.total_iou).centers
        scores[k] = float(np.average(best_shape_iou(finer.shapes, shapes)[0], weights=finer.counts))
    return KCurve(scores, knee(scores))


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


def _members(histogram: ShapeHistogram) -> Members:
    return Members(histogram.shapes, histogram.counts.astype(float))
