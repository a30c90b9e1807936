"""Weights of cells: regions, the surroundings of ignored points, the cells of drawn ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from detect.keypoints.pixel_weights import pixel_weights, set_own_cells
from detect.keypoints.placing import PlacedPoints

NOTHING = np.zeros((1, 1, 4, 6), np.float32)


def test_cells_that_a_region_touches_have_no_weight():
    # continuous pixels, stride 2: x from 3.9 to 8 touches cells 1, 2 and 3 and ends with the last of them; y 2 to 2.1 row 1
    weights = pixel_weights(NOTHING, [np.array([[3.9, 2.0, 8.0, 2.1]])], 2, "corner")
    assert_array_equal(weights[0, 0, 1], [1, 0, 0, 0, 1, 1])
    assert_array_equal(weights[0, 0, [0, 2, 3]], np.ones((3, 6)))


def test_regions_reach_beyond_the_map_and_may_be_empty():
    weights = pixel_weights(NOTHING, [np.array([[-9.0, -9.0, 1.0, 99.0], [20.0, 0.0, 30.0, 9.0]])], 1, "corner")
    assert_array_equal(weights[0, 0], [[0, 1, 1, 1, 1, 1]] * 4)
    for empty in (np.zeros((0, 4)), np.array([[3.0, 3.0, 2.0, 2.0]]), np.array([[-9.0, -9.0, -3.0, -3.0]])):
        assert_array_equal(pixel_weights(NOTHING, [empty], 1, "corner"), NOTHING + 1)


def test_regions_of_volumes():
    weights = pixel_weights(np.zeros((1, 2, 3, 4, 5), np.float32), [np.array([[1.0, 2, 0, 2, 4, 1]])], 1, "corner")
    assert_array_equal(np.argwhere(weights[0, 1] == 0), [[0, 2, 1], [0, 3, 1]])
    assert_array_equal(weights[:, 0], weights[:, 1])


def test_ignored_points_take_the_weight_around_them():
    ignored = NOTHING.copy()
    ignored[0, 0, 1, 2:4] = 0.3
    weights = pixel_weights(ignored, None, 1, "center")
    assert_array_equal(weights, ignored == 0)
    assert_close(pixel_weights(torch.from_numpy(ignored), None, 1, "center"), torch.from_numpy(weights), rtol=0, atol=0)


@pytest.mark.parametrize("tensor", [False, True])
def test_the_largest_weight_of_the_points_in_a_cell_is_its_own(tensor):
    placed = PlacedPoints.of([np.array([[2.0, 1.0], [2.2, 0.9], [5.0, 3.0]])], (4, 6), 1)
    weights = torch.zeros(1, 1, 4, 6) if tensor else np.zeros((1, 1, 4, 6), np.float32)
    set_own_cells(weights, placed, np.arange(3), np.array([3.0, 0.5, 0.25], np.float32))
    expected = np.zeros((4, 6))
    expected[1, 2], expected[3, 5] = 3, 0.25
    assert_array_equal(np.asarray(weights)[0, 0], expected)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="each of 1 images, got 2"):
        pixel_weights(NOTHING, [np.zeros((0, 4))] * 2, 1, "corner")
    with pytest.raises(ValueError, match=r"\(r, 4\), got \(1, 5\)"):
        pixel_weights(NOTHING, [np.zeros((1, 5))], 1, "corner")
