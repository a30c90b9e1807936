"""Radii: by hand, against the two overlaps themselves, as shipped elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.keypoints.radius import iou_radius, sigma_from_radius, sigma_from_size

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


def test_errors_name_what_was_given():
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
