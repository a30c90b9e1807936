"""Matching of points: against all matchings there are, a dense solver, and the faults of other systems."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from detect.evaluation import point_matching
from detect.evaluation.point_matching import check_images, match_points, matches_by_score


def scattered(seed, num_truth=60, *, extent=60.0, dims=2, scatter=2.0):
    """True points, and predictions near most of them, among others."""
    draws = np.random.default_rng(seed)
    truth = draws.random((num_truth, dims)) * extent
    near = truth + draws.normal(scale=scatter, size=truth.shape)
    return np.concatenate([near[num_truth // 5 :], draws.random((num_truth // 5, dims)) * extent]), truth


def distances(predicted, truth):
    return np.linalg.norm(predicted[:, None] - truth[None], axis=-1)


def best_of_all_matchings(predicted, truth, radius):
    """Number and total distance of the best matching, by trying each: rows get different columns, or none."""
    table = distances(predicted, truth)
    best = (0, 0.0)
    rows = len(predicted)
    for choice in itertools.permutations([*range(len(truth)), *[-1] * rows], rows):
        pairs = [(row, column) for row, column in enumerate(choice) if column >= 0]
        if all(table[pair] <= radius for pair in pairs):
            best = min(best, (-len(pairs), sum(table[pair] for pair in pairs)))
    return -best[0], best[1]


def number_and_total(predicted, truth, **options):
    found = match_points(predicted, truth, **options)
    return len(found.distances), found.distances.sum()


small = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=4).map(
    lambda rows: np.array(rows, float).reshape(-1, 2)
)


# one to one


def test_pairs_by_hand():
    # (0, 0) is 1 from (0, 1); (9, 9) is sqrt(8) from (7, 7); (20, 20) is alone
    found = match_points(
        np.array([[20.0, 20.0], [9.0, 9.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [7.0, 7.0]]), radius=3.0
    )
    assert_array_equal(found.predicted, [1, 2])
    assert_array_equal(found.truth, [1, 0])
    assert_allclose(found.distances, [8**0.5, 1.0])


def test_a_pair_exactly_at_the_radius_counts():
    predicted, truth = np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[3.0, 4.0], [10.0, np.nextafter(5.0, 6)]])
    assert_array_equal(match_points(predicted, truth, radius=5.0).predicted, [0])


@given(small, small, st.sampled_from([0.5, 1.0, 1.5, 2.5, 10.0]))
def test_of_all_matchings_it_is_a_best_one(predicted, truth, radius):
    assert_allclose(
        number_and_total(predicted, truth, radius=radius), best_of_all_matchings(predicted, truth, radius), atol=1e-12
    )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("extent", "dims"), [(60.0, 2), (15.0, 2), (20.0, 3)])
def test_a_dense_solver_finds_the_same_number_and_total(seed, extent, dims):
    predicted, truth = scattered(seed, extent=extent, dims=dims)
    table = distances(predicted, truth)
    costs = np.where(table <= 5, table, 5.0 * (1 + min(table.shape)))
    rows, columns = linear_sum_assignment(costs)
    found = table[rows, columns][table[rows, columns] <= 5]
    assert_allclose(number_and_total(predicted, truth, radius=5.0), (len(found), found.sum()))


@given(st.integers(0, 50), st.randoms(use_true_random=False))
def test_order_place_and_sides_do_not_matter(seed, random):
    predicted, truth = scattered(seed, 20, extent=25.0)
    rows = random.sample(range(len(predicted)), len(predicted))
    whole = number_and_total(predicted, truth, radius=4.0)
    assert_allclose(number_and_total(predicted[rows], truth, radius=4.0), whole)
    assert_allclose(number_and_total(truth, predicted, radius=4.0), whole)
    assert_allclose(number_and_total(predicted + 1000, truth + 1000, radius=4.0), whole)


def test_spacing_makes_the_radius_physical():
    # 2 slices of 3 um and 4 pixels of 1 um: sqrt(36 + 16) um = 7.21
    predicted, truth = np.array([[0.0, 0.0, 0.0]]), np.array([[4.0, 0.0, 2.0]])
    spacing = [1.0, 1.0, 3.0]
    assert_allclose(match_points(predicted, truth, radius=7.22, spacing=spacing).distances, [52**0.5])
    assert not len(match_points(predicted, truth, radius=7.21, spacing=spacing).distances)
    assert_allclose(match_points(predicted, truth, radius=100.0, spacing=0.5).distances, [20**0.5 / 2])


def test_a_pair_exactly_at_the_physical_radius_counts_wherever_it_lies():
    # 4 * 0.3 - 3 * 0.3 is above 0.3
    for slice_number in range(50):
        predicted, truth = np.array([[5.0, 5.0, slice_number]]), np.array([[5.0, 5.0, slice_number + 1.0]])
        assert len(match_points(predicted, truth, radius=0.3, spacing=(0.1, 0.1, 0.3)).distances) == 1


def test_no_points_are_ordinary():
    none, some = np.zeros((0, 2)), np.ones((3, 2))
    for pair in ((none, none), (none, some), (some, none)):
        assert number_and_total(*pair, radius=1.0) == (0, 0)
        assert matches_by_score(*pair, scores=np.ones(len(pair[0])), radius=1.0).tolist() == [False] * len(pair[0])


def test_points_in_single_precision_are_compared_in_double():
    far = np.array([[16777216.0, 0.0]], np.float32)
    assert number_and_total(far, far.astype(np.float64) + np.array([[1.5, 0.0]]), radius=2.0) == (1, 1.5)
    high, low = (np.array([[x, 0.0]], np.float32) for x in (1e8, 0.25))  # apart by 1e8 in single precision
    assert number_and_total(high, low, radius=1e9) == (1, 99999999.75)


# the faults of other systems


def test_matching_is_not_greedy_as_landmarkers_is():
    # nearest first takes (2, 0) with (2.5, 0), and leaves (0, 0) and (4.4, 0) alone
    predicted, truth = np.array([[0.0, 0.0], [2.5, 0.0]]), np.array([[2.0, 0.0], [4.4, 0.0]])
    assert number_and_total(predicted, truth, radius=2.0) == (2, pytest.approx(2 + 1.9))


def test_distances_do_not_drown_in_the_cost_of_staying_alone_as_spotiflows():
    # its costs are 1e10 (1 + Dmax), here 5e15: sums of which leave less than a digit before the point
    predicted, truth = scattered(0, 800, extent=512.0, scatter=4.0)
    table = distances(predicted, truth)
    best = np.where(table <= 8, table, 8.0 * 801)
    best = best[linear_sum_assignment(best)]
    found = number_and_total(predicted, truth, radius=8.0)
    assert_allclose(found, ((best <= 8).sum(), best[best <= 8].sum()), rtol=1e-12)


# by score


@given(small, small, st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=4, max_size=4))
def test_pairs_by_score_are_the_largest_matching_at_every_threshold(predicted, truth, scores):
    scores = np.array(scores)[: len(predicted)]
    gained = matches_by_score(predicted, truth, scores=scores, radius=1.5)
    for threshold in (0.1, 0.2, 0.3, 0.4):
        kept = scores >= threshold
        assert gained[kept].sum() == best_of_all_matchings(predicted[kept], truth, 1.5)[0]


@pytest.mark.parametrize("seed", range(10))
def test_scipys_largest_matching_has_as_many_pairs_as_those_by_score(seed):
    predicted, truth = scattered(seed, 150, extent=50.0)
    scores = np.random.default_rng(seed).random(len(predicted))
    gained = matches_by_score(predicted, truth, scores=scores, radius=3.0)
    for threshold in np.linspace(0, 1, 30):
        kept = scores >= threshold
        near = csr_array(distances(predicted[kept], truth) <= 3.0)
        assert gained[kept].sum() == (maximum_bipartite_matching(near) >= 0).sum()


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, r"positive radius, got 0\.0"),
        ({"radius": np.inf}, "positive radius, got inf"),
        ({"radius": 1.0, "spacing": [1.0, 2.0, 3.0]}, r"one for each of 2 axes, got \[1\.0, 2\.0, 3\.0\]"),
        ({"radius": 1.0, "spacing": 0.0}, r"positive spacing.*got 0\.0"),
    ],
)
def test_radius_and_spacing_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        match_points(np.zeros((1, 2)), np.zeros((1, 2)), **options)


def test_points_without_a_place_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        match_points(np.array([[np.nan, 0.0]]), np.zeros((1, 2)), radius=1.0)


def test_images_that_do_not_fit_together_are_refused():
    one = [np.zeros((1, 2))]
    for *lists, scores in (([], [], None), (one, one * 2, None), (one, one, [])):
        with pytest.raises(ValueError, match="of the same images, one or more, got"):
            check_images(*lists, scores=scores)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_scores_of_another_number_than_the_points_are_refused(shape):
    # of fewer scores the last points would be left out
    points = np.zeros((2, 2))
    with pytest.raises(ValueError, match=re.escape(f"need one score for each predicted point, (2,), got {shape}")):
        matches_by_score(points, points, scores=np.ones(shape), radius=1.0)
    with pytest.raises(
        ValueError, match=re.escape(f"one score for each predicted point of image 1, (2,), got {shape}")
    ):
        check_images([points[:0], points], [points, points], scores=[np.zeros(0), np.ones(shape)])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("others", [np.zeros((1, 3)), np.zeros(2), np.zeros(0)])
def test_points_of_other_dimensions_are_not_matched(others):
    points = np.zeros((2, 2))
    for pair in ((points, others), (others, points)):
        shapes = re.escape(f"{pair[0].shape} and {pair[1].shape}")
        with pytest.raises(ValueError, match=rf"points are rows \(x, y\[, z\]\), got {shapes}"):
            match_points(*pair, radius=1.0)
        with pytest.raises(ValueError, match=rf"points of image 1 are rows \(x, y\[, z\]\), got {shapes}"):
            check_images([points, pair[0]], [points, pair[1]])


@pytest.mark.usefixtures("unchecked")
def test_lists_of_numbers_are_named():
    points = np.zeros((2, 2))
    for pair in (([[0, 1]], points), (points, [[0, 1]])):
        with pytest.raises(ValueError, match="points are in an array or tensor, got list"):
            match_points(*pair, radius=1.0)
    with pytest.raises(ValueError, match="scores of image 0 are in an array or tensor, got list"):
        check_images([points], [points], scores=[[0.5, 0.5]])


@pytest.mark.parametrize("pairs_at_once", [1, 7, 40])
def test_blocks_of_any_size_match_as_the_whole_does(monkeypatch, pairs_at_once):
    predicted, truth = scattered(3, 200, extent=120.0)
    scores = np.random.default_rng(0).random(len(predicted))
    options = {"radius": 4.0}
    monkeypatch.setattr(point_matching, "PAIRS_AT_ONCE", 10**9)
    whole = match_points(predicted, truth, **options)
    gained = matches_by_score(predicted, truth, scores=scores, **options)
    monkeypatch.setattr(point_matching, "PAIRS_AT_ONCE", pairs_at_once)
    parts = match_points(predicted, truth, **options)
    assert_array_equal(parts.predicted, whole.predicted)
    assert_array_equal(parts.truth, whole.truth)
    assert_array_equal(matches_by_score(predicted, truth, scores=scores, **options), gained)
