"""Discrete Laplacians, and powers of them, by five methods; and blobs sharpened with one before their peaks are sought.

The n-th power of the Laplacian, (d^2/dx^2 + d^2/dy^2 + ...)^n, is a sum of products of even derivatives along the axes. So
each kernel is a sum of products of one-dimensional kernels, of derivatives 0, 2, ... 2n, and the methods differ in these.
Its transfer function is near (-|w|^2)^n for low frequencies w, in radians per cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

NEGLIGIBLE = 1e-6  # of a bell beyond the kernel of "log"


def laplacian_kernel(
    order: int = 1, *, method: str = "finite", size: int | None = None, sigma: float = 1.0, dims: int = 2
) -> Float[Tensor, "*size"]:
    """Kernel of the Laplacian to the power ``order``, in float64, for cells one apart.

    ``"finite"``
        finite differences: derivatives of the polynomial through ``size`` cells, exact for polynomials along an axis of
        degree below ``size`` (Fornberg 1988). Sizes 3, 5, 7 of order 1 are accurate to powers 2, 4, 6 of the cell.
    ``"log"``
        of a Gaussian of ``sigma`` cells: smoothed before it is derived (Marr and Hildreth 1980).
    ``"spline"``
        of a B-spline of degree ``size``, which smooths as a Gaussian of variance (size + 1) / 12 does, on the fewest cells
        (Unser, Aldroubi and Eden 1993, section II).
    ``"sinc"``
        of the band-limited signal through the cells, which reaches over all of them; tapered by a power of a cosine.
    ``"fourier"``
        the transfer function is right at the ``size`` frequencies 2 pi k / size: the derivative of a signal of period
        ``size`` (Trefethen 2000, chapter 3).

    Sum and moments up to 2 * order are exact but for ``"fourier"``, of which the sum alone is: the kernel makes of
    |x|^2 with order 1 exactly 2 * dims.

    >>> laplacian_kernel()
    tensor([[ 0.,  1.,  0.],
            [ 1., -4.,  1.],
            [ 0.,  1.,  0.]], dtype=torch.float64)

    Args:
        order: of Laplacians one after the other, 0 (which with ``"log"`` and ``"spline"`` smooths only) or more.
        size: cells along each side, odd, at least 2 * order + 1. By default that; of "log" what holds the Gaussian; of
            "sinc" and "fourier" 8 cells more.
        sigma: of "log", in cells.
        dims: number of axes.

    Raises:
        ValueError: an argument out of range.
    """
    if method not in DERIVATIVES:
        raise ValueError(f"method is one of {', '.join(DERIVATIVES)}, got {method!r}")
    if order < 0 or dims < 1 or not 0 < sigma < math.inf:
        raise ValueError(f"need order >= 0, dims >= 1 and sigma > 0, got {order=}, {dims=}, {sigma=}")
    size = _usual_size(order, method, sigma) if size is None else size
    if size % 2 == 0 or size < 2 * order + 1:
        raise ValueError(f"size is odd and at least 2 * order + 1 = {2 * order + 1}, got {size}")
    along = [DERIVATIVES[method](power, size, sigma) for power in range(order + 1)]
    kernel = torch.zeros([size] * dims, dtype=torch.float64)
    for powers in product(range(order + 1), repeat=dims):
        if sum(powers) == order:
            term = torch.tensor(math.factorial(order) / math.prod(map(math.factorial, powers)), dtype=torch.float64)
            for power in powers:
                term = term[..., None] * along[power]
            kernel += term
    return kernel


def sharpen_blobs(
    heatmaps: Float[Tensor, "b j *cells"], *, sigma: float, order: int = 1, smoothing: float = 0.5
) -> Float[Tensor, "b j *cells"]:
    """Maps in which Gaussians of ``sigma`` cells that run into one another come apart: minus the Laplacian of Gaussian, above 0.

    The bend of a bell is narrower than the bell. The sum of two has two peaks where they are more than 2 sigma apart, their
    bend from 1.9 sigma on with order 1, from 1.7 with order 2; at 2.2 sigma it is off by .1 sigma, the sum itself by .5. A
    bell by itself keeps its place and, at its centre, its height; at the border, beyond which the edge is repeated, it
    loses some of both. What comes out goes to :func:`detect.keypoints.peaks.find_peaks`.

    >>> x = torch.arange(21.0)
    >>> touching = torch.exp(-((x - 8) ** 2) / 8) + torch.exp(-((x - 12) ** 2) / 8)
    >>> sharp = sharpen_blobs(touching.expand(1, 1, 21, 21), sigma=2)[0, 0, 10]
    >>> touching[10] > touching[8], sharp[10] < sharp[8]
    (tensor(True), tensor(True))

    Args:
        sigma: of the Gaussians, in cells.
        order: of Laplacians; more are sharper, and noisier.
        smoothing: sigma of the Gaussian, in that of the Gaussians: less is sharper, and noisier.

    Raises:
        ValueError: an argument out of range.
    """
    dims = heatmaps.ndim - 2
    if order < 1 or not (0 < sigma < math.inf and 0 < smoothing < math.inf) or dims not in {2, 3}:
        raise ValueError(
            f"need maps (b, j, h, w) or (b, j, d, h, w), order >= 1, sigma > 0 and smoothing > 0, "
            f"got {tuple(heatmaps.shape)}, {order=}, {sigma=}, {smoothing=}"
        )
    kernel = laplacian_kernel(order, method="log", sigma=smoothing * sigma, dims=dims)
    half = kernel.shape[0] // 2
    gaussian = torch.exp(-torch.arange(-half, half + 1, dtype=torch.float64).square() / (2 * sigma**2))
    response = kernel.clone()
    for _ in range(dims):
        response = response @ gaussian  # at the centre of a Gaussian, axis by axis
    wide = heatmaps.float() if heatmaps.dtype.itemsize < 4 else heatmaps
    padded = functional.pad(wide.flatten(0, 1)[:, None], [half] * (2 * dims), mode="replicate")
    convolve = functional.conv2d if dims == 2 else functional.conv3d
    return convolve(padded, (kernel / response).to(wide)[None, None]).clamp_(min=0).view(wide.shape)


def _usual_size(order: int, method: str, sigma: float) -> int:
    if method == "log":  # beyond x the derivatives are below (x / sigma)^(2 order) times the bell
        reach = math.sqrt(-2 * math.log(NEGLIGIBLE)) + order / 2
        return 2 * max(order, math.ceil(reach * sigma)) + 1
    return 2 * order + 1 + (8 if method in {"sinc", "fourier"} else 0)


def _finite(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """Derivative 2 * power at 0 of the polynomial through the cells: of each cell's Lagrange polynomial, in fractions."""
    cells = range(-(size // 2), size // 2 + 1)
    kernel = []
    for cell in cells:
        coefficients = [Fraction(1)]
        for other in cells:
            if other != cell:  # times (x - other) / (cell - other)
                shifted = [Fraction(0), *coefficients]
                lowered = [*(other * each for each in coefficients), Fraction(0)]
                coefficients = [(a - b) / (cell - other) for a, b in zip(shifted, lowered, strict=True)]
        kernel.append(float(math.factorial(2 * power) * coefficients[2 * power]))
    return torch.tensor(kernel, dtype=torch.float64)


def _gaussian(power: int, size: int, sigma: float) -> Float[Tensor, " size"]:
    """The Gaussian's derivative, an even polynomial times it: that which has the derivative's moments on the cells."""
    x = _cells(size) / sigma
    lower = [_gaussian(each, size, sigma) for each in range(power)]
    return _with_moments(x ** (2 * power) * torch.exp(-x.square() / 2), lower)


def _spline(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """Differences of the B-spline of lower degree: one derivative is one difference of splines half a cell off."""
    degree = size - 2 * power
    nothing = Fraction(0)
    values = [_b_spline(degree, Fraction(cell)) for cell in range(-(size // 2), size // 2 + 1)]
    for _each in range(power):
        values = [
            a - 2 * b + c for a, b, c in zip([nothing, *values[:-1]], values, [*values[1:], nothing], strict=True)
        ]
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _sinc(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """The mean of (-w^2)^power cos(w x) over the band from 0 to pi, tapered, its moments then set right."""
    x = _cells(size)
    window = torch.cos(math.pi * x / (size + 1)) ** (2 * power + 2)  # so smooth at its ends that moments converge
    if power == 0:
        return (x == 0).double()
    w = (torch.arange(4096, dtype=torch.float64) + 0.5) * (math.pi / 4096)
    ideal = ((-w.square()) ** power * torch.cos(x[:, None] * w)).mean(dim=1)
    return _with_moments(ideal * window, [_sinc(each, size, 0.0) for each in range(power)])


def _fourier(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """The inverse transform of (-w^2)^power at the frequencies of a signal of this period."""
    cells = _cells(size)
    w = 2 * math.pi * cells / size
    return ((-w.square()) ** power * torch.cos(cells[:, None] * w)).mean(dim=1)


DERIVATIVES: dict[str, Callable[[int, int, float], Tensor]] = {
    "finite": _finite,
    "log": _gaussian,
    "spline": _spline,
    "sinc": _sinc,
    "fourier": _fourier,
}


def _with_moments(kernel: Float[Tensor, " size"], lower: list[Tensor]) -> Float[Tensor, " size"]:
    """Corrected by kernels of lower derivatives and scaled, so that of x^0, x^2, ... x^2p it makes 0, ... 0, (2p)!."""
    cells = _cells(len(kernel))
    for half, other in enumerate(lower):
        kernel = kernel - (cells ** (2 * half) @ kernel) / math.factorial(2 * half) * other
    return kernel * math.factorial(2 * len(lower)) / (cells ** (2 * len(lower)) @ kernel)


def _b_spline(degree: int, x: Fraction) -> Fraction:
    """The centred B-spline, by its truncated powers."""
    terms = (
        (-1) ** k * math.comb(degree + 1, k) * max(Fraction(0), x + Fraction(degree + 1, 2) - k) ** degree
        for k in range(degree + 2)
    )
    return sum(terms, Fraction(0)) / math.factorial(degree)


def _cells(size: int) -> Float[Tensor, " size"]:
    return torch.arange(-(size // 2), size // 2 + 1, dtype=torch.float64)
