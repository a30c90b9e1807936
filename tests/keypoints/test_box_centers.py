"""Boxes as one landmark each."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from detect.keypoints.box_centers import iou_radius, render_box_centers, sigma_from_radius, sigma_from_size
from detect.keypoints.coordinates import cells_to_image


def boxes_of(targets, stride=4):
    """Back to boxes, from the cells, offsets and sizes of positives."""
    centers = cells_to_image(targets.positives[:, :1:-1] + targets.offsets.astype(float), stride, pixel_origin="corner")
    half = targets.sizes.astype(float) * stride / 2
    return np.concatenate([centers - half, centers + half], axis=1)


def test_a_box_by_hand():
    # x 8 to 24, y 4 to 12: centre (16, 8) px is (16 / 4 - .5, 8 / 4 - .5) = (3.5, 1.5), in cell (4, 2) by (-.5, -.5)
    targets = render_box_centers([np.array([[8.0, 4.0, 24.0, 12.0]])], (32, 40))
    assert_array_equal(targets.positives, [[0, 0, 2, 4]])
    assert_array_equal(targets.offsets, [[-0.5, -0.5]])
    assert_array_equal(targets.sizes, [[4.0, 2.0]])
    # a least radius of 1: sigma (2 + 1) / 6 = .5, and (.5^2 + .5^2) / (2 .25) = 1
    assert_allclose(targets.heatmaps[0, 0, 1:3, 3:5], np.full((2, 2), np.exp(-1)), rtol=1e-6)


def test_the_gaussian_of_a_large_box_follows_its_radius():
    size, (height, width) = 240.0, (256, 256)
    for rule in ("corrected", "centernet"):
        targets = render_box_centers([np.array([[10.0, 10.0, 10 + size, 10 + size]])], (height, width), rule=rule)
        sigma = (2 * iou_radius(np.array([[60.0, 60.0]]), rule=rule)[0] + 1) / 6
        _, _, row, column = targets.positives[0]
        dx, dy = targets.offsets[0].astype(float)
        expected = np.exp(-(dx**2 + (dy - 1) ** 2) / (2 * sigma**2))
        assert_allclose(targets.heatmaps[0, 0, row + 1, column], expected, rtol=1e-5)


def test_classes_have_their_own_channel_and_images_their_own_map():
    boxes = [np.array([[0.0, 0, 8, 8], [8, 0, 16, 8]]), np.array([[0.0, 8, 8, 16]])]
    targets = render_box_centers(boxes, (16, 16), classes=[np.array([2, 0]), np.array([2])], num_classes=3)
    assert_array_equal(targets.counts, [[1, 0, 1], [0, 0, 1]])
    assert_array_equal(targets.positives, [[0, 2, 1, 1], [0, 0, 1, 3], [1, 2, 3, 1]])


def test_crowd_regions_are_not_drawn_and_have_no_weight():
    boxes = [np.array([[0.0, 0, 32, 16], [4, 4, 12, 12], [40, 4, 48, 12]])]
    targets = render_box_centers(boxes, (32, 64), crowd=[np.array([True, False, False])])
    assert_array_equal(targets.positives, [[0, 0, 2, 2], [0, 0, 2, 11]])  # centres 8, 44: cells 1.5, 10.5
    expected = np.ones((8, 16))
    expected[:4, :8] = 0  # the region, 8 cells wide and 4 high
    expected[2, 2] = 1  # what is labelled in it still counts
    assert_array_equal(targets.weights[0, 0], expected)
    assert_array_equal(targets.instances, [0, 1])


def test_boxes_are_cut_to_their_image_and_those_outside_counted():
    boxes = [np.array([[-8.0, 0, 8, 8], [40, 0, 60, 8], [9, 9, 9, 12]])]
    targets = render_box_centers(boxes, (16, 32))
    assert_array_equal(targets.counts, [[1]])
    assert_array_equal(targets.outside, [[2]])
    assert_array_equal(targets.point_weights, [1, 0, 0])
    assert_array_equal(boxes_of(targets), [[0, 0, 8, 8]])


@given(st.lists(st.tuples(*[st.floats(0, 90)] * 2, *[st.floats(1, 40)] * 2), max_size=8), st.sampled_from([1, 4, 8]))
def test_boxes_come_back_from_cells_offsets_and_sizes(rows, stride):
    table = np.array(rows, float).reshape(-1, 4)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], axis=1)
    targets = render_box_centers([boxes], (136, 136), stride=stride)
    assert_array_equal(targets.counts, [[len(boxes)]])
    assert_allclose(boxes_of(targets, stride), boxes, rtol=1e-5, atol=1e-4)


def test_tensors_and_arrays_give_the_same():
    boxes, crowd = torch.tensor([[0.0, 0, 30, 17], [4, 4, 12, 12]]), torch.tensor([False, True])
    ours = render_box_centers([boxes], (32, 64), crowd=[crowd])
    reference = render_box_centers([boxes.numpy()], (32, 64), crowd=[crowd.numpy()])
    for name in ("heatmaps", "weights", "positives", "offsets", "sizes"):
        assert_close(getattr(ours, name), torch.from_numpy(getattr(reference, name)), rtol=0, atol=0)


def test_images_without_boxes():
    targets = render_box_centers([np.zeros((0, 4)), np.zeros((0, 4))], (16, 16), crowd=[np.zeros(0, bool)] * 2)
    assert_array_equal(targets.heatmaps, np.zeros((2, 1, 4, 4)))
    assert targets.sizes.shape == (0, 2)


def test_errors_name_what_was_given():
    boxes = [np.array([[0.0, 0, 8, 8]])]
    with pytest.raises(ValueError, match=r"classes are one for each box, \[\(1,\)\] for each image, got \[\(2,\)\]"):
        render_box_centers(boxes, (16, 16), classes=[np.array([0, 0])])
    with pytest.raises(ValueError, match="keypoint type 1 among the points, but there are 1"):
        render_box_centers(boxes, (16, 16), classes=[np.array([1])])
    with pytest.raises(ValueError, match="rule='fixed'"):
        render_box_centers(boxes, (16, 16), rule="fixed")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong", [[8.0, 4.0, 4.0, 8.0], [4.0, 8.0, 8.0, 4.0], [0.0, np.nan, 8.0, 8.0], [0.0, 0.0, np.inf, 8.0]]
)
def test_a_box_that_is_turned_over_or_not_finite_is_named_by_image_and_row(wrong):
    # it would be counted as outside, as one that is x, y, width, height mostly is
    boxes = [np.zeros((0, 4)), np.array([[0.0, 0.0, 8.0, 8.0], wrong])]
    message = rf"boxes of image 1: row 1 is {re.escape(str(wrong))}, need finite corners, the lower ones first"
    with pytest.raises(ValueError, match=message):
        render_box_centers(boxes, (16, 16))


@pytest.mark.usefixtures("unchecked")
def test_boxes_of_another_shape_are_named_by_image():
    for wrong in (np.zeros(4), np.zeros((2, 8)), np.zeros((4, 2))):
        with pytest.raises(ValueError, match=rf"boxes of image 1 are \(n, 4\), got {re.escape(str(wrong.shape))}"):
            render_box_centers([np.zeros((0, 4)), wrong], (16, 16))
    assert render_box_centers([np.zeros(0)], (16, 16)).counts.tolist() == [[0]]


GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["gaussian_radius_min_overlap_0.7"]


def test_a_square_by_hand():
    # both corners inside is the worst case: (s - 2 r)^2 / s^2 = o, so r = s (1 - sqrt(o)) / 2; o = .64: r = s / 10
    assert_allclose(iou_radius(np.array([[10.0, 10.0], [30.0, 30.0]]), min_overlap=0.64), [1.0, 3.0], rtol=1e-12)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['h']}x{row['w']}")
def test_radii_of_the_reference(row):
    sizes = np.array([[row["h"], row["w"]]], float)
    assert_allclose(iou_radius(sizes, rule="centernet"), [row["centernet_buggy"]], rtol=0, atol=1e-6)
    assert_allclose(iou_radius(sizes), [row["corrected"]], rtol=0, atol=1e-6)


@given(st.floats(1, 200), st.floats(1, 200), st.floats(0.05, 0.95))
def test_corners_a_radius_off_leave_the_overlap_asked_for_and_no_more(width, height, min_overlap):
    radius = iou_radius(np.array([[width, height]]), min_overlap=min_overlap)[0]

    def iou(first: float, second: float) -> float:
        """Corners moved by these, along both axes: into the box if positive, out of it if negative."""
        x0, x1, y0, y1 = first, width - second, first, height - second
        inner = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
        return inner / (width * height + (x1 - x0) * (y1 - y0) - inner)

    worst = min(iou(radius, radius), iou(-radius, -radius), iou(radius, -radius))
    assert_allclose(worst, min_overlap, rtol=0, atol=1e-6)


def test_fault_the_radius_that_is_shipped_elsewhere_leaves_an_overlap_of_a_fifth():
    radius = iou_radius(np.array([[1.0, 1.0]]), rule="centernet")[0]
    assert_allclose((1 - 2 * radius) ** 2, 0.2056, rtol=0, atol=1e-4)  # .7 was asked for
    assert_allclose(radius / iou_radius(np.array([[1.0, 1.0]]))[0], 3.347, rtol=0, atol=1e-3)


def test_sigma_of_a_radius():
    assert_allclose(sigma_from_radius(np.array([0.0, 1.0, 2.5])), [1 / 6, 1 / 2, 1.0])


def test_sigma_of_a_size_is_its_share_in_cells():
    # .09 * 100 / 4 = 2.25, .09 * 20 / 4 = .45 raised to 1
    assert_allclose(sigma_from_size(np.array([[100.0, 20.0]])), [[2.25, 1.0]])
    assert_allclose(sigma_from_size(np.array([[8.0, 8.0, 4.0]]), stride=1, fraction=0.5), [[4.0, 4.0, 2.0]])


def test_no_boxes():
    assert iou_radius(np.zeros((0, 2))).shape == (0,)
    assert sigma_from_size(np.zeros((0, 3))).shape == (0, 3)


def test_errors_name_what_was_given_radius():
    sizes = np.array([[1.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"\[1.0, 0.0\] in row 1"):
        iou_radius(sizes)
    with pytest.raises(ValueError, match=r"\[1.0, nan\] in row 0"):
        sigma_from_size(np.array([[1.0, math.nan]]))
    with pytest.raises(ValueError, match=r"min_overlap=1.0"):
        iou_radius(sizes[:1], min_overlap=1.0)
    with pytest.raises(ValueError, match="rule='cornernet'"):
        iou_radius(sizes[:1], rule="cornernet")
    with pytest.raises(ValueError, match=r"fraction=0.0"):
        sigma_from_size(sizes[:1], fraction=0.0)
