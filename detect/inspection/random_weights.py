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
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn


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
    if first.shape != second.shape:
        raise ValueError(f"the maps have different shapes: {tuple(first.shape)} and {tuple(second.shape)}")
    maps = [each.detach().cpu().double().abs().numpy() for each in (first, second)]
    if not all(np.isfinite(each).all() and each.max() > each.min() for each in maps):
        return math.nan
    return round(float(spearmanr(*map(np.ravel, maps)).statistic), 12)


def _redrawn(parameter: Tensor, random: Generator) -> Tensor:
    if parameter.ndim > 1:
        scale = parameter.float().square().mean().sqrt()
        return torch.randn(parameter.shape, generator=random).to(parameter.device) * scale
    order = torch.randperm(parameter.numel(), generator=random).to(parameter.device)
    return parameter.flatten()[order].reshape(parameter.shape)
