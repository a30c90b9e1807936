"""Laplacian kernels by their moments and transfer functions; touching blobs come apart."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import BSpline
from torch.testing import assert_close

from detect.keypoints.laplacian import laplacian_filter, laplacian_kernel

METHODS = ["finite", "log", "spline", "sinc", "fourier"]


def moment(kernel: torch.Tensor, *powers: int) -> float:
    """What the kernel makes, at 0, of the monomial x^p y^q ..."""
    cells = torch.arange(kernel.shape[0], dtype=torch.float64) - kernel.shape[0] // 2
    for power in powers:
        kernel = torch.tensordot(cells**power, kernel, dims=1)
    return kernel.item()


def transfer(kernel: torch.Tensor, *frequencies: float) -> float:
    """What the kernel makes, at 0, of cos(w x) cos(v y) ..., in radians per cell."""
    cells = torch.arange(kernel.shape[0], dtype=torch.float64) - kernel.shape[0] // 2
    for frequency in frequencies:
        kernel = torch.tensordot(torch.cos(frequency * cells), kernel, dims=1)
    return kernel.item()


def laplacian_of_monomial(order: int, powers: tuple[int, ...]) -> float:
    """The Laplacian, so many times, of x^p y^q ... at 0: not 0 only for even powers whose sum is 2 * order."""
    if any(power % 2 for power in powers) or sum(powers) != 2 * order:
        return 0.0
    halves = [power // 2 for power in powers]
    times = math.factorial(order) / math.prod(map(math.factorial, halves))
    return times * math.prod(map(math.factorial, powers))


def gaussian_maps(points, *, sigma=2.0, hw=(41, 41)) -> torch.Tensor:
    """The sum of Gaussian Gaussians, as one map."""
    y, x = torch.meshgrid(*(torch.arange(float(extent)) for extent in hw), indexing="ij")
    return sum(torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points)[None, None]


def test_the_smallest_ones_by_hand():
    five = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).double()
    assert_close(laplacian_kernel(), five)
    # (1, 4, 1)/6 across the second difference (1, -2, 1): 1/6 + 1/6, 4/6 - 2/6, -8/6 - 8/6
    assert_close(laplacian_kernel(method="spline"), torch.tensor([[1.0, 1, 1], [1, -8, 1], [1, 1, 1]]).double() / 3)
    assert_close(laplacian_kernel(size=5, dims=1) * 12, torch.tensor([-1.0, 16, -30, 16, -1]).double())
    assert_close(laplacian_kernel(2, dims=1), torch.tensor([1.0, -4, 6, -4, 1]).double())
    # frequencies 0 and +-2 pi/3: (-(2 pi/3)^2)(2/3) at 0, times cos(2 pi/3) = -1/2 beside it
    square = (2 * math.pi / 3) ** 2
    fourier = torch.tensor([square / 3, -square * 2 / 3, square / 3]).double()
    assert_close(laplacian_kernel(method="fourier", size=3, dims=1), fourier)


@pytest.mark.parametrize("method", METHODS[:-1])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_moments_up_to_twice_the_order_are_those_of_the_laplacian(method, order, dims):
    for extra in (0, 4):
        kernel = laplacian_kernel(order, method=method, size=2 * order + 1 + extra, sigma=1.2, dims=dims)
        for powers in product(range(2 * order + 2), repeat=dims):
            if sum(powers) <= 2 * order + 1:
                expected = laplacian_of_monomial(order, powers)
                assert moment(kernel, *powers) == pytest.approx(expected, abs=1e-8 * max(1, kernel.abs().max().item()))


def test_a_fourier_kernel_leaves_a_constant_map_at_zero():
    for order in (1, 2, 3):
        assert moment(laplacian_kernel(order, method="fourier"), 0, 0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_finite_differences_are_accurate_to_the_power_of_their_size(size):
    kernel = laplacian_kernel(size=size, dims=1)
    for power in range(size):
        assert moment(kernel, power) == pytest.approx(2.0 * (power == 2), abs=1e-9)
    assert abs(moment(kernel, size + 1)) > 1  # and no further
    errors = [abs(transfer(kernel, w) + w * w) for w in (0.2, 0.4)]
    assert errors[1] / errors[0] == pytest.approx(2 ** (size + 1), rel=0.1)  # w^2 times w^(size - 1)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.5])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_laplacian_of_a_gaussian_damps_high_frequencies(sigma, order):
    kernel = laplacian_kernel(order, method="log", sigma=sigma)
    largest = 1 / sigma ** (2 * order)
    for w, v in ((0.0, 0.0), (0.3, 0.0), (0.5, 0.4), (1.0, 0.2), (2.0, 2.0)):
        square = w * w + v * v
        expected = (-square) ** order * math.exp(-square * sigma**2 / 2)
        assert transfer(kernel, w, v) == pytest.approx(expected, abs=0.02 * largest if sigma < 1.2 else 1e-4 * largest)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_the_laplacian_of_a_gaussian_is_scipys(sigma):
    kernel = laplacian_kernel(method="log", sigma=sigma, size=2 * math.ceil(6 * sigma) + 1).numpy()
    impulse = np.zeros(kernel.shape)
    impulse[kernel.shape[0] // 2, kernel.shape[0] // 2] = 1
    expected = ndimage.gaussian_laplace(impulse, sigma, mode="constant", truncate=6)
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-6 if sigma > 1 else 1e-4)


@pytest.mark.parametrize(("order", "size"), [(0, 3), (1, 3), (1, 5), (2, 5), (2, 7), (3, 9)])
def test_a_spline_kernel_is_the_derivative_of_scipys_spline(order, size):
    knots = np.arange(size + 2) - (size + 1) / 2
    spline = BSpline.basis_element(knots, extrapolate=False)
    values = (
        spline.derivative(2 * order)(np.arange(-(size // 2), size // 2 + 1))
        if order
        else spline(np.arange(-(size // 2), size // 2 + 1))
    )
    np.testing.assert_allclose(laplacian_kernel(order, method="spline", size=size, dims=1).numpy(), values, atol=1e-9)


def test_the_transfer_function_of_a_spline_kernel_is_a_sum_of_aliases():
    kernel = laplacian_kernel(method="spline", size=5, dims=1)
    for w in (0.0, 0.5, 1.5, 3.0):  # Poisson's sum over the copies of -w^2 sinc^6
        copies = w + 2 * math.pi * np.arange(-50, 51)
        expected = (-(copies**2) * np.sinc(copies / (2 * math.pi)) ** 6).sum()
        assert transfer(kernel, w) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_a_sinc_kernel_follows_the_laplacian_over_more_of_the_band_the_larger_it_is(order):
    within = []
    for size in (11, 31, 101):
        kernel = laplacian_kernel(order, method="sinc", size=size, dims=1)
        errors = [abs(transfer(kernel, w) / (-w * w) ** order - 1) for w in np.linspace(0.2, math.pi, 60)]
        within.append(np.mean(np.array(errors) < 0.02))
    assert within == sorted(within)
    assert within[0] > 0.2
    assert within[-1] > 0.95


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(("order", "size"), [(1, 3), (1, 9), (2, 11), (3, 15)])
def test_a_fourier_kernel_is_right_at_the_frequencies_of_its_period(order, size, dims):
    kernel = laplacian_kernel(order, method="fourier", size=size, dims=dims)
    for numbers in product(range(size // 2 + 1), repeat=dims):
        w = [2 * math.pi * number / size for number in numbers]
        expected = (-sum(each * each for each in w)) ** order
        assert transfer(kernel, *w) == pytest.approx(expected, abs=1e-7 * math.pi ** (2 * order))


@pytest.mark.parametrize("method", METHODS)
def test_low_frequencies_are_passed_as_by_the_laplacian(method):
    kernel = laplacian_kernel(method=method, size=15, sigma=0.8)
    for w, v in ((0.1, 0.0), (0.2, 0.1), (2 * math.pi / 15, 0.0)):
        square = w * w + v * v
        smooth = {"log": 0.64, "spline": 16 / 12}.get(method, 0.0)  # the variance of what smooths
        if method != "fourier" or w > 0.4:  # between its frequencies it may be anything
            assert transfer(kernel, w, v) == pytest.approx(-square * math.exp(-smooth * square / 2), rel=0.02)


@given(st.sampled_from(METHODS), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
def test_kernels_are_the_same_from_all_sides(method, order, extra, dims):
    kernel = laplacian_kernel(order, method=method, size=2 * (order + extra) + 1, dims=dims)
    assert kernel.shape == (2 * (order + extra) + 1,) * dims
    for axis in range(dims):
        assert_close(kernel, kernel.flip(axis))
        assert_close(kernel, kernel.transpose(0, axis))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 1, 9, 12), (1, 2, 5, 6, 7)])
def test_the_filter_is_the_correlation_with_the_kernel_the_edge_repeated(order, shape):
    maps = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = laplacian_kernel(order, method="log", sigma=0.8, dims=len(shape) - 2).numpy()
    expected = np.stack([ndimage.correlate(each, kernel, mode="nearest") for each in maps.flatten(0, 1).numpy()])
    ours = laplacian_filter(maps, order, method="log", sigma=0.8)
    assert_close(ours.flatten(0, 1), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sobel"}, "one of finite, log, spline, sinc, fourier, got 'sobel'"),
        ({"order": -1}, "order=-1"),
        ({"dims": 0}, "dims=0"),
        ({"sigma": 0.0}, "sigma=0.0"),
        ({"size": 4}, r"2 \* order \+ 1 = 3, got 4"),
        ({"order": 2, "size": 3}, r"2 \* order \+ 1 = 5, got 3"),
    ],
)
def test_kernels_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        laplacian_kernel(**arguments)
