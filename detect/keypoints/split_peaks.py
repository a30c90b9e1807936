"""Separate overlapping peaks: points so close that their Gaussians have only one local maximum, or shift each other's.

If Gaussians of one known sigma are blended by their maximum, -2 sigma^2 ln(h) at a cell x is the squared distance d^2 to the
nearest point, so d^2 - |x|^2 = min_i (|p_i|^2 - 2 p_i x) is piecewise linear in x, and its coefficients are the points. They
are found as in k-means: each cell belongs to its nearest point, and each point moves to where it explains its own cells.

Points with a near neighbour are fitted so first. A cell brighter than the points explain implies another point, which is
fitted to the cells around that are brighter too. It is kept if those cells are explained much better with it than without.
Only the surroundings of such cells are fitted again, all of them together, so that time grows with the number of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray
from scipy.spatial import KDTree
from torch import Tensor

from detect.keypoints.peaks import Peaks
from detect.ops.array_kinds import check_maps, check_shape, in_tensors, of_axes

MAX_RESIDUAL = 0.4  # share of the squared residual that may remain for a point to be kept
SCALES = (0.5, 2.0)  # of squared sigmas
MIN_DISTANCE = 0.5  # cells between two points
ROUNDS = 10
OWNERS = 4  # nearest points among which a cell finds its own while they move
HEIGHT_PRIOR = 0.01  # weight of the prior that heights are 1, relative to the weight of a point's cells
REACH = 3.0  # sigmas: the neighbourhood that is fitted again
CLOSE = 2.0  # sigmas: nearer peaks are fitted together
TRIED = 1.5  # cells: so near a point that was not kept none is tried again
SETTLED = 1e-3  # cells: a point that moves less stays
LOWEST = 1e-6
RIDGE = 1e-9  # relative: decides where cells do not
NUDGE = 0.05  # cells towards the middle of the map: a point in the only row of its cells could not leave it
START_PRIOR = 0.01  # weight of the prior that a new point is at its highest cell

Points = Float64[ndarray, "_ D"]


@in_tensors
@torch.no_grad()
def split_peaks(
    heatmaps: Float[Tensor, "b j *cells"],
    peaks: Peaks,
    *,
    sigma: float | Sequence[float],
    threshold: float = 0.3,
    tolerance: float = 0.5,
) -> Peaks:
    """Add the peaks that overlapping neighbours hide, and move close ones to where they explain the map together.

    The maps have Gaussians of ``sigma`` cells, a number or one for each of x, y[, z], blended by their maximum; cells above
    the threshold, from 0 to 1, are used. Distances are in cells of the axis whose sigma is the smallest.
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
    _check(heatmaps, peaks)
    if not (tolerance > 0 and 0 < threshold < 1):
        raise ValueError(f"need tolerance > 0 and 0 < threshold < 1, got {tolerance=}, {threshold=}")
    sigmas = of_axes("sigma", sigma, heatmaps.ndim - 2)
    scale = sigmas / sigmas.min()
    maps = heatmaps.detach().double().flatten(0, 1).cpu().numpy()
    number, found = peaks.maps.cpu().numpy(), peaks.cells.double().cpu().numpy()
    points, heights, of_map = [found[:0]], [np.zeros(0)], [number[:0]]
    for row, values in enumerate(maps):
        middle = (np.array(values.shape[::-1]) - 1) / 2 / scale
        bright = _Cells.of(values, sigmas, threshold)
        own = _split_map(bright, found[number == row] / scale, middle, REACH * sigmas.min(), tolerance) * scale
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


def _check(heatmaps: Tensor, peaks: Peaks) -> None:
    check_maps(heatmaps=heatmaps)
    counts, wanted = (peaks.num_images, peaks.num_types), tuple(heatmaps.shape[:2])
    if counts != wanted:
        sizes = f"{counts[0]} images and {counts[1]} keypoint types"
        raise ValueError(f"peaks of {sizes} for heatmaps of {wanted[0]} and {wanted[1]}")
    check_shape("one cell (x, y[, z]) for each peak,", peaks.cells, (len(peaks.cells), heatmaps.ndim - 2))


