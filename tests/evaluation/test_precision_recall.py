"""Cuts by score and the choice of a threshold: by hand, and no other threshold does better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.evaluation.points import score_points
from detect.evaluation.precision_recall import PrecisionRecall, ScoreCuts, choose_threshold

NONE = np.zeros((0, 2))


def test_cuts_by_hand():
    cuts = ScoreCuts.of([np.array([0.2, 0.8, 0.5, 0.8])])
    assert_array_equal(cuts.num_kept, [0, 2, 3, 4])
    assert_array_equal(cuts.totals(np.array([1.0, 10.0, 100.0, 1000.0])), [0, 1010, 1110, 1111])
    assert_allclose([cuts.threshold(cut) for cut in (1, 2, 3)], [0.65, 0.35, 0.2], rtol=1e-6)
    assert 0.8 < cuts.threshold(0) < 0.8 + 1e-6


@given(st.lists(st.floats(-1024, 1024, width=32), max_size=8), st.sampled_from([np.float32, np.float64]))
def test_thresholds_keep_as_many_as_their_cut_says(scores, dtype):
    table = np.array(scores, dtype)
    cuts = ScoreCuts.of([table])
    assert len(cuts.num_kept) == len(set(scores)) + 1
    for cut, count in enumerate(cuts.num_kept.tolist()):
        assert (table >= cuts.threshold(cut)).sum() == count


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.sampled_from([np.float32, np.float64]))
def test_it_makes_no_difference_whether_a_threshold_is_to_be_reached_or_exceeded(hundredths, dtype):
    table = np.array(hundredths, dtype) / 100
    cuts = ScoreCuts.of([table])
    for cut, count in enumerate(cuts.num_kept.tolist()):
        assert (table > cuts.threshold(cut)).sum() == (table.astype(np.float32) > cuts.threshold(cut)).sum() == count


def test_neighbours_in_single_precision_are_kept_apart():
    scores = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float32)
    assert (scores >= ScoreCuts.of([scores]).threshold(1)).tolist() == [False, True]


def test_no_scores_have_one_cut():
    cuts = ScoreCuts.of([np.zeros(0)])
    assert_array_equal(cuts.num_kept, [0])
    assert_array_equal(cuts.totals(np.zeros(0)), [0.0])
    assert cuts.threshold(0) == 0.0


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="scores that are not finite"):
        ScoreCuts.of([np.array([0.5, np.nan])])


def random_images(seed, num_images=4, most=6):
    draws = np.random.default_rng(seed)
    counts = draws.integers(0, most + 1, (2, num_images))
    predicted, truth = ([draws.random((count, 2)) * 8 for count in row] for row in counts)
    return predicted, [np.round(draws.random(len(own)), 1) for own in predicted], truth


def test_best_f1_by_hand():
    # by falling score: found, found, false, found, false, of 4: F1 2/5, 4/6, 4/7, 6/8, 6/9; between .4 and .2
    points = [np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([[5.0, 5.0], [50.0, 50.0], [70.0, 70.0]])]
    truth = [np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([[5.0, 5.0], [99.0, 0.0]])]
    chosen = choose_threshold(points, truth, scores=[np.array([0.9, 0.4]), np.array([0.8, 0.6, 0.2])], radius=1.0)
    assert_allclose([chosen.threshold, chosen.value], [0.3, 0.75])


def test_best_count_by_hand():
    # one true point each; scores .9 .8 | .7: keeping .9 errs by 1 of 2 images, keeping .8 too by 2, all by 1; so the highest
    points, truth = [np.zeros((2, 2)), np.zeros((1, 2))], [np.ones((1, 2))] * 2
    chosen = choose_threshold(points, truth, scores=[np.array([0.9, 0.8]), np.array([0.7])], goal="count")
    assert_allclose([chosen.threshold, chosen.value], [0.85, 0.5])


@given(st.integers(0, 300))
def test_no_other_threshold_has_a_better_f1(seed):
    predicted, scores, truth = random_images(seed)
    chosen = choose_threshold(predicted, truth, scores=scores, radius=1.5)
    f1 = [
        score_points(predicted, truth, radius=1.5, scores=scores, threshold=threshold).micro.f1
        for threshold in (*np.linspace(-0.05, 1.05, 12).tolist(), chosen.threshold)
    ]
    assert_allclose([max(f1), f1[-1]], chosen.value)


@given(st.integers(0, 300))
def test_no_other_threshold_has_a_better_count(seed):
    predicted, scores, truth = random_images(seed)
    chosen = choose_threshold(predicted, truth, scores=scores, goal="count")
    errors = [
        score_points(predicted, truth, radius=1.0, scores=scores, threshold=threshold).count.mae
        for threshold in (*np.linspace(-0.05, 1.05, 12).tolist(), chosen.threshold)
    ]
    assert_allclose([min(errors), errors[-1]], chosen.value)


def test_where_nothing_is_to_be_found_nothing_is_kept():
    predicted, scores = [np.ones((2, 2))], [np.array([0.3, 0.6])]
    for options in ({"radius": 1.0}, {"goal": "count"}):
        chosen = choose_threshold(predicted, [NONE], scores=scores, **options)
        assert chosen.threshold > 0.6
        assert chosen.value == (1.0 if "radius" in options else 0.0)


def test_without_predictions_any_threshold_does():
    found = choose_threshold([NONE], [np.ones((3, 2))], scores=[np.zeros(0)], radius=1.0)
    assert (found.threshold, found.value) == (0.0, 0.0)
    assert choose_threshold([NONE], [np.ones((3, 2))], scores=[np.zeros(0)], goal="count").value == 3.0
    assert choose_threshold([NONE], [NONE], scores=[np.zeros(0)], radius=1.0).value == 1.0


@pytest.mark.parametrize("options", [{"goal": "recall", "radius": 1.0}, {}])
def test_goals_that_are_not_known_or_lack_the_radius_are_refused(options):
    with pytest.raises(ValueError, match="goal is 'count', or 'f1' with a radius, got"):
        choose_threshold([NONE], [NONE], scores=[np.zeros(0)], **options)


def test_a_curve_by_hand():
    # by falling score: found, false and found together, false; of 3 true points
    cuts = ScoreCuts.of([np.array([0.9, 0.4]), np.array([0.4, 0.1])])
    curve = cuts.curve(cuts.totals(np.array([1.0, 0.0, 1.0, 0.0])), 3, at="within 1 px")
    assert_allclose(curve.recall, [1 / 3, 2 / 3, 2 / 3])
    assert_allclose(curve.precision, [1, 2 / 3, 1 / 2])
    assert_allclose(curve.scores, [0.9, 0.4, 0.1])
    assert_allclose(curve.f1, [1 / 2, 2 / 3, 4 / 7])  # 2 / (1 + 3), 4 / (3 + 3), 4 / (4 + 3)
    assert curve.at == "within 1 px"


def curve_of(scores, pairs, num_truth) -> PrecisionRecall:
    cuts = ScoreCuts.of([np.array(scores)])
    return cuts.curve(cuts.totals(np.array(pairs, float)), num_truth, at="")


def test_the_best_threshold_is_the_middle_of_the_best_plateau():
    # F1: 2 / 5, 4 / 6, 4 / 7, 6 / 8, 6 / 9; constant from .2 (dropped) to .3 (kept)
    best = curve_of([0.9, 0.8, 0.5, 0.3, 0.2], [1, 1, 0, 1, 0], 4).best_f1()
    assert (round(best.threshold, 9), best.value) == (0.25, 0.75)
    every = curve_of([0.9, 0.8], [0, 1], 1).best_f1()
    assert (every.threshold, round(every.value, 9)) == (0.8, round(2 / 3, 9))  # keeping all is best
    twice = curve_of([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1], 2).best_f1()
    assert (round(twice.threshold, 9), round(twice.value, 9)) == (0.85, round(2 / 3, 9))  # 2 / 3 at .9 and again at .6
    assert curve_of([0.9], [0], 2).best_f1() is None
    assert curve_of([], [], 2).best_f1() is None


@given(st.integers(0, 10**6))
def test_the_best_threshold_reaches_the_best_f1_of_all_thresholds(seed):
    draws = np.random.default_rng(seed)
    scores, found = draws.integers(1, 9, 12) / 10, draws.random(12) < 0.6
    best = curve_of(scores, found, 10).best_f1()

    def f1(threshold: float) -> float:
        kept = scores >= threshold
        return 2 * found[kept].sum() / (kept.sum() + 10)

    assert_allclose(best.value if best else 0.0, max(map(f1, np.linspace(0, 1, 201))))
    assert best is None or f1(best.threshold) == pytest.approx(best.value)
