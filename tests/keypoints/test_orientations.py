"""Angles from heads and tails, as a network learns them, and read from its maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from detect.keypoints.keypoints import Keypoints
from detect.keypoints.orientations import PER_TURN, angles_between, directions, in_degrees, read_angles
from detect.keypoints.targets import render_heatmaps

ANY = st.floats(-20, 20)


def test_a_head_to_the_right_is_0_degrees_below_it_90_and_above_it_minus_90():
    tails = np.tile([[5.0, 7.0]], (5, 1))
    heads = tails + np.array([[2.0, 0], [0, 3], [0, -3], [-4, 0], [1, 1]])
    assert_allclose(np.rad2deg(angles_between(tails, heads)), [0, 90, -90, 180, 45])
    assert_array_equal(in_degrees(angles_between(tails, heads), "axis"), [0, 90, 90, 0, 45])


def test_one_point_as_head_and_tail_has_no_angle():
    assert_array_equal(angles_between(np.ones((1, 2)), np.ones((1, 2))), [np.nan])
    assert angles_between(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)


@given(ANY)
def test_degrees_stay_in_their_range_and_mean_the_same_direction(angle):
    directed, axis = (in_degrees(np.array([angle]), each)[0] for each in PER_TURN)
    assert -180 <= directed < 180
    assert 0 <= axis < 180
    assert_allclose(directions(np.deg2rad([directed])), directions(np.array([angle])), atol=1e-9)
    assert_allclose(directions(np.deg2rad([2 * axis])), directions(np.array([2 * angle])), atol=1e-9)


def test_tiny_negative_angles_do_not_reach_the_end_of_the_range():
    assert_array_equal(in_degrees(np.array([-1e-20]), "axis"), [0])
    assert_array_equal(in_degrees(np.array([np.pi, -np.pi]), "directed"), [-180, -180])


@pytest.mark.parametrize("orientation", PER_TURN)
def test_targets_are_read_back(orientation):
    """To 1e-4 rad, at points anywhere in cells three apart, up to the map's edges."""
    random = np.random.default_rng(0)
    points = np.stack(np.mgrid[0:60:12, 0:48:12], axis=-1).reshape(-1, 2) + random.uniform(-0.5, 3.5, (20, 2))
    angles = random.uniform(-np.pi, np.pi, 20)
    drawn = render_heatmaps(Keypoints.of([points]), (48, 60), stride=4, angles=PER_TURN[orientation] * angles)
    assert len(drawn.positives) == 20
    maps = np.zeros((1, 2, 12, 15), np.float32)
    rows, columns = drawn.positives[:, 2:].T
    maps[0][:, rows, columns] = drawn.orientations.T
    found = read_angles(maps, (points - 1.5) / 4, image=np.zeros(20, np.int64), orientation=orientation)
    difference = np.rad2deg(found - angles) % (360 / PER_TURN[orientation])
    assert_allclose(np.minimum(difference, 360 / PER_TURN[orientation] - difference), 0, atol=np.rad2deg(1e-4))


def test_between_cells_directions_are_mixed_by_distance():
    """Right and down: 1 and 3 quarters of the way make atan(1 / 3) and atan(3)."""
    maps = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None]
    cells = torch.tensor([[0.25, 0.0], [0.75, 0.0], [0.0, 0.0], [1.0, 0.0]])
    found = read_angles(maps, cells, image=torch.zeros(4, dtype=torch.int64), orientation="directed")
    assert_close(found, torch.tensor([np.arctan(1 / 3), np.arctan(3), 0, np.pi / 2]).float())


def test_a_point_beside_the_map_takes_the_cell_at_its_edge():
    maps = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    cells, image = torch.tensor([[-0.9, 1.0], [4.9, 3.0]]), torch.tensor([1, 0])
    found = read_angles(maps, cells, image=image, orientation="directed")
    sines, cosines = (torch.stack([maps[1, axis, 1, 0], maps[0, axis, 2, 4]]) for axis in (1, 0))
    assert_close(found, sines.atan2(cosines))
