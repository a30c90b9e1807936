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
    """The units (b, h, w) of each map with any channel that is NaN if these pixels (b, h, w) are."""
    images = maps.blank(*broken.shape[1:]).repeat(len(broken), 1, 1, 1)
    images.masked_fill_(broken[:, None], math.nan)
    return {name: cells.isnan().any(dim=1) for name, cells in maps(images).items()}


def assert_fields_are_exact(maps: NamedMaps, image_hw: Interval, *, units: str = "middle") -> None:
    """No pixel outside a field changes its unit, and some pixel of each of its four edges does.

    ``units`` are the middle one of each map, or also its corners.
    """
    tracked = track_maps(maps, image_hw)
    assert tracked.unknown == ()
    cases = [(name, unit) for name, fields in tracked.fields.items() for unit in _units(fields.shape, units)]
    broken = torch.cat([_outside_and_edges(tracked, name, unit) for name, unit in cases])
    changed = broken_units(maps, broken)
    for number, (name, unit) in enumerate(cases):
        own = changed[name][5 * number : 5 * number + 5, unit[0], unit[1]].tolist()
        assert own == [False, True, True, True, True], f"{name} {unit}: outside, top, bottom, left, right"


def _units(shape: tuple[int, ...], which: str) -> list[Interval]:
    height, width = shape[-2:]
    corners = [(0, 0), (height - 1, width - 1), (0, width - 1)] if which == "corners" else []
    return [(height // 2, width // 2), *corners]


def _outside_and_edges(tracked: TrackedMaps, name: str, unit: Interval) -> Tensor:
    """Pixels (5, h, w) outside the field of a unit, and those of each edge: all of a row or of a column."""
    (top, bottom), (left, right) = said(tracked, name, unit)
    marked = torch.zeros(5, *tracked.image_hw, dtype=torch.bool)
    marked[0] = True
    marked[0, top : bottom + 1, left : right + 1] = False
    marked[1, top], marked[2, bottom] = True, True
    marked[3, :, left], marked[4, :, right] = True, True
    return marked
