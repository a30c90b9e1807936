"""Points so close that their cells touch, of which only one can be a maximum: read from what the maxima leave unexplained.

Where Gaussians of one known sigma overlap by their maximum, -2 sigma^2 ln(h) at a cell x is the squared distance d^2 to the
nearest point, so d^2 - |x|^2 = min_i (|p_i|^2 - 2 p_i x): pieces linear in x, whose coefficients are the points. A cell
whose value says that a point is nearer than all that were found betrays another. It is put there, and the points and the
parts of the map that are nearest to each are fitted in turn, as by k-means, until they agree. It stays where its
surroundings are explained much better with it than without.
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

BETTER = 0.25  # of the squared residual of the surroundings may be left
LEAST_APART = 0.5  # cells between two points
ROUNDS = 40
ROUNDS_AT_FIRST = 6
PULL = 0.01  # of the weight of a point's cells
REACH = 3.0  # sigmas, of what is fitted again
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
    """Peaks with those that their neighbours hid; close ones are moved to where both together explain the map.

    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    >>> Gaussians = [torch.exp(-((x - at) ** 2 + (y - 4) ** 2) / 8) for at in (5.2, 6.4)]
    >>> from detect.keypoints.peaks import find_peaks
    >>> maps = torch.maximum(*Gaussians)[None, None]
    >>> len(find_peaks(maps).cells), split_peaks(maps, find_peaks(maps), sigma=2.0).cells.sort(dim=0).values
    (1, tensor([[5.2000, 4.0000],
            [6.4000, 4.0000]]))

    Args:
        heatmaps: of the peaks; Gaussians that overlap by their maximum.
        peaks: as :func:`detect.keypoints.peaks.find_peaks` gives them.
        sigma: of the Gaussians, in cells.
        threshold: cells with a higher value are looked at.
        tolerance: in cells: how much nearer a point has to be than those found for a cell to tell of another. Two points
            less than twice as far apart stay one; noise of .05 in a map of sigma 2 moves a distance by .2.

    Raises:
        ValueError: sigma or tolerance are not positive, the threshold is not between 0 and 1, or the peaks are those of
            another number of maps.
    """
    if tuple(heatmaps.shape[:2]) != (peaks.num_images, peaks.num_types):
        raise ValueError(
            f"peaks of {peaks.num_images} images and {peaks.num_types} landmark types for heatmaps of "
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
        own = _Crowd.of(values, found[number == row], sigma, threshold, tolerance).split()
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
class _Crowd:
    """One map: its high cells, how near a point is to each, and the points known so far."""

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
    ) -> _Crowd:
        at = np.argwhere(values > threshold)
        heights = values[tuple(at.T)].clip(LOWEST, 1.0)
        distances = sigma * np.sqrt(-2 * np.log(heights))
        return cls(at[:, ::-1].astype(float), heights, distances, points, REACH * sigma, tolerance)

    def split(self) -> Float64[ndarray, "m D"]:
        """The points, those that were found first."""
        untried = np.ones(len(self.cells), bool)
        while len(self.points):
            nearer = _nearest(self.cells, self.points)[1] - self.distances
            telling = np.flatnonzero(untried & (nearer > self.tolerance))
            if not len(telling):
                break
            most = telling[nearer[telling].argmax()]
            around = telling[np.linalg.norm(self.cells[telling] - self.cells[most], axis=1) < self.reach / 2]
            likely = around[self.heights[around].argmax()]
            untried[[most, likely]] = False
            self._add(self.cells[likely])
        return self.points

    def _add(self, cell: Float64[ndarray, " D"]) -> None:
        """Keep one more point, at or beside the cell, if with it the surroundings are explained much better."""
        near = np.linalg.norm(self.cells - cell, axis=1) < self.reach
        moving = np.linalg.norm(self.points - cell, axis=1) < self.reach
        around = _Surroundings(self.cells[near], self.distances[near] ** 2, self.heights[near] ** 2)
        count = int(moving.sum()) + 1
        starts = [
            np.concatenate([self.points[moving], cell[None] + step, self.points[~moving]])
            for step in np.indices((3,) * len(cell)).reshape(len(cell), -1).T - 1.0
        ]
        fits = [around.fit(points, count, ROUNDS_AT_FIRST) for points in starts]
        points = around.fit(min(fits, key=around.residual), count, ROUNDS)
        apart = np.linalg.norm(points[:count, None] - points, axis=2) + np.eye(count, len(points)) * self.reach
        better = around.residual(points) < BETTER * around.residual(self.points)
        if better and apart.min() > LEAST_APART:
            self.points = np.concatenate([points[count:], points[:count]])


@dataclass
class _Surroundings:
    """Cells, the squared distances to a point that they tell of, and how much each is worth."""

    cells: Float64[ndarray, "k D"]
    squares: Float64[ndarray, " k"]
    weights: Float64[ndarray, " k"]

    def residual(self, points: Float64[ndarray, "n D"]) -> float:
        """How badly points explain the cells."""
        return float((self.weights * (_nearest(self.cells, points)[1] ** 2 - self.squares) ** 2).sum())

    def fit(self, points: Float64[ndarray, "n D"], count: int, rounds: int) -> Float64[ndarray, "n D"]:
        """The first ``count`` points moved to where they explain the cells that are nearest to them."""
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
        """By weighted least squares: d^2 = |x - p|^2 - 2 (x - p) step + a, where a leaves the bell's height open.

        A weak pull of a to 0, the height 1, decides where the cells do not: all in one row, say.
        """
        table = np.concatenate([-2 * (self.cells[own] - point), np.ones((len(squares), 1))], axis=1)
        roots = np.sqrt(self.weights[own])
        pull = np.zeros((1, table.shape[1]))
        pull[0, -1] = np.sqrt(PULL * self.weights[own].sum())
        goal = np.append((self.squares[own] - squares) * roots, 0.0)
        solution = np.linalg.lstsq(np.concatenate([table * roots[:, None], pull]), goal, rcond=None)[0]
        return np.clip(solution[:-1], -1, 1)


def _nearest(
    cells: Float64[ndarray, "k D"], points: Float64[ndarray, "n D"]
) -> tuple[Int64[ndarray, " k"], Float64[ndarray, " k"]]:
    """Of each cell the nearest point and its distance."""
    distances, rows = KDTree(points).query(cells)
    return rows, distances


def _values_at(values: Float64[ndarray, "*cells"], points: Float64[ndarray, "n D"]) -> Float64[ndarray, " n"]:
    """The map's values in the cells that points lie in."""
    at = np.clip(np.floor(points[:, ::-1] + 0.5).astype(int), 0, np.array(values.shape) - 1)
    return values[tuple(at.T)]
