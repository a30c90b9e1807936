"""The threshold that keeps the right points, chosen on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from detect.keypoints.point_matching import Spacing, check_images, matches_by_score
from detect.keypoints.score_cuts import ScoreCuts

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
