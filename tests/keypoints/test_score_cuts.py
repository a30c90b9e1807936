from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.keypoints.score_cuts import ScoreCuts


def test_cuts_by_hand():
    cuts = ScoreCuts.of(np.array([0.2, 0.8, 0.5, 0.8]))
    assert_array_equal(cuts.num_kept, [0, 2, 3, 4])
    assert_array_equal(cuts.totals(np.array([1.0, 10.0, 100.0, 1000.0])), [0, 1010, 1110, 1111])
    assert_allclose([cuts.threshold(cut) for cut in (1, 2, 3)], [0.65, 0.35, 0.2], rtol=1e-6)
    assert 0.8 < cuts.threshold(0) < 0.8 + 1e-6


@given(st.lists(st.floats(-1024, 1024, width=32), max_size=8), st.sampled_from([np.float32, np.float64]))
def test_thresholds_keep_as_many_as_their_cut_says(scores, dtype):
    table = np.array(scores, dtype)
    cuts = ScoreCuts.of(table)
    assert len(cuts.num_kept) == len(set(scores)) + 1
    for cut, count in enumerate(cuts.num_kept.tolist()):
        assert (table >= cuts.threshold(cut)).sum() == count


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.sampled_from([np.float32, np.float64]))
def test_it_makes_no_difference_whether_a_threshold_is_to_be_reached_or_exceeded(hundredths, dtype):
    table = np.array(hundredths, dtype) / 100
    cuts = ScoreCuts.of(table)
    for cut, count in enumerate(cuts.num_kept.tolist()):
        assert (table > cuts.threshold(cut)).sum() == (table.astype(np.float32) > cuts.threshold(cut)).sum() == count


def test_neighbours_in_single_precision_are_kept_apart():
    scores = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float32)
    assert (scores >= ScoreCuts.of(scores).threshold(1)).tolist() == [False, True]


def test_no_scores_have_one_cut():
    cuts = ScoreCuts.of(np.zeros(0))
    assert_array_equal(cuts.num_kept, [0])
    assert_array_equal(cuts.totals(np.zeros(0)), [0.0])
    assert cuts.threshold(0) == 0.0


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="scores that are not finite"):
        ScoreCuts.of(np.array([0.5, np.nan]))
