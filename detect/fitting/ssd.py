"""Anchors in SSD's layout, fitted on the grid: on each level two squares, and pairs of a ratio and its inverse.

The smaller square also has the area of the pairs (Liu et al. 2016, section 2.2). mmdetection's SSDAnchorGenerator takes any
two squares and ratios for each level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.anchors.anchor_set import AnchorSet
from detect.errors import FitError
from detect.fitting.coordinate_search import mean_best, searched
from detect.fitting.gains import Boxes
from detect.ops.time_limit import best_until

POLISH_STEP = 0.03  # nepers
FACTORS = np.linspace(-2, 2, 41)  # nepers, for the first step: all sizes together
SAME = 1e-4  # nepers: shapes in files carry six digits
LEAST = 0.05  # nepers: squares and ratios stay apart


@dataclass(frozen=True, eq=False)
class _Ssd:
    """For each level logarithms of a square, of the larger one's factor and of ratios; or a direction to move them in."""

    squares: Float64[ndarray, "l 2"]
    ratios: tuple[Float64[ndarray, " _"], ...]

    def level_shapes(self, level: int) -> Float64[ndarray, "k 2"]:
        size, larger = self.squares[level]
        half = _apart(self.ratios[level]) / 2
        wide = np.stack([size + half, size - half], axis=1)
        pairs = np.stack([wide, wide[:, ::-1]], axis=1).reshape(-1, 2)
        squares = np.array([[size, size], [size + max(larger, LEAST)] * 2])
        return np.exp(np.concatenate([squares, pairs]))

    def moved(self, direction: _Ssd, step: float) -> _Ssd:
        pairs = zip(self.ratios, direction.ratios, strict=True)
        return _Ssd(self.squares + step * direction.squares, tuple(own + step * other for own, other in pairs))

    def touches(self, level: int) -> bool:
        return bool(self.squares[level].any() or self.ratios[level].any())


def fit_ssd(boxes: Boxes, start: AnchorSet, *, draft: int | None = None) -> AnchorSet:
    """Fit two squares and the ratios of each level, from anchors of the same layout, such as the stock ones.

    Args:
        boxes: the boxes to fit to, see :func:`detect.fitting.any_position.boxes_on_grid`.
        start: anchors in SSD's layout, with the levels of ``boxes``.
        draft: search on at most this many boxes, spread over all sizes, and polish on all.

    Raises:
        FitError: the start has other levels, or a level that is not two squares and pairs.

    >>> from detect.anchors.histogram import ShapeHistogram
    >>> from detect.fitting.any_position import AnyPosition
    >>> cells = AnyPosition.of(ShapeHistogram.of(np.array([[40.0, 40.0], [80.0, 20.0]])), (4,))
    >>> start = AnchorSet.of([[(30, 30), (60, 60), (42, 21), (21, 42)]], strides=[4])
    >>> fitted = fit_ssd(cells, start)
    >>> [[round(side) for side in shape] for shape in fitted.levels[0].shapes]
    [[40, 40], [80, 80], [80, 20], [20, 80]]
    """
    if [level.stride for level in start.levels] != list(boxes.strides):
        raise FitError(
            f"the start lies on strides {[level.stride for level in start.levels]}, not {list(boxes.strides)}"
        )
    layout = _of(start)
    some = boxes.thinned(draft) if draft else boxes
    moves = list(_moves(layout))
    score = partial(mean_best, some)
    scaled = best_until((layout.moved(moves[0], factor) for factor in sorted(FACTORS, key=abs)), key=score)
    best = best_until((searched(some, each, moves) for each in (scaled, layout)), key=score)
    if len(some) < len(boxes):
        best = searched(boxes, best, moves, first_step=POLISH_STEP)
    shapes = [best.level_shapes(level) for level in range(len(boxes.strides))]
    return AnchorSet.of(shapes, strides=boxes.strides, center_offset=boxes.center_offset, name="fitted")


def _of(anchors: AnchorSet) -> _Ssd:
    squares, ratios = [], []
    for level in anchors.levels:
        logs = np.log(np.array(level.shapes, float))
        if len(logs) < 2 or len(logs) % 2 or np.abs(logs[:2, 0] - logs[:2, 1]).max() > SAME:
            raise FitError(f"{level.name}: expected two squares, and pairs of a ratio and its inverse")
        squares.append([logs[0, 0], logs[1, 0] - logs[0, 0]])
        ratios.append(np.abs(logs[2::2, 0] - logs[2::2, 1]))
    return _Ssd(np.array(squares), tuple(ratios))


def _moves(layout: _Ssd) -> Iterator[_Ssd]:
    """All sizes together; then each level's sizes, each square and each ratio."""
    none = _Ssd(np.zeros_like(layout.squares), tuple(np.zeros_like(row) for row in layout.ratios))
    yield _Ssd(none.squares + np.array([1.0, 0.0]), none.ratios)
    for level, row in enumerate(layout.ratios):
        own = np.eye(len(layout.ratios))[level][:, None]
        for squares in ([1.0, 0.0], [1.0, -1.0], [0.0, 1.0]):
            yield _Ssd(own * np.array(squares), none.ratios)
        for direction in np.eye(len(row)):
            ratios = (*none.ratios[:level], direction, *none.ratios[level + 1 :])
            yield _Ssd(none.squares, ratios)


def _apart(ratios: Float64[ndarray, " r"]) -> Float64[ndarray, " r"]:
    """Ratios in rising order, each at least a little above the one before, and the first above a square.

    >>> _apart(np.array([0.7, 0.01, 0.02])).tolist()
    [0.05, 0.1, 0.7]
    """
    kept: list[float] = []
    for ratio in np.sort(np.abs(ratios)).tolist():
        kept.append(max(ratio, (kept[-1] if kept else 0.0) + LEAST))
    return np.array(kept)
