"""Box arithmetic: by hand, as a metric, and against pycocotools."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools import mask

from detect.ops.box_arrays import best_shape_iou, clip_boxes, count_values, shape_iou, xywh_to_xyxy, xyxy_to_xywh

sides = st.floats(1e-3, 1e4)
quarters = st.integers(-4000, 4000).map(lambda n: n / 4)  # sums and differences of these are exact


def shape_tables(columns: int = 2, most: int = 12) -> st.SearchStrategy:
    return st.integers(0, most).flatmap(lambda rows: arrays(float, (rows, columns), elements=sides))


def one_iou(shape: tuple[float, ...], other: tuple[float, ...]) -> float:
    return float(shape_iou(np.array([shape], float), np.array(other, float))[0])


@given(st.lists(st.one_of(st.integers(-9, 9), st.sampled_from([2**62, -(2**62)])), max_size=30))
def test_values_are_counted_in_rising_order(values):
    counted = count_values(np.array(values, np.int64))
    assert list(counted.items()) == sorted(Counter(values).items())


@given(arrays(float, (5, 4), elements=quarters))
def test_sizes_and_corners_are_each_others_inverse(boxes):
    assert_array_equal(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes)
    assert_array_equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_clipping_by_hand():
    boxes = np.array([[-5.0, 2, 8, 12], [3, 3, 4, 4], [12, 1, 15, 3], [-4, -4, -1, -1], [0, 0, 20, 10]])
    image_wh = np.tile([[20.0, 10.0]], (5, 1))
    image_wh[2] = [10, 10]
    expected = [[0, 2, 8, 10], [3, 3, 4, 4], [10, 1, 10, 3], [0, 0, 0, 0], [0, 0, 20, 10]]
    assert_array_equal(clip_boxes(boxes, image_wh), expected)


def test_iou_by_hand():
    # 6x4 = 24 and 3x8 = 24 share 3x4 = 12 of 36
    assert one_iou((6, 4), (3, 8)) == pytest.approx(12 / 36)
    # 2x2 in 4x4: 4 of 16
    assert one_iou((2, 2), (4, 4)) == pytest.approx(4 / 16)
    assert one_iou((7, 3), (7, 3)) == 1.0


def test_iou_of_other_dimensions_by_hand():
    assert one_iou((2,), (5,)) == pytest.approx(2 / 5)
    # 2x3x4 = 24 and 4x3x2 = 24 share 2x3x2 = 12 of 36
    assert one_iou((2, 3, 4), (4, 3, 2)) == pytest.approx(12 / 36)


@given(st.integers(1, 3).flatmap(lambda dimensions: arrays(float, (3, dimensions), elements=sides)))
def test_one_minus_iou_obeys_the_triangle_inequality(shapes):
    ab, bc, ac = (1 - one_iou(shapes[i], shapes[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert ac <= ab + bc + 1e-12


@given(st.tuples(sides, sides), st.tuples(sides, sides))
def test_iou_in_logs(a, b):
    # With the same signs one shape lies in the other: IoU = area / area. With different signs the intersection is
    # min w * min h, and the union over it is e^|dx| + e^|dy| - 1.
    dx, dy = math.log(a[0] / b[0]), math.log(a[1] / b[1])
    nested = abs(dx) + abs(dy)
    crossed = math.log(math.exp(abs(dx)) + math.exp(abs(dy)) - 1)
    assert_allclose(-math.log(one_iou(a, b)), nested if dx * dy >= 0 else crossed, rtol=1e-7, atol=1e-9)


@given(shape_tables(), st.tuples(sides, sides))
def test_pycocotools_finds_the_same_for_boxes_that_share_a_corner(shapes, other):
    corners = np.zeros(shapes.shape)
    theirs = mask.iou(np.concatenate([corners, shapes], axis=1), np.array([[0.0, 0.0, *other]]), [False])
    assert_allclose(shape_iou(shapes, np.array(other)), np.reshape(theirs, -1), rtol=1e-9)


@given(shape_tables(), shape_tables(most=6))
def test_the_best_is_what_a_plain_loop_finds(shapes, others):
    best, which = best_shape_iou(shapes, others)
    for row, (width, height) in enumerate(shapes):
        ious = []
        for other_width, other_height in others:
            shared = min(width, other_width) * min(height, other_height)
            ious.append(shared / (width * height + other_width * other_height - shared))
        if ious:
            assert_allclose(best[row], max(ious), rtol=1e-12)
            assert_allclose(ious[which[row]], max(ious), rtol=1e-12)


def test_the_first_of_equals_is_the_best():
    others = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [3.0, 3.0]])
    best, which = best_shape_iou(np.array([[2.0, 2.0], [3.0, 3.0]]), others)
    assert_array_equal(best, [0.5, 1.0])  # 2 of 4 for both of the halves
    assert_array_equal(which, [0, 2])


def test_empty_input_gives_empty_output():
    nothing = np.zeros((0, 4))
    for result in (xywh_to_xyxy(nothing), xyxy_to_xywh(nothing), clip_boxes(nothing, np.zeros((0, 2)))):
        assert result.shape == (0, 4)
    assert shape_iou(np.zeros((0, 2)), np.ones(2)).shape == (0,)
    best, which = best_shape_iou(np.zeros((0, 2)), np.ones((3, 2)))
    assert (best.shape, which.shape) == ((0,), (0,))


def test_without_others_nothing_overlaps():
    best, which = best_shape_iou(np.ones((2, 2)), np.zeros((0, 2)))
    assert_array_equal(best, [-1.0, -1.0])
    assert_array_equal(which, [0, 0])


def test_inputs_are_not_changed():
    boxes, image_wh = np.array([[-5.0, 2.0, 30.0, 40.0]]), np.array([[10.0, 10.0]])
    shapes, others = np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([[4.0, 3.0], [9.0, 9.0]])
    for inputs in (boxes, image_wh, shapes, others):
        inputs.flags.writeable = False
    xywh_to_xyxy(boxes)
    xyxy_to_xywh(boxes)
    clip_boxes(boxes, image_wh)
    shape_iou(shapes, others[0])
    best_shape_iou(shapes, others)
