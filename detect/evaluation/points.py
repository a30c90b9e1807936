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
from jaxtyping import Float, Int64, Shaped
from numpy import ndarray

from detect.evaluation.point_matching import Spacing, check_images, match_points, matches_by_score


@dataclass(frozen=True, eq=False)
class ScoreCuts:
    """Cut 0 keeps no prediction, each further one also those of the next lower score, and the last keeps all.

    Predictions of one score stay together, so their order means nothing.

    >>> cuts = ScoreCuts.of(np.array([0.5, 0.9, 0.5]))
    >>> cuts.num_kept, cuts.totals(np.array([1.0, 1.0, 0.0])), cuts.threshold(1)
    (array([0, 1, 3]), array([0., 1., 2.]), 0.7)
    """

    scores: Float[ndarray, " n"]  # falling
    order: Int64[ndarray, " n"]
    num_kept: Int64[ndarray, " k"]

    @classmethod
    def of(cls, scores: Float[ndarray, " n"]) -> ScoreCuts:
        """The cuts of predictions in any order.

        Raises:
            ValueError: scores that are not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError("scores that are not finite")
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        last = np.flatnonzero(falling[1:] != falling[:-1]) + 1  # how many precede each fall
        ends = last if not len(scores) else np.append(last, len(scores))
        return cls(falling, order.astype(np.int64), np.concatenate([[0], ends]).astype(np.int64))

    def totals(self, values: Shaped[ndarray, " n"]) -> Float[ndarray, " k"]:
        """The sum of the values of the predictions that each cut keeps."""
        return np.concatenate([[0.0], np.cumsum(values[self.order], dtype=np.float64)])[self.num_kept]

    def threshold(self, cut: int) -> float:
        """A score that the kept predictions exceed and the others do not reach.

        Midway between them; of the first and the last cut a step of single precision beyond, and 0 where there are no
        predictions. Where there is no number between two scores, it is the higher one.
        """
        if not len(self.scores):
            return 0.0
        count = int(self.num_kept[cut])
        if count == 0:
            return float(np.nextafter(np.float32(self.scores[0]), np.float32(np.inf)))
        if count == len(self.scores):
            return float(np.nextafter(np.float32(self.scores[-1]), np.float32(-np.inf)))
        above, below = self.scores[count - 1], self.scores[count]
        middle = below + (above - below) / 2
        return float(middle if middle > below else above)


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


GOALS = ("f1", "count")


@dataclass(frozen=True)
class ThresholdChoice:
    """Points whose score is ``threshold`` or more are kept; ``value`` is what the goal comes to on the data with it."""

    threshold: float
    value: float
    goal: str


def choose_threshold(
    predicted: Sequence[Float[ndarray, "_ d"]],
    scores: Sequence[Float[ndarray, " _"]],
    truth: Sequence[Float[ndarray, "_ d"]],
    *,
    goal: str = "f1",
    radius: float | None = None,
    spacing: Spacing = 1.0,
) -> ThresholdChoice:
    """The best threshold of all there are, over the points of all images.

    ``"f1"`` takes the highest F1, of the best matching within ``radius`` at each threshold and over the points of all images
    together; ``"count"`` takes the least mean error of an image's count, and needs no radius. Every different score is
    tried. The threshold lies midway between the lowest score that is kept and the highest that is not: the safest place for
    points not seen yet. Of equally good ones it is the highest. Where it is best to keep none it is just above the highest
    score, and where it is best to keep all just below the lowest; without any prediction it is 0.

    >>> points = [np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([[5.0, 5.0]])]
    >>> scores = [np.array([0.9, 0.3]), np.array([0.7])]
    >>> choose_threshold(points, scores, [np.array([[0.0, 1.0]]), np.array([[5.0, 5.0]])], radius=2.0)
    ThresholdChoice(threshold=0.5, value=1.0, goal='f1')

    Args:
        predicted: points of each image, before any threshold.
        scores: of the points.
        truth: points that are in each image.
        radius: within which a point is found, in pixels or the unit of ``spacing``.

    Raises:
        ValueError: an unknown goal, no radius where one is needed, no image, or lists of unequal lengths.
    """
    if goal not in GOALS or (goal == "f1" and radius is None):
        raise ValueError(f"goal is 'count', or 'f1' with a radius, got {goal!r} with {radius=}")
    check_images(predicted, truth, scores)
    cuts = ScoreCuts.of(np.concatenate(list(scores)))
    num_truth = sum(len(points) for points in truth)
    if goal == "f1" and radius is not None:
        tables = zip(predicted, scores, truth, strict=True)
        gains = np.concatenate([matches_by_score(*table, radius=radius, spacing=spacing) for table in tables])
        num_points = cuts.num_kept + num_truth
        values = np.divide(2 * cuts.totals(gains), num_points, out=np.ones(len(num_points)), where=num_points > 0)
        best = int(values.argmax())
    else:
        steps = [_count_steps(own, len(points)) for own, points in zip(scores, truth, strict=True)]
        values = (num_truth + cuts.totals(np.concatenate(steps))) / len(truth)
        best = int(values.argmin())
    return ThresholdChoice(cuts.threshold(best), float(values[best]), goal)


def _count_steps(scores: ndarray, num_truth: int) -> Int64[ndarray, " n"]:
    """What each prediction of an image does to the error of its count, when they come in falling order of score."""
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return np.where(rank < num_truth, -1, 1)
