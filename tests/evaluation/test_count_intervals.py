"""Counts with intervals: coverage on drawn images, by hand, and with images without points."""

from __future__ import annotations

import json
from dataclasses import asdict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.metrics import roc_auc_score

from detect.errors import FitError
from detect.evaluation.count_intervals import CountCalibration, CountRule, KnownCounts, folds


def drawn(
    count: int, seed: int, *, found: float = 0.85, invented: float = 0.3, empty: float = 0.0, per_source: int = 1
) -> KnownCounts:
    """Images with up to 8 points, found with a probability that differs by source, and invented ones of lower scores."""
    draws = np.random.default_rng(seed)
    sources = np.arange(count) // per_source
    rates = draws.beta(found * 8, (1 - found) * 8, count)[sources]
    truth = np.where(draws.random(count) < empty, 0, draws.integers(1, 9, count))
    scores = [
        np.concatenate([draws.beta(6, 2, draws.binomial(own, rate)), draws.beta(2, 5, draws.poisson(invented))])
        for own, rate in zip(truth, rates, strict=True)
    ]
    return KnownCounts.of(scores, truth, sources)


def covered(known: KnownCounts, calibration: CountCalibration, confidence: float = 0.9) -> np.ndarray:
    found = calibration.predict(known.scores, confidence=confidence)
    return (found.low <= known.truth) & (known.truth <= found.high)


# by hand


def test_errors_and_interval_by_hand():
    """Eleven images with three points, of which one lacks one."""
    truth = np.full(11, 3)
    scores = [np.full(3 - (image == 4), 0.5) for image in range(11)]
    calibration = CountCalibration.fit(KnownCounts.of(scores, truth))
    assert calibration.rule.threshold == 0.5
    assert calibration.ratio == 33 / 32
    assert_array_equal(np.array(calibration.errors) > 0, [False] * 10 + [True])
    assert calibration.quantile(0.8) == calibration.errors[9]  # rank ceil(12 * .8) = 10
    assert calibration.quantile(0.9) == calibration.errors[10]  # rank 11
    found = calibration.predict([np.full(2, 0.5), np.zeros(0)], confidence=0.8)
    assert (found.count.tolist(), found.low.tolist(), found.high.tolist()) == ([2, 0], [2, 0], [2, 0])


def test_the_total_is_student_s_interval_of_a_sum():
    """Two sources of two images: errors -1, -1 and 1, 1 around a ratio of 1 add up before they are squared."""
    scores = [np.full(count, 0.9) for count in (3, 3, 1, 1)]
    calibration = CountCalibration.fit(KnownCounts.of(scores, np.array([2, 2, 2, 2]), np.array([7, 7, 5, 5])))
    assert (calibration.ratio, calibration.num_sources, calibration.num_images) == (1.0, 2, 4)
    assert calibration.variance == (2**2 + 2**2) / 4 * 2 / 1
    total = calibration.total([np.full(50, 0.9)] * 3, confidence=0.5)
    reach = stats.t.ppf(0.75, 1) * np.sqrt(4 * (3 + 9 / 4))
    assert (total.count, total.low, total.high) == (150, np.ceil(150 - reach), np.floor(150 + reach))


def test_a_detector_that_invents_points_counts_above_a_threshold():
    scores = [np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.7, 0.15])]
    rule = CountRule.fit(KnownCounts.of(scores, np.array([2, 1])))
    assert rule.threshold == 0.7
    assert rule.predict(scores)[0].tolist() == [2, 1]
    assert CountRule.fit(KnownCounts.of(scores, np.array([9, 9]))).threshold == 0.1  # all that are found


# coverage


def test_nine_of_ten_images_are_covered_and_not_many_more():
    shares = [covered(drawn(300, seed + 100), CountCalibration.fit(drawn(80, seed))).mean() for seed in range(30)]
    assert 0.885 < np.mean(shares) < 0.93


def test_images_without_points_take_nothing_from_the_others():
    """Nine in ten images are empty: those with a point, or in which one is found, keep their coverage."""
    shares = []
    for seed in range(20):
        test = drawn(600, seed + 100, empty=0.9)
        inside = covered(test, CountCalibration.fit(drawn(600, seed, empty=0.9)))
        counted = CountCalibration.fit(drawn(600, seed, empty=0.9)).predict(test.scores).count
        shares.append(inside[(test.truth > 0) | (counted > 0)].mean())
        assert inside[(test.truth == 0) & (counted == 0)].all()
    assert 0.885 < np.mean(shares) < 0.94


def test_nine_of_ten_of_all_images_are_covered_if_empty_ones_are_included():
    shares = []
    for seed in range(20):
        test, known = drawn(600, seed + 100, empty=0.5), drawn(600, seed, empty=0.5)
        shares.append(covered(test, CountCalibration.fit(known, empty="included")).mean())
        assert shares[-1] < covered(test, CountCalibration.fit(known)).mean()
    assert 0.885 < np.mean(shares) < 0.93
    with pytest.raises(ValueError, match=r"empty is one of apart, included, got 'kept'"):
        CountCalibration.fit(known, empty="kept")


