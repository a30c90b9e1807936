"""How wide to draw an object: from its size, or from the overlap that a wrong corner still leaves."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

RULES = ("corrected", "centernet")


def iou_radius(
    sizes: Float[ndarray, "n 2"], *, min_overlap: float = 0.7, rule: str = "corrected"
) -> Float[ndarray, " n"]:
    """How far the two corners of a box may both be off at an IoU of at least ``min_overlap`` (Law and Deng 2018, 3.2).

    The smallest of three cases: one corner inside the box and one outside, both inside, both outside. ``"centernet"`` is the
    formula that CornerNet and CenterNet ship: the wrong root of the first, and all roots divided by 2 alone. It is 3.3 times
    as large for a square, and corners that far off leave an IoU of .2; networks were tuned with it.

    >>> box = np.array([[10.0, 10.0]])
    >>> iou_radius(box), iou_radius(box, rule="centernet")
    (array([0.81669987]), array([2.73320053]))

    Args:
        sizes: (width, height) or (height, width), in the unit of the radius.

    Raises:
        ValueError: ``min_overlap`` not between 0 and 1, a rule of another name, or a size that is not positive.
    """
    if not 0 < min_overlap < 1 or rule not in RULES:
        raise ValueError(f"need 0 < min_overlap < 1 and rule one of {', '.join(RULES)}, got {min_overlap=}, {rule=}")
    _check_positive(sizes)
    total, area = sizes.sum(axis=1), sizes.prod(axis=1)
    square = total**2
    roots = (
        np.sqrt(square - 4 * area * (1 - min_overlap) / (1 + min_overlap)),
        np.sqrt(4 * square - 16 * area * (1 - min_overlap)),
        np.sqrt(4 * min_overlap**2 * square + 16 * min_overlap * (1 - min_overlap) * area),
    )
    if rule == "centernet":
        cases = (total + roots[0]) / 2, (2 * total + roots[1]) / 2, (roots[2] - 2 * min_overlap * total) / 2
        return np.minimum.reduce(cases)
    one_inside, inside = (total - roots[0]) / 2, (2 * total - roots[1]) / 8
    outside = (roots[2] - 2 * min_overlap * total) / (8 * min_overlap)
    return np.minimum.reduce((one_inside, inside, outside))


def sigma_from_radius(radius: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Of a bell whose 2 r + 1 cells are 6 sigmas, as CenterNet's.

    >>> sigma_from_radius(np.array([1.0]))
    array([0.5])
    """
    return (2 * radius + 1) / 6


def sigma_from_size(
    sizes: Float[ndarray, "n d"], *, stride: float = 4.0, fraction: float = 0.09, min_sigma: float = 1.0
) -> Float[ndarray, "n d"]:
    """A sigma along each axis, in cells, as a fraction of an object's size in image pixels.

    The default fraction is TTFNet's .54 / 6 (Liu et al. 2020, "Training-Time-Friendly Network", section 3.2).

    >>> sigma_from_size(np.array([[200.0, 40.0]]))
    array([[4.5, 1. ]])

    Raises:
        ValueError: a size, the stride, the fraction or the least sigma that is not positive.
    """
    if not (stride > 0 and fraction > 0 and min_sigma > 0):
        raise ValueError(f"need positive stride, fraction and min_sigma, got {stride=}, {fraction=}, {min_sigma=}")
    _check_positive(sizes)
    return np.maximum(sizes * (fraction / stride), min_sigma)


def _check_positive(sizes: ndarray) -> None:
    if not (wrong := np.flatnonzero(~(sizes > 0).all(axis=1))).size == 0:
        raise ValueError(f"sizes are positive, got {sizes[wrong[0]].tolist()} in row {wrong[0]}")
