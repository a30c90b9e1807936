"""Peaks of one length for every image are those that find_peaks finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detect import Keypoints, render_heatmaps
from detect.keypoints.padded_peaks import PaddedPeaks, find_padded_peaks
from detect.keypoints.peaks import find_peaks


def rough_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    """Noise with maxima everywhere, at the borders and next to each other too."""
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def assert_same_points(heatmaps: torch.Tensor, found: PaddedPeaks, threshold: float) -> None:
    wanted = find_peaks(heatmaps, threshold=threshold)
    assert found.valid.sum() == len(wanted.scores)
    for image, valid in enumerate(found.valid):
        for kind in range(heatmaps.shape[1]):
            rows = (wanted.image == image) & (wanted.types == kind)
            own = valid & (found.types[image] == kind)
            assert_close(found.scores[image, own], wanted.scores[rows], rtol=0, atol=0)
            assert_close(found.cells[image, own], wanted.cells[rows], rtol=0, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8])
def test_all_points_of_rough_maps_are_found_where_find_peaks_finds_them(threshold):
    heatmaps = rough_maps(2, 3, 40, 50)
    assert_same_points(heatmaps, find_padded_peaks(heatmaps, threshold=threshold, max_peaks=2000), threshold)


def test_overlapping_gaussians_at_the_border_are_found():
    points = [np.array([[0.0, 5.0], [20.5, 9.0], [29.0, 9.2], [61.0, 30.7]]), np.array([[11.0, 7.0]])]
    heatmaps = torch.from_numpy(render_heatmaps(Keypoints.of(points), (32, 64), stride=2, sigma=2.0).heatmaps)
    found = find_padded_peaks(heatmaps, threshold=0.3, max_peaks=10)
    assert found.valid.sum(dim=1).tolist() == [4, 1]
    assert_same_points(heatmaps, found, 0.3)
    assert_close(2 * found.cells[1, 0].double() + 0.5, torch.tensor([11.0, 7.0]).double(), rtol=0, atol=1e-3)


def test_only_the_highest_points_of_an_image_are_kept_in_falling_order():
    heatmaps = rough_maps(2, 2, 30, 30)
    every = find_padded_peaks(heatmaps, threshold=0.2, max_peaks=900)
    few = find_padded_peaks(heatmaps, threshold=0.2, max_peaks=7)
    assert few.valid.all()
    assert (few.scores.diff(dim=1) <= 0).all()
    assert_close(few.cells, every.cells[:, :7], rtol=0, atol=0)


def test_a_map_without_points_and_a_small_map_give_rows_that_are_not_valid():
    flat = find_padded_peaks(torch.zeros(1, 1, 3, 4), max_peaks=50)
    assert flat.valid.shape == (1, 12)
    assert not flat.valid.any()
    assert_close(flat.cells, torch.zeros(1, 12, 2), rtol=0, atol=0)


def test_of_two_equal_neighbours_the_first_is_the_point():
    heatmaps = torch.zeros(1, 1, 8, 8)
    heatmaps[0, 0, 3, 3:5] = 0.9
    found = find_padded_peaks(heatmaps, threshold=0.5, max_peaks=3)
    assert found.valid.tolist() == [[True, False, False]]
    assert (found.cells[0, 0] - torch.tensor([3.5, 3.0])).abs().max() <= 0.5
