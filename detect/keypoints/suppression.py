"""Which local maxima are points of their own, and which belong to a higher one nearby.

By distance: a maximum nearer than a limit to a higher one goes. By noise, if the Gaussians' sigma is known: near the top a
Gaussian is so flat that noise makes maxima of its own, the farther apart the wider it is. A maximum stays if it exceeds what
the higher ones explain at its cell by more than noise does. No single distance does that for all sigmas and noises.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detect.keypoints.coordinates import Stride
from detect.keypoints.local_maxima import LocalMaxima, close_pairs
from detect.ops.boxes import widened

SIGNIFICANT = 5.0  # standard deviations of the noise that a maximum exceeds
REACH = 4.0  # sigmas: farther away a Gaussian explains less than .0004
QUARTILE = 0.25  # of the cells: enough if three of four are inside Gaussians, which are not noise
NORMAL_QUARTILE = 0.31864  # below it lies a quarter of the absolute values of a normal distribution


def suppress_near(maxima: LocalMaxima, min_distance: float, *, spacing: Stride = 1.0) -> Bool[Tensor, " n"]:
    """Mark the maxima that stay: those not nearer than ``min_distance`` to a higher one that stays.

    The distance is in cells, or in the unit of ``spacing``, the size of a cell along each axis (x, y[, z]) or all.
    """
    higher, lower, _ = _pairs(maxima, min_distance, spacing)
    return _stay(torch.ones_like(maxima.map, dtype=torch.bool), higher, lower)


def suppress_explained(maxima: LocalMaxima, noise: Float[Tensor, " m"], sigma: Sequence[float]) -> Bool[Tensor, " n"]:
    """Mark the maxima that stay: their value is above that of a higher one's Gaussian at their cell by 5 times the noise.

    Away from all others that Gaussian is 0: only maxima of 5 times the noise stay. The noise of each map is a standard
    deviation (:func:`noise_level`), ``sigma`` that of the Gaussians, in cells, for each of x, y[, z].
    """
    scale = torch.tensor(sigma, dtype=torch.float64, device=maxima.at.device)
    higher, lower, apart = _pairs(maxima, REACH * max(sigma))
    least = SIGNIFICANT * noise.to(maxima.scores)[maxima.map]
    explained = maxima.scores[higher] * torch.exp(-(apart / scale).square().sum(dim=1) / 2).to(maxima.scores)
    hides = maxima.scores[lower] - explained <= least[lower]
    return _stay(maxima.scores > least, higher[hides], lower[hides])


def noise_level(maps: Float[Tensor, " m *cells"]) -> Float[Tensor, " m"]:
    """Estimate the standard deviation of independent noise in the cells of each map.

    Second differences along every axis remove what is smooth (Immerkaer 1996, section 2); their lower quartile is
    that of the cells between Gaussians. An axis of fewer than three cells is left out.

    >>> noise_level(0.1 * torch.randn(1, 400, 400, generator=torch.Generator().manual_seed(0))).round(decimals=2)
    tensor([0.1000])
    """
    wide, scale = widened(maps), NORMAL_QUARTILE
    for axis in range(1, maps.ndim):
        count = wide.shape[axis] - 2
        if count > 0:
            before, here, after = (wide.narrow(axis, start, count) for start in range(3))
            wide, scale = before + after - 2 * here, scale * 6**0.5
    sizes = wide.abs().flatten(1)
    return sizes.kthvalue(max(1, int(QUARTILE * sizes.shape[1])), dim=1).values / scale


def _pairs(
    maxima: LocalMaxima, radius: float, spacing: Stride = 1.0
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"], Float[Tensor, "p D"]]:
    """Rows of the higher and the lower maximum of each pair less than a radius apart, and the cells between.

    Of equally high ones the first in memory counts as the higher.
    """
    rank = torch.empty_like(maxima.map)
    order = maxima.scores.argsort(descending=True, stable=True)
    rank[order] = torch.arange(len(order), device=order.device)
    first, second = close_pairs(maxima, radius, spacing=spacing)
    ahead = rank[first] < rank[second]
    higher, lower = torch.where(ahead, first, second), torch.where(ahead, second, first)
    return higher, lower, (maxima.at[lower] - maxima.at[higher]).double()


def _stay(allowed: Bool[Tensor, " n"], higher: Int64[Tensor, " p"], lower: Int64[Tensor, " p"]) -> Bool[Tensor, " n"]:
    """Greedy suppression: a maximum stays if no higher one that stays hides it; the rule is repeated until it is stable."""
    stays = allowed
    while True:
        after = allowed.clone()
        after[lower[stays[higher]]] = False
        if after.eq(stays).all():
            return stays
        stays = after
