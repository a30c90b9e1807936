"""Points by image and type: distances in the unit of the spacing, and scores at several radii."""

from __future__ import annotations

import numpy as np
import pytest

from detect.evaluation.point_results import PointResults, score_radii

# of two images and two types: (image 0, type 0), (0, 1), (1, 0), (1, 1)
TRUTH = [np.array([[0.0, 0.0, 0.0]]), np.zeros((0, 3)), np.array([[5.0, 5.0, 5.0]]), np.array([[1.0, 1.0, 1.0]])]
FOUND = [np.array([[1.0, 0.0, 0.0]]), np.zeros((0, 3)), np.array([[5.0, 5.0, 6.0]]), np.zeros((0, 3))]
RESULTS = PointResults(
    FOUND, TRUTH, [np.ones(len(each)) for each in FOUND], 2, 0, (), spacing=(0.1, 0.1, 0.5), unit="um"
)


def test_distances_are_in_the_unit_of_the_spacing():
    # a pixel along x is .1, a slice .5: within .2 one pair of two, within .6 both
    assert [RESULTS.score(radius, None).num_matched for radius in (0.2, 0.6)] == [1, 2]
    assert RESULTS.score(0.6, None).error.mean == pytest.approx(0.3)
    assert RESULTS.curve(0.2).at == "within 0.2 um"
    assert RESULTS.curve(0.2).recall.tolist() == [pytest.approx(1 / 3)]


def test_scores_at_each_radius_over_all_types_and_of_each():
    overall, by_type = score_radii([(0.2, RESULTS), (0.6, RESULTS)], ["a", "b"], threshold=None, num_images=2)
    assert [(each.num_matched, each.num_truth, each.num_images) for each in overall] == [(1, 3, 2), (2, 3, 2)]
    assert {name: [each.num_matched for each in own] for name, own in by_type.items()} == {"a": [1, 2], "b": [0, 0]}
    assert [own[0].num_truth for own in by_type.values()] == [2, 1]
    assert len(RESULTS.curves(0.6, ["a", "b"])) == 3
    assert len(RESULTS.of_type(0).curves(0.6, ["a"])) == 1
