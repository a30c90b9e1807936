"""Attributions with random weights: does a map show what the network learned, or only the image?

A map that looks the same when the weights are random does not depend on what was learned (Adebayo et al. 2018, "Sanity
Checks for Saliency Maps"; for detectors Padmanabhan et al. 2023, arXiv:2306.02424).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn

SSIM_PX = 7  # side of the windows that are compared, and two constants against division by zero:
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004, "Image Quality Assessment", section III B


@contextmanager
def random_weights(module: nn.Module, *, seed: int = 0) -> Iterator[None]:
    """Give all layers random weights; afterwards, also after an error, every bit is as before.

    Weights of two and more axes are drawn from a normal distribution around 0 with their own mean square, so that the
    values in the network keep their scale. Vectors (biases, scales of norms) are permuted. Running statistics stay.

    >>> layer = nn.Linear(3, 2)
    >>> before = layer.weight.tolist()
    >>> with random_weights(layer):
    ...     layer.weight.tolist() == before
    False
    >>> layer.weight.tolist() == before
    True
    """
    random = Generator().manual_seed(seed)
    tensors = [*module.parameters(), *module.buffers()]
    kept = [each.detach().clone() for each in tensors]
    try:
        with torch.no_grad():
            for layer in reversed([*module.modules()]):
                for parameter in layer.parameters(recurse=False):
                    parameter.copy_(_redrawn(parameter, random))
        yield
    finally:
        with torch.no_grad():
            for each, before in zip(tensors, kept, strict=True):
                each.copy_(before)


def rank_correlation(first: Float[Tensor, "h w"], second: Float[Tensor, "_ _"]) -> float:
    """Spearman's correlation of the absolute values of two maps; NaN if one is constant or not finite.

    >>> rank_correlation(torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([[0.1, 0.2, -9.0]]))
    1.0
    """
    maps = _absolute(first, second)
    if maps is None:
        return math.nan
    return round(float(spearmanr(*map(np.ravel, maps)).statistic), 12)


def similarity(first: Float[Tensor, "h w"], second: Float[Tensor, "_ _"]) -> float:
    """Structural similarity of the absolute values of two maps, each divided by its maximum; NaN as for the correlation.

    The mean over all windows of 7 x 7 pixels; maps are mirrored at their edges.
    """
    maps = _absolute(first, second)
    if maps is None:
        return math.nan
    x, y = (each / each.max() for each in maps)
    mean_x, mean_y = uniform_filter(x, SSIM_PX), uniform_filter(y, SSIM_PX)
    var_x = uniform_filter(x * x, SSIM_PX) - mean_x**2
    var_y = uniform_filter(y * y, SSIM_PX) - mean_y**2
    covariance = uniform_filter(x * y, SSIM_PX) - mean_x * mean_y
    level = (2 * mean_x * mean_y + SSIM_K1**2) / (mean_x**2 + mean_y**2 + SSIM_K1**2)
    return float((level * (2 * covariance + SSIM_K2**2) / (var_x + var_y + SSIM_K2**2)).mean())


def _absolute(first: Tensor, second: Tensor) -> list[Float64[ndarray, "h w"]] | None:
    """Both maps without signs; None if one is constant or not finite."""
    if first.shape != second.shape:
        raise ValueError(f"the maps have different shapes: {tuple(first.shape)} and {tuple(second.shape)}")
    maps = [each.detach().cpu().double().abs().numpy() for each in (first, second)]
    sound = all(np.isfinite(each).all() and each.max() > each.min() for each in maps)
    return maps if sound else None


def _redrawn(parameter: Tensor, random: Generator) -> Tensor:
    if parameter.ndim > 1:
        scale = parameter.float().square().mean().sqrt()
        return torch.randn(parameter.shape, generator=random).to(parameter.device) * scale
    order = torch.randperm(parameter.numel(), generator=random).to(parameter.device)
    return parameter.flatten()[order].reshape(parameter.shape)
