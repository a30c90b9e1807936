"""What units of a network really depend on: by pixels that are not a number, and by gradients.

NaN spreads through every operator, whatever the weights: a unit depends on a pixel if NaN there makes it NaN. Gradients are
hidden by zero weights, ReLUs that are off and maxima that others win; so :func:`make_visible` gives a network positive
weights, norms that change nothing, smooth activations that rise, and averages in place of maxima.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from detect.inspection.models import NamedMaps
from detect.inspection.receptive_field import TrackedMaps, track_maps

Interval = tuple[int, int]


class Rising(nn.Module):
    """An activation whose slope is never 0."""

    def forward(self, cells: Tensor) -> Tensor:
        return cells + 0.1 * torch.tanh(cells)


def make_visible(network: nn.Module) -> nn.Module:
    """Change a network so that each gradient that can be other than 0 is."""
    generator = torch.Generator().manual_seed(0)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                module.add_module(name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                module.add_module(name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
            elif type(child).__module__.endswith("activation") and not list(child.children()):
                module.add_module(name, Rising())
    for parameter in network.parameters():
        fan_in = max(1, parameter[0].numel())
        parameter.data = (0.5 + torch.rand(parameter.shape, generator=generator)) / fan_in
    return network.double().eval()


def gradient_support(
    maps: NamedMaps, name: str, unit: Interval, image_hw: Interval
) -> tuple[Interval, Interval] | None:
    """The rows and the columns whose pixels have a gradient; None if there are none."""
    images = torch.rand(1, maps.in_channels, *image_hw, dtype=torch.float64).add(0.5).requires_grad_()
    [gradient] = torch.autograd.grad(maps(images)[name][0, :, unit[0], unit[1]].sum(), [images])
    return extent((gradient != 0).any(dim=1)[0])


def extent(marked: Tensor) -> tuple[Interval, Interval] | None:
    """The first and last row and column of what is marked."""
    rows, columns = (np.flatnonzero(marked.any(dim=axis).numpy()) for axis in (1, 0))
    if not len(rows):
        return None
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


def said(tracked: TrackedMaps, name: str, unit: Interval) -> tuple[Interval, Interval]:
    """The rows and columns that the field of a unit is said to have."""
    rows, columns = tracked.reach(name, 0), tracked.reach(name, 1)
    return (rows.first[unit[0]], rows.last[unit[0]]), (columns.first[unit[1]], columns.last[unit[1]])


@torch.no_grad()
def broken_units(maps: NamedMaps, broken: Tensor) -> dict[str, Tensor]:
    """The units (h, w) of each map with any channel that is NaN if these pixels (h, w) are."""
    weight = next(maps.parameters(), torch.zeros(1))
    images = torch.zeros(1, maps.in_channels, *broken.shape, dtype=weight.dtype)
    images[..., broken] = math.nan
    return {name: cells.isnan().any(dim=1)[0] for name, cells in maps(images).items()}


def assert_fields_are_exact(maps: NamedMaps, image_hw: Interval, *, units: str = "middle") -> None:
    """No pixel outside a field changes its unit, and some pixel of each of its four edges does.

    ``units`` are the middle one of each map, or also its corners.
    """
    tracked = track_maps(maps, image_hw)
    assert tracked.unknown == ()
    for name, fields in tracked.fields.items():
        height, width = fields.shape[-2:]
        places = [(height // 2, width // 2)]
        places += [(0, 0), (height - 1, width - 1), (0, width - 1)] if units == "corners" else []
        for unit in places:
            _assert_exact(maps, tracked, name, unit)


def _assert_exact(maps: NamedMaps, tracked: TrackedMaps, name: str, unit: Interval) -> None:
    (top, bottom), (left, right) = said(tracked, name, unit)
    inside = torch.zeros(tracked.image_hw, dtype=torch.bool)
    inside[top : bottom + 1, left : right + 1] = True
    if not inside.all():
        assert not broken_units(maps, ~inside)[name][unit], f"{name} {unit} depends on pixels outside its field"
    for edge in ((slice(top, top + 1), slice(None)), (slice(bottom, bottom + 1), slice(None)),
                 (slice(None), slice(left, left + 1)), (slice(None), slice(right, right + 1))):  # fmt: skip
        broken = torch.zeros(tracked.image_hw, dtype=torch.bool)
        broken[edge] = True
        assert broken_units(maps, broken)[name][unit], f"{name} {unit} does not depend on its edge {edge}"
