"""The one convention of coordinates: by hand, there and back, its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.testing import assert_close

from detect.keypoints.coordinates import cells_to_image, image_to_cells


def test_cells_by_hand():
    # stride 4: pixels 0, 1, 2, 3 make cell 0, whose centre lies between pixels 1 and 2; pixel 4 is (4.5 / 4) - .5 = .625
    pixels = np.array([[0.0, 1.5], [4.0, 3.5]])
    assert_allclose(image_to_cells(pixels, 4), [[-0.375, 0.0], [0.625, 0.5]], rtol=0, atol=1e-15)
    # the same places in continuous pixels are half a pixel further
    assert_allclose(image_to_cells(pixels + 0.5, 4, pixel_origin="corner"), image_to_cells(pixels, 4), rtol=0, atol=0)


def test_a_stride_for_each_axis():
    points = torch.tensor([[3.0, 7.0, 1.0]])
    assert_close(image_to_cells(points, (1, 4, 0.5), pixel_origin="corner"), torch.tensor([[2.5, 1.25, 1.5]]))


@given(st.floats(-1e4, 1e4), st.floats(0.25, 64), st.sampled_from(["center", "corner"]))
def test_there_and_back(x, stride, pixel_origin):
    points = np.array([[x, -x]])
    back = cells_to_image(image_to_cells(points, stride, pixel_origin=pixel_origin), stride, pixel_origin=pixel_origin)
    assert_allclose(back, points, rtol=1e-12, atol=1e-10)


@given(st.floats(-100, 500), st.sampled_from([1, 2, 4, 8, 2.5]))
def test_a_mirrored_image_has_mirrored_cells(x, stride):
    width = 40 * stride  # pixel x becomes width - 1 - x, cell u becomes 39 - u
    mirrored = image_to_cells(np.array([[width - 1 - x, 0.0]]), stride)
    assert_allclose(mirrored[0, 0], 39 - image_to_cells(np.array([[x, 0.0]]), stride)[0, 0], rtol=0, atol=1e-9)


def test_no_points():
    assert image_to_cells(np.zeros((0, 2)), 4).shape == (0, 2)
    assert cells_to_image(torch.zeros(0, 3), (1, 2, 3)).shape == (0, 3)


def test_errors_name_what_was_given():
    points = np.zeros((1, 2))
    with pytest.raises(ValueError, match="center, corner, got 'centre'"):
        image_to_cells(points, 4, pixel_origin="centre")
    with pytest.raises(ValueError, match=r"2 axes, got \(1, 2, 3\)"):
        image_to_cells(points, (1, 2, 3))
    for stride in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="positive stride"):
            cells_to_image(points, stride)
