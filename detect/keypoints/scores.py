"""How good predicted points are: found or not, how far off, how many, whether any.

Points of each image are rows (x, y) or (x, y, z), all of one landmark type: score each type by itself. Predicted and true
points are paired one to one, as many as can be within a radius, and then with least total distance.

An image without true points is one like any other. Where it has no predictions either, all is right: precision, recall and
F1 are 1. Where only one of the two is missing they are 0. What cannot be said is None, never 0 or NaN: errors where nothing
was found, average precision where there is nothing to find, presence where all images have points or none has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from detect.keypoints.point_matching import Spacing, check_images, match_points, matches_by_score
from detect.keypoints.score_cuts import ScoreCuts


@dataclass(frozen=True)
class Rates:
    """Pairs over predictions, pairs over true points, and twice the pairs over both together."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, num_matched: int, num_predicted: int, num_truth: int) -> Rates:
        """From counts.

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
    """Distance of paired points, in the unit of the radius: mean and median over pairs, mean over images of their means."""

    mean: float
    median: float
    macro_mean: float


@dataclass(frozen=True)
class CountScores:
    """Predicted minus true number of points of an image: mean size, root of the mean square, and mean."""

    mae: float
    rmse: float
    bias: float


@dataclass(frozen=True)
class PointScores:
    """What :func:`score_points` finds: ``micro`` over the points of all images, ``macro`` the mean over images."""

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

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and None by name, as JSON takes them."""
        return asdict(self)


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
    """Scores of the points of one landmark type over images.

    Average precision is the area under the curve of precision over recall, made to fall (Everingham et al. 2010, section
    4.2, at every recall), where each threshold has its own best matching. Presence is the area under the ROC curve of each
    image's highest score, or of minus infinity without predictions, as a sign of there being any true point.

    >>> points, truth = [np.array([[0.0, 1.0], [9.0, 9.0]]), np.zeros((0, 2))], [np.array([[0.0, 0.0]]), np.zeros((0, 2))]
    >>> found = score_points(points, truth, radius=2.0, scores=[np.array([0.9, 0.3]), np.zeros(0)])
    >>> found.micro, found.error.mean, found.mean_average_precision, found.presence_auc
    (Rates(precision=0.5, recall=1.0, f1=0.6666666666666666), 1.0, 1.0, 1.0)
    >>> found.macro  # one image as above, and one without points, which is all right
    Rates(precision=0.75, recall=1.0, f1=0.8333333333333333)

    Args:
        predicted: points of each image.
        truth: points that are in each image.
        radius: within which a point is found, in pixels or the unit of ``spacing``.
        scores: of the predicted points; without them there are no average precision and no presence.
        threshold: where given, only predictions that reach it take part, but for average precision and presence.
        radii: of average precision; by default the one radius.
        spacing: size of a pixel, along each axis (x, y[, z]) or all.

    Raises:
        ValueError: no image, lists of unequal lengths, a threshold without scores, or what :func:`match_points` refuses.
    """
    check_images(predicted, truth, scores)
    if threshold is not None and scores is None:
        raise ValueError(f"a threshold, {threshold}, needs the scores")
    kept = list(predicted)
    if threshold is not None and scores is not None:
        kept = [points[own >= threshold] for points, own in zip(predicted, scores, strict=True)]
    matches = [match_points(*both, radius=radius, spacing=spacing) for both in zip(kept, truth, strict=True)]
    distances = [each.distances for each in matches]
    counts = [tuple(len(each) for each in of_image) for of_image in zip(distances, kept, truth, strict=True)]
    num_matched, num_predicted, num_truth = (sum(column) for column in zip(*counts, strict=True))
    radii = [radius] if radii is None else radii
    precisions = _average_precisions(predicted, scores, truth, radii, spacing)
    return PointScores(
        num_images=len(truth),
        num_predicted=num_predicted,
        num_truth=num_truth,
        num_matched=num_matched,
        radius=float(radius),
        threshold=threshold,
        micro=Rates.of(num_matched, num_predicted, num_truth),
        macro=_mean_rates([Rates.of(*of_image) for of_image in counts]),
        error=_error_scores(distances),
        count=_count_scores(np.array([own[1] - own[2] for own in counts])),
        radii=tuple(float(each) for each in radii),
        average_precisions=precisions,
        mean_average_precision=None if precisions is None else float(np.mean(precisions)),
        presence_auc=None if scores is None else _presence_auc(scores, np.array([own[2] > 0 for own in counts])),
    )


def _mean_rates(rates: Sequence[Rates]) -> Rates:
    table = np.array([(each.precision, each.recall, each.f1) for each in rates])
    return Rates(*table.mean(axis=0).tolist())


def _error_scores(distances: Sequence[ndarray]) -> ErrorScores | None:
    found = [own for own in distances if len(own)]
    if not found:
        return None
    joined = np.concatenate(found)
    macro = np.mean([own.mean() for own in found])
    return ErrorScores(float(joined.mean()), float(np.median(joined)), float(macro))


def _count_scores(differences: ndarray) -> CountScores:
    return CountScores(
        mae=float(np.abs(differences).mean()),
        rmse=float(np.sqrt(np.square(differences).mean())),
        bias=float(differences.mean()),
    )


def _average_precisions(
    predicted: Sequence[ndarray],
    scores: Sequence[ndarray] | None,
    truth: Sequence[ndarray],
    radii: Sequence[float],
    spacing: Spacing,
) -> tuple[float, ...] | None:
    """At each radius, over the points of all images; None without scores or without any true point."""
    num_truth = sum(len(points) for points in truth)
    if scores is None or not num_truth:
        return None
    cuts = ScoreCuts.of(np.concatenate(list(scores)))
    areas = []
    for radius in radii:
        tables = zip(predicted, scores, truth, strict=True)
        gains = [matches_by_score(*table, radius=radius, spacing=spacing) for table in tables]
        pairs = cuts.totals(np.concatenate(gains))
        precision = np.maximum.accumulate((pairs[1:] / cuts.num_kept[1:])[::-1])[::-1]
        areas.append(float((np.diff(pairs) * precision).sum() / num_truth))
    return tuple(areas)


def _presence_auc(scores: Sequence[ndarray], present: ndarray) -> float | None:
    """The chance that an image with points has a higher score than one without, equal ones counting half."""
    highest = np.array([own.max() if len(own) else -np.inf for own in scores])
    positive, negative = highest[present], np.sort(highest[~present])
    if not len(positive) or not len(negative):
        return None
    lower = [np.searchsorted(negative, positive, side=side).mean() for side in ("left", "right")]
    return float(sum(lower) / 2 / len(negative))
