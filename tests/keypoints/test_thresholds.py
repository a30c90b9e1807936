from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.keypoints.scores import score_points
from detect.keypoints.thresholds import choose_threshold

NONE = np.zeros((0, 2))


def random_images(seed, num_images=4, most=6):
    draws = np.random.default_rng(seed)
    counts = draws.integers(0, most + 1, (2, num_images))
    predicted, truth = ([draws.random((count, 2)) * 8 for count in row] for row in counts)
    return predicted, [np.round(draws.random(len(own)), 1) for own in predicted], truth


def test_best_f1_by_hand():
    # by falling score: found, found, false, found, false, of 4: F1 2/5, 4/6, 4/7, 6/8, 6/9; between .4 and .2
    points = [np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([[5.0, 5.0], [50.0, 50.0], [70.0, 70.0]])]
    truth = [np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([[5.0, 5.0], [99.0, 0.0]])]
    chosen = choose_threshold(points, [np.array([0.9, 0.4]), np.array([0.8, 0.6, 0.2])], truth, radius=1.0)
    assert_allclose([chosen.threshold, chosen.value], [0.3, 0.75])


def test_best_count_by_hand():
    # one true point each; scores .9 .8 | .7: keeping .9 errs by 1 of 2 images, keeping .8 too by 2, all by 1; so the highest
    points, truth = [np.zeros((2, 2)), np.zeros((1, 2))], [np.ones((1, 2))] * 2
    chosen = choose_threshold(points, [np.array([0.9, 0.8]), np.array([0.7])], truth, goal="count")
    assert_allclose([chosen.threshold, chosen.value], [0.85, 0.5])


@settings(max_examples=20)
@given(st.integers(0, 300))
def test_no_other_threshold_has_a_better_f1(seed):
    predicted, scores, truth = random_images(seed)
    chosen = choose_threshold(predicted, scores, truth, radius=1.5)
    f1 = [
        score_points(predicted, truth, radius=1.5, scores=scores, threshold=threshold).micro.f1
        for threshold in (*np.linspace(-0.05, 1.05, 12).tolist(), chosen.threshold)
    ]
    assert_allclose([max(f1), f1[-1]], chosen.value)


@settings(max_examples=20)
@given(st.integers(0, 300))
def test_no_other_threshold_has_a_better_count(seed):
    predicted, scores, truth = random_images(seed)
    chosen = choose_threshold(predicted, scores, truth, goal="count")
    errors = [
        score_points(predicted, truth, radius=1.0, scores=scores, threshold=threshold).count.mae
        for threshold in (*np.linspace(-0.05, 1.05, 12).tolist(), chosen.threshold)
    ]
    assert_allclose([min(errors), errors[-1]], chosen.value)


def test_where_nothing_is_to_be_found_nothing_is_kept():
    predicted, scores = [np.ones((2, 2))], [np.array([0.3, 0.6])]
    for options in ({"radius": 1.0}, {"goal": "count"}):
        chosen = choose_threshold(predicted, scores, [NONE], **options)
        assert chosen.threshold > 0.6
        assert chosen.value == (1.0 if "radius" in options else 0.0)


def test_without_predictions_any_threshold_does():
    found = choose_threshold([NONE], [np.zeros(0)], [np.ones((3, 2))], radius=1.0)
    assert (found.threshold, found.value) == (0.0, 0.0)
    assert choose_threshold([NONE], [np.zeros(0)], [np.ones((3, 2))], goal="count").value == 3.0
    assert choose_threshold([NONE], [np.zeros(0)], [NONE], radius=1.0).value == 1.0


@pytest.mark.parametrize("options", [{"goal": "recall", "radius": 1.0}, {}])
def test_goals_that_are_not_known_or_lack_the_radius_are_refused(options):
    with pytest.raises(ValueError, match="goal is 'count', or 'f1' with a radius, got"):
        choose_threshold([NONE], [np.zeros(0)], [NONE], **options)
