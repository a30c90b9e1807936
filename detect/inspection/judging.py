"""Judging a picture of what a network looked at: where its energy lies, what removing it does, what random weights give."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isnan, nan
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor, nn

from detect.inspection.random_weights import random_weights, rank_correlation
from detect.inspection.removal import RemovalCurves, removal_curves
from detect.inspection.targets import Scalar

SAME = 0.5  # rank correlation above which a map counts as unchanged by random weights
AROUND = 0.5  # of the box's width and height, on each side of it: where the maps are compared
LEAST_WINDOW_PX = 16

Box = Sequence[float] | Float[Tensor, " 4"]


@dataclass(frozen=True)
class Judgement:
    """Numbers of one attribution; NaN where a number is not defined.

    Attributes:
        energy_inside: share of the positive attribution that lies inside the box; NaN without positive attribution.
        box_share: share of the image that the box covers: what chance puts inside.
        deletion: area under the deletion curve, see :mod:`detect.inspection.removal`: lower is better.
        insertion: area under the insertion curve: higher is better.
        random_deletion: the deletion area of a random order, the level of chance; ``random_insertion`` likewise.
        sanity_correlation: Spearman's correlation of the absolute map with that of random weights, in the box and around it
            (:func:`window_around`): near 0 is right.
        seconds: that one attribution takes.
    """

    energy_inside: float
    box_share: float
    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float
    sanity_correlation: float
    seconds: float

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the picture should not be trusted, one sentence each; none if all numbers are better than chance."""
        doubts = {
            "It has no positive attribution, so nothing in it speaks for the detection.": isnan(self.energy_inside),
            "It looks the same with random weights: it does not show what the network learned.": (
                self.sanity_correlation > SAME
            ),
            "With random weights its map is constant, so it is not known whether it shows what was learned.": (
                isnan(self.sanity_correlation)
            ),
            "The answer does not depend on these pixels: the image without details has the same.": isnan(self.deletion),
            "Removing what it marks changes the answer no sooner than removing patches at random.": (
                self.deletion >= self.random_deletion
            ),
            "Showing only what it marks restores the answer no sooner than showing patches at random.": (
                self.insertion <= self.random_insertion
            ),
            "No more of it is inside the box than chance puts there.": self.energy_inside <= self.box_share,
        }
        return tuple(sentence for sentence, holds in doubts.items() if holds)


def judge(
    module: nn.Module,
    scalar: Scalar,
    image: Float[Tensor, "d h w"],
    heatmap: Float[Tensor, "h w"],
    box: Box,
    attribute_again: Callable[[], Float[Tensor, "h w"]],
    *,
    seed: int = 0,
    by_chance: RemovalCurves | None = None,
    **options: Any,
) -> Judgement:
    """Judge one attribution of one answer of a network.

    It takes four forward passes for each step, and one attribution with all weights random; ``module`` is restored.

    Args:
        scalar: the explained answer, for each image of a batch; it runs ``module``.
        heatmap: the attribution of each pixel; where it is positive, the pixel speaks for the answer.
        box: in continuous pixels of ``image``; what is outside of it is cut off.
        attribute_again: makes the attribution anew, with the weights that ``module`` has when it is called.
        seed: of the random order and weights.
        by_chance: the curves of a random map; by default they are measured. ``options`` are of :func:`removal_curves`.

    Raises:
        ValueError: shapes do not match, or the map is not finite.
    """
    curves = removal_curves(scalar, image, heatmap, seed=seed, **options)
    if by_chance is None:
        noise = torch.rand(heatmap.shape, generator=Generator().manual_seed(seed))
        by_chance = removal_curves(scalar, image, noise, seed=seed, **options)
    with random_weights(module, seed=seed):
        started = time.perf_counter()
        again = attribute_again()
        seconds = time.perf_counter() - started
    image_hw = (heatmap.shape[0], heatmap.shape[1])
    window = window_around(box, image_hw)  # over a whole image maps agree wherever it is empty or out of reach
    return Judgement(
        energy_inside=energy_inside(heatmap, box),
        box_share=float(box_cover(box, image_hw).mean()),
        deletion=curves.deletion_area,
        insertion=curves.insertion_area,
        random_deletion=by_chance.deletion_area,
        random_insertion=by_chance.insertion_area,
        sanity_correlation=rank_correlation(heatmap[window], again[window]),
        seconds=seconds,
    )


def energy_inside(heatmap: Float[Tensor, "h w"], box: Box) -> float:
    """The share of positive attribution inside a box (Wang et al. 2020, "Score-CAM", section 4.3); NaN without any.

    >>> energy_inside(torch.tensor([[1.0, -5.0, 3.0]]), (1.0, 0.0, 2.5, 1.0))  # half of 3, of 4
    0.375
    """
    energy = heatmap.detach().cpu().double().clamp(min=0)
    total = float(energy.sum())
    return float((energy * box_cover(box, (energy.shape[0], energy.shape[1]))).sum()) / total if total else nan


def box_cover(box: Box, image_hw: tuple[int, int]) -> Float64[Tensor, "h w"]:
    """The share of each pixel that a box covers; 0 everywhere if the box is empty.

    >>> box_cover((0.5, 0.0, 2.0, 1.0), (1, 3))
    tensor([[0.5000, 1.0000, 0.0000]], dtype=torch.float64)
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    rows, columns = (torch.arange(extent, dtype=torch.float64) for extent in image_hw)
    high, wide = (rows + 1).clamp(max=y1) - rows.clamp(min=y0), (columns + 1).clamp(max=x1) - columns.clamp(min=x0)
    return high.clamp(0, 1)[:, None] * wide.clamp(0, 1)


def window_around(box: Box, image_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box with half its size on each side, at least 16 pixels wide and high, inside the image.

    >>> window_around((20.0, 40.0, 40.0, 44.0), (48, 100))
    (slice(34, 48, None), slice(10, 50, None))
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    return _reach(y0, y1, image_hw[0]), _reach(x0, x1, image_hw[1])


def _reach(start: float, end: float, extent: int) -> slice:
    half = max((end - start) * (0.5 + AROUND), LEAST_WINDOW_PX / 2)
    middle = min(max((start + end) / 2, 0.0), float(extent))
    return slice(max(0, floor(middle - half)), min(extent, ceil(middle + half)))
