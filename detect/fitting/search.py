"""Search for the best anchors within limits, and prove how close to the best possible they are.

A candidate is a shape on a level, with a utility to each box (:mod:`detect.fitting.gains`); the rest is a facility location
(:mod:`detect.fitting.facility_location`). The search starts on few points, where neighbouring boxes are joined if they
can be: greed and swaps choose from a grid of shapes on every level, from scratch and among candidates that the linear
relaxation opens. A polish then moves each chosen shape in the continuum, and swaps with shapes close to the chosen ones
follow. If boxes were joined, the best start is polished on all of them, at last by weighted medians. Nothing is random,
and the order of the boxes changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import methodcaller

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import Proof
from detect.anchors.histogram import ShapeHistogram
from detect.errors import FitError
from detect.fitting.candidates import Candidates, Limits, choose_rows, completed, grid_candidates, relax, swap_rows
from detect.fitting.certificate import prove
from detect.fitting.facility_location import likely_swaps
from detect.fitting.gains import Boxes, PerShape, Shapes
from detect.fitting.kmeans import Members, best_of_starts, improve_centers, require_enough, sorted_by_area
from detect.fitting.objective import Objective
from detect.fitting.ratio_cells import RatioCells
from detect.fitting.shape_cells import ShapeCells
from detect.ops.time_limit import best_until, is_over, tell

OPENED = (0.01, 0.05)  # for each share, the candidates with a larger LP opening are one more start
SWAP_STEP = 0.2  # nepers between distant shapes that are tried for a swap
FINE_STEP = 1 / 27  # nepers between candidates around the chosen ones
POINTS_TO_CHOOSE_ON = 600
POINTS_TO_POLISH_ON = 5000
SQUARE = np.array([(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3)], np.float64)
FIRST_STEP = 0.12  # nepers
SMALLEST_STEP = 5e-4
TRIAL_UPDATES = 5  # of the shapes after a swap, before it is judged
SWAPS, MORE_SWAPS = 3, 6  # swaps to try for each shape; more on few points
SWAPS_FOR_IOU = 1  # of many points: three take a quarter more time for 1e-4 of the score
FEW_POINTS = 1000
RELAXATION_STEPS = 100
SIDE_STEPS = 60  # by side ratio, with one start less: a third of the time less, at most 1e-4 of the score in three fits
SMALLEST_GAIN = 1e-9
MAX_ROUNDS = 10
COARSE_CELLS_PER_OCTAVE = 16  # of k-means
ROUNDS = 12  # of a proof, at most


@dataclass(frozen=True)
class Solution:
    """The choice of a search, and the relaxation that it started from."""

    chosen: Candidates
    grid: Candidates
    openings: PerShape


def search(
    boxes: Boxes,
    limits: Limits,
    given: Sequence[Candidates] = (),
    *,
    rivals: Sequence[Candidates] = (),
    draft: int | None = None,
) -> Solution:
    """The best choice within limits that the search finds; no worse than any that is given to start from.

    It is no worse than ``rivals`` either, from which it starts only if they win. With ``draft``, it searches on this many
    boxes and polishes the choice on all, without rivals.
    """
    if draft and len(boxes) > draft:
        few = boxes.thinned(draft)
        found = search(few, limits, [start.on(few) for start in given])
        return replace(found, chosen=polish(boxes, found.chosen.on(boxes)))
    few = boxes.joined(max(POINTS_TO_CHOOSE_ON, sum(limits.counts)))
    grid = grid_candidates(few)
    shares, steps = (OPENED[1:], SIDE_STEPS) if boxes.objective.of_sides else (OPENED, RELAXATION_STEPS)
    openings = relax(grid, limits, steps=steps)[1]
    among = [None, *(np.flatnonzero(openings > share) for share in shares)]
    rows = dict.fromkeys(tuple(choose_rows(grid, limits, each)) for each in among if each is None or not is_over())
    starts = [grid.take(each) for each in rows]
    own = [completed(start.on(few), grid, limits) for start in given]
    if boxes.objective.recall_share > 0:  # a step function has plateaus, on which more IoU in a blend still has a slope
        smoother = replace(boxes.objective, recall_share=boxes.objective.recall_share / 2)
        blend = replace(few, objective=smoother)
        starts.append(improve(blend, starts[0].on(blend), limits).on(few))
    few_points, recall = len(boxes) <= FEW_POINTS, boxes.objective.recall_share > 0
    swaps = MORE_SWAPS if few_points else SWAPS if recall else SWAPS_FOR_IOU
    fits = list(_improved_each(few, starts + own, limits, swaps))
    if len(few) == len(boxes):
        return Solution(_best(boxes, limits, fits, rivals, swaps), grid, openings)
    many = boxes.joined(POINTS_TO_POLISH_ON)
    tell("polishing on all boxes")
    worth = methodcaller("value", limits)
    chosen = best_until((polish(many, fit.on(many)) for fit in sorted(fits, key=worth, reverse=True)), key=worth)
    if len(many) < len(boxes):
        chosen = settle(boxes, chosen.on(boxes))
    elif (
        not boxes.objective.of_sides
    ):  # by side ratio, swaps on all points take a third of the time for 1e-5 of the score
        chosen = improve(boxes, chosen, limits, swaps=swaps)
    fits = [chosen, *(each.on(boxes) for each in own)]
    return Solution(_best(boxes, limits, fits, rivals, swaps), grid, openings)


def _improved_each(boxes: Boxes, starts: Sequence[Candidates], limits: Limits, swaps: int) -> Iterator[Candidates]:
    for number, start in enumerate(starts, 1):
        tell(f"start {number} of {len(starts)}")
        yield improve(boxes, start, limits, swaps=swaps)


def _best(
    boxes: Boxes, limits: Limits, fits: Sequence[Candidates], rivals: Sequence[Candidates], swaps: int
) -> Candidates:
    """The best of the fits, or of the polished rivals, which is then improved."""
    best, many = max(fits, key=lambda fit: fit.value(limits)), boxes.joined(POINTS_TO_POLISH_ON)
    for rival in rivals:
        polished = polish(many, rival.on(many)).on(boxes)
        fits = [best, rival, polished if len(many) == len(boxes) else settle(boxes, polished)]
        winner = max(fits, key=lambda fit: fit.value(limits))
        best = improve(boxes, winner, limits, swaps=swaps) if winner is not best and len(many) == len(boxes) else winner
    return best


def improve(boxes: Boxes, chosen: Candidates, limits: Limits, *, swaps: int = SWAPS) -> Candidates:
    """Polish, then swap with close shapes, as long as that gains."""
    value = -np.inf
    for _ in range(MAX_ROUNDS):
        chosen = polish(boxes, chosen)
        before, value = value, chosen.value(limits)
        if not value > before + SMALLEST_GAIN or is_over():
            break
        near = chosen + neighbours(boxes, chosen)
        rows = swap_rows(near, range(len(chosen)), limits)
        if rows != list(range(len(chosen))):
            chosen = near.take(rows)
        elif boxes.settles and len(chosen):
            chosen = swap_and_settle(boxes, chosen, limits, swaps)
    return chosen


def swap_and_settle(boxes: Boxes, chosen: Candidates, limits: Limits, count: int) -> Candidates:
    """The best of the swaps for distant shapes that lose least, each settled once it is made; or no swap."""
    table = chosen + grid_candidates(boxes, SWAP_STEP)
    own = np.arange(len(chosen))
    likely = likely_swaps(table.utility, own.tolist(), count=count, **limits.of_rows(table.levels))
    trials = (_trial(boxes, table.take(np.where(own == at, row, own))) for at, row in likely)
    return best_until(itertools.chain([chosen], trials), key=lambda fit: fit.value(limits))


def _trial(boxes: Boxes, chosen: Candidates) -> Candidates:
    """A little of a polish: medians do not see thresholds, and moves see both."""
    if boxes.objective.recall_share == 0:
        return settle(boxes, chosen, TRIAL_UPDATES)
    return move_each(boxes, move_each(boxes, chosen, FIRST_STEP), FIRST_STEP / 2)


def neighbours(boxes: Boxes, chosen: Candidates) -> Candidates:
    """Shapes close to the chosen ones, on every level."""
    return Candidates.on_every_level(boxes, (chosen.shapes[:, None] * np.exp(FINE_STEP * SQUARE)).reshape(-1, 2))


def polish(boxes: Boxes, chosen: Candidates) -> Candidates:
    """Move each shape in turn, the others held, to the best of a window that shrinks onto it."""
    chosen, step = settle(boxes, chosen), FIRST_STEP
    while step > SMALLEST_STEP and not is_over():
        before, chosen = chosen, move_each(boxes, chosen, step)
        step = step if chosen is not before else step / 2
    return settle(boxes, chosen)


def move_each(boxes: Boxes, chosen: Candidates, step: float) -> Candidates:
    """Each shape in turn at the best place of its window; the same object if none moves."""
    shapes, utility, floor, moved = chosen.shapes.copy(), chosen.utility.copy(), boxes.floor, False
    for row, level in enumerate(chosen.levels.tolist()):
        if is_over():
            break
        others = np.delete(utility, row, axis=0).max(axis=0, initial=0.0)
        low, high = shapes[row] * np.exp(-step), shapes[row] * np.exp(step)
        near = np.flatnonzero(boxes.highest_reduced_utilities(level, others + floor, low, high) > 0)
        part, rest = boxes.take(near), others[near]
        places = shapes[row] * np.exp(step / 2 * SQUARE)
        given = part.weights * part.utilities(level, places) - floor[near]
        values = np.maximum(given, rest).sum(axis=1)
        best = int(values.argmax())
        if values[best] > float(np.maximum(utility[row][near], rest).sum()) + SMALLEST_GAIN:
            shapes[row], moved = places[best], True
            utility[row] = Candidates.of(boxes, shapes[row, None], chosen.levels[row, None]).utility[0]
    return Candidates(shapes, chosen.levels, utility) if moved else chosen


def settle(boxes: Boxes, chosen: Candidates, max_updates: int = 100) -> Candidates:
    """A quick search that uses all boxes, where it gains: weighted medians."""
    settled = replace(chosen, shapes=boxes.settled(chosen.shapes, max_updates)).on(boxes)
    return max(chosen, settled, key=lambda fit: float(fit.best.sum()))


class Proved:
    """A fit with an optional proof."""

    proof: Proof | None

    @property
    def upper_bound(self) -> float | None:
        return None if self.proof is None else self.proof.upper_bound

    @property
    def gap(self) -> float | None:
        """Distance of the upper bound from the proved score, relative to that score."""
        return None if self.proof is None else self.proof.gap


def prove_solution(
    boxes: Boxes, solution: Solution, limits: Limits, *, score: float, certify: float | None, rounds: int
) -> Proof | None:
    """The proof of a search's solution, up to a gap of ``certify``; None if that is None, or no time is left."""
    if certify is None or is_over():
        return None
    target = score * (1 + certify)
    bound = prove(boxes, solution.chosen, solution.grid, solution.openings, limits, target=target, rounds=rounds)
    return Proof(score, bound)


