"""Errors of the angles of points that are paired with true points.

Angles are in degrees. They repeat after the ``period``: 360, or 180 if both ends of an object are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from detect.evaluation.point_matching import check_images, match_points
from detect.ops.array_kinds import check_shape, in_arrays


@dataclass(frozen=True)
class AngleScores:
    """Absolute error of the angles of matched points in degrees, and the number of pairs in which both angles are known."""

    mean: float
    median: float
    num_pairs: int


@in_arrays
def angle_errors(
    predicted: Float[ndarray, " n"], truth: Float[ndarray, " n"], *, period: float = 360.0
) -> Float[ndarray, " n"]:
    """The smallest absolute difference of angles, at most half the period; NaN if one is not known.

    >>> predicted, truth = np.array([-179.0, 10.0]), np.array([179.0, 190.0])
    >>> angle_errors(predicted, truth), angle_errors(predicted, truth, period=180.0)
    (array([  2., 180.]), array([2., 0.]))
    """
    check_shape("one true angle for each angle,", truth, (len(predicted),))
    difference = (predicted - truth) % period
    return np.minimum(difference, period - difference)


@in_arrays
def score_angles(
    predicted: Sequence[Float[ndarray, "_ d"]],
    truth: Sequence[Float[ndarray, "_ d"]],
    *,
    angles: Sequence[Float[ndarray, " _"]],
    true_angles: Sequence[Float[ndarray, " _"]],
    radius: float,
    period: float = 360.0,
) -> AngleScores | None:
    """Score the angles of the pairs that :func:`detect.evaluation.points.score_points` makes within the radius.

    None if there is no pair of which both angles are known.
    """
    check_images(predicted, truth)
    errors = [np.zeros(0)]
    for points, true_points, own, true_own in zip(predicted, truth, angles, true_angles, strict=True):
        check_shape("one angle for each predicted point,", own, (len(points),))
        check_shape("one angle for each true point,", true_own, (len(true_points),))
        matches = match_points(points, true_points, radius=radius)
        errors.append(angle_errors(own[matches.predicted], true_own[matches.truth], period=period))
    known = np.concatenate(errors)
    known = known[np.isfinite(known)]
    return AngleScores(float(known.mean()), float(np.median(known)), len(known)) if len(known) else None
