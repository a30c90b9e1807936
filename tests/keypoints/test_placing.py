"""Which cell of which map a point belongs to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from detect.keypoints.landmarks import Landmarks
from detect.keypoints.placing import PlacedPoints, along_axes, map_size


def test_maps_cover_their_image():
    assert map_size((480, 640), 4) == (160, 120)
    assert map_size((481, 637), 4) == (160, 121)  # 120.25 rows are 121
    assert map_size((5, 7), 16) == (1, 1)
    assert map_size((10, 20, 30), (3, 2, 1)) == (10, 10, 10)


def test_cells_reach_half_a_cell_to_each_side():
    x = np.array([-0.5, -0.500001, 0.5, 0.499999, 7.499999, 7.5, math.nan])
    points = np.stack([x, np.zeros(7)], axis=1)
    placed = PlacedPoints.of([points], (1, 8), 1)
    assert_array_equal(placed.inside(), [1, 0, 1, 1, 1, 0, 0])
    assert_array_equal(placed.nearest(np.flatnonzero(placed.inside()))[:, 0], [0, 1, 0, 7])


def test_the_last_cell_before_the_edge_of_a_map_of_one_cell():
    # .49999999999999994 + .5 is 1 in floating point, and there is no cell 1
    row = np.zeros(1, np.int64)
    placed = PlacedPoints(np.array([[math.nextafter(0.5, 0), 0.0]]), row, row, row, 1, 1, (1, 1))
    assert_array_equal(placed.inside(), [1])
    assert_array_equal(placed.nearest(np.array([0])), [[0, 0]])


def test_one_number_for_each_point_and_axis():
    assert_array_equal(along_axes(2.0, (2, 2), "sigma"), [[2, 2], [2, 2]])
    assert_array_equal(along_axes((1.0, 3.0), (2, 2), "sigma"), [[1, 3], [1, 3]])
    assert_array_equal(along_axes(np.array([1.0, 3.0]), (2, 2), "sigma"), [[1, 1], [3, 3]])
    assert_array_equal(along_axes(torch.tensor([[1.0, 3.0]]), (1, 2), "sigma"), [[1, 3]])
    assert along_axes(np.zeros((0, 2)), (0, 2), "sigma").shape == (0, 2)


def test_errors_name_what_was_given():
    with pytest.raises(
        ValueError, match=r"sigma is a number, a tuple of 2, or an array \(3, 2\) or \(3,\), got \(2,\)"
    ):
        along_axes(np.ones(2), (3, 2), "sigma")
    with pytest.raises(ValueError, match=r"positive and finite, got -1.0"):
        along_axes((1.0, -1.0), (3, 2), "sigma")
    with pytest.raises(ValueError, match=r"got \(8, 8\) and \(1, 3\)"):
        PlacedPoints.of(Landmarks.of([np.zeros((1, 3))], dims=3), (8, 8), 1)
    columns = np.zeros((1, 2)), np.array([2]), np.array([0]), np.array([2])
    with pytest.raises(ValueError, match="image 2 among the points, but there are 2"):
        PlacedPoints.of(Landmarks(*columns, num_images=2), (8, 8), 1)
    with pytest.raises(ValueError, match="joint 2 among the points, but there are 1"):
        PlacedPoints.of(Landmarks(columns[0], columns[2], columns[1], columns[3], num_images=1), (8, 8), 1)


def test_counts_are_of_each_map():
    points = np.zeros((3, 2, 2))
    placed = PlacedPoints.of([points, points[:0]], (8, 8), 1)
    assert_array_equal(placed.count(np.array([1, 0, 1, 1, 1, 0], bool)), [[3, 1], [0, 0]])
    assert_allclose(placed.cells, np.zeros((6, 2)))
