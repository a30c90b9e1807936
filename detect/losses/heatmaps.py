"""Losses of heatmaps (b, j, *cells) with two or three axes of cells: one sum for each image.

``positives`` are the cells of the drawn points, rows (image, keypoint type, [depth,] row, column): a listed cell is positive
whatever its target, and counts once if several points share it. ``weights``, (b, 1, *cells) or (b, j, *cells), multiply the
loss of each cell; 0 ignores a region. Targets and weights get no gradient. Shapes that differ, and maps of
integers, raise a ValueError: only weights of one channel broadcast. NumPy arrays are taken too, and give arrays.

The focal loss and the cross-entropy take logits. The squared error and the adaptive wing loss compare maps as they are: the
outputs of a network without a last sigmoid, or ``logits.sigmoid()``.

Divide the sums as those of the other losses: ``(sums / image_normalizer(counts)).sum()`` with the counts of positives,
``torch.bincount(positives[:, 0], minlength=b)``. An image without points needs no special case. Half precision is computed
and returned in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from detect.ops.array_kinds import check_maps, check_shape, in_tensors
from detect.ops.boxes import widened

MANY = 2**31  # more keypoint types than any map has
WEIGHTED_FROM = 0.2  # Wang et al. 2019: the weighted loss map is the target from this value, dilated by one cell

Maps = Float[Tensor, "b j *cells"]
Weights = Float[Tensor, "b _ *cells"]
Cells = Int64[Tensor, "m k"]
Sums = Float[Tensor, " b"]


@in_tensors
def heatmap_focal_loss(logits: Maps, targets: Maps, *, positives: Cells, weights: Weights | None = None) -> Sums:
    """Penalty-reduced focal loss (Law and Deng 2018, equation 1; Zhou et al. 2019, section 3).

    A positive cell costs -(1 - p)**2 ln p, any other cell -(1 - y)**4 p**2 ln(1 - p) with the target y, so a high p costs
    little near a point. The loss is no distance from the target: it is not 0 at p = y. Both logarithms are computed from
    the logit, without clamping.

    >>> import math
    >>> targets = torch.tensor([[[[0.9, 0.5, 0.0]]]])  # p = 1/2: 1/4 ln 2 at the point, 1/16 and 1 times that beside it
    >>> sums = heatmap_focal_loss(torch.zeros(1, 1, 1, 3), targets, positives=torch.tensor([[0, 0, 0, 0]]))
    >>> sums / math.log(2)
    tensor([0.5156])
    """
    signed, goal = _same_maps(logits, targets)
    _check_positives(positives, logits.shape)
    listed = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    listed[positives.unbind(dim=1)] = True
    signed = torch.where(listed, -signed, signed)  # a positive costs the same as a negative with the opposite logit
    miss = signed.sigmoid()
    reduction = (1 - goal).clamp(min=0).square().square()
    cost = reduction.masked_fill(listed, 1.0) * miss * miss * functional.softplus(signed)
    return _image_sums(cost, weights)


@in_tensors
def heatmap_bce_loss(logits: Maps, targets: Maps, *, pos_weight: float = 1.0, weights: Weights | None = None) -> Sums:
    """Cross-entropy with soft targets y: -pos_weight y ln p - (1 - y) ln(1 - p).

    A ``pos_weight`` of (1 - y).sum() / y.sum() over the data gives foreground and background the same weight.

    >>> import math
    >>> targets = torch.tensor([[[[1.0, 0.5, 0.0]]]])  # p = 1/2: ln 2 times 3, 1.5 + .5, 1
    >>> heatmap_bce_loss(torch.zeros(1, 1, 1, 3), targets, pos_weight=3.0) / math.log(2)
    tensor([6.])
    """
    wide, goal = _same_maps(logits, targets)
    _check_positive(pos_weight=pos_weight)
    balance = wide.new_full((), pos_weight)
    cost = functional.binary_cross_entropy_with_logits(wide, goal, pos_weight=balance, reduction="none")
    return _image_sums(cost, weights)


@in_tensors
def heatmap_mse_loss(
    maps: Maps, targets: Maps, *, foreground_weight: float = 1.0, weights: Weights | None = None
) -> Sums:
    """Squared error, in which a cell with target y weighs foreground_weight y + 1 - y.

    The ratio that balances the cross-entropy, see :func:`heatmap_bce_loss`, balances this loss too.

    >>> maps, targets = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    >>> heatmap_mse_loss(maps, targets, foreground_weight=9.0)  # 9 * 1 + (4.5 + .5) * .25
    tensor([10.2500])
    """
    wide, goal = _same_maps(maps, targets)
    _check_positive(foreground_weight=foreground_weight)
    return _image_sums((foreground_weight * goal + 1 - goal) * (wide - goal).square(), weights)


@in_tensors
def adaptive_wing_loss(
    maps: Maps,
    targets: Maps,
    *,
    omega: float = 14.0,
    epsilon: float = 1.0,
    alpha: float = 2.1,
    theta: float = 0.5,
    map_weight: float = 0.0,
    weights: Weights | None = None,
) -> Sums:
    """Adaptive wing loss (Wang et al. 2019): steep for small errors, but only in the foreground.

    An error d below ``theta`` costs omega ln(1 + |d / epsilon|**(alpha - y)) for a target y from 0 to 1; above it the loss
    goes on as a straight line, smoothly joined. With ``map_weight`` (W of the paper's weighted loss map, 10 there) a cell
    weighs 1 + map_weight if its target or a neighbour's is 0.2 or more.

    >>> maps, targets = torch.zeros(1, 1, 1, 1), torch.tensor([[[[0.25]]]])
    >>> adaptive_wing_loss(maps, targets)  # 14 ln(1 + .25**1.85)
    tensor([1.0378])

    Raises:
        ValueError: alpha is not above 2 (the slope at y = 1 would be infinite), or omega, epsilon or theta is not positive.
    """
    wide, goal = _same_maps(maps, targets)
    _check_positive(omega=omega, epsilon=epsilon, theta=theta)
    if not alpha > 2 or not map_weight >= 0:
        raise ValueError(f"need alpha > 2 and map_weight >= 0, got {alpha=}, {map_weight=}")
    error, power = (wide - goal).abs(), alpha - goal
    at_theta = (theta / epsilon) ** power
    slope = omega / theta * power * at_theta / (1 + at_theta)
    line = slope * (error - theta) + omega * torch.log1p(at_theta)
    cost = torch.where(error < theta, omega * torch.log1p((error / epsilon) ** power), line)
    if map_weight:
        pool = functional.max_pool2d if goal.ndim == 4 else functional.max_pool3d
        cost = cost * (1 + map_weight * (pool(goal, 3, stride=1, padding=1) >= WEIGHTED_FROM))
    return _image_sums(cost, weights)


@in_tensors
def points_l1_loss(maps: Float[Tensor, "b d *cells"], values: Float[Tensor, "m d"], *, positives: Cells) -> Sums:
    """Absolute error of maps (offsets, sizes or orientations) at the positives.

    The maps have d channels, shared by the keypoint types, and the targets one row of values for each positive. Every point
    counts, also if several share a cell; the rest of the map gets no gradient.

    >>> maps = torch.zeros(1, 2, 4, 5)
    >>> points_l1_loss(maps, torch.tensor([[0.25, -0.5]]), positives=torch.tensor([[0, 0, 3, 4]]))
    tensor([0.7500])

    Raises:
        ValueError: positives have another number of axes, are not one for each row of values, or (on the CPU) are outside
            the maps.
    """
    check_maps(maps=maps)
    check_shape("one row of values for each positive,", values, (len(positives), maps.shape[1]))
    _check_positives(positives, (len(maps), MANY, *maps.shape[2:]))
    image, _, *cell = positives.unbind(dim=1)
    wide = widened(maps.movedim(1, -1)[(image, *cell)])
    rows = (wide - values.detach().to(wide)).abs().sum(dim=1)
    return rows.new_zeros(len(maps)).index_add(0, image, rows)


def _image_sums(cost: Tensor, weights: Tensor | None) -> Tensor:
    if weights is not None:
        check_maps(weights=weights)
        shape = tuple(cost.shape)
        check_shape("weights of the maps' shape, or of one channel,", weights, shape, (shape[0], 1, *shape[2:]))
        cost = cost * weights.detach().to(cost)
    return cost.sum(dim=tuple(range(1, cost.ndim)))


def _same_maps(maps: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The maps, and the targets in their precision and without a gradient."""
    check_maps(maps=maps, targets=targets)
    check_shape("targets of the maps' shape", targets, maps.shape)
    wide = widened(maps)
    return wide, targets.detach().to(wide)


def _check_positives(positives: Tensor, shape: Sequence[int]) -> None:
    check_shape("positives as (image, keypoint type, *cell),", positives, (len(positives), len(shape)))
    if positives.device.type != "cpu" or torch.compiler.is_compiling():
        return  # on a GPU, indexing asserts it
    outside = ((positives < 0) | (positives >= torch.tensor(shape))).any(dim=1)
    if outside.any():
        raise ValueError(f"positive {positives[outside][0].tolist()} is outside the maps {tuple(shape)}")


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"need a positive {name}, got {number}")
