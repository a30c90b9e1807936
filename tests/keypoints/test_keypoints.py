"""The ragged container of points."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from detect.keypoints.keypoints import VISIBLE, Keypoints, by_group


def test_images_of_any_number_of_points():
    landmarks = Keypoints.of([np.array([[1.0, 2.0]]), np.zeros((0, 2)), np.array([[3.0, 4.0], [5.0, 6.0]])])
    assert_array_equal(landmarks.points, [[1, 2], [3, 4], [5, 6]])
    assert_array_equal(landmarks.image, [0, 2, 2])
    assert_array_equal(landmarks.types, [0, 0, 0])
    assert_array_equal(landmarks.visibility, [VISIBLE] * 3)
    assert (landmarks.num_images, landmarks.num_types) == (3, 1)


def test_types_of_instances_with_their_visibility():
    # two instances of three keypoints: x = instance, y = type, visibility = type
    table = np.array([[[i, j, j] for j in range(3)] for i in range(2)], float)
    landmarks = Keypoints.of([table])
    assert_array_equal(landmarks.types, [0, 1, 2, 0, 1, 2])
    assert_array_equal(landmarks.points, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    assert_array_equal(landmarks.visibility, [0, 1, 2, 0, 1, 2])
    assert landmarks.num_types == 3


def test_a_third_column_is_depth_in_a_volume_and_visibility_in_an_image():
    rows = np.array([[1.0, 2.0, 1.0]])
    assert_array_equal(Keypoints.of([rows]).visibility, [1])
    assert_array_equal(Keypoints.of([rows], dims=3).points, rows)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="at least one image"):
        Keypoints.of([])
    with pytest.raises(ValueError, match=r"got \(2, 4\)"):
        Keypoints.of([np.zeros((2, 4))])
    with pytest.raises(ValueError, match=r"differ in keypoint types: \[3, 2\]"):
        Keypoints.of([np.zeros((1, 3, 2)), np.zeros((1, 2, 2))])


@pytest.mark.parametrize("name", ["image", "types", "visibility"])
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_columns_of_another_length_than_the_points_are_refused(name, shape):
    columns = {each: np.zeros(3, int) for each in ("image", "types", "visibility")} | {name: np.zeros(shape, int)}
    message = f"need one value of {name} for each point, (3,), got {shape}"
    for points, convert in ((np.zeros((3, 2)), np.asarray), (torch.zeros(3, 2), torch.from_numpy)):
        with pytest.raises(ValueError, match=re.escape(message)):
            Keypoints(points, **{each: convert(np.array(column)) for each, column in columns.items()}, num_images=1)


@pytest.mark.parametrize("value", [0.87, -1.0, 3.0, float("nan")])
def test_a_score_in_place_of_a_visibility_is_refused(value):
    with pytest.raises(ValueError, match=rf"keypoint 1 has visibility {value:g}, not 0, 1 or 2"):
        Keypoints.of([np.array([[1.0, 2.0, 2.0], [3.0, 4.0, value]])])


def test_groups_keep_their_order():
    values, groups = np.arange(6), np.array([2, 0, 2, 3, 0, 2])
    for got, expected in zip(by_group(values, groups, 5), [[1, 4], [], [0, 2, 5], [3], []], strict=True):
        assert_array_equal(got, expected)


def test_labelled_points_come_per_image_and_type():
    # visibility 0 is no truth, 1 (occluded) is; types vary fastest
    table = np.array([[[1.0, 2.0, 2.0], [3.0, 4.0, 1.0]], [[5.0, 6.0, 0.0], [7.0, 8.0, 2.0]]])
    for images in ([table, np.zeros((0, 2, 3))], [torch.from_numpy(table), torch.zeros(0, 2, 3)]):
        groups = Keypoints.of(images).per_image()
        assert [own.tolist() for own in groups] == [[[1, 2]], [[3, 4], [7, 8]], [], []]


def test_angles_are_one_for_each_point():
    with pytest.raises(ValueError, match=r"one value of angles for each point, \(2,\), got \(1,\)"):
        replace(Keypoints.of([np.zeros((2, 2))]), angles=np.zeros(1))
