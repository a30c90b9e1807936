"""Points whose cells touch are told apart, and no point is made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.evaluation.points import match_points
from detect.keypoints.peaks import Peaks, find_peaks
from detect.keypoints.split_peaks import split_peaks
from detect.keypoints.targets import render_heatmaps


def map_of(points, sigma: float = 2.0, hw=(24, 28)) -> torch.Tensor:
    """A map of stride 1, on which indices of pixels are cells."""
    targets = render_heatmaps([torch.tensor(points, dtype=torch.float64)], hw, stride=1, sigma=sigma, window=6)
    return targets.heatmaps


def found_in(maps: torch.Tensor, sigma: float = 2.0) -> Peaks:
    return split_peaks(maps, find_peaks(maps, threshold=0.3), sigma=sigma)


def assert_same_points(cells: torch.Tensor, points, atol: float = 1e-3) -> None:
    matches = match_points(cells.double().numpy(), np.array(points, float), radius=atol)
    assert len(matches.distances) == len(points) == len(cells)


@pytest.mark.parametrize("shift", [(1.2, 0.0), (1.1, 1.0), (0.0, 1.3), (-1.2, 0.9)])
@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_two_points_in_cells_that_touch_are_two(shift, sigma):
    points = [(10.2, 9.8), (10.2 + shift[0], 9.8 + shift[1])]
    maps = map_of(points, sigma)
    assert len(find_peaks(maps, threshold=0.3).cells) == 1  # of cells that touch only one can be a maximum
    assert_same_points(found_in(maps, sigma).cells, points)


def test_points_closer_than_twice_the_tolerance_are_one():
    maps = map_of([(10.2, 9.8), (10.9, 9.8)])
    peaks = find_peaks(maps, threshold=0.3)
    assert (
        len(split_peaks(maps, peaks, sigma=2.0).cells) == 1
    )  # cells are at most .35 nearer to a point than the middle
    assert_same_points(split_peaks(maps, peaks, sigma=2.0, tolerance=0.2).cells, [(10.2, 9.8), (10.9, 9.8)], atol=0.01)


def test_a_chain_of_three_is_three():
    points = [(7.3, 9.0), (9.1, 9.4), (10.9, 9.0)]
    assert_same_points(found_in(map_of(points)).cells, points, atol=0.3)  # a fit that explains all within the tolerance


def test_pairs_at_the_border_are_pairs():
    points = [(0.2, 5.0), (1.4, 5.1), (26.9, 22.8), (26.0, 21.8)]
    assert_same_points(found_in(map_of(points)).cells, points, atol=0.01)


@given(st.integers(0, 500))
def test_points_that_are_apart_stay_as_they_were_found(seed):
    rng = np.random.default_rng(seed)
    columns, rows = np.meshgrid([4.0, 12.0, 20.0], [4.0, 12.0, 20.0])
    points = np.stack([columns, rows], axis=-1).reshape(-1, 2)[rng.random(9) < 0.6] + rng.uniform(-1.5, 1.5, 2)
    maps = map_of(points.tolist() or np.zeros((0, 2)).tolist()) if len(points) else torch.zeros(1, 1, 24, 28)
    peaks = find_peaks(maps, threshold=0.3)
    again = split_peaks(maps, peaks, sigma=2.0)
    assert_close(again.cells, peaks.cells)
    assert_close(again.scores, peaks.scores)
    assert_close(again.counts(), peaks.counts())


def test_noise_makes_hardly_any_point_up():
    random = torch.Generator().manual_seed(0)
    maps = torch.cat([map_of([(7.3, 9.1), (18.2, 12.7)])] * 40)
    noisy = (maps + 0.02 * torch.randn(maps.shape, generator=random)).clamp(0, 1)
    counts = found_in(noisy).counts()
    assert counts.sum() <= 2 * 40 + 1
    assert counts.min() == 2


def test_a_gaussian_of_another_sigma_is_one_point():
    for sigma in (1.8, 2.2):
        maps = map_of([(11.3, 9.6)], sigma)
        assert len(found_in(maps, 2.0).cells) == 1


def test_maps_keep_their_points_to_themselves():
    points = [(10.2, 9.8), (11.3, 10.6)]
    maps = torch.stack([map_of(points)[0, 0], torch.zeros(24, 28), map_of(points[:1])[0, 0], map_of(points)[0, 0]])
    peaks = found_in(maps.view(2, 2, 24, 28))
    assert peaks.counts().tolist() == [[2, 0], [1, 2]]
    assert peaks.covariance is None
    assert_same_points(peaks.of_image(1).cells[peaks.of_image(1).types == 1], points)


def test_volumes_are_split_too():
    z, y, x = torch.meshgrid(torch.arange(12.0), torch.arange(14.0), torch.arange(16.0), indexing="ij")
    points = [(7.2, 6.1, 5.3), (8.3, 6.9, 5.0)]
    Gaussians = [torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8) for a, b, c in points]
    maps = torch.maximum(*Gaussians)[None, None]
    assert_same_points(found_in(maps).cells, points, atol=0.01)


@given(st.integers(0, 200), st.sampled_from([1.5, 2.0, 3.0]), st.sampled_from([0, 1]))
def test_stretching_an_axis_and_its_sigma_changes_nothing_but_the_scale(seed, factor, axis):
    random = np.random.default_rng(seed)
    first, angle = random.uniform(9, 12, 2), random.uniform(0, 2 * np.pi)
    points = np.stack([first, first + random.uniform(1.5, 5) * np.array([np.cos(angle), np.sin(angle)])])
    scale = np.where(np.arange(2) == axis, factor, 1.0)
    sigma = 3.0 * scale
    middles = (points + 0.5) * scale - 0.5  # the edges of the maps coincide
    maps, stretched = (
        map_of(points.tolist(), 3.0),
        map_of(middles.tolist(), tuple(sigma), (int(24 * scale[1]), int(28 * scale[0]))),
    )
    plain = split_peaks(maps, find_peaks(maps, threshold=0.3), sigma=3.0, threshold=0.3)
    found = split_peaks(stretched, find_peaks(stretched, threshold=0.3), sigma=tuple(sigma), threshold=0.3)
    back = (found.cells.double().numpy() + 0.5) / scale - 0.5
    assert len(found.cells) == len(plain.cells)
    assert len(match_points(back, plain.cells.double().numpy(), radius=0.1).distances) == len(plain.cells)


def test_no_images_and_no_peaks_are_ordinary():
    for maps in (torch.zeros(0, 2, 8, 8), torch.zeros(2, 0, 8, 8), torch.zeros(1, 1, 8, 8)):
        assert found_in(maps).cells.shape == (0, 2)


@pytest.mark.parametrize("options", [{"sigma": 2, "tolerance": 0}, {"sigma": 2, "threshold": 1}])
def test_options_out_of_range_are_refused(options):
    maps = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="need tolerance > 0 and 0 < threshold < 1"):
        split_peaks(maps, find_peaks(maps), **options)


def test_peaks_of_other_maps_are_refused():
    maps = torch.zeros(3, 2, 8, 8)
    peaks = find_peaks(maps)
    for others in (maps[:1], maps[:, :1]):
        counts = f"{others.shape[0]} and {others.shape[1]}"
        with pytest.raises(ValueError, match=f"peaks of 3 images and 2 keypoint types for heatmaps of {counts}"):
            split_peaks(others, peaks, sigma=2.0)


@pytest.mark.parametrize(("apart", "least_found"), [(3.5, 400), (3.0, 400), (2.5, 390), (2.0, 300)])
def test_pairs_that_shift_each_others_peaks_are_fitted_together(apart, least_found):
    """400 pairs at any angle and place between cells: both peaks are found, and are then within .1 cell of the points."""
    rng = np.random.default_rng(1)
    angles, middles = rng.uniform(0, 2 * np.pi, 400), rng.uniform(12, 13, (400, 2))
    halves = np.stack([np.cos(angles), np.sin(angles)], axis=1) * apart / 2
    pairs = np.stack([middles - halves, middles + halves], axis=1)
    maps = torch.from_numpy(render_heatmaps(list(pairs), (25, 25), stride=1, sigma=2.0).heatmaps)
    peaks = find_peaks(maps, threshold=0.3)
    both = np.flatnonzero(peaks.counts()[:, 0] == 2)
    assert len(both) >= least_found
    found = split_peaks(maps, peaks, sigma=2.0).per_image(1.0)[0]
    assert all(len(match_points(found[row], pairs[row], radius=0.1).distances) == 2 for row in both)


def test_wide_bells_in_noise_are_not_split():
    """A network's Gaussians are wider than its targets' at times: here by 15 %."""
    columns, rows = np.meshgrid(np.arange(10.0, 120, 16), np.arange(10.0, 120, 16))
    points = np.stack([columns, rows], axis=-1).reshape(-1, 2) + np.random.default_rng(3).uniform(-1, 1, (49, 2))
    maps = map_of(points.tolist(), 2.3, (128, 128))
    noisy = (maps + 0.02 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert len(split_peaks(noisy, find_peaks(noisy, threshold=0.3, min_distance=4), sigma=2.0).cells) == 49


def test_a_crowd_is_resolved_as_far_as_it_can_be():
    """300 points anywhere on 128 x 128 cells: 280 have a peak of their own; noise of .05 moves those by .22 on average."""
    points = np.random.default_rng(0).uniform(0, 127, (300, 2))
    maps = map_of(points.tolist(), hw=(128, 128))
    noisy = (maps + 0.05 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    plain, split = (
        [found(each) for each in (maps, noisy)] for found in (lambda each: find_peaks(each, threshold=0.3), found_in)
    )
    matched = [
        [match_points(each.cells.double().numpy(), points, radius=1.0) for each in own] for own in (plain, split)
    ]
    numbers = np.array([[len(each.distances) for each in own] for own in matched])
    errors = np.array([[each.distances.mean() for each in own] for own in matched])
    assert (numbers[1] >= numbers[0] + 8).all()
    assert (errors[1] < [0.02, 0.13]).all()
    assert (errors[0] > [0.05, 0.2]).all()
