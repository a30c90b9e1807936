"""Scores of predicted points: detection (precision, recall, F1), distance error, count error, and presence.

Points of each image are rows (x, y) or (x, y, z) of one keypoint type; score each type by itself. Predicted and true points
are matched one to one: as many pairs within a radius as possible, and among those choices the least total distance.

Images without true points count like others. Without predictions their precision, recall and F1 are 1; with predictions but
no true points, or the reverse, they are 0. Undefined scores are None, never 0 or NaN: the distance error without pairs,
average precision without true points, presence if all images have points or none has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from detect.evaluation.angles import AngleScores
from detect.evaluation.point_matching import Spacing, check_images, match_points
from detect.evaluation.precision_recall import ScoreCuts
from detect.ops.array_kinds import in_arrays

RADIUS_PX = 3.0  # of one score alone, by default
RADII_PX = (1.0, 2.0, 3.0, 5.0)  # of a table of scores


@dataclass(frozen=True)
class Rates:
    """Precision (pairs over predictions), recall (pairs over true points), and F1 (twice the pairs over both together)."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, num_matched: int, num_predicted: int, num_truth: int) -> Rates:
        """Compute the rates from counts.

        >>> Rates.of(2, 4, 3)
        Rates(precision=0.5, recall=0.6666666666666666, f1=0.5714285714285714)
        """
        if not num_predicted and not num_truth:
            return cls(1.0, 1.0, 1.0)
        return cls(
            num_matched / max(num_predicted, 1),
            num_matched / max(num_truth, 1),
            2 * num_matched / (num_predicted + num_truth),
        )


@dataclass(frozen=True)
class ErrorScores:
    """Distance of matched points, in the unit of the radius: mean and median over pairs."""

    mean: float
    median: float


@dataclass(frozen=True)
class CountScores:
    """Predicted minus true number of points of an image: mean absolute error, root mean square error, and mean (bias)."""

    mae: float
    rmse: float
    bias: float


@dataclass(frozen=True)
class PointScores:
    """The result of :func:`score_points`: ``micro`` is over the points of all images, ``macro`` the mean over images."""

    num_images: int
    num_predicted: int
    num_truth: int
    num_matched: int
    radius: float
    threshold: float | None
    micro: Rates
    macro: Rates
    error: ErrorScores | None
    count: CountScores
    radii: tuple[float, ...]
    average_precisions: tuple[float, ...] | None  # at each of the radii
    mean_average_precision: float | None
    presence_auc: float | None
    angle: AngleScores | None = None  # of oriented points, see detect.evaluation.angles

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@in_arrays
def score_points(
    predicted: Sequence[Float[ndarray, "_ d"]],
    truth: Sequence[Float[ndarray, "_ d"]],
    *,
    radius: float,
    scores: Sequence[Float[ndarray, " _"]] | None = None,
    threshold: float | None = None,
    radii: Sequence[float] | None = None,
    spacing: Spacing = 1.0,
) -> PointScores:
    """Score the points of one keypoint type over images.

    Average precision is the area under the precision-recall curve made monotonic (Everingham et al. 2010, section 4.2, at
    every recall); each threshold has its own best matching. Presence is the area under the ROC curve of the images' highest
    scores (minus infinity without predictions) as a classifier of whether an image has any true point.

    >>> points, truth = [np.array([[0.0, 1.0], [9.0, 9.0]]), np.zeros((0, 2))], [np.array([[0.0, 0.0]]), np.zeros((0, 2))]
    >>> found = score_points(points, truth, radius=2.0, scores=[np.array([0.9, 0.3]), np.zeros(0)])
    >>> found.micro, found.error.mean, found.mean_average_precision, found.presence_auc
    (Rates(precision=0.5, recall=1.0, f1=0.6666666666666666), 1.0, 1.0, 1.0)
    >>> found.macro  # the mean of the first image and of one without points, whose rates are 1
    Rates(precision=0.75, recall=1.0, f1=0.8333333333333333)

    Args:
        radius: largest distance of a pair, in pixels or the unit of ``spacing``.
        scores: scores of the predicted points; without them average precision and presence are None.
        threshold: lowest score of the predictions that count; average precision and presence use all predictions.
        radii: radii of average precision; ``radius`` by default.
        spacing: size of a pixel, along each axis (x, y[, z]) or all.

    Raises:
        ValueError: there is no image, lists differ in length, a threshold comes without scores, or
            :func:`detect.evaluation.point_matching.match_points` rejects the points.
    """
    check_images(predicted, truth, scores=scores)
    if threshold is not None and scores is None:
        raise ValueError(f"a threshold, {threshold}, needs the scores")
    kept = list(predicted)
    if threshold is not None and scores is not None:
        kept = [points[own >= threshold] for points, own in zip(predicted, scores, strict=True)]
    matches = [match_points(*both, radius=radius, spacing=spacing) for both in zip(kept, truth, strict=True)]
    distances = [each.distances for each in matches]
    counts = np.array([[len(each) for each in of_image] for of_image in zip(distances, kept, truth, strict=True)])
    num_matched, num_predicted, num_truth = counts.sum(axis=0).tolist()
    difference = counts[:, 1] - counts[:, 2]
    rates = np.array([astuple(Rates.of(*of_image)) for of_image in counts.tolist()])
    radii = [radius] if radii is None else radii
    precisions = _average_precisions(predicted, truth, scores, radii, spacing)
    return PointScores(
        num_images=len(truth),
        num_predicted=num_predicted,
        num_truth=num_truth,
        num_matched=num_matched,
        radius=float(radius),
        threshold=threshold,
        micro=Rates.of(num_matched, num_predicted, num_truth),
        macro=Rates(*rates.mean(axis=0).tolist()),
        error=_error_scores(distances),
        count=CountScores(
            mae=float(np.abs(difference).mean()),
            rmse=float(np.sqrt(np.square(difference).mean())),
            bias=float(difference.mean()),
        ),
        radii=tuple(float(each) for each in radii),
        average_precisions=precisions,
        mean_average_precision=None if precisions is None else float(np.mean(precisions)),
        presence_auc=None if scores is None else _presence_auc(scores, counts[:, 2] > 0),
    )


def _error_scores(distances: Sequence[ndarray]) -> ErrorScores | None:
    joined = np.concatenate(distances)
    return ErrorScores(float(joined.mean()), float(np.median(joined))) if len(joined) else None


def _average_precisions(
    predicted: Sequence[ndarray],
    truth: Sequence[ndarray],
    scores: Sequence[ndarray] | None,
    radii: Sequence[float],
    spacing: Spacing,
) -> tuple[float, ...] | None:
    """Average precision at each radius; None without scores or without true points."""
    num_truth = sum(map(len, truth))
    if scores is None or not num_truth:
        return None
    cuts, areas = ScoreCuts.of(scores), []
    for radius in radii:
        pairs = cuts.num_pairs(predicted, truth, scores=scores, radius=radius, spacing=spacing)
        precision = np.maximum.accumulate((pairs[1:] / cuts.num_kept[1:])[::-1])[::-1]
        areas.append(float((np.diff(pairs) * precision).sum() / num_truth))
    return tuple(areas)


def _presence_auc(scores: Sequence[ndarray], present: ndarray) -> float | None:
    """The probability that an image with points has a higher score than one without; ties count half."""
    highest = np.array([own.max() if len(own) else -np.inf for own in scores])
    positive, negative = highest[present], np.sort(highest[~present])
    if not len(positive) or not len(negative):
        return None
    lower = [np.searchsorted(negative, positive, side=side).mean() for side in ("left", "right")]
    return float(sum(lower) / 2 / len(negative))
