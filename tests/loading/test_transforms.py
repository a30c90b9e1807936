"""Coordinates of an image that is turned, cropped and resized, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from detect.data.resize import parse_resize
from detect.loading.transforms import Transform, box_areas, clip_to_window, resize_transform

BOXES = np.array([[1.0, 2.0, 4.0, 3.0], [0.0, 0.0, 8.0, 4.0]])


def test_a_pixel_index_is_scaled_about_the_edge_of_the_image_not_about_its_first_pixel():
    # pixel 1 covers [1, 2), its centre is 1.5; twice as large it is 3.0, which lies between the pixels of index 2 and 3
    twice = Transform((8, 8), (2.0, 2.0))
    assert_allclose(twice.apply_to_points(np.array([[1.0, 1.0]]), pixel_origin="center"), [[2.5, 2.5]], rtol=1e-12)
    assert_allclose(twice.apply_to_points(np.array([[1.0, 1.0]]), pixel_origin="corner"), [[2.0, 2.0]], rtol=1e-12)
    # mirrored in 8 columns pixel 0 is pixel 7, and the edge 0 is the edge 8
    mirrored = Transform((8, 8), (-1.0, 1.0), (8.0, 0.0))
    assert_allclose(mirrored.apply_to_points(np.array([[0.0, 3.0]]), pixel_origin="center"), [[7.0, 3.0]], rtol=1e-12)
    assert_allclose(mirrored.apply_to_points(np.array([[0.0, 3.0]]), pixel_origin="corner"), [[8.0, 3.0]], rtol=1e-12)


def test_a_mirrored_box_has_its_corners_in_order():
    # x: 8 - 4 = 4 to 8 - 1 = 7
    mirrored = Transform((8, 4), (-1.0, 1.0), (8.0, 0.0)).apply_to_boxes(BOXES)
    assert_allclose(mirrored, [[4, 2, 7, 3], [0, 0, 8, 4]], rtol=1e-12)


def test_a_swap_comes_before_the_factors():
    # (1, 2) -> (2, 1) -> (2 * 10 + 0, 1 * 1 + 5)
    transform = Transform((8, 4), (10.0, 1.0), (0.0, 5.0), swapped=True)
    assert_allclose(transform.apply_to_points(np.array([[1.0, 2.0]])), [[20.0, 6.0]], rtol=1e-12)
    assert_allclose(transform.invert_points(np.array([[20.0, 6.0]])), [[1.0, 2.0]], rtol=1e-12)


NUMBERS = st.floats(-100, 100)
FACTORS = st.floats(0.1, 10) | st.floats(-10, -0.1)
STEPS = st.tuples(st.tuples(FACTORS, FACTORS), st.tuples(NUMBERS, NUMBERS), st.booleans())


@given(steps=st.lists(STEPS, max_size=4), point=st.tuples(NUMBERS, NUMBERS))
def test_views_one_after_the_other_are_one_view_and_what_it_moves_it_restores(steps, point):
    points = np.array([point])
    transform, stepwise = Transform((640, 480)), points
    for scale_xy, offset_xy, swapped in steps:
        transform = transform.then(scale_xy, offset_xy, swapped=swapped)
        stepwise = Transform((1, 1), scale_xy, offset_xy, swapped).apply_to_points(stepwise)
    assert_allclose(transform.apply_to_points(points), stepwise, rtol=1e-9, atol=1e-6)
    for pixel_origin in ("center", "corner"):
        seen = transform.apply_to_points(points, pixel_origin=pixel_origin)
        assert_allclose(transform.invert_points(seen, pixel_origin=pixel_origin), points, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "rule", ["none", "stretch:320x200", "letterbox:416", "shortest:300:400", "shortest:300:400:mmdet"]
)
def test_a_resized_view_moves_boxes_as_the_rule_does(rule):
    image_wh = (641, 479)
    boxes_xywh = np.array([[10.0, 20.0, 30.0, 40.0], [600.0, 400.0, 41.0, 79.0]])
    transform = resize_transform(parse_resize(rule), image_wh)
    moved = transform.apply_to_boxes(np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1))
    assert_allclose(moved, parse_resize(rule).resize_boxes(boxes_xywh, np.array([image_wh] * 2)), rtol=1e-12)
    assert_allclose(transform.invert_boxes(moved)[:, 2:] - boxes_xywh[:, :2], boxes_xywh[:, 2:], rtol=1e-9)


def test_restored_boxes_end_at_the_image():
    # letterbox:64 of 100 x 50: factor .64, 16 rows above; (-1, 15, 65, 49) -> (-1.6, -1.6, 101.6, 51.6)
    transform = resize_transform(parse_resize("letterbox:64"), (100, 50))
    assert_allclose(transform.invert_boxes(np.array([[-1.0, 15.0, 65.0, 49.0]])), [[0, 0, 100, 50]], rtol=1e-12)


def test_of_a_box_outside_nothing_is_left():
    cut = clip_to_window(np.array([[-5.0, -5.0, 2.0, 3.0], [9.0, 1.0, 12.0, 2.0]]), (0.0, 0.0, 8.0, 4.0))
    assert_array_equal(cut, [[0, 0, 2, 3], [8, 1, 8, 2]])
    assert_array_equal(box_areas(cut), [6, 0])


def test_no_boxes_are_no_special_case():
    transform = Transform((8, 4), (-2.0, 1.0), (8.0, 0.0), swapped=True)
    none = np.zeros((0, 4))
    assert transform.apply_to_boxes(none).shape == transform.invert_boxes(none).shape == (0, 4)