@dataclass(frozen=True)
class OptimalAnchors(Proved):
    """Shapes, their score, and the proof that no shapes exceed it by much; made by :func:`optimal_anchors`."""

    shapes: Float64[ndarray, "k 2"]
    """(width, height) in pixels, sorted by area, with the fixed ones."""
    score: float
    """The objective at these shapes, over the histogram."""
    proof: Proof | None
    """Its upper bound holds over the boxes for all choices of k shapes that include the fixed ones."""
    start_score: float | None = None
    """The objective at the start, if one was given."""


def optimal_anchors(
    histogram: ShapeHistogram | Sequence[ShapeHistogram],
    k: int,
    *,
    objective: str | Objective = "iou",
    weights: Float64[ndarray, " cells"] | Sequence[float] | None = None,
    fixed: Sequence[tuple[float, float]] = (),
    start: Shapes | None = None,
    rivals: Sequence[Shapes] = (),
    certify: float | None = 0.02,
    rounds: int = ROUNDS,
) -> OptimalAnchors:
    """The best k shapes that the search finds, proved to be close to the best.

    Args:
        histogram: histogram of the boxes' shapes, or one for each category or area range. Finer cells give a tighter bound.
        k: number of shapes, fixed ones included.
        objective: ``iou``, the average best IoU; ``recall@T``, the share of boxes whose best IoU reaches T; ``ratio``, the
            average best side ratio; or a blend. See :meth:`Objective.parse`.
        weights: weight of a box in each cell of the one histogram, or in each of several histograms.
        fixed: (width, height) of anchors that are part of every choice.
        start: at most k shapes, to which the result is not inferior if they hold the fixed ones.
        rivals: k shapes each, such as those of k-means: the search starts from them only if they win.
        certify: gap at which the proof ends; None proves nothing and is faster.
        rounds: maximum number of rounds of the proof; each is on finer cells or with more candidates.

    Raises:
        FitError: there are no boxes, fewer distinct shapes than are to be fitted, or more in the start.
        ValueError: k, the objective, a weight or a fixed shape is out of range.

    >>> boxes = np.array([[10.0, 20.0], [11.0, 20.0], [12.0, 20.0], [50.0, 40.0]])
    >>> best = optimal_anchors(ShapeHistogram.of(boxes, cells_per_octave=1024), 2, certify=0.001)
    >>> best.shapes.round(6), round(best.score, 4), best.gap < 0.001
    (array([[11., 20.],
           [50., 40.]]), 0.9564, True)
    """
    parsed = Objective.parse(objective)
    _check(fixed, k, certify, rounds)
    kind = RatioCells if parsed.of_sides else ShapeCells
    cells = kind.of(histogram, weights, objective=parsed, fixed=fixed)
    num_free = k - len(fixed)
    require_enough(cells.extents.T, num_free)
    limits = Limits((0,), (num_free,), (0.0,))
    starts = [] if start is None else [_start_of(cells, start, num_free)]
    others = [Candidates.of(cells, each, np.zeros(k, np.int64)) for each in rivals]
    solution = search(cells, limits, starts, rivals=others)
    score = float((solution.chosen.best + cells.floor).sum())
    proof = prove_solution(cells, solution, limits, score=score, certify=certify, rounds=rounds)
    shapes = sorted_by_area(np.concatenate([cells.fixed, solution.chosen.shapes]))
    start_score = (
        None if start is None else float((cells.weights * cells.utilities(0, start).max(axis=0, initial=0.0)).sum())
    )
    return OptimalAnchors(shapes, score, proof, start_score)


