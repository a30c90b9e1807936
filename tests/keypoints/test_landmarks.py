"""The ragged container of points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from detect.keypoints.landmarks import VISIBLE, Landmarks


def test_images_of_any_number_of_points():
    landmarks = Landmarks.of([np.array([[1.0, 2.0]]), np.zeros((0, 2)), np.array([[3.0, 4.0], [5.0, 6.0]])])
    assert_array_equal(landmarks.points, [[1, 2], [3, 4], [5, 6]])
    assert_array_equal(landmarks.image, [0, 2, 2])
    assert_array_equal(landmarks.joint, [0, 0, 0])
    assert_array_equal(landmarks.visibility, [VISIBLE] * 3)
    assert (landmarks.num_images, landmarks.num_joints) == (3, 1)


def test_joints_of_instances_with_their_visibility():
    # two instances of three joints: x = instance, y = joint, visibility = joint
    table = np.array([[[i, j, j] for j in range(3)] for i in range(2)], float)
    landmarks = Landmarks.of([table])
    assert_array_equal(landmarks.joint, [0, 1, 2, 0, 1, 2])
    assert_array_equal(landmarks.points, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    assert_array_equal(landmarks.visibility, [0, 1, 2, 0, 1, 2])
    assert landmarks.num_joints == 3


def test_a_third_column_is_depth_in_a_volume_and_visibility_in_an_image():
    rows = np.array([[1.0, 2.0, 1.0]])
    assert_array_equal(Landmarks.of([rows]).visibility, [1])
    assert_array_equal(Landmarks.of([rows], dims=3).points, rows)


def test_tensors_stay_tensors():
    landmarks = Landmarks.of([torch.zeros(0, 2), torch.tensor([[1.0, 2.0]])])
    assert_close(landmarks.points, torch.tensor([[1.0, 2.0]]))
    assert_close(landmarks.image, torch.tensor([1]))
    assert_close(landmarks.visibility, torch.tensor([VISIBLE]))


def test_a_batch_without_points():
    landmarks = Landmarks.of([np.zeros((0, 2)), np.zeros((0, 2))])
    assert landmarks.points.shape == (0, 2)
    assert landmarks.num_images == 2


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="at least one image"):
        Landmarks.of([])
    with pytest.raises(ValueError, match=r"got \(2, 4\)"):
        Landmarks.of([np.zeros((2, 4))])
    with pytest.raises(ValueError, match=r"differ in landmark types: \[3, 2\]"):
        Landmarks.of([np.zeros((1, 3, 2)), np.zeros((1, 2, 2))])
