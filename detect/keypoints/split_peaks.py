"""Separate overlapping peaks: points so close that their Gaussians have only one local maximum.

If Gaussians of one known sigma are blended by their maximum, -2 sigma^2 ln(h) at a cell x is the squared distance d^2 to the
nearest point, so d^2 - |x|^2 = min_i (|p_i|^2 - 2 p_i x) is piecewise linear in x, and its coefficients are the points. A
cell brighter than the known peaks explain implies another peak. A point is added at that cell; then the points and the parts
of the map nearest to each are fitted in turn, as in k-means, until they agree. The point is kept if the surrounding cells
are explained much better with it than without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray
from scipy.spatial import KDTree
from torch import Tensor

from detect.keypoints.peaks import Peaks

MAX_RESIDUAL = 0.25  # share of the squared residual that may remain for a point to be kept
MIN_DISTANCE = 0.5  # cells between two points
ROUNDS = 40
ROUNDS_PER_START = 6
HEIGHT_PRIOR = 0.01  # weight of the prior that heights are 1, relative to the weight of a point's cells
REACH = 3.0  # sigmas: the neighbourhood that is fitted again
LOWEST = 1e-6


@torch.no_grad()
def split_peaks(
    heatmaps: Float[Tensor, "b j *cells"],
    peaks: Peaks,
    *,
    sigma: float,
    threshold: float = 0.3,
    tolerance: float = 0.5,
) -> Peaks:
    """Add the peaks that overlapping neighbours hide, and move close ones to where they explain the map together.

    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    >>> Gaussians = [torch.exp(-((x - at) ** 2 + (y - 4) ** 2) / 8) for at in (5.2, 6.4)]
    >>> from detect.keypoints.peaks import find_peaks
    >>> maps = torch.maximum(*Gaussians)[None, None]
    >>> len(find_peaks(maps).cells), split_peaks(maps, find_peaks(maps), sigma=2.0).cells.sort(dim=0).values
    (1, tensor([[5.2000, 4.0000],
            [6.4000, 4.0000]]))

    Args:
        heatmaps: maps of the peaks, with Gaussians blended by their maximum.
        peaks: local maxima of the maps, from :func:`detect.keypoints.peaks.find_peaks`.
        sigma: of the Gaussians, in cells.
        threshold: cells with a higher value are used, from 0 to 1.
        tolerance: in cells. A cell implies another point if the nearest point is nearer than all known ones by more than
            this. Two points less than twice the tolerance apart stay one; noise of .05 in a map of sigma 2 changes a
            distance by .2.

    Raises:
        ValueError: sigma or tolerance is not positive, the threshold is not between 0 and 1, or peaks and maps differ in
            number.
    """
    if tuple(heatmaps.shape[:2]) != (peaks.num_images, peaks.num_types):
        raise ValueError(
            f"peaks of {peaks.num_images} images and {peaks.num_types} keypoint types for heatmaps of "
            f"{heatmaps.shape[0]} and {heatmaps.shape[1]}"
        )
    if not (sigma > 0 and tolerance > 0 and 0 < threshold < 1):
        raise ValueError(
            f"need positive sigma, tolerance and 0 < threshold < 1, got {sigma=}, {tolerance=}, {threshold=}"
        )
    maps = heatmaps.detach().double().flatten(0, 1).cpu().numpy()
    number = (peaks.image * peaks.num_types + peaks.types).cpu().numpy()
    found = peaks.cells.double().cpu().numpy()
    points, heights, of_map = [found[:0]], [np.zeros(0)], [number[:0]]
    for row, values in enumerate(maps):
        own = _MapFit.of(values, found[number == row], sigma, threshold, tolerance).split()
        own_heights = _values_at(values, own)
        order = np.argsort(-own_heights, kind="stable")
        points.append(own[order])
        heights.append(own_heights[order])
        of_map.append(np.full(len(own), row))
    at = torch.from_numpy(np.concatenate(of_map)).to(peaks.image)
    return replace(
        peaks,
        cells=torch.from_numpy(np.concatenate(points)).to(peaks.cells),
        scores=torch.from_numpy(np.concatenate(heights)).to(peaks.scores),
        image=at // max(1, peaks.num_types),
        types=at % max(1, peaks.num_types),
        covariance=None,
    )


@dataclass
class _MapFit:
    """One map: its cells above the threshold, their distances to the nearest point by their values, and the known points."""

    cells: Float64[ndarray, "k D"]
    heights: Float64[ndarray, " k"]
    distances: Float64[ndarray, " k"]
    points: Float64[ndarray, "n D"]
    reach: float
    tolerance: float

    @classmethod
    def of(
        cls,
        values: Float64[ndarray, "*cells"],
        points: Float64[ndarray, "n D"],
        sigma: float,
        threshold: float,
        tolerance: float,
    ) -> _MapFit:
        at = np.argwhere(values > threshold)
        heights = values[tuple(at.T)].clip(LOWEST, 1.0)
        distances = sigma * np.sqrt(-2 * np.log(heights))
        return cls(at[:, ::-1].astype(float), heights, distances, points, REACH * sigma, tolerance)

    def split(self) -> Float64[ndarray, "m D"]:
        """Add points until no untried cell implies another one."""
        untried = np.ones(len(self.cells), bool)
        while len(self.points):
            excess = _nearest(self.cells, self.points)[1] - self.distances
            unexplained = np.flatnonzero(untried & (excess > self.tolerance))
            if not len(unexplained):
                break
            worst = unexplained[excess[unexplained].argmax()]
            around = unexplained[np.linalg.norm(self.cells[unexplained] - self.cells[worst], axis=1) < self.reach / 2]
            highest = around[self.heights[around].argmax()]
            untried[[worst, highest]] = False
            self._add(self.cells[highest])
        return self.points

    def _add(self, cell: Float64[ndarray, " D"]) -> None:
        """Add one point at or beside the cell if it explains the surroundings much better."""
        near = np.linalg.norm(self.cells - cell, axis=1) < self.reach
        moving = np.linalg.norm(self.points - cell, axis=1) < self.reach
        around = _Surroundings(self.cells[near], self.distances[near] ** 2, self.heights[near] ** 2)
        count = int(moving.sum()) + 1
        starts = [
            np.concatenate([self.points[moving], cell[None] + step, self.points[~moving]])
            for step in np.indices((3,) * len(cell)).reshape(len(cell), -1).T - 1.0
        ]
        fits = [around.fit(points, count, ROUNDS_PER_START) for points in starts]
        points = around.fit(min(fits, key=around.residual), count, ROUNDS)
        apart = np.linalg.norm(points[:count, None] - points, axis=2) + np.eye(count, len(points)) * self.reach
        better = around.residual(points) < MAX_RESIDUAL * around.residual(self.points)
        if better and apart.min() > MIN_DISTANCE:
            self.points = np.concatenate([points[count:], points[:count]])


@dataclass
class _Surroundings:
    """Cells, their squared distances to the nearest point by their values, and their weights."""

    cells: Float64[ndarray, "k D"]
    squares: Float64[ndarray, " k"]
    weights: Float64[ndarray, " k"]

    def residual(self, points: Float64[ndarray, "n D"]) -> float:
        """The weighted squared error of the squared distances."""
        return float((self.weights * (_nearest(self.cells, points)[1] ** 2 - self.squares) ** 2).sum())

    def fit(self, points: Float64[ndarray, "n D"], count: int, rounds: int) -> Float64[ndarray, "n D"]:
        """Move the first ``count`` points to where they explain the cells nearest to them."""
        for _ in range(rounds):
            nearest, distances = _nearest(self.cells, points)
            moved = points.copy()
            for row in range(count):
                own = nearest == row
                if own.any():
                    moved[row] += self._step(points[row], own, distances[own] ** 2)
            if np.abs(moved - points).max() < LOWEST:
                return moved
            points = moved
        return points

    def _step(
        self, point: Float64[ndarray, " D"], own: Bool[ndarray, " k"], squares: Float64[ndarray, " m"]
    ) -> Float64[ndarray, " D"]:
        """Weighted least squares of d^2 = |x - p|^2 - 2 (x - p) step + a, where a allows for another height.

        A weak prior of a = 0 (height 1) determines the solution if the cells do not, for example if all are in one row.
        """
        table = np.concatenate([-2 * (self.cells[own] - point), np.ones((len(squares), 1))], axis=1)
        roots = np.sqrt(self.weights[own])
        prior = np.zeros((1, table.shape[1]))
        prior[0, -1] = np.sqrt(HEIGHT_PRIOR * self.weights[own].sum())
        target = np.append((self.squares[own] - squares) * roots, 0.0)
        solution = np.linalg.lstsq(np.concatenate([table * roots[:, None], prior]), target, rcond=None)[0]
        return np.clip(solution[:-1], -1, 1)


def _nearest(
    cells: Float64[ndarray, "k D"], points: Float64[ndarray, "n D"]
) -> tuple[Int64[ndarray, " k"], Float64[ndarray, " k"]]:
    """The nearest point of each cell and its distance."""
    distances, rows = KDTree(points).query(cells)
    return rows, distances


def _values_at(values: Float64[ndarray, "*cells"], points: Float64[ndarray, "n D"]) -> Float64[ndarray, " n"]:
    """The map's values in the cells that contain the points."""
    at = np.clip(np.floor(points[:, ::-1] + 0.5).astype(int), 0, np.array(values.shape) - 1)
    return values[tuple(at.T)]