def _start_of(cells: ShapeCells, start: Shapes, num_free: int) -> Candidates:
    """The shapes of a start that are not fixed."""
    new = start[np.array([not np.isclose(cells.fixed, shape).all(axis=1).any() for shape in start], bool)]
    if len(new) > num_free:
        raise FitError(f"the start has {len(new)} shapes, more than the {num_free} to be fitted")
    return Candidates.of(cells, new, np.zeros(len(new), np.int64))


def kmeans_shapes(histogram: ShapeHistogram, k: int, seed: int = 0) -> Shapes:
    """k-means in IoU: starts run on coarse cells, and the best is then improved on the full histogram."""
    require_enough(histogram.shapes, k)
    coarse = histogram.coarsened(COARSE_CELLS_PER_OCTAVE)
    few, full = (
        Members(each.shapes, each.counts.astype(float))
        for each in (coarse if len(coarse) >= k else histogram, histogram)
    )
    start = best_of_starts(few, k, np.random.RandomState(seed))
    return sorted_by_area(improve_centers(full, start.centers).centers)


def _check(fixed: Sequence[tuple[float, float]], k: int, certify: float | None, rounds: int) -> None:
    kept = np.array(fixed, np.float64).reshape(-1, 2)
    if not (np.isfinite(kept).all() and (kept > 0).all()):
        raise ValueError(f"fixed anchors must have positive, finite widths and heights, got {fixed}")
    if not max(len(kept), 1) <= k:
        raise ValueError(f"need k >= 1 and no more fixed anchors than k, got {k=} and {len(kept)} fixed")
    if certify is not None and not certify >= 0:
        raise ValueError(f"need certify >= 0, got {certify=}")
    if rounds < 1:
        raise ValueError(f"need rounds >= 1, got {rounds=}")
