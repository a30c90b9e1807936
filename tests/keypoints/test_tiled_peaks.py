"""Tiled peaks are the peaks of the whole map, bit for bit, whatever the tiles are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.keypoints import tiled_peaks
from detect.keypoints.peaks import Peaks, find_peaks
from detect.keypoints.tiled_peaks import MARGIN, default_tile, find_tiled_peaks


def reader(maps: torch.Tensor, windows: list[Any] | None = None):
    def read(window):
        if windows is not None:
            windows.append(window)
        return maps[(slice(None), *window)].clone()

    return read


def tiled(maps: torch.Tensor, tile, **options: Any) -> Peaks:
    return find_tiled_peaks(reader(maps), tuple(maps.shape[1:]), num_types=len(maps), tile=tile, **options)


def check_equal(maps: torch.Tensor, tile, **options: Any) -> Peaks:
    """The tiled peaks, if they equal those of the map in memory in every bit."""
    whole, found = find_peaks(maps[None], **options), tiled(maps, tile, **options)
    for name in ("scores", "types", "image", "covariance"):
        assert_close(getattr(found, name), getattr(whole, name), rtol=0, atol=0, equal_nan=True)
    assert found.cells.dtype == torch.float64
    assert_close(found.cells.to(whole.cells), whole.cells, rtol=0, atol=0)
    return found


def gaussians(points, extents, sigma: float = 2.0) -> torch.Tensor:
    """One map with the largest of the Gaussians at points (x, y[, z])."""
    grids = torch.meshgrid(*[torch.arange(float(extent)) for extent in extents], indexing="ij")
    squares = [sum((grid - at) ** 2 for grid, at in zip(grids, point[::-1], strict=True)) for point in points]
    return torch.exp(-torch.stack(squares).amin(dim=0) / (2 * sigma**2))[None]


def noise(extents, seed: int, levels: int | None = None, num_types: int = 1) -> torch.Tensor:
    """Uniform noise; with few levels it has plateaus of many shapes."""
    values = torch.rand(num_types, *extents, generator=torch.Generator().manual_seed(seed))
    return values if levels is None else (values * levels).round() / levels


@pytest.mark.parametrize("offset", np.arange(-13, 13.5, 0.5))
def test_a_point_at_every_distance_to_a_seam_is_found_once(offset):
    maps = gaussians([(20 + offset, 18 - offset / 3)], (36, 44))
    found = check_equal(maps, (17, 20))
    assert_close(found.cells, torch.tensor([[20 + offset, 18 - offset / 3]], dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("offset", range(-12, 13))
def test_close_points_limit_each_other_across_a_seam(offset):
    """The nearer one is high, the other near the share of it below which it limits nothing."""
    for height in (1.0, 0.21, 0.19):
        maps = torch.maximum(
            gaussians([(20 + offset, 15)], (31, 40)), height * gaussians([(27 + offset, 17)], (31, 40))
        )
        assert len(check_equal(maps, (31, 20), threshold=0.5).cells) == 1 + (height == 1)


@pytest.mark.parametrize("offset", range(-9, 10, 3))
def test_points_in_volumes_are_found_once(offset):
    check_equal(gaussians([(10 + offset, 9, 8), (14 + offset, 13, 9)], (16, 20, 22)), (8, 10, 11))


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=2),
    st.lists(st.integers(1, 41), min_size=2, max_size=2),
    st.sampled_from([None, 2, 5]),
    st.sampled_from([2.0, 3.5, 9.0]),
    st.sampled_from([0.0, 0.3, 0.8]),
    st.integers(0, 99),
)
def test_noise_in_tiles_of_any_size(extents, tile, levels, min_distance, threshold, seed):
    maps = noise(extents, seed, levels, num_types=2)
    check_equal(maps, tile, min_distance=min_distance, threshold=threshold)


@given(
    st.lists(st.integers(1, 14), min_size=3, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.sampled_from([None, 3]),
    st.sampled_from([2.0, 4.0]),
    st.integers(0, 99),
)
def test_noisy_volumes_in_tiles_of_any_size(extents, tile, levels, min_distance, seed):
    check_equal(noise(extents, seed, levels), tile, min_distance=min_distance, threshold=0.6)


def test_large_sparse_noise_in_which_most_lower_maxima_are_dropped():
    maps = noise((150, 170), 3) * 0.4
    for x, y in ((40, 40), (49, 44), (99, 101), (120, 60), (169, 149)):
        maps = torch.maximum(maps, gaussians([(x, y)], (150, 170)))
    journal: dict[int, Any] = {}
    check_equal(maps, (50, 60), threshold=0.5)
    tiled(maps, (50, 60), threshold=0.5, journal=journal)
    kept = sum(len(arrays["single"]) for arrays in journal.values())
    journal.clear()
    tiled(maps, (50, 60), threshold=0.5, journal=journal, min_distance=3.0)
    assert kept < sum(len(arrays["single"]) for arrays in journal.values()) / 3


def test_a_plateau_over_many_tiles_is_one_point_in_its_middle():
    maps = torch.zeros(1, 61, 80)
    maps[0, 5:56, 11:70] = 0.9
    maps[0, 20:30, 20:30] = 0.4  # a hole
    assert len(check_equal(maps, (8, 7)).cells) == 1
    assert len(check_equal(torch.ones(2, 33, 29), (8, 29)).cells) == 2
    maps[0, 55, 70] = 0.91  # a way up at its corner
    assert_close(check_equal(maps, (8, 7)).scores, torch.tensor([0.91]))


def test_a_chain_of_maxima_over_all_tiles_suppresses_as_in_one_map():
    maps = torch.zeros(1, 3, 400)
    maps[0, 1, ::4] = torch.linspace(0.2, 1.0, 100)  # each suppresses the one before, which then suppresses nothing
    found = check_equal(maps, (3, 50), min_distance=5.0)
    assert found.cells[:, 0].tolist() == [396.0 - 8 * number for number in range(50)]


def test_sizes_of_cells_make_the_distance_physical():
    """Two cells apart in slices of 3 micrometres are farther than three cells of half a micrometre."""
    maps = torch.zeros(1, 9, 9, 30)
    maps[0, 4, 4, 10], maps[0, 4, 4, 13], maps[0, 6, 4, 10] = 0.9, 0.8, 0.7
    found = check_equal(maps, (4, 9, 11), min_distance=4.0, spacing=(0.5, 0.5, 3.0))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(check_equal(maps, (4, 9, 11), min_distance=4.0).cells) == 1


def test_borders_of_the_map_have_no_margin():
    maps = gaussians([(-0.3, 0.4), (39.2, 20.0), (12.0, 30.4)], (31, 40))
    assert len(check_equal(maps, (10, 13)).cells) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions(dtype):
    check_equal(noise((40, 50), 1).to(dtype), (17, 18), threshold=0.7)


def test_nan_is_not_higher():
    maps = noise((40, 50), 2)
    maps[0, ::7, ::5] = math.nan
    check_equal(maps, (17, 18), threshold=0.7)


def test_the_highest_of_each_type_are_kept():
    found = check_equal(noise((40, 50), 5, num_types=3), (16, 16), threshold=0.5, max_peaks=7)
    assert found.counts().tolist() == [[7, 7, 7]]


def test_nothing_above_the_threshold_is_no_point():
    found = check_equal(torch.zeros(2, 30, 20), (9, 9))
    assert (found.cells.shape, found.counts().tolist()) == ((0, 2), [[0, 0]])


def test_far_from_the_origin_no_digit_is_lost():
    """The same Gaussian at 5 and at 90,005 cells; float32 would round the second by .004."""
    near = gaussians([(5.3, 6.2)], (12, 12))

    def read(window):
        values = torch.zeros(1, 12, window[1].stop - window[1].start)
        start = 90_000 - window[1].start
        if -12 < start < values.shape[2]:
            own = slice(max(start, 0), max(start + 12, 0))
            values[:, :, own] = near[:, :, max(-start, 0) : max(-start, 0) + values[:, :, own].shape[2]]
        return values[:, window[0]]

    found = find_tiled_peaks(read, (12, 100_000), tile=(12, 10_000))
    assert_close(
        found.cells[0] - torch.tensor([90_000, 0]), find_peaks(near[None].double()).cells[0], rtol=0, atol=1e-6
    )


def test_tiles_are_read_once_and_with_their_margin_only():
    windows: list[Any] = []
    maps = noise((100, 130), 0)
    find_tiled_peaks(reader(maps, windows), (100, 130), tile=(40, 50), threshold=0.5)
    assert len(windows) == 9
    assert windows[4] == (slice(40 - MARGIN, 80 + MARGIN), slice(50 - MARGIN, 100 + MARGIN))
    assert windows[0] == (slice(0, 40 + MARGIN), slice(0, 50 + MARGIN))


def test_a_run_that_stops_goes_on_from_its_journal():
    maps = noise((100, 130), 0, levels=6)
    windows: list[Any] = []
    journal: dict[int, Any] = {}
    read, told = reader(maps, windows), []

    def failing(window):
        if len(windows) == 5:
            raise KeyboardInterrupt
        return read(window)

    options = {"tile": (40, 50), "threshold": 0.8, "journal": journal}
    with pytest.raises(KeyboardInterrupt):
        find_tiled_peaks(failing, (100, 130), **options)
    assert sorted(journal) == [0, 1, 2, 3, 4]
    windows.clear()
    found = find_tiled_peaks(read, (100, 130), **options, on_progress=lambda *now: told.append(now))
    corners = [(window[0].start, window[1].start) for window in windows[:4]]
    assert corners == [(28, 88), (68, 0), (68, 38), (68, 88)]  # those that were left, and then those with plateaus
    assert told == [("finding points", number, 9) for number in (6, 7, 8, 9)]
    fresh = tiled(maps, (40, 50), threshold=0.8)
    for name in ("cells", "scores", "covariance"):
        assert_close(getattr(found, name), getattr(fresh, name), rtol=0, atol=0)


def test_default_tiles_are_bounded_and_fit_chunks(monkeypatch):
    assert default_tile((100_000, 100_000), 512) == [2048, 2048]
    assert default_tile((100, 90)) == [100, 90]
    assert math.prod(default_tile((500, 3000, 3000))) <= tiled_peaks.CELLS_AT_ONCE
    monkeypatch.setattr(tiled_peaks, "CELLS_AT_ONCE", 400)
    check_equal(noise((50, 60), 0), None, threshold=0.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (4,)}, "a tile has the axes"),
        ({"tile": (0, 4)}, "from 1 cell"),
        ({"min_distance": -1.0}, "min_distance >= 0"),
        ({"max_peaks": 0}, "max_peaks >= 1"),
        ({"spacing": (1.0, 0.0)}, "one positive spacing"),
        ({"num_types": 2}, "a window of"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        find_tiled_peaks(reader(noise((9, 9), 0)), (9, 9), **options)
    with pytest.raises(ValueError, match="volumes 3"):
        find_tiled_peaks(reader(noise((9, 9), 0)), (9,))
