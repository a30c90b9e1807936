"""Effective receptive fields: the part of a field that has an influence (Luo et al. 2016, "Understanding the effective
receptive field in deep convolutional neural networks").

The influence of a pixel on a unit is the squared gradient of a random combination of the unit's channels, summed over the
image's channels. The effective field is the shortest interval around the unit's centre that holds 95 % of it, rows and
columns each. It depends on the weights: random ones show the architecture, trained ones the network. Where a field is larger
than the image that is measured on, influence from beyond is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from detect.inspection.models import NamedMaps
from detect.inspection.receptive_field import MapField

ENERGY = 0.95
MOST_PX = 512  # of the images that are measured on
MULTIPLE_PX = 64


def effective_fields(maps: NamedMaps, fields: Sequence[MapField]) -> dict[str, tuple[float, float]]:
    """The effective field of the middle unit of each map as (height, width), in pixels.

    It is measured on standard normal noise, in an image as large as the field needs, up to ``MOST_PX``.

    >>> from torch import nn
    >>> from detect.inspection.models import Tap
    >>> from detect.inspection.receptive_field import receptive_fields
    >>> net = nn.Conv2d(1, 1, 9, padding=4, bias=False)
    >>> _ = nn.init.constant_(net.weight, 1)
    >>> maps = NamedMaps(net, [Tap(("",), "{}", "C")], in_channels=1)
    >>> effective_fields(maps, receptive_fields(maps)[0])  # all nine rows have the same influence
    {'C0': (9.0, 9.0)}
    """
    found: dict[str, tuple[float, float]] = {}
    for field in fields:
        noise = _noise_for(maps, field)
        found[field.name] = energy_widths(influence(maps, field.name, noise), _center(field, noise))
    return found


def _noise_for(maps: NamedMaps, field: MapField) -> Float[Tensor, "1 d h w"]:
    """An image of noise that holds the field of a middle unit."""
    side = min(MOST_PX, -(-(max(field.size) + 2 * round(max(field.stride))) // MULTIPLE_PX) * MULTIPLE_PX)
    side = maps.probe_px if maps.fixed_size else max(side, 2 * round(max(field.stride)))
    return torch.randn(1, maps.in_channels, side, side, generator=torch.Generator().manual_seed(0))


def influence(maps: NamedMaps, name: str, images: Float[Tensor, "b d h w"]) -> Float[Tensor, "h w"]:
    """The influence of each pixel on the middle unit of a map, averaged over the images."""
    shown = images.detach().to(maps.blank(1, 1)).requires_grad_()
    with torch.enable_grad():
        cells = maps(shown)[name]
        unit = cells[..., cells.shape[-2] // 2, cells.shape[-1] // 2]
        mix = torch.randn(unit.shape, generator=torch.Generator().manual_seed(1)).to(unit)
        [gradient] = torch.autograd.grad((unit * mix).sum(), [shown])
    return gradient.double().square().sum(dim=1).mean(dim=0).cpu()


def energy_widths(
    influence: Float[Tensor, "h w"], center: tuple[float, float], energy: float = ENERGY
) -> tuple[float, float]:
    """The height and width of the intervals around a centre that hold a share of the influence.

    >>> energy_widths(torch.tensor([[0.0, 1, 2, 1, 0]]), (0.5, 2.5), 0.9)
    (1.0, 3.0)
    """
    return tuple(_width(influence.sum(dim=1 - axis), center[axis], energy) for axis in range(2))  # type: ignore[return-value]


def _width(weights: Float[Tensor, " n"], center: float, energy: float) -> float:
    total = float(weights.sum())
    if not total > 0:
        return 0.0
    distance = (torch.arange(len(weights), dtype=torch.float64) + 0.5 - center).abs()
    order = distance.argsort(stable=True)
    held = weights[order].cumsum(0)
    last = int(torch.searchsorted(held, energy * total * (1 - 1e-9)))
    return float(2 * distance[order[min(last, len(order) - 1)]] + 1)


def _center(field: MapField, images: Tensor) -> tuple[float, float]:
    """The centre of the middle unit, in pixels of images of this size."""
    rows, columns = (
        offset + max(1, round(extent / stride)) // 2 * stride
        for extent, stride, offset in zip(images.shape[-2:], field.stride, field.offset, strict=True)
    )
    return rows, columns
