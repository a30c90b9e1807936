"""Calibrated counts held against the truth: by hand, scikit-learn's scores, and a plain loop over the folds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LinearRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from detect.errors import FitError
from detect.evaluation.count_intervals import CountCalibration, CountPrediction, KnownCounts
from detect.evaluation.count_reliability import CountBin, CountReliability, cross_validate_counts


def reliability(**changes) -> CountReliability:
    """Four images: counts 0, 0, 2 and 4, of which the second and the last are wrong and the last is not covered."""
    count = np.array([0, 0, 2, 4])
    columns = {"count": count, "low": np.maximum(count - 1, 0), "high": count + 1, "presence": None, **changes}
    return CountReliability(CountPrediction(**columns), np.array([0, 1, 2, 7]), 0.9)


def some(count: int, empty: float = 0.4) -> KnownCounts:
    draws = np.random.default_rng(1)
    truth = np.where(draws.random(count) < empty, 0, draws.integers(1, 6, count))
    return KnownCounts.of([draws.random(max(own - draws.integers(2), 0)) for own in truth], truth)


def test_bins_by_hand():
    rows = {each.name: each for each in reliability().bins()}
    assert list(rows) == ["all", "no true point", "counted 0", "counted 2", "counted 3 to 4"]
    assert rows["all"] == CountBin("all", 4, 1.5, 2.5, 0.75, 1.5)
    assert (rows["counted 0"].num_images, rows["counted 0"].truth, rows["counted 3 to 4"].coverage) == (2, 0.5, 0.0)
    assert rows["no true point"].num_images == 1


def test_every_image_is_in_one_bin_of_counts():
    draws = np.random.default_rng(0)
    for counts in (draws.integers(0, 9, 50), draws.integers(3, 5, 50), np.zeros(50, np.int64), draws.poisson(0.2, 50)):
        found = CountReliability(CountPrediction(counts, counts, counts, None), counts, 0.9)
        assert sum(each.num_images for each in found.bins() if each.name.startswith("counted")) == 50


def test_the_slope_is_that_of_a_regression():
    found = reliability()
    line = LinearRegression().fit(found.prediction.count[:, None], found.truth)
    assert_allclose(found.slope, line.coef_[0])
    assert reliability(count=np.full(4, 2)).slope is None


def test_presence_is_scored_as_scikit_learn_does():
    given = np.array([0.3, 0.2, 0.9, 1.0])
    scores = reliability(presence=given).presence()
    assert_allclose(scores.brier, brier_score_loss([0, 1, 1, 1], given))
    assert_allclose(scores.auc, roc_auc_score([0, 1, 1, 1], given))
    assert scores.bins == ((0.2, 1.0, 1), (0.3, 0.0, 1), (0.9, 1.0, 1), (1.0, 1.0, 1))
    assert reliability().presence() is None


def test_each_image_is_predicted_by_a_calibration_on_others():
    known = some(47)
    found = cross_validate_counts(known, confidence=0.8)
    for row in (0, 13, 46):
        others = np.flatnonzero(np.arange(47) % 10 != row % 10)
        own = CountCalibration.fit(known.take(others)).predict([known.scores[row]], confidence=0.8)
        assert (found.prediction.count[row], found.prediction.high[row]) == (own.count[0], own.high[0])
        assert_allclose(found.prediction.presence[row], own.presence[0])
    assert_array_equal(found.covered, (found.prediction.low <= known.truth) & (known.truth <= found.prediction.high))
    assert json.loads(json.dumps(found.to_dict()))["confidence"] == 0.8


def test_too_few_images_are_refused_and_presence_may_be_missing():
    with pytest.raises(FitError, match="need 9 images"):
        cross_validate_counts(some(9, empty=0))
    assert cross_validate_counts(some(30, empty=0)).presence() is None
