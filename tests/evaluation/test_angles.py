"""Errors of the angles of paired points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.evaluation.angles import AngleScores, angle_errors, score_angles

ANY = st.floats(-1000, 1000)
POINTS = [np.array([[0.0, 0.0], [9.0, 0.0], [30.0, 0.0]]), np.zeros((0, 2))]
NONE = np.zeros(0)


def test_errors_by_hand():
    predicted, truth = np.array([170.0, 10.0, 90.0, np.nan]), np.array([-170.0, 175.0, -90.0, 0.0])
    assert_allclose(angle_errors(predicted, truth), [20, 165, 180, np.nan])
    assert_allclose(angle_errors(predicted, truth, period=180.0), [20, 15, 0, np.nan])


@given(ANY, ANY, st.sampled_from([180.0, 360.0]))
def test_an_error_is_that_of_complex_numbers_on_the_unit_circle(predicted, truth, period):
    turn = 360 / period * np.deg2rad(predicted - truth)
    wanted = period / 360 * np.rad2deg(abs(np.angle(np.exp(1j * turn))))
    assert_allclose(angle_errors(np.array([predicted]), np.array([truth]), period=period), wanted, atol=1e-5)


def test_only_pairs_within_the_radius_with_two_known_angles_count():
    """Three points: one is 1 px from the truth, one 4 px, and one has no angle."""
    predicted = [POINTS[0] + [[1.0, 0], [4.0, 0], [0, 0]], np.zeros((0, 2))]
    angles = {"angles": [np.array([10.0, 50.0, np.nan]), NONE], "true_angles": [np.array([0.0, 0.0, 0.0]), NONE]}
    assert score_angles(predicted, POINTS, radius=2.0, **angles) == AngleScores(10.0, 10.0, 1)
    assert score_angles(predicted, POINTS, radius=5.0, **angles) == AngleScores(30.0, 30.0, 2)
    assert score_angles(predicted, POINTS, radius=0.5, **angles) is None
    assert score_angles(POINTS[1:], POINTS[1:], radius=1.0, angles=[NONE], true_angles=[NONE]) is None


def test_the_pairs_are_those_of_the_points():
    """Brute force: the points are far apart, so that each is paired with the one nearest to it."""
    random = np.random.default_rng(0)
    truth = np.stack(np.mgrid[0:50:10, 0:50:10], axis=-1).reshape(-1, 2).astype(float)
    order = random.permutation(25)[:18]
    predicted, angles = truth[order] + random.uniform(-2, 2, (18, 2)), random.uniform(0, 360, (2, 25))
    errors = angle_errors(angles[0, :18], angles[1, order])
    near = np.linalg.norm(predicted - truth[order], axis=1) <= 1.5
    found = score_angles([predicted], [truth], radius=1.5, angles=[angles[0, :18]], true_angles=[angles[1]])
    assert_array_equal([found.num_pairs, found.median], [near.sum(), np.median(errors[near])])
    assert_allclose(found.mean, errors[near].mean())


def test_angles_of_another_length_are_told():
    with pytest.raises(ValueError, match=r"one angle for each true point, \(3,\), got \(2,\)"):
        score_angles(POINTS, POINTS, radius=1.0, angles=[np.zeros(3), NONE], true_angles=[np.zeros(2), NONE])
