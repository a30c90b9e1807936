"""How far fitted shapes and scores would move with other images (bootstrap), and how anchors do on images not seen.

Images are drawn, not boxes: boxes of one image are alike, and intervals that ignore it are too narrow (Efron and Tibshirani
1993, section 8.3, on the units of resampling; percentile intervals, section 13.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

from detect.anchors.anchor_set import AnchorSet
from detect.anchors.instances import ResizedInstances
from detect.anchors.metrics import AnchorMetrics, anchor_metrics
from detect.errors import FitError
from detect.ops.box_arrays import shape_iou

COVERED = 0.5
SCORES = ("average_iou", "recall", "grid_average_iou", "grid_recall")

Fit = Callable[[ResizedInstances], AnchorSet]


@dataclass(frozen=True)
class Interval:
    """A value on all the data, and where it lies on most resamples; NaN where no resample tells."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StableShape:
    """One fitted shape: how its width and height move, and in which share of the refits it has a counterpart."""

    width: Interval
    height: Interval
    found: float


@dataclass(frozen=True)
class Stability:
    """What a bootstrap over images tells; made by :func:`bootstrap`."""

    anchors: AnchorSet
    shapes: tuple[StableShape, ...]
    """In the order of ``anchors.shapes``."""
    scores: Mapping[str, Interval]
    """Of the anchors as they are, on resampled images."""
    held_out: Mapping[str, Interval]
    """Of anchors refitted to a resample, on the images it leaves out; the value is the mean. Well below ``scores``: the
    anchors were fitted to too few boxes."""
    resamples: int
    failed: int
    """Resamples that could not be fitted: too few distinct shapes."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "shapes": [asdict(shape) for shape in self.shapes],
            "scores": {name: asdict(interval) for name, interval in self.scores.items()},
            "held_out": {name: asdict(interval) for name, interval in self.held_out.items()},
            "resamples": self.resamples,
            "failed": self.failed,
        }


@dataclass(frozen=True)
class Generalisation:
    """Scores of one set of anchors on the images it was fitted to and on others; made by :func:`train_and_validation`."""

    train: Mapping[str, Interval]
    validation: Mapping[str, Interval]
    loss: Mapping[str, Interval]
    """Train less validation: over-fitted where the whole interval lies above zero."""

    @property
    def overfitted(self) -> tuple[str, ...]:
        """The scores that are surely lower on the validation images."""
        return tuple(name for name, interval in self.loss.items() if interval.low > 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {**asdict(self), "overfitted": list(self.overfitted)}


def bootstrap(
    instances: ResizedInstances,
    fit: Fit,
    *,
    resamples: int = 100,
    confidence: float = 0.95,
    threshold: float = COVERED,
    strides: str = "exact",
    rounded: bool = False,
    seed: int = 0,
) -> Stability:
    """Fit anchors to all images and to resamples of the images, drawn with replacement.

    Shapes of a refit are matched with those of the whole data so that the IoUs of the pairs, as boxes that share a centre,
    add up to the most.

    Args:
        instances: boxes after the detector's resize rule.
        fit: what makes anchors of instances, such as ``partial(fit_anchors, k=9)``.
        resamples: how many.
        confidence: share of the resamples that an interval holds.
        threshold: IoU of the recalls.
        strides: how anchors are laid, see :class:`detect.anchors.generator.AnchorGenerator`.
        rounded: likewise.
        seed: of the draws.

    Raises:
        ValueError: no resamples, or a confidence not between 0 and 1.
        FitError: the whole data, or no resample of it, can be fitted.

    >>> from detect.fitting.fit import fit_anchors
    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))
    >>> result = bootstrap(instances, partial(fit_anchors, k=2, strides=(4, 8)), resamples=10)
    >>> width, placed = result.shapes[0].width, result.scores["grid_average_iou"]
    >>> width.low <= width.value <= width.high, placed.low < placed.value < placed.high
    (True, True)
    """
    _check(resamples, confidence)
    scored = partial(anchor_metrics, strides=strides, rounded=rounded)
    anchors = fit(instances)
    whole = _columns(scored(instances, anchors), threshold)
    shapes, held_out = [], []
    for draw in _draws(instances, resamples, seed):
        counts = draw[instances.dataset.instances.image_rows]
        try:
            refit = fit(_taken(instances, np.repeat(np.arange(len(counts)), counts)))
        except FitError:
            continue
        shapes.append(_counterparts(anchors.shapes, refit.shapes))
        unseen = _taken(instances, np.flatnonzero(counts == 0))
        held_out.append(_mean(_columns(scored(unseen, refit), threshold)))
    if not shapes:
        raise FitError(f"none of {resamples} resamples of the images could be fitted: too few boxes")
    unseen_scores = np.stack(held_out)
    return Stability(
        anchors,
        _stable_shapes(anchors.shapes, np.stack(shapes), confidence),
        _intervals(_mean(whole), _moved(whole, instances, _draws(instances, resamples, seed)), confidence),
        _intervals(_mean(unseen_scores[~np.isnan(unseen_scores).any(axis=1)].T), unseen_scores, confidence),
        resamples,
        resamples - len(shapes),
    )


def train_and_validation(
    train: ResizedInstances,
    validation: ResizedInstances,
    anchors: AnchorSet,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    threshold: float = COVERED,
    strides: str = "exact",
    rounded: bool = False,
    seed: int = 0,
) -> Generalisation:
    """How anchors score on the images they were fitted to and on others, with intervals over the choice of images.

    For the arguments see :func:`bootstrap`.

    Raises:
        ValueError: no resamples, a confidence not between 0 and 1, or no instances on one side.

    >>> from detect.anchors.known import load_anchors
    >>> from detect.data import read_coco
    >>> from detect.data.resize import parse_resize
    >>> from detect.samples import sample_annotations
    >>> instances = ResizedInstances.of(read_coco(sample_annotations("bccd")), parse_resize("letterbox:640"))
    >>> train_and_validation(instances, instances, load_anchors("yolov5-coco"), resamples=100).overfitted
    ()
    """
    _check(resamples, confidence)
    if not len(train) or not len(validation):
        raise ValueError(f"need instances on both sides, got {len(train)} and {len(validation)}")
    values, moved = [], []
    for side, instances in enumerate((train, validation)):
        whole = _columns(anchor_metrics(instances, anchors, strides=strides, rounded=rounded), threshold)
        values.append(_mean(whole))
        moved.append(_moved(whole, instances, _draws(instances, resamples, seed, side)))
    return Generalisation(
        _intervals(values[0], moved[0], confidence),
        _intervals(values[1], moved[1], confidence),
        _intervals(values[0] - values[1], moved[0] - moved[1], confidence),
    )


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"need resamples from 1 and a confidence between 0 and 1, got {resamples=}, {confidence=}")


def _draws(instances: ResizedInstances, resamples: int, *seed: int) -> Iterator[Int64[ndarray, " b"]]:
    """How often each image is drawn; those without instances are drawn, too."""
    random, count = np.random.default_rng(seed), len(instances.dataset.images)
    return (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(resamples))


def _moved(
    columns: Float64[ndarray, "s n"], instances: ResizedInstances, draws: Iterator[Int64[ndarray, " b"]]
) -> Float64[ndarray, "r s"]:
    """The means of scores over each draw; NaN where none of its images has an instance."""
    image_rows, count = instances.dataset.instances.image_rows, len(instances.dataset.images)
    sums = np.stack([np.bincount(image_rows, weights=column, minlength=count) for column in columns])
    boxes = np.bincount(image_rows, minlength=count)
    return np.stack([sums @ draw / (int(boxes @ draw) or np.nan) for draw in draws])


def _taken(instances: ResizedInstances, rows: Int64[ndarray, " m"]) -> ResizedInstances:
    dataset = replace(instances.dataset, annotations=instances.dataset.instances.take(rows))
    return ResizedInstances(
        dataset, instances.rule, instances.boxes[rows], instances.shapes[rows], instances.canvas_wh[rows]
    )


def _columns(score: AnchorMetrics, threshold: float) -> Float64[ndarray, "s n"]:
    """What each instance adds to each of ``SCORES``."""
    by_shape, placed = score.best_iou, score.placed_best_iou
    return np.stack([by_shape, by_shape >= threshold, placed, placed >= threshold])


def _mean(columns: Float64[ndarray, "s n"]) -> Float64[ndarray, " s"]:
    return columns.mean(axis=1) if columns.shape[1] else np.full(len(columns), np.nan)


def _counterparts(shapes: Float64[ndarray, "k 2"], refit: Float64[ndarray, "m 2"]) -> Float64[ndarray, "k 2"]:
    """The counterpart of each shape, NaN where the refit has too few."""
    iou = np.stack([shape_iou(refit, shape) for shape in shapes])
    own, other = linear_sum_assignment(iou, maximize=True)
    counterparts = np.full(shapes.shape, np.nan)
    counterparts[own] = refit[other]
    return counterparts


def _stable_shapes(
    shapes: Float64[ndarray, "k 2"], refits: Float64[ndarray, "r k 2"], confidence: float
) -> tuple[StableShape, ...]:
    found = ~np.isnan(refits[:, :, 0])
    stable = []
    for index, shape in enumerate(shapes):
        moved = refits[found[:, index], index]
        width, height = (_interval(float(shape[axis]), moved[:, axis], confidence) for axis in (0, 1))
        stable.append(StableShape(width, height, float(found[:, index].mean())))
    return tuple(stable)


def _intervals(
    values: Float64[ndarray, " s"], moved: Float64[ndarray, "r s"], confidence: float
) -> Mapping[str, Interval]:
    columns = zip(SCORES, values.tolist(), moved.T, strict=True)
    return {name: _interval(value, column, confidence) for name, value, column in columns}


def _interval(value: float, moved: Float64[ndarray, " r"], confidence: float) -> Interval:
    told = moved[~np.isnan(moved)]
    if not len(told):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(told, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(value, low, high)
