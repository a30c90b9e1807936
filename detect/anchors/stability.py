"""Stability of fitted anchors: a bootstrap over images, and scores on training against validation images.

The bootstrap resamples images, not boxes. Boxes of one image are alike, and intervals that ignore this are too narrow (Efron
and Tibshirani 1993, section 8.3 on the units of resampling, section 13.3 on percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.grid_convention import Convention, as_convention
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import COVERED, AnchorMetrics, anchor_metrics
from detect.errors import FitError
from detect.ops.box_arrays import shape_iou

SCORES = ("average_iou", "recall", "grid_average_iou", "grid_recall")

Fit = Callable[[ResizedInstances], AnchorSet]
Columns = Float64[ndarray, "s n"]  # the value of each instance for each of ``SCORES``
Draw = Int64[ndarray, " b"]  # how often a resample draws each image


@dataclass(frozen=True)
class Interval:
    """A value on all the data, and its interval over resamples; NaN if no resample gives a value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StableShape:
    """One fitted shape: intervals of its width and height, and the share of refits with a matching shape."""

    width: Interval
    height: Interval
    found: float


@dataclass(frozen=True)
class Stability:
    """The result of a bootstrap over images; made by :func:`bootstrap`."""

    anchors: AnchorSet
    shapes: tuple[StableShape, ...]
    """In the order of ``anchors.shapes``."""
    scores: Mapping[str, Interval]
    """Scores of ``anchors`` on resampled images."""
    out_of_bag: Mapping[str, Interval]
    """Scores of refits on the images that their resamples leave out; the value is the mean. If they are well below
    ``scores``, there are too few boxes."""
    resamples: int
    failed: int
    """Resamples with too few distinct shapes to fit."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "anchors"}


@dataclass(frozen=True)
class Generalisation:
    """Scores of anchors on the images they were fitted to and on others; made by :func:`train_and_validation`."""

    train: Mapping[str, Interval]
    validation: Mapping[str, Interval]
    loss: Mapping[str, Interval]
    """Train minus validation: the anchors overfit if the whole interval is above zero."""

    @property
    def overfitted(self) -> tuple[str, ...]:
        """Names of the scores whose ``loss`` interval is above zero."""
        return tuple(name for name, interval in self.loss.items() if interval.low > 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "overfitted": list(self.overfitted)}


def bootstrap(
    instances: ResizedInstances,
    fit: Fit,
    *,
    resamples: int = 100,
    confidence: float = 0.95,
    threshold: float = COVERED,
    convention: str | Convention = "exact",
    seed: int = 0,
) -> Stability:
    """Fit anchors to all images and to ``resamples`` resamples of the images, drawn with replacement.

    Each refit's shapes are matched with the shapes of the whole data by the assignment with the largest sum of IoUs.

    Args:
        instances: boxes after the detector's resize rule.
        fit: a function from instances to anchors, such as ``partial(fit_anchors, k=9)``.
        resamples: number of resamples, from 1.
        confidence: share of the resamples within an interval, between 0 and 1.
        threshold: IoU from which an instance counts towards recall.
        convention: stride mode and rounding of corners.
        seed: seed of the resampling.

    Raises:
        ValueError: ``resamples`` or ``confidence`` is out of range, or the convention is not known.
        FitError: the whole data, or every resample, has too few boxes to fit.

    >>> from detect.fitting.fit import fit_anchors
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), "none")
    >>> result = bootstrap(instances, partial(fit_anchors, k=2, strides=(4, 8)), resamples=10)
    >>> width, iou = result.shapes[0].width, result.scores["grid_average_iou"]
    >>> width.low <= width.value <= width.high, iou.low < iou.value < iou.high
    (True, True)
    """
    _check(resamples, confidence)
    score = partial(anchor_metrics, convention=as_convention(convention))
    anchors = fit(instances)
    whole = _columns(score(instances, anchors), threshold)
    shapes, out_of_bag = [], []
    for draw in _draws(instances, resamples, seed):
        counts = draw[instances.dataset.instances.image_rows]
        try:
            refit = fit(instances.take(np.repeat(np.arange(len(counts)), counts)))
        except FitError:
            continue
        shapes.append(_counterparts(anchors.shapes, refit.shapes))
        left_out = instances.take(np.flatnonzero(counts == 0))
        out_of_bag.append(_mean(_columns(score(left_out, refit), threshold)))
    if not shapes:
        raise FitError(f"none of {resamples} resamples of the images could be fitted: too few boxes")
    resampled = _resampled_means(whole, instances, _draws(instances, resamples, seed))
    unseen = np.stack(out_of_bag)
    return Stability(
        anchors=anchors,
        shapes=_stable_shapes(anchors.shapes, np.stack(shapes), confidence),
        scores=_intervals(_mean(whole), resampled, confidence),
        out_of_bag=_intervals(_mean(unseen[~np.isnan(unseen).any(axis=1)].T), unseen, confidence),
        resamples=resamples,
        failed=resamples - len(shapes),
    )


def train_and_validation(
    train: ResizedInstances,
    validation: ResizedInstances,
    *,
    anchors: AnchorSet,
    resamples: int = 1000,
    confidence: float = 0.95,
    threshold: float = COVERED,
    convention: str | Convention = "exact",
    seed: int = 0,
) -> Generalisation:
    """Compare scores of anchors on their ``train`` images and on other images, with intervals over the choice of images.

    The images of each side are resampled; the other arguments are those of :func:`bootstrap`.

    Raises:
        ValueError: ``resamples`` or ``confidence`` is out of range, one side has no instances, or the convention is unknown.

    >>> from detect.anchors.known import load_anchors
    >>> from detect.data import read_coco
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), "letterbox:640")
    >>> train_and_validation(instances, instances, anchors=load_anchors("yolov5-coco"), resamples=100).overfitted
    ()
    """
    _check(resamples, confidence)
    if not len(train) or not len(validation):
        raise ValueError(f"need instances on both sides, got {len(train)} and {len(validation)}")
    values, resampled = [], []
    for side, instances in enumerate((train, validation)):
        whole = _columns(anchor_metrics(instances, anchors, convention=convention), threshold)
        values.append(_mean(whole))
        resampled.append(_resampled_means(whole, instances, _draws(instances, resamples, seed, side)))
    return Generalisation(
        train=_intervals(values[0], resampled[0], confidence),
        validation=_intervals(values[1], resampled[1], confidence),
        loss=_intervals(values[0] - values[1], resampled[0] - resampled[1], confidence),
    )


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"need resamples >= 1 and 0 < confidence < 1, got {resamples=}, {confidence=}")


def _draws(instances: ResizedInstances, resamples: int, *seed: int) -> Iterator[Draw]:
    random, count = np.random.default_rng(seed), len(instances.dataset.images)
    return (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(resamples))


def _resampled_means(columns: Columns, instances: ResizedInstances, draws: Iterator[Draw]) -> Float64[ndarray, "r s"]:
    """The means of scores over each draw; NaN if the draw has no instance."""
    image_rows, count = instances.dataset.instances.image_rows, len(instances.dataset.images)
    sums = np.stack([np.bincount(image_rows, weights=column, minlength=count) for column in columns])
    boxes = np.bincount(image_rows, minlength=count)
    return np.stack([sums @ draw / (int(boxes @ draw) or np.nan) for draw in draws])


def _columns(metrics: AnchorMetrics, threshold: float) -> Columns:
    by_shape, on_grid = metrics.best_iou, metrics.grid_best_iou
    return np.stack([by_shape, by_shape >= threshold, on_grid, on_grid >= threshold])


def _mean(columns: Columns) -> Float64[ndarray, " s"]:
    return columns.mean(axis=1) if columns.shape[1] else np.full(len(columns), np.nan)


def _counterparts(shapes: Float64[ndarray, "k 2"], refit: Float64[ndarray, "m 2"]) -> Float64[ndarray, "k 2"]:
    """The refitted shape that is matched with each shape; NaN if the refit has fewer shapes."""
    iou = np.stack([shape_iou(refit, shape) for shape in shapes])
    own, other = linear_sum_assignment(iou, maximize=True)
    counterparts = np.full(shapes.shape, np.nan)
    counterparts[own] = refit[other]
    return counterparts


def _stable_shapes(
    shapes: Float64[ndarray, "k 2"], refits: Float64[ndarray, "r k 2"], confidence: float
) -> tuple[StableShape, ...]:
    found = (~np.isnan(refits[:, :, 0])).mean(axis=0)
    stable = []
    for row, shape in enumerate(shapes.tolist()):
        width, height = (_interval(extent, refits[:, row, axis], confidence) for axis, extent in enumerate(shape))
        stable.append(StableShape(width, height, float(found[row])))
    return tuple(stable)


def _intervals(
    values: Float64[ndarray, " s"], resampled: Float64[ndarray, "r s"], confidence: float
) -> Mapping[str, Interval]:
    columns = zip(SCORES, values.tolist(), resampled.T, strict=True)
    return {name: _interval(value, column, confidence) for name, value, column in columns}


def _interval(value: float, resampled: Float64[ndarray, " r"], confidence: float) -> Interval:
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(value, low, high)
