"""Discrete Laplacians and their powers by five methods, and the filter.

The n-th power of the Laplacian, (d^2/dx^2 + d^2/dy^2 + ...)^n, is a sum of products of even derivatives along the axes.
Each kernel is therefore a sum of products of one-dimensional kernels for the derivatives 0, 2, ... 2n; the methods differ in
these. The transfer function approaches (-|w|^2)^n at low frequencies w, in radians per cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from detect.ops.array_kinds import check_maps, in_tensors
from detect.ops.boxes import widened

NEGLIGIBLE = 1e-6  # value of a Gaussian beyond the kernel of "log"


def laplacian_kernel(
    order: int = 1, *, method: str = "finite", size: int | None = None, sigma: float = 1.0, dims: int = 2
) -> Float[Tensor, "*size"]:
    """Make the kernel of the Laplacian to the power ``order``, in float64, for cells one apart.

    ``"finite"``
        finite differences: derivatives of the polynomial through ``size`` cells, exact for polynomials along an axis of
        degree below ``size`` (Fornberg 1988). With order 1, sizes 3, 5, 7 have errors of order 2, 4, 6 in the cell size.
    ``"log"``
        Laplacian of Gaussian: smoothing by a Gaussian of ``sigma`` cells before differentiation (Marr and Hildreth 1980).
    ``"spline"``
        derivatives of a B-spline of degree ``size``, which smooths like a Gaussian of variance (size + 1) / 12 on the fewest
        cells (Unser, Aldroubi and Eden 1993, section II).
    ``"sinc"``
        derivatives of the band-limited signal through the cells, whose infinite support is tapered by a power of a cosine.
    ``"fourier"``
        exact transfer function at the ``size`` frequencies 2 pi k / size: the derivative of a signal of period ``size``
        (Trefethen 2000, chapter 3).

    The sum and the moments up to 2 * order are exact (for ``"fourier"`` only the sum): with order 1, |x|^2 gives 2 * dims.

    >>> laplacian_kernel()
    tensor([[ 0.,  1.,  0.],
            [ 1., -4.,  1.],
            [ 0.,  1.,  0.]], dtype=torch.float64)

    Args:
        order: number of Laplacians applied in turn; 0 only smooths, for ``"log"`` and ``"spline"``.
        method: one of ``DERIVATIVES``.
        size: cells along each side, odd, at least 2 * order + 1. The default is that minimum, 8 cells more for "sinc" and
            "fourier", and for "log" the support of the Gaussian.
        sigma: of "log", in cells.
        dims: number of axes.
    """
    along = _kernels_along(order, method, size, sigma)
    kernel = torch.zeros([len(along[0])] * dims, dtype=torch.float64)
    for factor, powers in _terms(order, dims):
        term = torch.tensor(factor, dtype=torch.float64)
        for power in powers:
            term = term[..., None] * along[power]
        kernel += term
    return kernel


@in_tensors
def laplacian_filter(
    maps: Float[Tensor, "b j *cells"], order: int = 1, *, method: str = "finite", **options: Any
) -> Float[Tensor, "b j *cells"]:
    """Filter maps (b, j, h, w) or volumes (b, j, d, h, w) with :func:`laplacian_kernel`, axis by axis.

    The result is the correlation; beyond the border the values of the edge are repeated. Half precision is computed and
    returned in float32. The ``options`` are ``size`` and ``sigma`` of the kernel.

    >>> x = torch.arange(5.0)
    >>> laplacian_filter((x**2).expand(1, 1, 5, 5))[0, 0, 2]  # at the edges the repeated values count
    tensor([ 1.,  2.,  2.,  2., -7.])
    """
    if (dims := maps.ndim - 2) not in {2, 3}:
        raise ValueError(f"need maps (b, j, h, w) or (b, j, d, h, w), got {tuple(maps.shape)}")
    check_maps(maps=maps)
    wide = widened(maps)
    along = [each.to(wide) for each in _kernels_along(order, method, **options)]
    total = torch.zeros_like(wide)
    for factor, powers in _terms(order, dims):
        term = wide
        for axis, power in enumerate(powers, start=2):
            rows, half = term.movedim(axis, -1), len(along[power]) // 2
            padded = functional.pad(rows.reshape(-1, 1, rows.shape[-1]), [half, half], mode="replicate")
            term = functional.conv1d(padded, along[power][None, None]).view(rows.shape).movedim(-1, axis)
        total += factor * term
    return total


def _kernels_along(
    order: int, method: str, size: int | None = None, sigma: float = 1.0
) -> list[Float[Tensor, " size"]]:
    """The one-dimensional kernels of the derivatives 0, 2, ... 2 * order."""
    if method not in DERIVATIVES:
        raise ValueError(f"method is one of {', '.join(DERIVATIVES)}, got {method!r}")
    if order < 0 or not 0 < sigma < math.inf:
        raise ValueError(f"need order >= 0 and sigma > 0, got {order=}, {sigma=}")
    if size is None and method == "log":  # beyond x the derivatives are below (x / sigma)^(2 order) times the Gaussian
        reach = math.sqrt(-2 * math.log(NEGLIGIBLE)) + order / 2
        size = 2 * max(order, math.ceil(reach * sigma)) + 1
    elif size is None:
        size = 2 * order + 1 + (8 if method in {"sinc", "fourier"} else 0)
    if size % 2 == 0 or size < 2 * order + 1:
        raise ValueError(f"size is odd and at least 2 * order + 1 = {2 * order + 1}, got {size}")
    return [DERIVATIVES[method](power, size, sigma) for power in range(order + 1)]


def _terms(order: int, dims: int) -> list[tuple[float, tuple[int, ...]]]:
    """The multinomial coefficients of (d^2/dx^2 + d^2/dy^2 + ...)^order, with the power of each axis."""
    if dims < 1:
        raise ValueError(f"need dims >= 1, got {dims=}")
    every = [powers for powers in product(range(order + 1), repeat=dims) if sum(powers) == order]
    return [(math.factorial(order) / math.prod(map(math.factorial, powers)), powers) for powers in every]


def _finite(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """Derivative 2 * power at 0 of each cell's Lagrange polynomial, in exact integers."""
    cells = range(-(size // 2), size // 2 + 1)
    kernel = []
    for cell in cells:
        coefficients, others = [1], [other for other in cells if other != cell]
        for other in others:  # times (x - other)
            pairs = zip([0, *coefficients], [*coefficients, 0], strict=True)
            coefficients = [lower - other * same for lower, same in pairs]
        derivative = math.factorial(2 * power) * coefficients[2 * power]
        kernel.append(float(Fraction(derivative, math.prod(cell - other for other in others))))
    return torch.tensor(kernel, dtype=torch.float64)


def _gaussian(power: int, size: int, sigma: float) -> Float[Tensor, " size"]:
    """The derivative of a Gaussian: an even polynomial times it, with the derivative's moments on the cells."""
    x = _cells(size) / sigma
    lower = [_gaussian(each, size, sigma) for each in range(power)]
    return _with_moments(x ** (2 * power) * torch.exp(-x.square() / 2), lower)


def _spline(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """Second differences of the B-spline of lower degree: each derivative is one difference over half cells."""
    degree = size - 2 * power
    zero = Fraction(0)
    values = [_b_spline(degree, Fraction(cell)) for cell in range(-(size // 2), size // 2 + 1)]
    for _each in range(power):
        values = [a - 2 * b + c for a, b, c in zip([zero, *values[:-1]], values, [*values[1:], zero], strict=True)]
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _sinc(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """The mean of (-w^2)^power cos(w x) over the band from 0 to pi, tapered, with corrected moments."""
    x = _cells(size)
    if power == 0:
        return (x == 0).double()
    window = torch.cos(math.pi * x / (size + 1)) ** (2 * power + 2)  # smooth enough at its ends for moments to converge
    w = (torch.arange(4096, dtype=torch.float64) + 0.5) * (math.pi / 4096)
    return _with_moments(_mean_over(w, x, power) * window, [_sinc(each, size, 0.0) for each in range(power)])


def _fourier(power: int, size: int, _: float) -> Float[Tensor, " size"]:
    """The inverse Fourier transform of (-w^2)^power at the frequencies of a signal of period ``size``."""
    return _mean_over(2 * math.pi * _cells(size) / size, _cells(size), power)


def _mean_over(w: Float[Tensor, " k"], x: Float[Tensor, " size"], power: int) -> Float[Tensor, " size"]:
    return ((-w.square()) ** power * torch.cos(x[:, None] * w)).mean(dim=1)


DERIVATIVES: dict[str, Callable[[int, int, float], Tensor]] = {
    "finite": _finite,
    "log": _gaussian,
    "spline": _spline,
    "sinc": _sinc,
    "fourier": _fourier,
}


def _with_moments(kernel: Float[Tensor, " size"], lower: list[Tensor]) -> Float[Tensor, " size"]:
    """Correct by kernels of lower derivatives and scale, so that x^0, x^2, ... x^2p give 0, ... 0, (2p)!."""
    cells = _cells(len(kernel))
    for half, other in enumerate(lower):
        kernel = kernel - (cells ** (2 * half) @ kernel) / math.factorial(2 * half) * other
    return kernel * math.factorial(2 * len(lower)) / (cells ** (2 * len(lower)) @ kernel)


def _b_spline(degree: int, x: Fraction) -> Fraction:
    """The centred B-spline as a sum of truncated powers."""
    powers = [max(Fraction(0), x + Fraction(degree + 1, 2) - k) ** degree for k in range(degree + 2)]
    terms = [(-1) ** k * math.comb(degree + 1, k) * power for k, power in enumerate(powers)]
    return sum(terms, Fraction(0)) / math.factorial(degree)


def _cells(size: int) -> Float[Tensor, " size"]:
    return torch.arange(-(size // 2), size // 2 + 1, dtype=torch.float64)