def test_totals_are_covered_also_if_images_of_a_source_share_their_errors():
    inside = []
    for seed in range(120):
        test, calibration = drawn(120, seed + 1000, per_source=4), CountCalibration.fit(drawn(120, seed, per_source=4))
        total = calibration.total(test.scores)
        inside.append(total.low <= test.truth.sum() <= total.high)
    assert 0.82 < np.mean(inside) < 0.97


def test_presence_is_calibrated_and_ranks_images():
    calibration, test = CountCalibration.fit(drawn(400, 0, empty=0.5)), drawn(2000, 1, empty=0.5)
    presence = calibration.predict(test.scores).presence
    assert roc_auc_score(test.truth > 0, presence) > 0.95
    for rows in np.array_split(np.argsort(presence), 4):
        assert_allclose(presence[rows].mean(), (test.truth[rows] > 0).mean(), atol=0.06)
    assert CountCalibration.fit(drawn(100, 0)).presence is None  # no image is empty


# properties


@given(st.integers(0, 10**6), st.floats(0.5, 0.9), st.floats(0, 1))
def test_intervals_hold_the_count_and_grow_with_the_confidence(seed, confidence, empty):
    calibration, test = CountCalibration.fit(drawn(40, 1)), drawn(12, seed, empty=empty)
    narrow, wide = (calibration.predict(test.scores, confidence=each) for each in (confidence, 0.95))
    assert ((wide.low <= narrow.low) & (narrow.low <= narrow.count)).all()
    assert ((narrow.count <= narrow.high) & (narrow.high <= wide.high)).all()
    assert (wide.low >= 0).all()
    total = calibration.total(test.scores, confidence=confidence)
    assert 0 <= total.low <= total.count <= total.high


def test_the_order_of_points_and_copies_of_images_do_not_matter():
    known = drawn(50, 3, empty=0.3)
    turned = KnownCounts.of([own[::-1] for own in known.scores], known.truth)
    assert_allclose(CountCalibration.fit(turned).errors, CountCalibration.fit(known).errors)
    rule = CountRule.fit(known)
    twice = CountRule.fit(KnownCounts.of([*known.scores, *known.scores], np.tile(known.truth, 2)))
    assert_allclose([*asdict(twice).values()], [*asdict(rule).values()], atol=1e-9)


def test_every_image_is_held_out_once_and_never_learned_from_then():
    for count in (2, 9, 10, 25):
        parts = folds(count)
        assert_array_equal(np.sort(np.concatenate([held_out for _, held_out in parts])), np.arange(count))
        assert all(set(rows).isdisjoint(held_out) and len(rows) + len(held_out) == count for rows, held_out in parts)


def test_a_calibration_survives_json():
    for known in (drawn(40, 5), drawn(60, 5, empty=0.5)):
        calibration = CountCalibration.fit(known)
        assert msgspec.convert(json.loads(json.dumps(asdict(calibration))), CountCalibration) == calibration


# empty, and refused


def test_nothing_found_and_nothing_there():
    nothing = [np.zeros(0)] * 12
    missed = CountCalibration.fit(KnownCounts.of(nothing, np.array([1, 2] * 6)))
    found = missed.predict(nothing[:1])
    assert (found.count.tolist(), found.low.tolist(), found.high.tolist()) == ([0], [0], [2])
    assert missed.total(nothing).count == 0  # nothing says how many are missed where something is found
    empty = CountCalibration.fit(KnownCounts.of(nothing, np.zeros(12, np.int64)))
    assert empty.errors == ()
    with pytest.raises(FitError, match=r"of 0\.9 need 9 images in which a point is or is found, got 0"):
        empty.predict(nothing)
    assert len(CountCalibration.fit(drawn(20, 0)).predict([]).count) == 0


@pytest.mark.parametrize(("confidence", "needed"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.99, 99)])
def test_the_number_of_images_that_a_confidence_needs_is_named(confidence, needed):
    with pytest.raises(FitError, match=f"of {confidence} need {needed} images .* got {needed - 1}"):
        CountCalibration.fit(drawn(needed - 1, 0)).quantile(confidence)
    assert CountCalibration.fit(drawn(needed, 0)).quantile(confidence) >= 0


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match="scores of points to count are between 0 and 1"):
        KnownCounts.of([np.array([1.5])], np.array([1]))
    with pytest.raises(ValueError, match="got 2 and 1"):
        KnownCounts.of([np.zeros(0)] * 2, np.array([1]))
    with pytest.raises(FitError, match="2 images or more"):
        CountCalibration.fit(KnownCounts.of([np.zeros(0)], np.array([1])))
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        CountCalibration.fit(drawn(20, 0)).predict([], confidence=1)
