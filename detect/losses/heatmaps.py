"""Losses of heatmaps (b, j, *cells), of two or three axes of cells: one sum for each image.

``positives`` are the cells of the drawn points, (m, 2 + axes) rows (image, joint, [depth,] row, column): a cell is positive
because it is listed, whatever the target says there, and is so once however many points lie in it. ``weights``, (b, 1,
*cells) or (b, j, *cells), multiply what each cell adds: 0 is an ignored region. Targets and weights get no gradient.

The focal loss and the cross-entropy read logits. The squared error and adaptive wing compare maps as they come: those of a
network without a last sigmoid, or ``logits.sigmoid()`` where it has one.

Shapes that differ are refused with a ValueError: nothing is broadcast but the one channel of weights.

The sums are divided as the other losses' are: ``(sums / image_normalizer(counts)).sum()``, where the counts of positives are
``torch.bincount(positives[:, 0], minlength=b)``. An image without points is ordinary. Half precision is computed and
returned in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from detect.losses.precision import widened

ANY_JOINT = 2**31
SHOWN_FROM = 0.2  # Wang et al. 2019: cells of the weighted map, after it has grown by one cell


def heatmap_focal_loss(
    logits: Float[Tensor, "b j *cells"],
    targets: Float[Tensor, "b j *cells"],
    *,
    positives: Int64[Tensor, "m k"],
    weights: Float[Tensor, "b _ *cells"] | None = None,
) -> Float[Tensor, " b"]:
    """Penalty-reduced focal loss (Law and Deng 2018, equation 1; Zhou et al. 2019, section 3).

    -(1 - p)**2 ln p at a positive, -(1 - y)**4 p**2 ln(1 - p) elsewhere, where y is the target: near a point a high p costs
    little. It is no distance from the target: at p = y it is not 0. Both logarithms come from the logit; nothing is clamped.

    >>> import math
    >>> targets = torch.tensor([[[[0.9, 0.5, 0.0]]]])  # p = 1/2: 1/4 ln 2 at the point, and times 1/16 and 1 beside it
    >>> sums = heatmap_focal_loss(torch.zeros(1, 1, 1, 3), targets, positives=torch.tensor([[0, 0, 0, 0]]))
    >>> sums / math.log(2)
    tensor([0.5156])

    Raises:
        ValueError: positives of another number of axes, or (on the CPU) beyond the map.
    """
    _check_same(logits, targets)
    listed = _mask(positives, logits)
    signed = widened(logits)
    signed = torch.where(listed, -signed, signed)  # a positive costs what a negative with the opposite logit does
    miss = signed.sigmoid()
    reduction = (1 - targets.detach().to(miss)).clamp(min=0).square().square()
    cost = reduction.masked_fill(listed, 1.0) * miss * miss * functional.softplus(signed)
    return _image_sums(cost, weights)


def heatmap_bce_loss(
    logits: Float[Tensor, "b j *cells"],
    targets: Float[Tensor, "b j *cells"],
    *,
    pos_weight: float = 1.0,
    weights: Float[Tensor, "b _ *cells"] | None = None,
) -> Float[Tensor, " b"]:
    """Cross-entropy, -pos_weight y ln p - (1 - y) ln(1 - p).

    A ``pos_weight`` of the background's share over the foreground's, (1 - y).sum() / y.sum() over the data, balances them.

    >>> import math
    >>> targets = torch.tensor([[[[1.0, 0.5, 0.0]]]])  # p = 1/2, ln 2 times: 3, 1.5 + .5, 1
    >>> heatmap_bce_loss(torch.zeros(1, 1, 1, 3), targets, pos_weight=3.0) / math.log(2)
    tensor([6.])
    """
    _check_same(logits, targets)
    _check_positive(pos_weight=pos_weight)
    wide = widened(logits)
    balance = wide.new_tensor(pos_weight)
    cost = functional.binary_cross_entropy_with_logits(
        wide, targets.detach().to(wide), pos_weight=balance, reduction="none"
    )
    return _image_sums(cost, weights)


def heatmap_mse_loss(
    maps: Float[Tensor, "b j *cells"],
    targets: Float[Tensor, "b j *cells"],
    *,
    foreground_weight: float = 1.0,
    weights: Float[Tensor, "b _ *cells"] | None = None,
) -> Float[Tensor, " b"]:
    """Squared error, a cell of target y weighing foreground_weight y + 1 - y.

    So the foreground counts as in the cross-entropy above, and the same ratio balances it.

    >>> maps, targets = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    >>> heatmap_mse_loss(maps, targets, foreground_weight=9.0)  # 9 * 1 + (4.5 + .5) * .25
    tensor([10.2500])
    """
    _check_same(maps, targets)
    _check_positive(foreground_weight=foreground_weight)
    wide = widened(maps)
    goal = targets.detach().to(wide)
    return _image_sums((foreground_weight * goal + 1 - goal) * (wide - goal).square(), weights)


def adaptive_wing_loss(
    maps: Float[Tensor, "b j *cells"],
    targets: Float[Tensor, "b j *cells"],
    *,
    omega: float = 14.0,
    epsilon: float = 1.0,
    alpha: float = 2.1,
    theta: float = 0.5,
    shown_weight: float = 0.0,
    weights: Float[Tensor, "b _ *cells"] | None = None,
) -> Float[Tensor, " b"]:
    """Adaptive wing loss (Wang et al. 2019): steep for small errors of the foreground alone.

    omega ln(1 + |d / epsilon|**(alpha - y)) for an error d below theta; a straight line, smoothly joined, above. Targets are
    from 0 to 1. With ``shown_weight`` (W of its weighted loss map, 10 there) a cell whose target, or a
    neighbour's, reaches 0.2 weighs 1 + shown_weight.

    >>> maps, targets = torch.zeros(1, 1, 1, 1), torch.tensor([[[[0.25]]]])
    >>> adaptive_wing_loss(maps, targets)  # 14 ln(1 + .25**1.85)
    tensor([1.0378])

    Raises:
        ValueError: need alpha > 2, lest the slope at y = 1 be infinite, and positive omega, epsilon and theta.
    """
    _check_same(maps, targets)
    _check_positive(omega=omega, epsilon=epsilon, theta=theta)
    if not alpha > 2 or not shown_weight >= 0:
        raise ValueError(f"need alpha > 2 and shown_weight >= 0, got {alpha=}, {shown_weight=}")
    wide = widened(maps)
    goal = targets.detach().to(wide)
    error, power = (wide - goal).abs(), alpha - goal
    joint = (theta / epsilon) ** power
    slope = omega / theta * power * joint / (1 + joint)
    line = slope * (error - theta) + omega * torch.log1p(joint)
    cost = torch.where(error < theta, omega * torch.log1p((error / epsilon) ** power), line)
    if shown_weight:
        pool = functional.max_pool2d if goal.ndim == 4 else functional.max_pool3d
        cost = cost * (1 + shown_weight * (pool(goal, 3, stride=1, padding=1) >= SHOWN_FROM))
    return _image_sums(cost, weights)


def points_l1_loss(
    maps: Float[Tensor, "b d *cells"],
    values: Float[Tensor, "m d"],
    *,
    positives: Int64[Tensor, "m k"],
    weights: Float[Tensor, "b _ *cells"] | None = None,
) -> Float[Tensor, " b"]:
    """Absolute differences between what maps say at the positives and what they should: offsets, sizes or orientations.

    Each point counts, also where two share a cell; the rest of the map gets no gradient.

    >>> maps = torch.zeros(1, 2, 4, 5)
    >>> points_l1_loss(maps, torch.tensor([[0.25, -0.5]]), positives=torch.tensor([[0, 0, 3, 4]]))
    tensor([0.7500])

    Args:
        maps: d channels, shared by the joints.
        values: one row for each positive.
        weights: of cells, (b, 1, *cells) or one channel for each joint.

    Raises:
        ValueError: positives of another number of axes, or (on the CPU) beyond the map, or not one row of values for each.
    """
    wanted = positives.shape[0], maps.shape[1]
    if tuple(values.shape) != wanted:
        raise ValueError(f"values are one row for each positive, {wanted}, got {tuple(values.shape)}")
    if weights is not None:
        _check_weights(weights, (maps.shape[0], *weights.shape[1:2], *maps.shape[2:]))
    num_types = ANY_JOINT if weights is None or weights.shape[1] == 1 else weights.shape[1]
    _check_positives(positives, (len(maps), num_types, *maps.shape[2:]))
    image, joint, *cell = positives.unbind(dim=1)
    wide = widened(maps.movedim(1, -1)[(image, *cell)])
    rows = (wide - values.detach().to(wide)).abs().sum(dim=1)
    if weights is not None:
        joint = joint.clamp(max=weights.shape[1] - 1)  # one channel stands for all joints
        rows = rows * weights.detach()[(image, joint, *cell)].to(rows)
    return rows.new_zeros(len(maps)).index_add(0, image, rows)


def _image_sums(cost: Tensor, weights: Tensor | None) -> Tensor:
    if weights is not None:
        _check_weights(weights, cost.shape)
        cost = cost * weights.detach().to(cost)
    return cost.sum(dim=tuple(range(1, cost.ndim)))


def _check_same(maps: Tensor, targets: Tensor) -> None:
    if targets.shape != maps.shape:
        raise ValueError(f"targets are as the maps, {tuple(maps.shape)}, got {tuple(targets.shape)}")


def _check_weights(weights: Tensor, shape: Sequence[int]) -> None:
    if tuple(weights.shape) not in ((shape[0], 1, *shape[2:]), tuple(shape)):
        raise ValueError(f"weights are as the maps, {tuple(shape)}, or of one channel, got {tuple(weights.shape)}")


def _mask(positives: Tensor, maps: Tensor) -> Bool[Tensor, "b j *cells"]:
    _check_positives(positives, maps.shape)
    listed = torch.zeros(maps.shape, dtype=torch.bool, device=maps.device)
    listed[positives.unbind(dim=1)] = True
    return listed


def _check_positives(positives: Tensor, shape: Sequence[int]) -> None:
    if positives.shape[1] != len(shape):
        raise ValueError(f"positives of maps {tuple(shape)} are rows of {len(shape)}, got {positives.shape[1]}")
    if positives.device.type != "cpu" or torch.compiler.is_compiling():
        return  # CUDA asserts it by itself
    beyond = ((positives < 0) | (positives >= torch.tensor(shape))).any(dim=1)
    if beyond.any():
        raise ValueError(f"positive {positives[beyond][0].tolist()} is beyond the maps {tuple(shape)}")


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"need a positive {name}, got {number}")
