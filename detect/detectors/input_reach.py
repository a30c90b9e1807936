"""How far a network's input reaches into its heatmaps: measured, whatever its layers are.

What depends on NaN is NaN. A line of NaN in an image of zeros, at each place within the network's coarsest stride, shows
exactly which cells depend on it. If all cells do, however large the image is, the network has an operation over the whole
image, such as a group norm, squeeze-and-excitation or attention, and none of its tiles can equal the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from detect.detectors.landmarks import LandmarkDetector

SIZES_PX = (512, 1024, 2048, 4096)  # of the images that are tried, along the axis that is measured
IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class InputReach:
    """The pixels on which cells depend: cell c of a map of stride s on those from c s - before to below (c + 1) s + after.

    Both are (y, x). ``multiple`` is the number of pixels by which an image can be moved without another result.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    multiple: int


def measure_reach(model: LandmarkDetector) -> InputReach | None:
    """Measure the reach of a detector in evaluation mode; None if cells depend on the whole image.

    >>> from detect.detectors.backbones import build_backbone
    >>> measure_reach(LandmarkDetector(build_backbone("tiny", strides=(2, 4), in_channels=1)).eval())  # it has group norms
    """
    multiple = math.lcm(model.backbone.multiple, model.stride)
    along_y = _measured_along(model, 0, multiple)
    along_x = along_y and _measured_along(model, 1, multiple)
    if along_y is None or along_x is None:
        return None
    before, after = zip(along_y, along_x, strict=True)
    return InputReach(before, after, multiple)


def _measured_along(model: LandmarkDetector, axis: int, multiple: int) -> tuple[int, int] | None:
    """The pixels before and after the cells along y (0) or x (1)."""
    for size in SIZES_PX:
        size_px = -(-max(size, 4 * multiple) // multiple) * multiple
        starts = torch.arange(multiple) + size_px // 2 // multiple * multiple
        reached = _reached(model, axis, starts[:1], (size_px, multiple))
        if reached[0, 0] or reached[0, -1]:
            continue
        parts = torch.split(starts, IMAGES_AT_ONCE)
        reached = torch.cat([_reached(model, axis, part, (size_px, multiple)) for part in parts])
        if reached[:, 0].any() or reached[:, -1].any():
            continue
        starts, reached = starts[reached.any(dim=1)], reached[reached.any(dim=1)]
        first = reached.byte().argmax(dim=1)
        last = reached.shape[1] - 1 - reached.flip(1).byte().argmax(dim=1)
        before, after = last * model.stride - starts, starts - ((first + 1) * model.stride - 1)
        return max(0, int(before.max())), max(0, int(after.max()))
    return None


@torch.no_grad()
def _reached(model: LandmarkDetector, axis: int, places: Tensor, size_px: tuple[int, int]) -> Bool[Tensor, "b cells"]:
    """The cells along an axis that are NaN if the pixels of a line at each of the places are."""
    device = next(model.parameters()).device
    shape = size_px if axis == 0 else size_px[::-1]
    images = torch.zeros(len(places), model.backbone.in_channels, *shape, device=device)
    rows = torch.arange(len(places))
    if axis == 0:
        images[rows, :, places] = math.nan
    else:
        images[rows, :, :, places] = math.nan
    return model(images).logits.isnan().any(dim=1).any(dim=2 - axis).cpu()
