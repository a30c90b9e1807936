"""The best k shapes for a dataset, and an upper bound on what any k shapes can reach: how close to the best they are.

The average over boxes of the best gain is a facility location over the plane of shapes (:mod:`detect.anchors.facility`):
greedy choice and swaps over a grid of candidates, then a polish in the continuum. Nothing is random. The proof takes
multipliers from the linear relaxation over a growing set of candidates, and bounds what one shape offers above them over the
whole plane (:mod:`detect.anchors.shape_bound`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.facility import choose, choose_by_removal, improve_by_swaps, likely_swaps
from detect.anchors.facility_bound import FADED, find_multipliers
from detect.anchors.histogram import ShapeHistogram
from detect.anchors.iou_kmeans import require_enough, sorted_by_area
from detect.anchors.shape_bound import Offers, highest_offer
from detect.anchors.shape_gain import ShapeGain
from detect.anchors.shape_points import ShapePoints, iou_table
from detect.anchors.shape_polish import SMALLEST_GAIN, polish_shapes, score_of, settle_shapes
from detect.errors import FitError
from detect.ops.box_arrays import best_shape_iou

GRID_STEPS = (1 / 9, 1 / 12, 1 / 18, 1 / 24, 1 / 36)  # nepers between candidates: the finest that leaves them few
MAX_CANDIDATES = 800
FINEST_STEP = 0.03
MAX_GAINS = 600_000
FEW_POINTS = 24  # for so few, every pair of a width and a height is a candidate
POINTS_TO_CHOOSE_ON = 600
POINTS_TO_SWAP_ON = 5000
POINTS_TO_POLISH_ON = 12_000
MAX_SWAPS = 10
SWAP_STEP = 0.2  # nepers between places that are tried for a swap
POINTS_TO_PROVE_ON = 12_000
COARSE_CELLS_PER_OCTAVE = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024)
STEPS = 60  # of the multipliers in a round of the proof; on the finest cells each round takes more than the one before
MORE_STEPS = 1.5
ROUNDS = 12
ROUNDING = 1e-9  # a bound is given this much too high: positions in histograms are rounded, and so are sums
SPREAD_OUT = 0.1  # share of the solution that is spread over all candidates where the relaxation starts


@dataclass(frozen=True)
class OptimalAnchors:
    """Shapes, what they reach and what no shapes can exceed; made by :func:`optimal_anchors`."""

    shapes: Float64[ndarray, "k 2"]
    """(width, height) in pixels, sorted by area; fixed ones among them."""
    score: float
    """What the objective is at these shapes, over the histogram."""
    upper_bound: float | None
    """What it is at most over the boxes, for any k shapes (that hold the fixed ones); None where no proof was asked for."""

    @property
    def gap(self) -> float | None:
        """How much better the best could be, relative to the score."""
        return None if self.upper_bound is None else self.upper_bound / self.score - 1


def optimal_anchors(
    histogram: ShapeHistogram | Sequence[ShapeHistogram],
    k: int,
    *,
    objective: str = "iou",
    weights: Float64[ndarray, " cells"] | Sequence[float] | None = None,
    fixed: Sequence[tuple[float, float]] = (),
    certify: float | None = 0.02,
    rounds: int = ROUNDS,
) -> OptimalAnchors:
    """The best k shapes that greed, swaps and polish find, proved to be close to the best.

    Args:
        histogram: of the boxes' shapes, or one for each category or size band. The finer its cells, the tighter the bound.
        k: number of shapes, those that are fixed among them.
        objective: ``iou``, the average best IoU; ``recall@T``, the share of boxes whose best IoU reaches T; or a blend,
            ``0.8*iou+0.2*recall@0.5``.
        weights: of a box in each cell of the histogram; or, of several histograms, of a box in each.
        fixed: (width, height) of anchors that are there in any case.
        certify: stop proving when the gap is this small; None proves nothing and is faster.
        rounds: of the proof, at most; each is on finer cells or with more candidates.

    Raises:
        FitError: no boxes, or fewer distinct shapes than are to be fitted.
        ValueError: k, an objective, a weight or a fixed shape out of its range.

    >>> boxes = np.array([[10.0, 20.0], [11.0, 20.0], [12.0, 20.0], [50.0, 40.0]])
    >>> best = optimal_anchors(ShapeHistogram.of(boxes, cells_per_octave=1024), 2, certify=0.001)
    >>> best.shapes.round(6), round(best.score, 4), best.gap < 0.001
    (array([[11., 20.],
           [50., 40.]]), 0.9564, True)
    """
    gain = ShapeGain.parse(objective)
    kept = _checked_fixed(fixed, k)
    if certify is not None and not certify >= 0:
        raise ValueError(f"need certify >= 0, got {certify=}")
    if rounds < 1:
        raise ValueError(f"need rounds >= 1, got {rounds=}")
    if not sum(map(len, [histogram] if isinstance(histogram, ShapeHistogram) else histogram)):
        raise FitError("no boxes to fit anchors to")
    points = ShapePoints.of(histogram, weights)
    require_enough(points.shapes, k - len(kept))
    shapes = _fit(points, k, gain, kept)
    bound = None
    if certify is not None:
        shapes, bound = _prove(points, shapes, gain, len(kept), certify, rounds)
    return OptimalAnchors(sorted_by_area(shapes), score_of(points, shapes, gain), bound)


def _fit(points: ShapePoints, k: int, gain: ShapeGain, fixed: Float64[ndarray, "m 2"]) -> Float64[ndarray, "k 2"]:
    """Chosen from candidates on few points, from above and from below; the better is improved and polished on all."""
    few, num_fixed = _at_most(points, POINTS_TO_CHOOSE_ON, at_least=k), len(fixed)
    candidates = np.concatenate([fixed, _candidates(few, k, gain)])
    gains = _gains(few, candidates, gain)
    upwards = choose(gains, k, fixed=range(num_fixed)).rows
    many = choose(gains, min(2 * k, len(gains)), fixed=range(num_fixed)).rows
    downwards = improve_by_swaps(
        gains, choose_by_removal(gains, many, k, num_fixed=num_fixed), num_fixed=num_fixed
    ).rows
    starts = [candidates[list(rows)] for rows in dict.fromkeys((upwards, downwards))]
    if gain.recall_share == 1:  # a step function has plateaus, on which a blend with IoU still knows the way
        starts.append(_swap_and_polish(few, starts[0], ShapeGain(0.5, gain.threshold), num_fixed=num_fixed))
    fits = [_swap_and_polish(few, start, gain, num_fixed=num_fixed) for start in starts]
    shapes = max(fits, key=lambda fit: score_of(few, fit, gain))
    if len(few) == len(points):
        return shapes
    if len(points) <= POINTS_TO_SWAP_ON:
        return _swap_and_polish(points, shapes, gain, num_fixed=num_fixed)
    shapes = polish_shapes(_at_most(points, POINTS_TO_POLISH_ON), shapes, gain, num_fixed=num_fixed)
    return settle_shapes(points, shapes, gain, num_fixed=num_fixed)


def _swap_and_polish(
    points: ShapePoints, shapes: Float64[ndarray, "k 2"], gain: ShapeGain, *, num_fixed: int
) -> Float64[ndarray, "k 2"]:
    """Swaps of a polished shape for another that gain once they are polished themselves, as long as there are any."""
    shapes = polish_shapes(points, shapes, gain, num_fixed=num_fixed)
    score, k = score_of(points, shapes, gain), len(shapes)
    places = _grid_around(points, SWAP_STEP)
    gains = _gains(points, places, gain)
    for _ in range(MAX_SWAPS):
        table = np.concatenate([_gains(points, shapes, gain), gains])
        swaps = likely_swaps(table, range(k), num_fixed=num_fixed)
        trials = [np.concatenate([shapes[:at], places[row - k, None], shapes[at + 1 :]]) for at, row in swaps]
        trials = [settle_shapes(points, trial, gain, num_fixed=num_fixed) for trial in trials]
        best = max(trials, key=lambda trial: score_of(points, trial, gain), default=shapes)
        best = polish_shapes(points, best, gain, num_fixed=num_fixed)
        then = score_of(points, best, gain)
        if not then > score + SMALLEST_GAIN:
            break
        shapes, score = best, then
    return shapes


def _prove(
    points: ShapePoints,
    shapes: Float64[ndarray, "k 2"],
    gain: ShapeGain,
    num_fixed: int,
    certify: float,
    rounds: int,
) -> tuple[Float64[ndarray, "k 2"], float]:
    """The least upper bound of some rounds, until the gap is small enough; and better shapes, where the proof meets some.

    Fixed shapes come first.
    """
    fixed, num_free = shapes[:num_fixed], len(shapes) - num_fixed
    score, stages, best = score_of(points, shapes, gain), _stages(points), 1.0
    candidates = np.concatenate([shapes[num_fixed:], _candidates(stages[0], 0, gain)])
    opened = np.full(len(candidates), SPREAD_OUT * num_free / len(candidates))
    opened[:num_free] += 1 - SPREAD_OUT
    for number in range(rounds):
        stage = stages[min(number, len(stages) - 1)]
        steps = round(STEPS * MORE_STEPS ** max(number - len(stages) + 1, 0))
        floor = gain.of_iou(np.maximum(best_shape_iou(stage.shapes, fixed)[0], 0))
        gains, floor = _gains(stage, candidates, gain), stage.weights * floor
        weighted, opened = find_multipliers(gains, num_free, opened, at_least=floor, steps=steps)
        offers = Offers(stage, weighted / stage.weights, gain)
        sure = float(weighted.sum() + offers.at(np.log(fixed)).sum()) + ROUNDING
        if num_free == 0:
            return shapes, min(sure, 1.0)
        enough = (score * (1 + certify) - sure) / num_free
        peak = highest_offer(offers, known=np.log(candidates[opened > FADED]), enough=enough)
        best = min(best, sure + num_free * peak.bound)
        if best <= score * (1 + certify):
            break
        candidates, opened = _with_rivals(candidates, opened, peak.rivals, num_free)
        if len(stage) <= POINTS_TO_SWAP_ON:
            shapes = _swapped_for(points, stage, shapes, candidates, gain, num_fixed)
            score = score_of(points, shapes, gain)
    return shapes, best


def _swapped_for(
    points: ShapePoints,
    stage: ShapePoints,
    shapes: Float64[ndarray, "k 2"],
    candidates: Float64[ndarray, "a 2"],
    gain: ShapeGain,
    num_fixed: int,
) -> Float64[ndarray, "k 2"]:
    """The shapes after swaps for candidates of the relaxation, if that gains over all points."""
    among = np.concatenate([shapes, candidates])
    rows = improve_by_swaps(_gains(stage, among, gain), range(len(shapes)), num_fixed=num_fixed).rows
    if rows == tuple(range(len(shapes))):
        return shapes
    trial = polish_shapes(points, among[list(rows)], gain, num_fixed=num_fixed)
    return max(shapes, trial, key=lambda fit: score_of(points, fit, gain))


def _with_rivals(
    candidates: Float64[ndarray, "a 2"],
    opened: Float64[ndarray, " a"],
    rivals: Float64[ndarray, "m 2"],
    num_free: int,
) -> tuple[Float64[ndarray, "b 2"], Float64[ndarray, " b"]]:
    """Candidates that are hardly opened make room for shapes that offer more than any candidate."""
    keep = opened > FADED
    shares = np.full(len(rivals), SPREAD_OUT * num_free / (keep.sum() + len(rivals)))
    opened = np.concatenate([opened[keep], shares])
    return np.concatenate([candidates[keep], np.exp(rivals)]), opened


def _candidates(points: ShapePoints, k: int, gain: ShapeGain) -> Float64[ndarray, "a 2"]:
    """Shapes to choose from, at least k.

    For average IoU the grid around the points, and where they are few, each of their widths with each height: optima lie on
    kinks, and where the points are. For recall the grid between all of them: a shape may serve boxes on all sides of it.
    """
    steps = [step for step in GRID_STEPS if len(_grid_around(points, step)) <= MAX_CANDIDATES]
    grid = _grid_around(points, steps[-1] if steps else GRID_STEPS[0])
    if gain.recall_share > 0:
        grid = np.concatenate([grid, _grid_between(points)])
    if len(points) <= FEW_POINTS:
        widths, heights = (np.unique(column) for column in points.shapes.T)
        crossings = np.stack(np.meshgrid(widths, heights), axis=-1).reshape(-1, 2)
        middles = np.exp((points.log_wh[:, None] + points.log_wh).reshape(-1, 2) / 2)  # close to two boxes at once
        grid = np.concatenate([crossings, np.unique(middles, axis=0), grid])
    return grid if len(grid) >= k else np.concatenate([points.shapes, grid])


def _grid_between(points: ShapePoints) -> Float64[ndarray, "a 2"]:
    """A grid over the rectangle that holds all points, as fine as a limit on the table of gains allows."""
    low, high = points.log_wh.min(axis=0), points.log_wh.max(axis=0)
    step = max(float(np.sqrt((high - low).prod() * len(points) / MAX_GAINS)), FINEST_STEP)
    columns, rows = (np.arange(low[axis], high[axis] + step, step) for axis in range(2))
    return np.exp(np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2))


def _grid_around(points: ShapePoints, step: float) -> Float64[ndarray, "a 2"]:
    """The middles of those squares of the plane of logarithms that hold points."""
    return np.exp((np.unique(np.floor(points.log_wh / step), axis=0) + 0.5) * step)


def _at_most(points: ShapePoints, limit: int, *, at_least: int = 0) -> ShapePoints:
    """The points, or as many as a limit allows, by joining neighbours."""
    return next((stage for stage in reversed(_stages(points, limit)) if len(stage) >= at_least), points)


def _stages(points: ShapePoints, limit: int = POINTS_TO_PROVE_ON) -> list[ShapePoints]:
    """The points on finer and finer cells, as far as a limit allows; themselves, where it allows that."""
    stages: list[ShapePoints] = []
    for cells_per_octave in COARSE_CELLS_PER_OCTAVE:
        stage = points.coarsened(cells_per_octave)
        if stages and len(stage) > limit:
            return stages
        stages.append(stage)
        if len(stage) > 0.9 * len(points):
            break
    return [*stages, points] if len(points) <= limit else stages


def _gains(points: ShapePoints, shapes: Float64[ndarray, "a 2"], gain: ShapeGain) -> Float64[ndarray, "a n"]:
    """What each point has from each shape, its weight included."""
    return points.weights * gain.of_iou(iou_table(shapes, points.shapes))


def _checked_fixed(fixed: Sequence[tuple[float, float]], k: int) -> Float64[ndarray, "m 2"]:
    kept = np.array(fixed, np.float64).reshape(-1, 2)
    if not (np.isfinite(kept).all() and (kept > 0).all()):
        raise ValueError(f"fixed anchors must have positive, finite widths and heights, got {fixed}")
    if not max(len(kept), 1) <= k:
        raise ValueError(f"need k >= 1 and no more fixed anchors than k, got {k=} and {len(kept)} fixed")
    return kept
