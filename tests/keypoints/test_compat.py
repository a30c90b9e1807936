"""Other systems' target maps: their own numbers, and each of their faults under their name, and not in ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from detect.keypoints.compat import CODECS, cells_to_image_as, image_to_cells_as, render_as
from detect.keypoints.coordinates import cells_to_image, image_to_cells
from detect.keypoints.drawing import map_size
from detect.keypoints.targets import render_heatmaps

CASES = json.loads((Path(__file__).parent / "golden.json").read_text())["cases"]
NAMES = {"mmpose_msra": "mmpose-msra", "mmpose_udp": "mmpose-udp", "mmpose_unbiased": "mmpose-unbiased"}


def case_name(case):
    return f"{case['name']}-{case.get('sigma', case.get('radius'))}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_maps_of_the_reference(case):
    codec = next((name for prefix, name in NAMES.items() if case["name"].startswith(prefix)), "centernet")
    options = {"sigma": case["sigma"]} if "sigma" in case else {"radius": case["radius"]}
    targets = render_as(codec, [np.array(case["points"])], (10, 12), stride=1, **options)
    assert_allclose(targets.heatmaps[0, 0], case["heatmap"], rtol=0, atol=1e-6)
    assert_array_equal(targets.point_weights, [1.0] * len(case["points"]))


def test_tensors_and_arrays_give_the_same():
    points = torch.tensor([[[3.4, 4.6, 2.0], [8.5, 7.5, 0.0]], [[11.0, 2.0, 1.0], [1.0, 1.0, 2.0]]])
    for codec in CODECS:
        ours = render_as(codec, [points], (20, 24), stride=2)
        reference = render_as(codec, [points.numpy()], (20, 24), stride=2)
        assert ours.heatmaps.shape == (1, 2, 10, 12)
        assert_close(ours.heatmaps, torch.from_numpy(reference.heatmaps), rtol=0, atol=0)
        assert_close(ours.point_weights, torch.tensor([1.0, 0.0, 1.0, 1.0]))


def test_a_radius_for_each_point():
    targets = render_as("centernet", [np.array([[1.0, 0.0], [5.0, 0.0]])], (1, 8), stride=1, radius=np.array([0, 1]))
    assert_array_equal(targets.heatmaps[0, 0, 0] > 0, [0, 1, 0, 0, 1, 1, 1, 0])


def test_an_image_without_points():
    for codec in CODECS:
        targets = render_as(codec, [np.zeros((0, 2))], (8, 8))
        assert_array_equal(targets.heatmaps, np.zeros((1, 1, 2, 2)))
        assert targets.point_weights.shape == (0,)


def test_errors_name_what_was_given():
    points = [np.array([[1.0, 1.0]])]
    with pytest.raises(ValueError, match=r"mmpose-msra, mmpose-udp, mmpose-unbiased, centernet, got 'msra'"):
        render_as("msra", points, (8, 8))
    with pytest.raises(ValueError, match=r"sigma=0.0"):
        render_as("mmpose-msra", points, (8, 8), sigma=0.0)
    with pytest.raises(ValueError, match="radius=-1"):
        render_as("centernet", points, (8, 8), radius=-1)


def peak_of(heatmaps):
    row, column = np.unravel_index(np.argmax(heatmaps[0, 0]), heatmaps.shape[2:])
    return [int(column), int(row)]


def drawn_and_weight(points, codec=None, **options):
    if codec:
        targets = render_as(codec, [np.array(points)], (20, 24), stride=1, **options)
    else:
        targets = render_heatmaps([np.array(points)], (20, 24), stride=1, **options)
    return bool((targets.heatmaps > 0).any()), targets.point_weights.tolist()


@pytest.mark.parametrize("sigma", [1.5, 2.5])
def test_fault_1_a_window_of_broken_cells_moves_no_gaussian_at_the_border(sigma):
    points = [np.array([[2.0, 10.0]])]
    assert peak_of(render_as("mmpose-msra", points, (20, 24), stride=1, sigma=sigma).heatmaps) == [3, 10]
    at_border = render_heatmaps(points, (20, 24), stride=1, sigma=sigma).heatmaps
    assert peak_of(at_border) == [2, 10]
    inside = render_heatmaps([points[0] + [9.0, 0.0]], (20, 24), stride=1, sigma=sigma).heatmaps
    assert_array_equal(at_border[..., :14], inside[..., 9:23])


@pytest.mark.parametrize("x", [-1.4, -0.9, -0.51])
def test_fault_2_a_point_outside_is_not_drawn_in_the_first_cell(x):
    assert drawn_and_weight([[x, 5.0]], "mmpose-msra") == (True, [1.0])
    assert peak_of(render_as("mmpose-msra", [np.array([[x, 5.0]])], (20, 24), stride=1).heatmaps) == [0, 5]
    assert drawn_and_weight([[x, 5.0]]) == (False, [0.0])


@pytest.mark.parametrize("x", [-7.6, -8.0])
def test_fault_3_a_point_of_which_nothing_is_drawn_has_no_weight(x):
    assert drawn_and_weight([[x, 5.0]], "mmpose-msra") == (False, [1.0])
    assert drawn_and_weight([[x, 5.0]]) == (False, [0.0])


def test_fault_4_points_come_back_where_they_were():
    points, image_hw = np.array([[191.0, 255.0], [100.0, 3.0]]), (256, 192)
    map_hw = map_size(image_hw, 4)[::-1]
    back = cells_to_image_as("mmpose-udp", image_to_cells_as("mmpose-udp", points, image_hw, map_hw), image_hw, map_hw)
    assert_allclose(back / points, [[192 / 191, 256 / 255]] * 2, rtol=1e-6)
    assert_allclose(cells_to_image(image_to_cells(points, 4), 4), points, rtol=1e-12)
    targets = render_heatmaps([points], image_hw)
    cells = targets.positives[:, :1:-1] + targets.offsets
    assert_allclose(cells_to_image(cells, 4), points, rtol=1e-6)


def test_fault_5_nothing_is_truncated_toward_zero_and_axes_are_not_swapped():
    assert drawn_and_weight([[-0.9, 5.0]], "centernet") == (True, [1.0])
    assert drawn_and_weight([[-0.9, 5.0]]) == (False, [0.0])
    far_right = render_heatmaps([np.array([[23.0, 4.0]])], (20, 24), stride=1)  # a column that is no row
    assert peak_of(far_right.heatmaps) == [23, 4]
    assert drawn_and_weight([[4.0, 23.0]]) == (False, [0.0])
