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
from jaxtyping import Bool, Float, Float64
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

Cell = Float64[ndarray, " D"]
Points = Float64[ndarray, "_ D"]


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

    The maps have Gaussians of ``sigma`` cells, blended by their maximum; cells above the threshold, from 0 to 1, are used.
    A cell implies another point if the nearest point is nearer than all known ones by more than the ``tolerance``, in cells.
    Two points less than twice the tolerance apart stay one; noise of .05 in a map of sigma 2 changes a distance by .2.
    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    >>> Gaussians = [torch.exp(-((x - at) ** 2 + (y - 4) ** 2) / 8) for at in (5.2, 6.4)]
    >>> from detect.keypoints.peaks import find_peaks
    >>> maps = torch.maximum(*Gaussians)[None, None]
    >>> len(find_peaks(maps).cells), split_peaks(maps, find_peaks(maps), sigma=2.0).cells.sort(dim=0).values
    (1, tensor([[5.2000, 4.0000],
            [6.4000, 4.0000]]))
    """
    counts, wanted = (peaks.num_images, peaks.num_types), tuple(heatmaps.shape[:2])
    if counts != wanted:
        sizes = f"{counts[0]} images and {counts[1]} keypoint types"
        raise ValueError(f"peaks of {sizes} for heatmaps of {wanted[0]} and {wanted[1]}")
    if not (sigma > 0 and tolerance > 0 and 0 < threshold < 1):
        given = f"{sigma=}, {tolerance=}, {threshold=}"
        raise ValueError(f"need positive sigma, tolerance and 0 < threshold < 1, got {given}")
    maps = heatmaps.detach().double().flatten(0, 1).cpu().numpy()
    number, found = peaks.maps.cpu().numpy(), peaks.cells.double().cpu().numpy()
    points, heights, of_map = [found[:0]], [np.zeros(0)], [number[:0]]
    for row, values in enumerate(maps):
        own = _split_map(values, found[number == row], sigma, threshold, tolerance)
        cells = np.clip(np.floor(own[:, ::-1] + 0.5).astype(int), 0, np.array(values.shape) - 1)
        own_heights = values[tuple(cells.T)]
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


def _split_map(
    values: Float64[ndarray, "*cells"], points: Points, sigma: float, threshold: float, tolerance: float
) -> Points:
    """Add points until no untried cell above the threshold implies another one."""
    at = np.argwhere(values > threshold)
    cells, heights = at[:, ::-1].astype(float), values[tuple(at.T)].clip(LOWEST, 1.0)
    distances = sigma * np.sqrt(-2 * np.log(heights))  # to the nearest point
    reach, untried = REACH * sigma, np.ones(len(cells), bool)
    while len(points):
        excess = KDTree(points).query(cells)[0] - distances
        unexplained = np.flatnonzero(untried & (excess > tolerance))
        if not len(unexplained):
            break
        worst = unexplained[excess[unexplained].argmax()]
        around = unexplained[np.linalg.norm(cells[unexplained] - cells[worst], axis=1) < reach / 2]
        highest = around[heights[around].argmax()]
        untried[[worst, highest]] = False
        near = np.linalg.norm(cells - cells[highest], axis=1) < reach
        surroundings = _Surroundings(cells[near], distances[near] ** 2, heights[near] ** 2)
        points = _with_another(points, cells[highest], surroundings, reach)
    return points


def _with_another(points: Points, cell: Cell, surroundings: _Surroundings, reach: float) -> Points:
    """Add one point at or beside the cell if it explains the surroundings much better."""
    moving = np.linalg.norm(points - cell, axis=1) < reach
    count = int(moving.sum()) + 1
    steps = np.indices((3,) * len(cell)).reshape(len(cell), -1).T - 1.0
    starts = [np.concatenate([points[moving], cell[None] + step, points[~moving]]) for step in steps]
    fits = [surroundings.fit(start, count, ROUNDS_PER_START) for start in starts]
    fitted = surroundings.fit(min(fits, key=surroundings.residual), count, ROUNDS)
    apart = np.linalg.norm(fitted[:count, None] - fitted, axis=2) + np.eye(count, len(fitted)) * reach
    better = surroundings.residual(fitted) < MAX_RESIDUAL * surroundings.residual(points)
    return np.concatenate([fitted[count:], fitted[:count]]) if better and apart.min() > MIN_DISTANCE else points


@dataclass
class _Surroundings:
    """Cells, their squared distances to the nearest point by their values, and their weights."""

    cells: Float64[ndarray, "k D"]
    squares: Float64[ndarray, " k"]
    weights: Float64[ndarray, " k"]

    def residual(self, points: Points) -> float:
        """The weighted squared error of the squared distances."""
        return float((self.weights * (KDTree(points).query(self.cells)[0] ** 2 - self.squares) ** 2).sum())

    def fit(self, points: Points, count: int, rounds: int) -> Points:
        """Move the first ``count`` points to where they explain the cells nearest to them."""
        for _ in range(rounds):
            distances, nearest = KDTree(points).query(self.cells)
            moved = points.copy()
            for row in range(count):
                own = nearest == row
                if own.any():
                    moved[row] += self._step(points[row], own, distances[own] ** 2)
            if np.abs(moved - points).max() < LOWEST:
                return moved
            points = moved
        return points

    def _step(self, point: Cell, own: Bool[ndarray, " k"], squares: Float64[ndarray, " m"]) -> Cell:
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