def _split_map(cells: _Cells, points: Points, middle: Float64[ndarray, " D"], reach: float, tolerance: float) -> Points:
    """Add points until no untried cell implies another one."""
    if len(points) > 1:
        is_close = KDTree(points).query(points, k=2)[0][:, 1] < reach * CLOSE / REACH
        near = KDTree(points[is_close]).query(cells.at)[0] < reach if is_close.any() else np.zeros(len(cells.at), bool)
        points = cells.take(np.flatnonzero(near)).fit(points, is_close)[0]
    if not len(points):
        return points
    distances, untried = KDTree(points).query(cells.at)[0], np.ones(len(cells.at), bool)
    limits = tolerance + np.sqrt(cells.squares)
    while len(unexplained := np.flatnonzero(untried & (distances > limits))):
        starts, seeds = cells.take(unexplained).starts(reach, middle)
        untried[unexplained[seeds]] = False
        apart, start = KDTree(starts).query(cells.at, distance_upper_bound=2 * reach)
        near, changed = np.flatnonzero(apart < reach), np.flatnonzero(apart < 2 * reach)
        points, kept = _with_others(points, starts, cells.take(near), start[near], distances[near] ** 2, reach)
        distances[changed] = KDTree(points).query(cells.at[changed])[0]
        untried[near[(apart[near] < TRIED) & ~kept[start[near]]]] = False
    return points


def _with_others(
    points: Points,
    starts: Points,
    cells: _Cells,
    start: Int64[ndarray, " k"],
    squares: Float64[ndarray, " k"],
    reach: float,
) -> tuple[Points, Bool[ndarray, " s"]]:
    """Add the points, at or beside the starts, that explain the cells much better; and which those are.

    Cells have a ``start`` nearest to them, and squared distances to the nearest of the points.
    """
    beside, nearest = KDTree(starts).query(points)
    moving = np.concatenate([beside < reach, np.ones(len(starts), bool)])
    fitted, explained = cells.fit(np.concatenate([points, starts]), moving)
    before, after = cells.misfit(squares, start, scaled=True), cells.misfit(explained, start)
    apart = KDTree(fitted).query(fitted[len(points) :], k=2)[0][:, 1]
    kept = (after < MAX_RESIDUAL * before) & (apart > MIN_DISTANCE)
    stays = (beside >= reach) | kept[nearest]
    old = np.where(stays[:, None], fitted[: len(points)], points)
    return np.concatenate([old, fitted[len(points) :][kept]]), kept


