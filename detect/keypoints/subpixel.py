"""Sub-pixel refinement of peaks: each method is a function of the maps and their local maxima.

All methods use a few cells around each maximum, in float64. The logarithm of a Gaussian is a parabola, so that
``log_parabola`` and ``least_squares`` are exact without knowing its width. If a method has no solution because the map does
not curve down around a maximum (a single cell of 1, a plateau as wide as the window), the point is the middle of the
plateau. ``quarter``, ``dark`` and ``dark_udp`` reproduce MMPose, including its errors at borders and between overlapping
peaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from detect.keypoints.local_maxima import LocalMaxima
from detect.ops.array_kinds import AnyArray, check_maps, in_tensors
from detect.ops.boxes import widened

SMALLEST = 1e-12  # replaces values without a logarithm
RADIUS = 4.5  # cells; for sigmas 1 to 3 within 15 % of the error with the best radius, under noise of 2 %
SHARE = 0.2  # of the maximum's value: lower cells are dominated by noise and other Gaussians
MARGIN = 0.7  # cells from the midpoint of two maxima within which a cell may belong to the other
SMALLEST_PIVOT = 1e-7  # relative; rounding errors of a pivot that should be 0 are smaller
VALUES_AT_ONCE = 2**18
SMALL_KERNELS = {  # OpenCV's Gaussian kernels of these lengths
    1: [1.0],
    3: [0.25, 0.5, 0.25],
    5: [0.0625, 0.25, 0.375, 0.25, 0.0625],
    7: [0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125],
}


Maps = Float[Tensor, " m *cells"]


@dataclass(frozen=True, eq=False)
class Refined:
    """Points (x, y[, z]) in cells and their covariance in squared cells, or None if the method gives none."""

    points: Float[AnyArray, "n D"]
    covariance: Float[AnyArray, "n D D"] | None = None


Refinement = Callable[[Tensor, LocalMaxima], Refined]


@in_tensors
def unrefined(maps: Maps, maxima: LocalMaxima) -> Refined:
    """Return the cell itself, or the middle of its plateau; the mean error for a Gaussian is .38 cells."""
    check_maps(maps=maps)
    return Refined(maxima.middle)


@in_tensors
def quarter(maps: Maps, maxima: LocalMaxima) -> Refined:
    """Shift by a quarter of a cell towards the higher neighbour (Newell et al. 2016, section 4, as in MMPose).

    Along an axis, maxima in the first two cells and the last one are not shifted, nor those in the first of the other axis.
    """
    x, y = _plane(maxima)
    near = _window(maps, maxima.map, maxima.at, (1, 1))[0]
    height, width = maps.shape[1:]
    moves = torch.stack([(x > 1) & (x < width - 1) & (y > 0), (y > 1) & (y < height - 1) & (x > 0)], dim=1)
    shift = 0.25 * torch.stack([near[:, 1, 2] - near[:, 1, 0], near[:, 2, 1] - near[:, 0, 1]], dim=1).sign()
    return Refined(maxima.at + shift * moves)


@in_tensors
def dark(maps: Maps, maxima: LocalMaxima, *, kernel: int = 11) -> Refined:
    """Take one Newton step on the logarithm of the blurred map (DARK: Zhang et al. 2020, section 3.2).

    As in MMPose, second differences span two cells to either side, and maxima within two cells of the border are not moved.
    The ``kernel`` is the length of the blur, in cells, odd: 11 is for sigma 2, 17 for sigma 3.
    """
    _plane(maxima)
    logs = _blurred(maps, kernel).clamp_(min=1e-10).log_()
    near = _window(logs, maxima.map, maxima.at, (2, 2))[0]
    dxx = 0.25 * (near[:, 2, 4] - 2 * near[:, 2, 2] + near[:, 2, 0])
    dyy = 0.25 * (near[:, 4, 2] - 2 * near[:, 2, 2] + near[:, 0, 2])
    dxy = 0.25 * (near[:, 3, 3] - near[:, 1, 3] - near[:, 3, 1] + near[:, 1, 1])
    extents = torch.tensor([maps.shape[2], maps.shape[1]], device=maps.device)
    inside = ((maxima.at > 1) & (maxima.at < extents - 2)).all(dim=1)
    step = _newton_step(near[:, 1:4, 1:4], dxx, dyy, dxy)
    return Refined(maxima.at + torch.where(inside[:, None], step, 0.0))


@in_tensors
def dark_udp(maps: Maps, maxima: LocalMaxima, *, kernel: int = 11) -> Refined:
    """Refine as :func:`dark` with differences over one cell, repeating the edge of the map (Huang et al. 2020).

    As in MMPose, the step is not checked; at the border the blur makes it wrong.
    """
    _plane(maxima)
    logs = _blurred(maps, kernel).clamp_(1e-3, 50.0).log_()
    near = _window(logs, maxima.map, maxima.at, (1, 1))[0]
    here, (left, right), (above, below) = near[:, 1, 1], near[:, 1, ::2].unbind(dim=1), near[:, ::2, 1].unbind(dim=1)
    dxx, dyy = right - 2 * here + left, below - 2 * here + above
    dxy = 0.5 * (near[:, 2, 2] - right - below + 2 * here - left - above + near[:, 0, 0])
    ridge = torch.finfo(torch.float32).eps
    step = _newton_step(near, dxx + ridge, dyy + ridge, dxy)
    return Refined(maxima.at + step)


@in_tensors
def log_parabola(maps: Maps, maxima: LocalMaxima) -> Refined:
    """Take the vertex of the parabola through the logarithms of three cells along each axis, at the border the last three.

    Exact for Gaussians aligned with the axes, and sensitive to noise.
    """
    centre = _inner(maps.shape[1:], maxima.at)
    columns = []
    for axis in range(centre.shape[1]):
        along = [int(other == axis) for other in range(centre.shape[1])]
        cells = maxima.at.clone()
        cells[:, axis] = centre[:, axis]
        values, inside = (each.flatten(1) for each in _window(maps, maxima.map, cells, along))
        before, here, after = values.clamp(min=SMALLEST).log().unbind(dim=1)
        curvature = before - 2 * here + after
        vertex = centre[:, axis] + 0.5 * (before - after) / curvature
        is_valid = inside.all(dim=1) & (curvature < 0) & ((vertex - maxima.at[:, axis]).abs() <= 1)
        columns.append(torch.where(is_valid, vertex, maxima.middle[:, axis]))
    return Refined(torch.stack(columns, dim=1))


@in_tensors
def least_squares(maps: Maps, maxima: LocalMaxima) -> Refined:
    """Fit a paraboloid to logarithms, weighted by the squared values, and take its vertex (Guo 2011, equation 7).

    The noise of a logarithm is inversely proportional to the value, which makes these weights optimal. The fit uses the
    cells within ``RADIUS`` of the maximum whose value is at least ``SHARE`` of it, and only up to half the distance to the
    next maximum less ``MARGIN``; no cell of a maximum below that share is used, so that it does not count as the next. The
    9 (27 in volumes) cells around the maximum are always used, at the border the last 9. A Gaussian of any width, shape and
    tilt is therefore located exactly, also at the border and next to others if Gaussians are blended by their maximum. The
    covariance is that of the fit, with the residuals as noise. A point without a solution has the variance of a uniform
    distribution over its cell, 1/12 along each axis.
    """
    extents = tuple(maps.shape[1:])
    if torch.compiler.is_compiling():  # an export has no number of chunks that depends on its input
        return Refined(*_fit(fit_windows(maps, maxima), maxima, extents))
    return fit_in_chunks(lambda rows: fit_windows(maps, maxima.rows(rows)), maxima, extents)


def fit_windows(maps: Maps, maxima: LocalMaxima) -> Float[Tensor, "n k"]:
    """The values, in float64, of the cells from which :func:`least_squares` locates each maximum.

    Beyond the border the values of the edge are repeated; the fit leaves them out.
    """
    num_axes = maxima.at.shape[1]
    return _window(maps, maxima.map, _inner(maps.shape[1:], maxima.at), [int(RADIUS)] * num_axes)[0].flatten(1)


def fit_in_chunks(
    windows: Callable[[Int64[Tensor, " c"]], Float[Tensor, "c k"]], maxima: LocalMaxima, extents: Sequence[int]
) -> Refined:
    """Fit the windows of some rows of the maxima after the other; ``extents`` are those of the maps."""
    num_values = (2 * int(RADIUS) + 1) ** maxima.at.shape[1]
    rows = torch.arange(len(maxima.at), device=maxima.at.device)
    chunks = torch.split(rows, max(1, VALUES_AT_ONCE // num_values))
    points, covariance = zip(*(_fit(windows(own), maxima.rows(own), extents) for own in chunks), strict=True)
    return Refined(torch.cat(points), torch.cat(covariance))


REFINEMENTS: dict[str, Refinement] = {
    "none": unrefined,
    "quarter": quarter,
    "dark": dark,
    "dark_udp": dark_udp,
    "log_parabola": log_parabola,
    "least_squares": least_squares,
}


def _fit(values: Tensor, maxima: LocalMaxima, extents: Sequence[int]) -> tuple[Tensor, Tensor]:
    num_axes = maxima.at.shape[1]
    centre = _inner(extents, maxima.at)
    steps = torch.arange(-int(RADIUS), int(RADIUS) + 1, device=values.device)
    moves = torch.cartesian_prod(*[steps] * num_axes).view(-1, num_axes).flip(1).double()  # x is a window's last axis
    reach = (maxima.spacing.double() / 2 - MARGIN).clamp(math.sqrt(num_axes), RADIUS)
    relative = values / maxima.scores[:, None]
    used = torch.cdist((maxima.at - centre).double(), moves) <= reach[:, None]
    used &= relative >= SHARE
    used |= moves.abs().amax(dim=1) <= 1
    used &= _are_inside(centre, [int(RADIUS)] * num_axes, extents).flatten(1) & (values > 0)
    vertex, covariance, is_valid = _vertex(torch.where(used, relative, 0.0), moves / RADIUS)
    points = centre + RADIUS * vertex
    is_valid &= (points - maxima.at).square().sum(dim=1) <= reach.square()
    uniform = torch.eye(num_axes, dtype=torch.float64, device=values.device) / 12
    return (
        torch.where(is_valid[:, None], points, maxima.middle),
        torch.where(is_valid[:, None, None], RADIUS**2 * covariance, uniform),
    )


def _vertex(
    values: Float[Tensor, "n k"], moves: Float[Tensor, "k D"]
) -> tuple[Float[Tensor, "n D"], Float[Tensor, "n D D"], Bool[Tensor, " n"]]:
    """Vertex of the paraboloid fitted to ln(values), its covariance, and whether it exists; values of 0 have no weight.

    Let b be the coefficients of the paraboloid, H its Hessian and G(x) b its gradient. The vertex solves G b = 0; a change
    db of the coefficients moves it by -H^-1 G db.
    """
    num_axes = moves.shape[1]
    squares = list(combinations_with_replacement(range(num_axes), 2))
    products = (moves[:, [i]] * moves[:, [j]] for i, j in squares)
    design = torch.cat([torch.ones_like(moves[:, :1]), moves, *products], dim=1)
    weights, logs = values.square(), values.clamp(min=SMALLEST).log()
    normal = weights @ (design[:, :, None] * design[:, None]).flatten(1)
    inverse, full = _inverse(normal.view(-1, design.shape[1], design.shape[1]))
    solution = (inverse @ ((weights * logs) @ design)[:, :, None])[:, :, 0]
    curvature = values.new_zeros(values.shape[0], num_axes, num_axes)
    for (i, j), column in zip(squares, solution[:, 1 + num_axes :].unbind(dim=1), strict=True):
        curvature[:, i, j] -= column
        curvature[:, j, i] -= column
    inverse_curvature, is_peak = _inverse(curvature)
    vertex = (inverse_curvature @ solution[:, 1 : 1 + num_axes, None])[:, :, 0]
    slope = values.new_zeros(values.shape[0], num_axes, design.shape[1])
    slope[:, :, 1 : 1 + num_axes] = torch.eye(num_axes).to(slope)
    for place, (i, j) in enumerate(squares, start=1 + num_axes):
        slope[:, i, place] += vertex[:, j]
        slope[:, j, place] += vertex[:, i]
    jacobian = inverse_curvature @ slope
    freedom = (weights > 0).sum(dim=1) - design.shape[1]
    noise = (weights * (logs - solution @ design.T).square()).sum(dim=1) / freedom.clamp(min=1)
    covariance = jacobian @ inverse @ jacobian.mT * noise[:, None, None]
    return vertex, covariance, full & is_peak & (freedom > 0) & vertex.isfinite().all(dim=1)


def _inverse(matrices: Float[Tensor, "n p p"]) -> tuple[Float[Tensor, "n p p"], Bool[Tensor, " n"]]:
    """Inverses, and whether each matrix is positive definite; the others are replaced by the identity."""
    identity = torch.eye(matrices.shape[1]).to(matrices)
    if torch.compiler.is_compiling():
        inverses, pivots = _eliminated(matrices, identity)
        definite = pivots.amin(dim=1) > SMALLEST_PIVOT * pivots.amax(dim=1)
        return torch.where(definite[:, None, None], inverses, identity), definite
    factor, failed = torch.linalg.cholesky_ex(matrices)
    pivots = factor.diagonal(dim1=1, dim2=2)
    definite = (failed == 0) & (pivots.amin(dim=1) > SMALLEST_PIVOT * pivots.amax(dim=1))
    return torch.linalg.inv_ex(torch.where(definite[:, None, None], matrices, identity))[0], definite


def _eliminated(
    matrices: Float[Tensor, "n p p"], identity: Float[Tensor, "p p"]
) -> tuple[Float[Tensor, "n p p"], Float[Tensor, "n p"]]:
    """Inverses and the diagonal of Cholesky factors by Gauss-Jordan elimination, since ONNX has no operator for them.

    Positive definite matrices need no pivoting. Of others at least one pivot is 0.
    """
    size = matrices.shape[1]
    rows = torch.arange(size, device=matrices.device)
    joined = torch.cat([matrices, identity.expand_as(matrices)], dim=2)
    pivots = []
    for row in range(size):
        pivot = joined[:, row, row]
        pivots.append(pivot)
        scaled = joined[:, row] / torch.where(pivot > 0, pivot, 1.0)[:, None]
        cleared = joined - joined[:, :, row, None] * scaled[:, None]
        joined = torch.where((rows == row)[:, None], scaled[:, None], cleared)
    return joined[:, :, size:], torch.stack(pivots, dim=1).clamp(min=0).sqrt()


def _window(
    maps: Maps, number: Int64[Tensor, " n"], centre: Int64[Tensor, "n D"], reaches: Sequence[int]
) -> tuple[Float[Tensor, " n *window"], Bool[Tensor, " n *window"]]:
    """Values in float64 of the windows around cells, reaching this far along x, y[, z], and whether each cell is on the map.

    Beyond the border the values of the edge are repeated. The axes of a window are those of the map: [z,] y, x.
    """
    check_maps(maps=maps)
    places = number
    for axis, (reach, extent) in enumerate(zip(reversed(reaches), maps.shape[1:], strict=True)):
        cells = _along(centre, reach, axis)
        places = places[..., None] * extent + _as_axis(cells.clamp(0, extent - 1), axis)
    return maps.reshape(-1).take(places).double(), _are_inside(centre, reaches, maps.shape[1:])


def _are_inside(
    centre: Int64[Tensor, "n D"], reaches: Sequence[int], extents: Sequence[int]
) -> Bool[Tensor, " n *window"]:
    """Whether each cell of the windows is on a map of these extents."""
    inside = torch.ones_like(centre[:, 0], dtype=torch.bool)
    for axis, (reach, extent) in enumerate(zip(reversed(reaches), extents, strict=True)):
        cells = _along(centre, reach, axis)
        inside = inside[..., None] & _as_axis(cells == cells.clamp(0, extent - 1), axis)
    return inside


def _as_axis(values: Shaped[Tensor, "n w"], axis: int) -> Shaped[Tensor, " n *window"]:
    """Values along an axis of windows, to be combined with those of the axes before."""
    return values.view(values.shape[0], *[1] * axis, values.shape[1])


def _along(centre: Int64[Tensor, "n D"], reach: int, axis: int) -> Int64[Tensor, "n w"]:
    """The cells of windows along an axis of the maps, which are in the order [z,] y, x."""
    steps = torch.arange(-reach, reach + 1, device=centre.device)
    return centre[:, centre.shape[1] - 1 - axis, None] + steps


def _inner(extents: Sequence[int], at: Int64[Tensor, "n D"]) -> Int64[Tensor, "n D"]:
    """The nearest cells with a neighbour on each side."""
    along = zip(at.unbind(dim=1), reversed(extents), strict=True)
    return torch.stack([cells.clamp(min=1).clamp(max=extent - 2).clamp(min=0) for cells, extent in along], dim=1)


def _plane(maxima: LocalMaxima) -> tuple[Tensor, ...]:
    if maxima.at.shape[1] != 2:
        raise ValueError("this refinement is for maps (b, j, h, w); for volumes use 'log_parabola' or 'least_squares'")
    return maxima.at.unbind(dim=1)


def _newton_step(near: Float[Tensor, "n 3 3"], dxx: Tensor, dyy: Tensor, dxy: Tensor) -> Float[Tensor, "n 2"]:
    """Minus the inverse Hessian times the gradient by central differences; 0 if the Hessian is singular."""
    dx, dy = 0.5 * (near[:, 1, 2] - near[:, 1, 0]), 0.5 * (near[:, 2, 1] - near[:, 0, 1])
    determinant = dxx * dyy - dxy * dxy
    step = -torch.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], dim=1) / determinant[:, None]
    return torch.where((determinant != 0)[:, None], step, 0.0)


def _blurred(maps: Float[Tensor, "m h w"], kernel: int) -> Float[Tensor, "m h w"]:
    """Blur as OpenCV with zeros beyond the border, then scale each map to its former maximum."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"the blur's kernel is an odd number of cells, got {kernel}")
    check_maps(maps=maps)
    wide = widened(maps)
    taps = _blur_taps(kernel).to(wide)
    blurred = functional.conv2d(wide[:, None], taps[:, None][None, None], padding=(kernel // 2, 0))
    blurred = functional.conv2d(blurred, taps[None][None, None], padding=(0, kernel // 2))[:, 0]
    return blurred * (wide.amax(dim=(1, 2)) / blurred.amax(dim=(1, 2)).clamp(min=SMALLEST))[:, None, None]


def _blur_taps(kernel: int) -> Float[Tensor, " k"]:
    if kernel in SMALL_KERNELS:
        return torch.tensor(SMALL_KERNELS[kernel], dtype=torch.float64)
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    taps = torch.exp(-(torch.arange(kernel, dtype=torch.float64) - kernel // 2).square() / (2 * sigma**2))
    return taps / taps.sum()
