"""Points between cells, on exact Gaussian maps, alone, crowded, at borders and under noise."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.keypoints.peaks import find_peaks
from detect.keypoints.subpixel import dark, dark_udp

GOLDEN = json.loads((Path(__file__).parent / "golden_peaks.json").read_text(encoding="utf-8"))["cases"]
COMPATIBLE = {
    "argmax": "none",
    "quarter": "quarter",
    "dark11": "dark",
    "dark_udp11": "dark_udp",
    "dark_udp3": partial(dark_udp, kernel=3),
}
KERNELS = {1.0: 3, 1.5: 7, 2.0: 11, 3.0: 17}  # the blur that DARK takes with a sigma
NUM_POINTS = 1000


def gaussian_maps(points: torch.Tensor, sigma: float, *, hw: tuple[int, int] = (33, 33)) -> torch.Tensor:
    """A map for each point (x, y), (n, 1, h, w)."""
    y, x = (torch.arange(extent, dtype=torch.float64) for extent in hw)
    along_x = torch.exp(-((x - points[:, :1]) ** 2) / (2 * sigma**2))
    along_y = torch.exp(-((y - points[:, 1:]) ** 2) / (2 * sigma**2))
    return (along_y[:, :, None] * along_x[:, None])[:, None]


def drawn(count: int = NUM_POINTS, *, seed: int = 0) -> torch.Tensor:
    """Points anywhere within a cell of the middle."""
    random = torch.Generator().manual_seed(seed)
    return 15.5 + torch.rand(count, 2, generator=random, dtype=torch.float64)


def errors(heatmaps: torch.Tensor, truth: torch.Tensor, refine, **options) -> torch.Tensor:
    """The distance of the one peak of each map from the truth."""
    peaks = find_peaks(heatmaps, refine=refine, **{"threshold": 0.3} | options)
    assert_close(peaks.image, torch.arange(len(truth)))
    return (peaks.cells - truth).norm(dim=1)


def error_of_pairs(separation: float, refine) -> torch.Tensor:
    """Distances of all peaks from the nearest of two points so far apart, in any direction, of sigma 2."""
    random = torch.Generator().manual_seed(1)
    angles = 2 * math.pi * torch.rand(NUM_POINTS, 1, generator=random, dtype=torch.float64)
    first = drawn() - separation / 2 * torch.cat([angles.cos(), angles.sin()], dim=1)
    second = first + separation * torch.cat([angles.cos(), angles.sin()], dim=1)
    peaks = find_peaks(
        torch.maximum(gaussian_maps(first, 2.0), gaussian_maps(second, 2.0)), threshold=0.3, refine=refine
    )
    assert_close(peaks.counts(), torch.full((NUM_POINTS, 1), 2))
    apart = [(peaks.cells - points[peaks.image]).norm(dim=1) for points in (first, second)]
    return torch.minimum(*apart)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["truth"]))
@pytest.mark.parametrize("name", COMPATIBLE)
def test_numbers_of_mmpose(case, name):
    heatmaps = gaussian_maps(torch.tensor([case["truth"]], dtype=torch.float64), 2.0, hw=(24, 24))
    found = find_peaks(heatmaps, refine=COMPATIBLE[name]).cells
    assert_close(found, torch.tensor([case[name]], dtype=torch.float64), rtol=0, atol=2e-6)


def test_quarter_by_hand():
    heatmaps = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.0], [0.1, 0.2, 0.9, 0.3, 0.0], [0.0, 0.0, 0.1, 0.0, 0.0]])
    # .3 on the right is above .2 on the left; .2 above is above .1 below, but the second row is not shifted along y
    found = find_peaks(heatmaps[None, None], refine="quarter", threshold=0.5).cells
    assert_close(found, torch.tensor([[2.25, 1.0]]))
    found = find_peaks(heatmaps[[0, 0, 1, 2]][None, None], refine="quarter", threshold=0.5).cells
    assert_close(found, torch.tensor([[2.25, 1.75]]))


def test_quarter_at_every_cell_is_as_mmpose_has_it():
    """By the two conditions of its refine_keypoints (1.3): 1 < x < W - 1 and 0 < y for x, 1 < y < H - 1 and 0 < x for y."""
    height, width = 5, 6
    slope = torch.arange(height)[:, None] * 0.01 + torch.arange(width) * 0.02
    for y, x in product(range(height), range(width)):
        heatmaps = slope.clone()
        heatmaps[y, x] = 1.0
        found = find_peaks(heatmaps[None, None], refine="quarter", threshold=0.5).cells
        wanted = [x + 0.25 * (1 < x < width - 1 and y > 0), y + 0.25 * (1 < y < height - 1 and x > 0)]
        assert found.tolist() == [wanted]


def test_log_parabola_by_hand():
    # logarithms -1, 0, -3: vertex at (l - r) / (2 (l - 2c + r)) = (-1 + 3) / (2 * -4) = -1/4, along x
    row = torch.tensor([0.0, 0.0, -1.0, 0.0, -3.0, -9.0]).exp() * torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    heatmaps = torch.stack([row * math.exp(-2), row, row * math.exp(-2)])  # and along y nothing
    found = find_peaks(heatmaps[None, None], refine="log_parabola").cells
    assert_close(found, torch.tensor([[2.75, 1.0]]))


def test_least_squares_by_hand():
    # nine logarithms of the paraboloid -(x - .25)^2 - (y + .5)^2 - (x - .25)(y + .5), in the middle of nothing
    x, y = torch.arange(-1.0, 2.0)[None] - 0.25, torch.arange(-1.0, 2.0)[:, None] + 0.5
    heatmaps = torch.nn.functional.pad(torch.exp(-(x**2) - y**2 - x * y), [4] * 4)
    found = find_peaks(heatmaps[None, None].double())
    assert_close(found.cells, torch.tensor([[5.25, 4.5]], dtype=torch.float64), rtol=0, atol=1e-5)
    assert_close(found.covariance, torch.zeros(1, 2, 2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_dark_udp_by_hand():
    # no blur; 0 counts as .001, of logarithm -6.908, .5 has -.693: dx = (-.693 + 6.908) / 2 = 3.107, dxx = -7.601,
    # dyy = -13.816, dxy = (-13.816 + .693 + 3 * 6.908) / 2 = 3.800, determinant 90.57: (13.816, 3.800) * 3.107 / 90.57
    heatmaps = torch.zeros(1, 1, 5, 5)
    heatmaps[0, 0, 2, 2], heatmaps[0, 0, 2, 3] = 1.0, 0.5
    found = find_peaks(heatmaps, refine=partial(dark_udp, kernel=1)).cells
    assert_close(found, torch.tensor([[2.474, 2.130]]), rtol=0, atol=1e-3)


def test_maps_without_logarithms_give_their_cells():
    heatmaps = torch.full((1, 1, 5, 5), -2.0)
    heatmaps[0, 0, 2, 3] = -0.5
    for refine in ("least_squares", "log_parabola"):
        assert_close(find_peaks(heatmaps, threshold=-1.0, refine=refine).cells, torch.tensor([[3.0, 2.0]]))


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])
def test_points_alone_are_told_within_a_thousandth_of_a_cell(sigma):
    truth = drawn()
    assert errors(gaussian_maps(truth, sigma), truth, "least_squares").mean() < 1e-6
    assert errors(gaussian_maps(truth, sigma).float(), truth, "least_squares").max() < 1e-3
    assert errors(gaussian_maps(truth, sigma), truth, "log_parabola").mean() < 1e-6


@pytest.mark.parametrize(
    ("sigma", "of_dark", "of_udp"), [(1.0, 0.0082, 0.0015), (1.5, 0.0015, 0.0003), (2.0, 0.0002, 0.0)]
)
def test_errors_of_the_other_refinements_are_those_published(sigma, of_dark, of_udp):
    truth = drawn()
    heatmaps = gaussian_maps(truth, sigma)
    by_dark = errors(heatmaps, truth, partial(dark, kernel=KERNELS[sigma])).mean().item()
    by_udp = errors(heatmaps, truth, partial(dark_udp, kernel=KERNELS[sigma])).mean().item()
    assert by_dark == pytest.approx(of_dark, abs=2e-4)
    assert by_udp == pytest.approx(of_udp, abs=2e-4)
    nothing = (math.sqrt(2) + math.log(1 + math.sqrt(2))) / 6  # the mean distance from a square's middle, .38260
    assert errors(heatmaps, truth, "none").mean().item() == pytest.approx(nothing, rel=0.05)
    assert errors(heatmaps, truth, "quarter").mean().item() == pytest.approx(nothing / 2, rel=0.05)


@pytest.mark.parametrize("separation", [2.0, 2.5, 3.0, 3.5, 4.0, 5.0])
def test_two_points_close_together_do_not_draw_each_other(separation):
    assert error_of_pairs(2.0 * separation, "least_squares").mean() < 1e-3
    if separation > 2.0:
        assert error_of_pairs(2.0 * separation, "least_squares").max() < 0.02


def test_where_dark_is_a_cell_off_the_default_is_not():
    assert error_of_pairs(5.0, "dark").mean().item() == pytest.approx(0.95, abs=0.02)
    assert error_of_pairs(5.0, "least_squares").mean() < 1e-3
    assert error_of_pairs(5.0, "log_parabola").mean() < 1e-3


@pytest.mark.parametrize("column", [0, 1, 2, 30, 31, 32])
def test_borders_move_no_point(column):
    truth = drawn()
    truth[:, 0] = (truth[:, 0] - 16 + column).clamp(0, 32)
    for points in (truth, truth.flip(1)):
        assert errors(gaussian_maps(points, 2.0), points, "least_squares").max() < 1e-3
        assert errors(gaussian_maps(points, 2.0), points, "log_parabola").max() < 1e-3
    assert errors(gaussian_maps(truth, 2.0), truth, "dark_udp").mean() > 0.2  # which the blur draws inwards, or beyond


def test_two_points_close_together_at_a_corner():
    points = torch.tensor([[0.3, 0.2], [5.2, 0.4]], dtype=torch.float64)
    found = find_peaks(gaussian_maps(points, 2.0).amax(dim=0, keepdim=True)).cells
    assert_close(found[found[:, 0].argsort()], points, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])
def test_noise_tells_about_as_little_as_it_does_to_dark(sigma):
    truth = drawn(2000)
    noise = 0.02 * torch.randn(2000, 1, 33, 33, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options = {"threshold": 0.5, "min_distance": 6.0, "max_peaks": 1}
    heatmaps = gaussian_maps(truth, sigma) + noise
    by_default = errors(heatmaps, truth, "least_squares", **options).mean()
    by_dark = errors(heatmaps, truth, partial(dark, kernel=KERNELS[sigma]), **options).mean()
    assert by_default < (1.2 if sigma < 3 else 1.35) * by_dark
    assert by_default < (1.2 if sigma < 3 else 1.35) * 0.0202


def test_the_covariance_is_that_of_the_errors_under_noise():
    truth = drawn(4000)
    noise = 0.02 * torch.randn(4000, 1, 33, 33, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y, x = torch.meshgrid(*[torch.arange(33, dtype=torch.float64)] * 2, indexing="ij")
    x, y = x - truth[:, 0, None, None], y - truth[:, 1, None, None]
    heatmaps = torch.exp(-(x**2 / 18 + y**2 / 6 - x * y / 14))[:, None] + noise  # long, and tilted
    peaks = find_peaks(heatmaps, threshold=0.5, min_distance=8.0, max_peaks=1)
    off = peaks.cells - truth
    assert_close(off.T @ off / len(off), peaks.covariance.mean(dim=0), rtol=0.1, atol=2e-5)


@given(
    st.floats(1.0, 4.0),
    st.floats(1.0, 4.0),
    st.floats(0, math.pi),
    st.floats(0, 14),
    st.floats(0, 9),
    st.floats(0.2, 9),
)
def test_a_gaussian_of_any_width_form_tilt_and_height_is_told_exactly(long, wide, angle, px, py, height):
    y, x = torch.meshgrid(torch.arange(10.0).double(), torch.arange(15.0).double(), indexing="ij")
    u = (x - px) * math.cos(angle) + (y - py) * math.sin(angle)
    v = (y - py) * math.cos(angle) - (x - px) * math.sin(angle)
    heatmaps = height * torch.exp(-(u**2) / (2 * long**2) - v**2 / (2 * wide**2))[None, None]
    assert_close(find_peaks(heatmaps, max_peaks=1).cells, torch.tensor([[px, py]]).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("refine", ["none", "log_parabola", "least_squares"])
def test_what_does_not_bend_down_is_its_own_middle(refine):
    single, pair, square, disc = (torch.zeros(1, 1, 25, 25) for _ in range(4))
    single[..., 3, 4] = 1
    pair[..., 3, 4:6] = 1
    square[..., 3:7, 4:8] = 1
    y, x = torch.meshgrid(torch.arange(25), torch.arange(25), indexing="ij")
    disc[..., (x - 12) ** 2 + (y - 11) ** 2 <= 81] = 1
    found = find_peaks(torch.cat([single, pair, square, disc]), refine=refine)
    assert_close(found.cells, torch.tensor([[4.0, 3.0], [4.5, 3.0], [5.5, 4.5], [12.0, 11.0]]))
    if found.covariance is not None:  # somewhere in its cell: the variance of a uniform distribution is 1/12
        assert_close(found.covariance, (torch.eye(2) / 12).expand(4, 2, 2))


@pytest.mark.parametrize("refine", ["quarter", "dark", "dark_udp", "log_parabola", "least_squares"])
@pytest.mark.parametrize("hw", [(1, 1), (1, 9), (2, 2), (3, 3)])
def test_the_smallest_maps_give_finite_points(refine, hw):
    random = torch.Generator().manual_seed(0)
    peaks = find_peaks(torch.rand(6, 2, *hw, generator=random), refine=refine)
    assert len(peaks.cells) >= 10
    assert peaks.cells.isfinite().all()


def test_volumes():
    truth = torch.tensor([[7.3, 5.8, 4.1], [0.2, 0.4, 0.1], [13.7, 8.6, 8.8]], dtype=torch.float64)
    z, y, x = torch.meshgrid(*(torch.arange(extent, dtype=torch.float64) for extent in (10, 10, 15)), indexing="ij")
    apart = [((x - px) / 2) ** 2 + ((y - py) / 2) ** 2 + (z - pz) ** 2 for px, py, pz in truth.tolist()]
    heatmaps = torch.exp(-torch.stack(apart) / 2)[:, None]
    for refine in ("log_parabola", "least_squares"):
        assert_close(find_peaks(heatmaps, refine=refine).cells, truth, rtol=0, atol=1e-4)
    assert_close(find_peaks(heatmaps, refine="none").cells, truth.round())
    for refine in ("quarter", "dark", "dark_udp"):
        with pytest.raises(ValueError, match="for volumes use 'log_parabola' or 'least_squares'"):
            find_peaks(heatmaps, refine=refine)


def test_an_even_blur_is_refused():
    with pytest.raises(ValueError, match="odd number of cells, got 4"):
        find_peaks(torch.zeros(1, 1, 5, 6), refine=partial(dark, kernel=4))
