"""Read points from heatmaps: local maxima above a threshold, refined to sub-pixel positions.

A plateau is one point, maxima at the border count, and a map without maxima gives no points. Each map is read by itself, so
the result does not depend on how images are batched or ordered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

from detect.keypoints.coordinates import Stride, cells_to_image
from detect.keypoints.keypoints import by_group
from detect.keypoints.local_maxima import LocalMaxima, find_local_maxima, with_spacing
from detect.keypoints.subpixel import MARGIN, REFINEMENTS, SHARE, Refined, Refinement
from detect.keypoints.suppression import noise_level, suppress_explained, suppress_near
from detect.ops.array_kinds import AnyArray, check_kinds, check_maps, check_shape, in_tensors, of_axes, to_numpy

FARTHEST = 11.0  # cells: maxima farther apart are in no refinement's window together
FITTED = 2.0  # sigmas around a point: under noise of .1, cells farther away worsen the fit

Points = Float64[ndarray, "_ D"]
Scores = Float64[ndarray, " _"]


@dataclass(frozen=True, eq=False)
class Peaks:
    """Points found in a batch of heatmaps: one row each, ordered by image, keypoint type and falling score.

    ``cells`` are x, y[, z] in cells; cell centres are whole numbers. ``scores`` are the map's values at the maxima.
    ``image`` and ``types`` are indices from 0. ``covariance`` is in squared cells, or None if the refinement gives none.
    ``angles`` are those of a detector with orientations, in radians (:mod:`detect.keypoints.orientations`).
    """

    cells: Float[AnyArray, "n D"]
    scores: Float[AnyArray, " n"]
    image: Int64[AnyArray, " n"]
    types: Int64[AnyArray, " n"]
    covariance: Float[AnyArray, "n D D"] | None
    num_images: int
    num_types: int
    angles: Float[AnyArray, " n"] | None = None

    def __post_init__(self) -> None:
        columns = {"score": self.scores, "image": self.image, "type": self.types}
        columns |= {} if self.angles is None else {"angle": self.angles}
        check_kinds(cells=self.cells, covariance=self.covariance, **columns)
        count, num_axes = self.cells.shape
        for name, column in columns.items():
            check_shape(f"one {name} for each point,", column, (count,))
        if self.covariance is not None:
            check_shape("one covariance for each point,", self.covariance, (count, num_axes, num_axes))

    @property
    def maps(self) -> Int64[AnyArray, " n"]:
        """The map of each point among ``num_images * num_types``, types varying fastest."""
        return self.image * self.num_types + self.types

    @in_tensors
    def counts(self) -> Int64[Tensor, "b j"]:
        counts = torch.bincount(self.maps, minlength=self.num_images * self.num_types)
        return counts.view(self.num_images, self.num_types)

    def in_image(self, stride: Stride, pixel_origin: str = "center") -> Float[AnyArray, "n D"]:
        """Convert ``cells`` to image pixels; ``stride`` is in pixels per cell (:mod:`detect.keypoints.coordinates`)."""
        return cells_to_image(self.cells, stride, pixel_origin=pixel_origin)

    def per_image(self, stride: Stride, *, pixel_origin: str = "center") -> tuple[list[Points], list[Scores]]:
        """Return points in image pixels and their scores for :func:`detect.evaluation.points.score_points`, always in NumPy.

        Both lists have one array for each image; with several keypoint types one for each image and type, ordered by image,
        then type, like :meth:`detect.keypoints.keypoints.Keypoints.per_image`.

        >>> from detect import Keypoints, render_heatmaps, score_points
        >>> truth = Keypoints.of([np.array([[3.0, 4.0], [20.5, 9.0]]), np.array([[11.0, 7.0]])])
        >>> heatmaps = torch.from_numpy(render_heatmaps(truth, (16, 32), stride=2).heatmaps)  # as from a network
        >>> points, scores = find_peaks(heatmaps).per_image(stride=2)
        >>> score_points(points, truth.per_image(), scores=scores, radius=3.0).micro.f1
        1.0
        """
        columns = self.in_image(stride, pixel_origin), self.scores
        points, scores = (to_numpy(each).astype(np.float64) for each in columns)
        group, num_groups = to_numpy(self.maps), self.num_images * self.num_types
        return by_group(points, group, num_groups), by_group(scores, group, num_groups)

    @in_tensors
    def of_image(self, number: int) -> Peaks:
        """Select the points of one image, as a batch of one."""
        if not 0 <= number < self.num_images:
            raise ValueError(f"no image {number} among {self.num_images}, counted from 0")
        own = self.take(self.image == number)
        return replace(own, image=torch.zeros_like(own.image), num_images=1)

    @in_tensors
    def take(self, index: Tensor) -> Peaks:
        columns = {name: each[index] for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **columns)  # type: ignore[arg-type]


@in_tensors
@torch.no_grad()
def find_peaks(
    heatmaps: Float[Tensor, "b j *cells"],
    *,
    threshold: float = 0.1,
    min_distance: float | None = None,
    spacing: Stride = 1.0,
    max_peaks: int | None = None,
    refine: str | Refinement = "least_squares",
    split: bool = False,
    sigma: float | Sequence[float] | None = None,
) -> Peaks:
    """Find the points of maps (b, j, h, w) or volumes (b, j, d, h, w): cells or plateaus with no higher neighbour.

    The columns of the peaks are tensors on the device of the maps, or arrays if the maps are in NumPy.

    A lower threshold only adds points: those that both find are equal, except with ``split``. Therefore maxima below the
    threshold limit a neighbour's refinement too, down to the share of its value below which its fit uses no cell.

    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    >>> first, second = (torch.exp(-((x - at) ** 2 + (y - 0.2) ** 2) / 8) for at in (5.3, 6.5))
    >>> find_peaks(first[None, None]).cells
    tensor([[5.3000, 0.2000]])
    >>> overlapping = torch.maximum(first, second)[None, None]  # 1.2 cells apart: one local maximum
    >>> len(find_peaks(overlapping).cells), len(find_peaks(overlapping, split=True, sigma=2.0).cells)
    (1, 2)

    Args:
        heatmaps: values from 0, where there is nothing, to 1. Half precision is computed and returned in float32.
        threshold: the value of a point is above it.
        min_distance: in cells, or in the unit of ``spacing``. From the highest down, a maximum suppresses those nearer than
            this; of equal ones the first in memory stays. Maxima of a map are at least 2 cells apart: 2 suppresses none. By
            default none are suppressed, unless ``sigma`` is given: then those that the map's noise explains
            (:mod:`detect.keypoints.suppression`).
        spacing: size of a cell, along each axis (x, y[, z]) or all.
        max_peaks: number of points kept of each image and type, the highest first; None keeps all.
        refine: a name in ``REFINEMENTS``, or a function such as ``functools.partial(dark, kernel=17)``. A function of your
            own is given tensors.
        split: fit close points together, and find those whose Gaussians overlap so much that they have one maximum
            together, by :func:`detect.keypoints.split_peaks.split_peaks`, which needs 0 < threshold < 1 and gives no
            covariance.
        sigma: of the Gaussians of the training targets, in cells, if it is known: a number, or one for each of x, y[, z].
            Points are then fitted to the cells within two of the smallest. ``split`` needs it.

    Raises:
        ValueError: maps are integers, the number of axes is wrong, the refinement is unknown or not for volumes, or an
            option is out of range.
    """
    _check(heatmaps, min_distance, max_peaks, refine)
    if split and sigma is None:
        raise ValueError("split=True needs the sigma of the Gaussians, in cells")
    sigmas = None if sigma is None else of_axes("sigma", sigma, heatmaps.ndim - 2)
    maps = heatmaps.contiguous().flatten(0, 1)
    uses_spacing = refine == "least_squares" or not isinstance(refine, str)
    every = find_local_maxima(maps, threshold)
    if uses_spacing:
        every = _with_lower(every, maps, threshold)
    if min_distance is None and sigmas is not None:
        every = every.rows(suppress_explained(every, noise_level(maps), sigmas.tolist()))
    maxima = select_maxima(
        every,
        threshold,
        min_distance=min_distance,
        spacing=spacing,
        max_peaks=None if split else max_peaks,
        limit_fits=uses_spacing,
        fitted=None if sigmas is None else FITTED * sigmas.min(),
    )
    refined = (REFINEMENTS[refine] if isinstance(refine, str) else refine)(maps, maxima)
    peaks = peaks_of(maxima, refined, *heatmaps.shape[:2])
    if not split or sigma is None:
        return peaks
    from detect.keypoints.split_peaks import split_peaks  # noqa: PLC0415 - it needs Peaks

    peaks = split_peaks(heatmaps, peaks, sigma=sigma, threshold=threshold)
    return peaks.take(_highest(peaks.maps, peaks.scores, max_peaks))


def select_maxima(
    every: LocalMaxima,
    threshold: float,
    *,
    min_distance: float | None = None,
    spacing: Stride = 1.0,
    max_peaks: int | None = None,
    limit_fits: bool = True,
    fitted: float | None = None,
) -> LocalMaxima:
    """The maxima above a threshold that no other one suppresses, by map and falling score.

    With ``limit_fits`` their spacing is set: lower maxima limit the fits of these too, and so does ``fitted``, the farthest
    cells to use. The other arguments are those of :func:`find_peaks`.
    """
    nearest = 2 * of_axes("spacing", spacing, every.at.shape[1]).min()
    if min_distance is not None and min_distance > nearest:
        every = every.rows(suppress_near(every, min_distance, spacing=spacing))
    maxima = every.rows(every.scores > threshold)
    if limit_fits:
        maxima = with_spacing(maxima, every, farthest=FARTHEST, share=SHARE)
        widest = math.inf if fitted is None else 2 * (fitted + MARGIN)
        maxima = replace(maxima, spacing=maxima.spacing.clamp(max=widest))
    return maxima.rows(_highest(maxima.map, maxima.scores, max_peaks))


def peaks_of(maxima: LocalMaxima, refined: Refined, num_images: int, num_types: int) -> Peaks:
    """Refined maxima as peaks, in the precision of their scores."""
    image, types = maxima.map // max(1, num_types), maxima.map % max(1, num_types)
    covariance = None if refined.covariance is None else refined.covariance.to(maxima.scores)
    return Peaks(refined.points.to(maxima.scores), maxima.scores, image, types, covariance, num_images, num_types)


def _with_lower(maxima: LocalMaxima, maps: Float[Tensor, " m *cells"], threshold: float) -> LocalMaxima:
    """Add the lower maxima that limit the fits of these: those of at least ``SHARE`` of the lowest of their map."""
    lowest = maxima.scores.new_full((len(maps),), torch.inf)
    floors = 0.999 * SHARE * lowest.scatter_reduce(0, maxima.map, maxima.scores, "amin")  # less for rounding
    rows = (floors < threshold).nonzero()[:, 0]
    if not len(rows):
        return maxima
    lower = find_local_maxima(maps[rows], float(floors[rows].min()))
    lower = replace(lower, map=rows[lower.map]).rows(lower.scores <= threshold)
    return LocalMaxima(*(torch.cat(both) for both in zip(vars(maxima).values(), vars(lower).values(), strict=True)))


def _highest(maps: Int64[Tensor, " n"], scores: Float[Tensor, " n"], max_peaks: int | None) -> Int64[Tensor, " m"]:
    """Rows by map and falling score, at most ``max_peaks`` of each map."""
    order = scores.argsort(descending=True, stable=True)
    order = order[maps[order].argsort(stable=True)]
    if max_peaks is None:
        return order
    counts = torch.bincount(maps)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[maps[order]]
    return order[rank < max_peaks]


def _check(heatmaps: Tensor, min_distance: float | None, max_peaks: int | None, refine: str | Refinement) -> None:
    check_maps(heatmaps=heatmaps)
    if heatmaps.ndim not in {4, 5} or 0 in heatmaps.shape[2:]:
        raise ValueError(f"heatmaps are (b, j, h, w) or (b, j, d, h, w), with cells, got {tuple(heatmaps.shape)}")
    if not 0 <= (min_distance or 0) < float("inf") or (max_peaks is not None and max_peaks < 1):
        raise ValueError(f"need min_distance >= 0 and max_peaks >= 1 or None, got {min_distance=}, {max_peaks=}")
    if isinstance(refine, str) and refine not in REFINEMENTS:
        raise ValueError(f"refine is one of {', '.join(REFINEMENTS)}, or a function, got {refine!r}")
