"""Scores of points: by hand, against scikit-learn and plain loops, and for images without points."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import average_precision_score, roc_auc_score

from detect.evaluation.points import CountScores, ErrorScores, Rates, score_points

NONE = np.zeros((0, 2))


def at(*columns):
    """Points on a line."""
    return np.array([[float(column), 0.0] for column in columns]).reshape(-1, 2)


def random_images(seed, num_images=5, most=6, extent=8.0, step=0.25):
    """Predicted points, their scores, among which are equal ones, and true points."""
    draws = np.random.default_rng(seed)
    counts = draws.integers(0, most + 1, (2, num_images))
    predicted, truth = ([draws.random((count, 2)) * extent for count in row] for row in counts)
    return predicted, [np.round(draws.random(len(own)) / step) * step for own in predicted], truth


def largest_number_of_pairs(predicted, truth, radius):
    near = np.linalg.norm(predicted[:, None] - truth[None], axis=-1) <= radius
    return int(near[linear_sum_assignment(near, maximize=True)].sum())


# by hand


def test_scores_by_hand():
    # image 0: 0 and 10 found, off by 1 and 2, and 50 false; image 1: 5 found exactly, 30 missed
    predicted, truth = [at(1, 12, 50), at(5)], [at(0, 10), at(5, 30)]
    found = score_points(predicted, truth, radius=3.0)
    assert (found.num_images, found.num_predicted, found.num_truth, found.num_matched) == (2, 4, 4, 3)
    assert found.micro == Rates(0.75, 0.75, 0.75)
    assert_allclose(astuple(found.macro), [(2 / 3 + 1) / 2, (1 + 1 / 2) / 2, (0.8 + 2 / 3) / 2])
    assert found.error == ErrorScores(mean=1.0, median=1.0)
    assert found.count == CountScores(mae=1.0, rmse=1.0, bias=0.0)  # one too many, one too few
    assert found.average_precisions is found.mean_average_precision is found.presence_auc is None


def test_a_threshold_leaves_out_what_scores_lower():
    predicted, truth, scores = [at(0, 9), at(3)], [at(0), at(3)], [np.array([0.9, 0.5]), np.array([0.4])]
    found = score_points(predicted, truth, radius=1.0, scores=scores, threshold=0.5)
    assert (found.num_predicted, found.num_matched, found.threshold) == (2, 1, 0.5)
    assert found.count == CountScores(mae=1.0, rmse=1.0, bias=0.0)
    without = score_points(predicted, truth, radius=1.0, scores=scores)
    assert without.num_predicted == 3
    assert found.average_precisions == without.average_precisions


def test_average_precision_by_hand():
    # by falling score: found, false, found, false; of 3. Recall 1/3 at precision 1, 2/3 at 2/3: 1/3 + 1/3 * 2/3
    found = score_points(
        [at(0, 50), at(7, 60)], [at(0), at(7, 80)], radius=1.0, scores=[np.array([0.9, 0.8]), np.array([0.7, 0.1])]
    )
    assert_allclose(found.mean_average_precision, 5 / 9)


def test_average_precision_at_several_radii():
    # off by 1 and by 3: none, one of two, both
    options = {"scores": [np.array([0.9, 0.8])], "radii": (0.5, 2.0, 4.0)}
    found = score_points([at(1, 23)], [at(0, 20)], radius=4.0, **options)
    assert_allclose(found.average_precisions, [0.0, 0.5, 1.0])
    assert_allclose(found.mean_average_precision, 0.5)
    assert found.radii == (0.5, 2.0, 4.0)


def test_units_are_those_of_the_spacing():
    found = score_points([at(2)], [at(0)], radius=1.0, spacing=0.25, scores=[np.ones(1)])
    assert found.error.mean == 0.5
    assert found.mean_average_precision == 1.0
    assert score_points([at(2)], [at(0)], radius=1.0).error is None


# images without points


def test_an_empty_image_that_is_left_empty_is_all_right():
    assert score_points([NONE], [NONE], radius=1.0).micro == Rates(1.0, 1.0, 1.0)
    assert score_points([NONE, at(1)], [NONE, at(5)], radius=1.0).macro == Rates(0.5, 0.5, 0.5)


@pytest.mark.parametrize(("predicted", "truth", "bias"), [(at(1, 2), NONE, 2.0), (NONE, at(1, 2), -2.0)])
def test_points_of_one_side_alone_are_all_wrong(predicted, truth, bias):
    found = score_points([predicted], [truth], radius=1.0, scores=[np.ones(len(predicted))])
    assert found.micro == found.macro == Rates(0.0, 0.0, 0.0)
    assert found.count == CountScores(mae=2.0, rmse=2.0, bias=bias)
    assert found.error is None


def test_an_absent_landmark_has_no_average_precision_where_tlpss_scores_0():
    scores = [np.array([0.9]), np.zeros(0)]
    found = score_points([at(1), NONE], [NONE, NONE], radius=1.0, scores=scores)
    assert found.average_precisions is None
    assert found.mean_average_precision is None
    assert found.presence_auc is None
    missed = score_points([NONE], [at(1)], radius=1.0, scores=[np.zeros(0)])
    assert missed.mean_average_precision == 0.0


# other libraries, and loops


@pytest.mark.parametrize("seed", range(20))
def test_presence_is_scikit_learns_area_under_the_roc_curve(seed):
    predicted, scores, truth = random_images(seed, num_images=30, most=2)
    highest = [own.max() if len(own) else -1.0 for own in scores]
    expected = roc_auc_score([len(points) > 0 for points in truth], highest)
    assert_allclose(score_points(predicted, truth, radius=1.0, scores=scores).presence_auc, expected)


@pytest.mark.parametrize("seed", range(10))
def test_isolated_points_have_scikit_learns_average_precision_made_to_fall(seed):
    # points so far apart that each is true or false by itself; all true ones are predicted
    draws = np.random.default_rng(seed)
    hit, scores = draws.random(30) < 0.5, np.round(draws.random(30), 1)
    columns = 100.0 * np.arange(30)
    found = score_points([at(*columns)], [at(*columns[hit])], radius=1.0, scores=[scores])
    assert found.mean_average_precision >= average_precision_score(hit, scores) - 1e-12
    cuts = [(hit[scores >= t].sum() / hit.sum(), hit[scores >= t].mean()) for t in np.unique(scores)[::-1]]
    area, before = 0.0, 0.0
    for recall, _ in cuts:
        area += (recall - before) * max(precision for other, precision in cuts if other >= recall)
        before = recall
    assert_allclose(found.mean_average_precision, area)


@given(st.integers(0, 200), st.sampled_from([0.5, 1.0, 3.0]))
def test_average_precision_has_the_largest_matching_at_each_threshold(seed, radius):
    predicted, scores, truth = random_images(seed)
    num_truth = sum(map(len, truth))
    found = score_points(predicted, truth, radius=radius, scores=scores)
    if not num_truth:
        assert found.mean_average_precision is None
        return
    points = []
    for threshold in sorted(set(np.concatenate(scores).tolist()), reverse=True):
        kept = [own[mine >= threshold] for own, mine in zip(predicted, scores, strict=True)]
        pairs = sum(largest_number_of_pairs(*both, radius) for both in zip(kept, truth, strict=True))
        points.append((pairs / num_truth, pairs / sum(map(len, kept))))
    area = sum(
        (recall - before) * max(precision for _, precision in points[place:])
        for place, ((before, _), (recall, _)) in enumerate(itertools.pairwise([(0.0, 0.0), *points]))
    )
    assert_allclose(found.mean_average_precision, area, atol=1e-12)


@given(st.integers(0, 200))
def test_micro_is_the_score_of_all_pairs_and_macro_the_mean_of_single_images(seed):
    predicted, scores, truth = random_images(seed)
    found = score_points(predicted, truth, radius=2.0, scores=scores)
    single = [score_points([p], [t], radius=2.0) for p, t in zip(predicted, truth, strict=True)]
    for name in ("precision", "recall", "f1"):
        assert_allclose(getattr(found.macro, name), np.mean([getattr(each.micro, name) for each in single]))
    matched = sum(each.num_matched for each in single)
    assert_allclose(found.micro.f1, 2 * matched / max(1, found.num_predicted + found.num_truth), atol=0)
    assert found.num_matched == matched


@given(st.integers(0, 200), st.randoms(use_true_random=False))
def test_the_order_of_images_and_points_does_not_matter(seed, random):
    predicted, scores, truth = random_images(seed)
    images = random.sample(range(5), 5)
    rows = [random.sample(range(len(own)), len(own)) for own in predicted]
    shuffled = score_points(
        [predicted[image][rows[image]] for image in images],
        [truth[image][::-1] for image in images],
        radius=2.0,
        scores=[scores[image][rows[image]] for image in images],
    )
    expected = score_points(predicted, truth, radius=2.0, scores=scores)
    for name, value in expected.to_dict().items():
        found = shuffled.to_dict()[name]
        if isinstance(value, dict):
            assert found == pytest.approx(value)
        else:
            assert found == (value if value is None else pytest.approx(value))


def test_results_are_json_without_nan():
    for predicted, truth in (([NONE], [NONE]), ([at(1)], [at(2)])):
        found = score_points(predicted, truth, radius=2.0, scores=[np.ones(len(each)) for each in predicted])
        written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert written["micro"]["f1"] == 1.0
        assert written["count"] == {"mae": 0.0, "rmse": 0.0, "bias": 0.0}


def test_counts_err_as_the_root_of_their_squares():
    # differences 3, -1, 0: mean size 4/3, root of 10/3, mean 2/3
    found = score_points([at(1, 2, 3), NONE, NONE], [NONE, at(1), NONE], radius=1.0).count
    assert_allclose([found.mae, found.rmse, found.bias], [4 / 3, math.sqrt(10 / 3), 2 / 3])


# refusals


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match=r"a threshold, 0\.5, needs the scores"):
        score_points([at(1)], [at(1)], radius=1.0, threshold=0.5)
    with pytest.raises(ValueError, match=r"one or more, got \[0, 0\]"):
        score_points([], [], radius=1.0)
    with pytest.raises(ValueError, match=r"one score for each predicted point of image 1, \(1,\), got \(0,\)"):
        score_points([NONE, at(1)], [NONE, at(1)], radius=1.0, scores=[np.zeros(0), np.zeros(0)])
