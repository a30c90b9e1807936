"""From maps back to points: the summits of each map above a threshold, refined to between the cells.

Nothing is done but look for what a map shows: a plateau is one point, a border hides none, a map without summits gives
none. Maps are taken each by itself, so neither the split into batches nor the order of images changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detect.keypoints.coordinates import Stride, cells_to_image
from detect.keypoints.local_maxima import LocalMaxima, close_pairs, find_local_maxima
from detect.keypoints.subpixel import REFINEMENTS, Refinement

FARTHEST = 11.0  # cells: a summit beyond is too far to be felt by any refinement


@dataclass(frozen=True, eq=False)
class Peaks:
    """Points found in a batch of maps: one row for each, by image, joint and falling score.

    ``cells`` (n, 2) or (n, 3) are x, y[, z] in cells, whose centres are whole numbers; ``scores`` (n,) the maps' values at
    the summits; ``covariance`` (n, D, D) in squared cells, where the refinement tells it.
    """

    cells: Float[Tensor, "n D"]
    scores: Float[Tensor, " n"]
    image: Int64[Tensor, " n"]
    joint: Int64[Tensor, " n"]
    covariance: Float[Tensor, "n D D"] | None
    num_images: int
    num_types: int

    def counts(self) -> Int64[Tensor, "b j"]:
        """How many there are in each image of each joint."""
        maps = self.image * self.num_types + self.joint
        counts = torch.bincount(maps, minlength=self.num_images * self.num_types)
        return counts.view(self.num_images, self.num_types)

    def in_image(self, stride: Stride, pixel_origin: str = "center") -> Float[Tensor, "n D"]:
        """Points in image pixels, of maps that are this many times smaller (:mod:`detect.keypoints.coordinates`)."""
        return cells_to_image(self.cells, stride, pixel_origin=pixel_origin)

    def of_image(self, number: int) -> Peaks:
        """Those of one image, as of a batch of one.

        Raises:
            ValueError: there is no such image.
        """
        if not 0 <= number < self.num_images:
            raise ValueError(f"no image {number} among {self.num_images}, counted from 0")
        rows = self.image == number
        covariance = None if self.covariance is None else self.covariance[rows]
        image = torch.zeros_like(self.image[rows])
        return Peaks(self.cells[rows], self.scores[rows], image, self.joint[rows], covariance, 1, self.num_types)


@torch.no_grad()
def find_peaks(
    heatmaps: Float[Tensor, "b j *cells"],
    *,
    threshold: float = 0.1,
    min_distance: float = 2.0,
    max_peaks: int | None = None,
    refine: str | Refinement = "least_squares",
) -> Peaks:
    """Points of maps (b, j, h, w), or of volumes (b, j, d, h, w): one for each cell or plateau with nothing higher around.

    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    >>> bell = torch.exp(-((x - 7.3) ** 2 + (y - 0.2) ** 2) / 8)
    >>> find_peaks(bell[None, None]).cells
    tensor([[7.3000, 0.2000]])

    Args:
        heatmaps: probabilities, 0 where nothing is. Half precision is computed and returned in float32.
        threshold: a point's value is above it.
        min_distance: from the highest down, a summit takes out those less than so many cells away, the first in memory
            among equals. Two summits of a map are never closer than 2 cells, which therefore leaves all.
        max_peaks: the highest so many of each image and joint; None for all.
        refine: a name among ``REFINEMENTS``, or a function such as ``functools.partial(dark, kernel=17)`` or
            ``functools.partial(learned_offsets, offsets=offsets)``.

    Raises:
        ValueError: another number of axes, a refinement unknown or not made for volumes, an option out of range.
    """
    _check(heatmaps, min_distance, max_peaks, refine)
    maps = heatmaps.contiguous().flatten(0, 1)
    summits = find_local_maxima(maps, threshold)
    if min_distance > 2:
        summits = summits.rows(_suppress(summits, maps.shape[1:], min_distance))
    summits = _spaced(summits, maps.shape[1:])
    summits = summits.rows(_best(summits, len(maps), max_peaks))
    refined = (REFINEMENTS[refine] if isinstance(refine, str) else refine)(maps, summits)
    num_images, num_types = heatmaps.shape[:2]
    return Peaks(
        refined.points.to(summits.scores),
        summits.scores,
        summits.map // max(1, num_types),
        summits.map % max(1, num_types),
        None if refined.covariance is None else refined.covariance.to(summits.scores),
        num_images,
        num_types,
    )


def _suppress(summits: LocalMaxima, extents: torch.Size, min_distance: float) -> Bool[Tensor, " n"]:
    """Which stay: those with no higher one that stays within the distance, a rule repeated until nothing changes."""
    rank = torch.empty_like(summits.map)
    order = summits.scores.argsort(descending=True, stable=True)
    rank[order] = torch.arange(len(order), device=order.device)
    pairs = [torch.stack(pair[:2]) for pair in close_pairs(summits, extents, min_distance)]
    first, second = torch.cat(pairs, dim=1)
    ahead = rank[first] < rank[second]
    higher, lower = torch.where(ahead, first, second), torch.where(ahead, second, first)
    stays = torch.ones_like(rank, dtype=torch.bool)
    while True:
        after = torch.ones_like(stays)
        after[lower[stays[higher]]] = False
        if after.eq(stays).all():
            return stays
        stays = after


def _spaced(summits: LocalMaxima, extents: torch.Size) -> LocalMaxima:
    """With the distance to the next one."""
    squared = torch.full_like(summits.spacing, torch.inf, dtype=torch.float64)
    for first, second, apart in close_pairs(summits, extents, FARTHEST):
        for rows in (first, second):
            squared.scatter_reduce_(0, rows, apart.double(), "amin")
    return LocalMaxima(summits.map, summits.at, summits.middle, summits.scores, squared.sqrt())


def _best(summits: LocalMaxima, num_maps: int, max_peaks: int | None) -> Int64[Tensor, " n"]:
    """By map and falling score, as many of each as may be."""
    order = summits.scores.argsort(descending=True, stable=True)
    order = order[summits.map[order].argsort(stable=True)]
    if max_peaks is None:
        return order
    counts = torch.bincount(summits.map, minlength=num_maps)
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[summits.map[order]]
    return order[place < max_peaks]


def _check(heatmaps: Tensor, min_distance: float, max_peaks: int | None, refine: str | Refinement) -> None:
    if heatmaps.ndim not in {4, 5} or 0 in heatmaps.shape[2:]:
        raise ValueError(f"heatmaps are (b, j, h, w) or (b, j, d, h, w), with cells, got {tuple(heatmaps.shape)}")
    if not 0 <= min_distance < float("inf") or (max_peaks is not None and max_peaks < 1):
        raise ValueError(f"need min_distance >= 0 and max_peaks >= 1 or None, got {min_distance=}, {max_peaks=}")
    if isinstance(refine, str) and refine not in REFINEMENTS:
        raise ValueError(f"refine is one of {', '.join(REFINEMENTS)}, or a function, got {refine!r}")