@dataclass(frozen=True)
class _Cells:
    """Cells, their squared distances to the nearest point by their values, and their weights.

    Each axis is in units of its sigma over the smallest, in which all Gaussians are round.
    """

    at: Float64[ndarray, "k D"]
    squares: Float64[ndarray, " k"]
    weights: Float64[ndarray, " k"]

    @classmethod
    def of(cls, values: Float64[ndarray, "*cells"], sigmas: Float64[ndarray, " D"], threshold: float) -> _Cells:
        at = np.argwhere(values > threshold)
        heights = values[tuple(at.T)].clip(LOWEST, 1.0)
        least = sigmas.min()
        return cls(at[:, ::-1] / (sigmas / least), -2 * least**2 * np.log(heights), heights**2)

    def take(self, rows: Int64[ndarray, " m"]) -> _Cells:
        return _Cells(self.at[rows], self.squares[rows], self.weights[rows])

    def misfit(
        self, squares: Float64[ndarray, " k"], group: Int64[ndarray, " k"], *, scaled: bool = False
    ) -> Float64[ndarray, " g"]:
        """The weighted squared errors of squared distances, summed for each group of cells.

        If ``scaled``, with the sigma that fits each group best: what another sigma explains needs no other point.
        """
        wanted = self.squares
        if scaled:
            products, own = (np.bincount(group, self.weights * wanted * each) for each in (squares, wanted))
            wanted = wanted * np.clip(products / np.maximum(own, LOWEST), *SCALES)[group]
        return np.bincount(group, self.weights * (squares - wanted) ** 2)

    def starts(self, reach: float, middle: Float64[ndarray, " D"]) -> tuple[Points, Int64[ndarray, " s"]]:
        """One point for the cells around each highest one of its surroundings, and the rows of the highest."""
        first, second = KDTree(self.at).query_pairs(reach, output_type="ndarray").T
        is_lower = self.weights[first] < self.weights[second]
        lonely = np.ones(len(self.at), bool)
        lonely[np.where(is_lower, first, second)] = False
        seeds = np.flatnonzero(lonely)
        seed = KDTree(self.at[seeds]).query(self.at)[1]
        moves = self.at - self.at[seeds[seed]]
        own = np.flatnonzero((moves**2).sum(axis=1) <= (reach / 2) ** 2)
        part, moves = self.take(own), moves[own]
        prior = np.append(np.full(moves.shape[1], START_PRIOR), 0.0)
        steps = part.solve(moves, part.squares - (moves**2).sum(axis=1), seed[own], len(seeds), prior)
        at = self.at[seeds]
        return at + np.clip(steps, -reach / 4, reach / 4) + NUDGE * np.sign(middle - at), seeds

    def fit(self, points: Points, moving: Bool[ndarray, " n"]) -> tuple[Points, Float64[ndarray, " k"]]:
        """Move some points to where they explain the cells nearest to them; the points, and each cell's squared distance.

        The weak prior of a = 0 (height 1) determines the solution if the cells do not, for example if all are in one row.
        """
        count = min(OWNERS, len(points))
        among = KDTree(points).query(self.at, k=[*range(1, count + 1)])[1]
        prior = np.append(np.zeros(self.at.shape[1]), HEIGHT_PRIOR)
        points, moved = points.copy(), moving
        for _ in range(ROUNDS):
            again = np.zeros(len(points), bool)
            again[among[moved[among].any(axis=1)]] = True  # a cell of theirs may have another owner
            again &= moving
            rows = np.flatnonzero(again[among].any(axis=1))
            part, of_part = self.take(rows), among[rows]
            squares = _squared_distances(part.at, points, of_part)
            nearest = squares.argmin(axis=1)
            owner = of_part[np.arange(len(rows)), nearest]
            own = np.flatnonzero(again[owner])
            owner, part, squares = owner[own], part.take(own), squares[own, nearest[own]]
            number, chosen = np.cumsum(again) - 1, np.flatnonzero(again)
            steps = part.solve(part.at - points[owner], part.squares - squares, number[owner], len(chosen), prior)
            points[chosen] += np.clip(steps, -1, 1)
            moved = np.zeros(len(points), bool)
            moved[chosen] = np.abs(steps).max(axis=1) > SETTLED
            if not moved.any():
                break
        return points, _squared_distances(self.at, points, among).min(axis=1)

    def solve(
        self,
        moves: Float64[ndarray, "k D"],
        target: Float64[ndarray, " k"],
        group: Int64[ndarray, " k"],
        num_groups: int,
        prior: Float64[ndarray, " D1"],
    ) -> Points:
        """Weighted least squares of a - 2 moves step = target, for each group of cells; ``a`` allows for another height.

        The prior is that steps and ``a`` are 0, with weights relative to those of the group's cells.
        """
        table = np.concatenate([-2 * moves, np.ones((len(moves), 1))], axis=1)
        size = table.shape[1]
        weighted = table * self.weights[:, None]
        total = np.bincount(group, self.weights, minlength=num_groups)
        matrix = np.empty((num_groups, size, size))
        for i in range(size):
            for j in range(i + 1):
                matrix[:, i, j] = matrix[:, j, i] = np.bincount(group, weighted[:, i] * table[:, j], num_groups)
        matrix += np.diag(prior + RIDGE) * np.maximum(total, LOWEST)[:, None, None]
        vector = np.stack([np.bincount(group, weighted[:, i] * target, num_groups) for i in range(size)], axis=1)
        return np.linalg.solve(matrix, vector[:, :, None])[:, :-1, 0]


def _squared_distances(
    cells: Float64[ndarray, "k D"], points: Points, among: Int64[ndarray, "k o"]
) -> Float64[ndarray, "k o"]:
    squares = np.zeros(among.shape)
    for at, place in zip(cells.T, points.T, strict=True):
        squares += (at[:, None] - place[among]) ** 2
    return squares
