"""Peaks in shapes that do not depend on the data, as torch.export, torch.compile and ONNX need them.

The counterpart of :func:`detect.keypoints.peaks.find_peaks`, with its positions, by the same fit. Only a plateau is another
matter: of two equal neighbours the first is the point, in larger plateaus each cell without an earlier or higher neighbour.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from detect.keypoints.local_maxima import LocalMaxima
from detect.keypoints.subpixel import SHARE, least_squares
from detect.ops.array_kinds import AnyArray, check_maps, in_tensors
from detect.ops.boxes import at_most

FARTHEST_CELLS = 10  # along each axis: maxima farther apart do not limit each other's fit
EARLIER, LATER = ((0, 0), (0, 1), (0, 2), (1, 0)), ((1, 2), (2, 0), (2, 1), (2, 2))  # neighbours of a cell (1, 1)


class PaddedPeaks(NamedTuple):
    """The peaks of each image, in falling order of score, padded to one length with zeros that are not ``valid``.

    ``cells`` are (x, y); the centres of cells are whole numbers. ``types`` are keypoint types.
    """

    cells: Float[AnyArray, "b n 2"]
    scores: Float[AnyArray, "b n"]
    types: Int64[AnyArray, "b n"]
    valid: Bool[AnyArray, "b n"]


@in_tensors
@torch.no_grad()
def find_padded_peaks(
    heatmaps: Float[Tensor, "b j h w"], *, threshold: float = 0.1, max_peaks: int = 1000
) -> PaddedPeaks:
    """Find the points of maps, at most ``max_peaks`` of each image over all keypoint types, the highest first.

    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    >>> found = find_padded_peaks(torch.exp(-((x - 5.3) ** 2 + (y - 0.2) ** 2) / 8)[None, None], max_peaks=2)
    >>> found.cells, found.valid
    (tensor([[[5.3000, 0.2000],
              [0.0000, 0.0000]]]), tensor([[ True, False]]))

    Heatmaps have values from 0 to 1; those of points are above the threshold. The result has ``max_peaks`` rows of each
    image, or as many as there are cells if that is less.
    """
    check_maps(heatmaps=heatmaps)
    num_images, num_types, height, width = heatmaps.shape
    maps = heatmaps.flatten(0, 1)
    peaks = maps.where(_are_maxima(maps), 0)
    most = at_most(max_peaks, num_types * height * width)
    scores, place = peaks.reshape(num_images, -1).topk(most)
    row = place // width  # ONNX has no remainder by a size
    types = row // height
    at = torch.stack([place - row * width, row - types * height], dim=2).flatten(0, 1)
    image = torch.arange(num_images, device=maps.device)
    number = (image[:, None] * num_types + types).flatten()
    valid = scores > threshold
    own = scores.where(valid, 1).flatten()  # not 0, by which the fit would divide
    spacing = _spacing(peaks, number, at, own)
    points = least_squares(maps, LocalMaxima(number, at, at.double(), own, spacing)).points
    cells = points.to(scores).reshape(num_images, -1, 2)
    return PaddedPeaks(cells.where(valid[..., None], 0), scores.where(valid, 0), types.where(valid, 0), valid)


def _are_maxima(maps: Float[Tensor, "m h w"]) -> Bool[Tensor, "m h w"]:
    """Whether each cell is above its earlier neighbours, and not below its later ones."""
    height, width = maps.shape[1:]
    wide = functional.pad(maps, (1, 1, 1, 1), value=-1.0)
    earlier, later = (
        torch.stack([wide[:, y : y + height, x : x + width] for y, x in corners]).amax(dim=0)
        for corners in (EARLIER, LATER)
    )
    return (maps > earlier) & (maps >= later)


def _spacing(
    peaks: Float[Tensor, "m h w"], number: Int64[Tensor, " n"], at: Int64[Tensor, "n 2"], own: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Distances to the nearest other peak of at least ``SHARE`` of a peak's own value, infinite if none is near."""
    wide = functional.pad(peaks, (FARTHEST_CELLS,) * 4)
    height, width = wide.shape[1:]
    steps = torch.arange(-FARTHEST_CELLS, FARTHEST_CELLS + 1, device=peaks.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    distances = (x.square() + y.square()).double().sqrt().flatten()
    centre = (number * height + at[:, 1] + FARTHEST_CELLS) * width + at[:, 0] + FARTHEST_CELLS
    around = wide.reshape(-1).take(centre[:, None] + (y * width + x).flatten())
    counts = (around >= SHARE * own[:, None]) & (distances > 0)
    return distances.where(counts, torch.inf).amin(dim=1)
