"""Peaks of maps: maxima and plateaus, borders, distances, batches."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.keypoints.peaks import Peaks, find_peaks


def one(rows) -> torch.Tensor:
    """One map of a batch of one."""
    return torch.as_tensor(rows, dtype=torch.float32)[None, None]


def gaussian_maps(points, *, hw=(32, 32), sigma=2.0) -> torch.Tensor:
    """The maximum of Gaussians at points (x, y)."""
    y, x = torch.meshgrid(*(torch.arange(float(extent)) for extent in hw), indexing="ij")
    maps = [torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points]
    return torch.stack([*maps, torch.zeros(hw)]).amax(dim=0)[None, None]


def cells_of(heatmaps, **options) -> list[list[float]]:
    return find_peaks(heatmaps, **{"refine": "none"} | options).cells.tolist()


def test_by_hand():
    heatmaps = one([[0.0, 0.3, 0.0, 0.0], [0.2, 0.5, 0.4, 0.0], [0.0, 0.0, 0.0, 0.9]])
    # .5 is higher than the 8 around it, .9 than the 3 beside its corner; .4 lies between them
    peaks = find_peaks(heatmaps, refine="none")
    assert_close(peaks.cells, torch.tensor([[3.0, 2.0], [1.0, 1.0]]))  # by falling score
    assert_close(peaks.scores, torch.tensor([0.9, 0.5]))
    assert peaks.covariance is None


def test_a_value_at_the_threshold_is_not_above_it():
    heatmaps = one([[0.5, 0.0, 0.25]])
    assert cells_of(heatmaps, threshold=0.5) == []
    assert cells_of(heatmaps, threshold=0.25) == [[0.0, 0.0]]
    assert cells_of(heatmaps, threshold=0.249) == [[0.0, 0.0], [2.0, 0.0]]


def test_borders_and_corners_hide_no_peak():
    # landmarker misses the last rows and columns, tlpss and kornia's nms2d all of the border
    for x, y in product((0, 1, 8, 14, 15), repeat=2):
        assert cells_of(gaussian_maps([(x, y)], hw=(16, 16))) == [[x, y]]


def test_a_landmark_midway_between_cells_is_found_once():
    # where all neighbours must be lower, as in SLEAP, it is lost; where none may be higher, as in CenterNet, it is 2 or 4
    for x, y in ((7.5, 8.0), (8.0, 7.5), (7.5, 7.5), (0.5, 0.5), (14.5, 3.0)):
        heatmaps = gaussian_maps([(x, y)], hw=(16, 16))
        assert find_peaks(heatmaps).counts().item() == 1
        assert_close(find_peaks(heatmaps).cells, torch.tensor([[x, y]]), rtol=0, atol=1e-4)


def test_no_peak_is_doubled_or_missing_where_a_detector_saturates():
    heatmaps = (3 * gaussian_maps([(5.2, 6.1), (20.7, 9.5), (12.0, 25.5)])).clamp(max=1.0)
    peaks = find_peaks(heatmaps)
    assert peaks.counts().item() == 3
    truth = torch.tensor([[5.2, 6.1], [20.7, 9.5], [12.0, 25.5]])
    assert torch.cdist(peaks.cells, truth).amin(dim=0).max() < 0.3


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 4.0]),
    st.sampled_from([0.15, 0.3, 0.6]),
    st.sampled_from([2.0, 4.0]),
    st.sampled_from([(20, 31), (4, 8, 9)]),
)
def test_a_lower_threshold_only_adds_peaks(seed, power, threshold, min_distance, extents):
    heatmaps = torch.from_numpy(np.random.default_rng(seed).random((2, 1, *extents)) ** power)
    options = {"min_distance": min_distance}
    fewer, more = (find_peaks(heatmaps, threshold=each, **options) for each in (threshold, 0.05))
    more = more.take(more.scores > threshold)
    for name in ("scores", "image", "types"):
        assert_close(getattr(fewer, name), getattr(more, name), rtol=0, atol=0)
    for name in ("cells", "covariance"):
        assert_close(getattr(fewer, name), getattr(more, name), rtol=1e-9, atol=1e-9)


def test_a_weak_neighbour_below_the_threshold_is_kept_out_of_the_fit():
    heatmaps = torch.maximum(gaussian_maps([(10.3, 12.8)]), 0.4 * gaussian_maps([(16.1, 12.2)]))
    for threshold in (0.5, 0.1):
        strong = find_peaks(heatmaps, threshold=threshold).cells[:1]
        assert_close(strong, torch.tensor([[10.3, 12.8]]), rtol=0, atol=1e-4)


def greedy(cells: np.ndarray, scores: np.ndarray, distance: float) -> set[tuple[float, ...]]:
    """From the definition; ties are settled by the order of cells in memory."""
    kept: list[np.ndarray] = []
    for row in sorted(range(len(cells)), key=lambda row: (-scores[row], *cells[row][::-1])):
        if all(np.linalg.norm(cells[row] - other) >= distance for other in kept):
            kept.append(cells[row])
    return {tuple(cell.tolist()) for cell in kept}


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([2.0, 3.0, 3.5, 5.0, 9.0, 100.0]), st.sampled_from([(20, 31), (4, 8, 9)])
)
def test_lower_peaks_fall_to_higher_ones_within_the_distance(seed, distance, extents):
    values = np.random.default_rng(seed).integers(0, 12, extents) / 12
    values[tuple(slice(None, None, 2) for _ in extents)] += 1  # no two maxima touch, some are equal
    values = np.where(values >= 1, values, 0.0)
    heatmaps = torch.tensor(values)[None, None]
    before = find_peaks(heatmaps, refine="none")
    after = find_peaks(heatmaps, refine="none", min_distance=distance)
    expected = greedy(before.cells.numpy(), before.scores.numpy(), distance)
    assert {tuple(cell) for cell in after.cells.tolist()} == expected


def test_a_peak_that_falls_takes_out_none():
    # .9 takes out .8, which is 3 away; .7 is 3 from .8 and 6 from .9
    row = one([[0.9, 0.0, 0.0, 0.8, 0.0, 0.0, 0.7]])
    assert cells_of(row, min_distance=3.5) == [[0.0, 0.0], [6.0, 0.0]]
    assert cells_of(row, min_distance=3.0) == [[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]]


def test_at_most_so_many_of_each_image_and_type():
    heatmaps = torch.zeros(2, 2, 1, 9)
    heatmaps[0, 0, 0, ::2] = torch.tensor([0.5, 0.9, 0.6, 0.9, 0.7])
    heatmaps[1, 1, 0, 4] = 0.3
    peaks = find_peaks(heatmaps, max_peaks=3, refine="none")
    assert peaks.cells[:, 0].tolist() == [2.0, 6.0, 8.0, 4.0]  # of equal ones the first in memory comes first
    assert peaks.counts().tolist() == [[3, 0], [0, 1]]


def test_rows_are_ordered_by_image_type_and_falling_score():
    random = torch.Generator().manual_seed(0)
    peaks = find_peaks(torch.rand(3, 2, 20, 20, generator=random))
    keys = list(zip(peaks.image.tolist(), peaks.types.tolist(), (-peaks.scores).tolist(), strict=True))
    assert keys == sorted(keys)


def test_the_split_into_batches_changes_nothing():
    random = torch.Generator().manual_seed(1)
    heatmaps = torch.rand(5, 2, 30, 45, generator=random) ** 4
    options = {"threshold": 0.2, "min_distance": 4.0, "max_peaks": 20}
    together = find_peaks(heatmaps, **options)
    for number in range(5):
        alone, among = find_peaks(heatmaps[number : number + 1], **options), together.of_image(number)
        for name in ("scores", "image", "types"):
            assert_close(getattr(alone, name), getattr(among, name), rtol=0, atol=0)
        for name in ("cells", "covariance"):
            assert_close(getattr(alone, name), getattr(among, name), rtol=0, atol=1e-5)


def test_maps_beyond_the_budget_are_taken_some_at_a_time(monkeypatch):
    random = torch.Generator().manual_seed(2)
    heatmaps = torch.rand(5, 3, 17, 40, generator=random)
    whole = find_peaks(heatmaps, min_distance=5.0)
    monkeypatch.setattr("detect.keypoints.local_maxima.CELLS_AT_ONCE", {"cpu": 150})
    monkeypatch.setattr("detect.keypoints.subpixel.VALUES_AT_ONCE", 500)
    parts = find_peaks(heatmaps, min_distance=5.0)
    for name in ("scores", "image", "types"):
        assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=0)
    assert_close(parts.cells, whole.cells, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    heatmaps = gaussian_maps([(10.3, 12.8), (22.6, 4.2)]).to(dtype)
    peaks, wide = find_peaks(heatmaps), find_peaks(heatmaps.float())
    assert peaks.cells.dtype == peaks.scores.dtype == torch.float32
    assert_close(peaks.cells, wide.cells)


def test_maps_of_a_network_are_taken_as_they_come():
    heatmaps = gaussian_maps([(10.3, 12.8), (22.6, 4.2)]).repeat(2, 3, 1, 1)
    expected = find_peaks(heatmaps)
    learned = heatmaps.contiguous(memory_format=torch.channels_last).requires_grad_()
    before = learned.detach().clone()
    peaks = find_peaks(learned)
    assert not peaks.cells.requires_grad
    assert_close(peaks.cells, expected.cells)
    assert_close(learned.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 0, 8, 8), (2, 3, 8, 8), (1, 1, 1, 1), (2, 1, 3, 4, 5)])
@pytest.mark.parametrize("refine", ["none", "quarter", "dark", "dark_udp", "log_parabola", "least_squares"])
def test_maps_with_nothing_above_the_threshold_give_nothing(shape, refine):
    if len(shape) == 5 and refine in {"quarter", "dark", "dark_udp"}:
        pytest.skip("not made for volumes")
    peaks = find_peaks(torch.zeros(shape), refine=refine, min_distance=6.0, max_peaks=3)
    assert peaks.cells.shape == (0, len(shape) - 2)
    assert_close(peaks.counts(), torch.zeros(shape[:2], dtype=torch.int64))


def test_one_image_of_a_batch():
    heatmaps = torch.cat([gaussian_maps([(3.0, 4.0)]), gaussian_maps([]), gaussian_maps([(5.0, 6.0), (20.0, 9.0)])])
    peaks = find_peaks(heatmaps)
    assert isinstance(peaks.of_image(2), Peaks)
    assert peaks.of_image(2).counts().tolist() == [[2]]
    assert peaks.of_image(1).cells.shape == (0, 2)
    with pytest.raises(ValueError, match="no image 3 among 3"):
        peaks.of_image(3)


def test_refusals():
    heatmaps = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"heatmaps are \(b, j, h, w\).*got \(1, 4, 4\)"):
        find_peaks(heatmaps[0])
    with pytest.raises(ValueError, match=r"with cells, got \(1, 1, 0, 4\)"):
        find_peaks(heatmaps[:, :, :0])
    with pytest.raises(ValueError, match=r"min_distance=-1\.0"):
        find_peaks(heatmaps, min_distance=-1.0)
    with pytest.raises(ValueError, match="max_peaks=0"):
        find_peaks(heatmaps, max_peaks=0)
    with pytest.raises(
        ValueError, match=r"one of none, quarter, dark, dark_udp, log_parabola, least_squares.*'taylor'"
    ):
        find_peaks(heatmaps, refine="taylor")


def test_points_come_per_image_and_type_in_pixels():
    # stride 4: cell (1, 2) has its centre at 4 (1 + .5) - .5 = 5.5 and 9.5 as a pixel index, at 6 and 10 in edge coordinates
    heatmaps = torch.zeros(2, 2, 5, 6)
    heatmaps[0, 1, 2, 1], heatmaps[0, 1, 4, 5], heatmaps[1, 0, 0, 0] = 0.9, 0.4, 0.7
    peaks = find_peaks(heatmaps, refine="none")
    points, scores = peaks.per_image(4)
    assert [own.tolist() for own in points] == [[], [[5.5, 9.5], [21.5, 17.5]], [[1.5, 1.5]], []]
    assert [np.round(own, 6).tolist() for own in scores] == [[], [0.9, 0.4], [0.7], []]
    assert peaks.per_image(4, pixel_origin="corner")[0][1].tolist() == [[6, 10], [22, 18]]


def test_overlapping_peaks_are_split_where_asked_for_and_the_highest_kept():
    close = [(8.2, 8.0), (9.4, 8.0), (20.0, 20.0)]
    heatmaps = torch.cat([gaussian_maps(close), gaussian_maps([])])
    assert find_peaks(heatmaps, threshold=0.3).counts().tolist() == [[2], [0]]
    peaks = find_peaks(heatmaps, threshold=0.3, split=True, sigma=2.0)
    assert_close(peaks.cells[peaks.cells[:, 0].argsort()], torch.tensor(close), rtol=0, atol=0.01)
    assert peaks.scores.tolist() == sorted(peaks.scores.tolist(), reverse=True)
    highest = find_peaks(heatmaps, threshold=0.3, split=True, sigma=2.0, max_peaks=2)
    assert_close(highest.cells, peaks.cells[:2])
    for sigma in (0.0, None):
        with pytest.raises(ValueError, match=r"need one positive sigma|split=True needs the sigma"):
            find_peaks(heatmaps, split=True, sigma=sigma)
