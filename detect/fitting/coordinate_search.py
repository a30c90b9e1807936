"""Search for the parameters of a layout, such as sizes and ratios, that give boxes the best anchors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from detect.fitting.gains import Boxes
from detect.ops.time_limit import is_over

FIRST_STEP = 0.24  # nepers
SMALLEST_STEP = 2e-3
SMALLEST_GAIN = 1e-9
MOVES = (-1.0, -0.5, 0.5, 1.0)

LayoutType = TypeVar("LayoutType", bound="Layout")


@runtime_checkable
class Layout(Protocol):
    """Anchor shapes of all levels by a few parameters in logarithms; or a direction in which these move."""

    def level_shapes(self, level: int) -> Float64[ndarray, "k 2"]:
        """(width, height) of a level's shapes in pixels."""

    def moved(self: LayoutType, direction: LayoutType, step: float) -> LayoutType:
        """The layout with its parameters moved by ``step`` times a direction."""

    def touches(self, level: int) -> bool:
        """Whether this direction moves any shape of a level."""


def searched(
    boxes: Boxes, start: LayoutType, moves: Sequence[LayoutType], *, first_step: float = FIRST_STEP
) -> LayoutType:
    """Move along each direction in turn while that gains, in steps that shrink once none gains."""
    layout, step = start, first_step
    bests = _bests(boxes, layout)
    score = _mean_of(boxes, bests)
    while step > SMALLEST_STEP and not is_over():
        before = score
        for move, part in itertools.product(moves, MOVES):
            if is_over():
                break
            trial, changed = layout.moved(move, step * part), bests.copy()
            for level in range(len(boxes.strides)):
                if move.touches(level):
                    changed[level] = _best_of_level(boxes, trial, level)
            reached = _mean_of(boxes, changed)
            if reached > score + SMALLEST_GAIN:
                layout, bests, score = trial, changed, reached
        step = step if score > before else step / 2
    return layout


def mean_best(boxes: Boxes, layout: Layout) -> float:
    """The mean over boxes of the utility of their best anchor."""
    return _mean_of(boxes, _bests(boxes, layout))


def _bests(boxes: Boxes, layout: Layout) -> Float64[ndarray, "l n"]:
    return np.array([_best_of_level(boxes, layout, level) for level in range(len(boxes.strides))])


def _best_of_level(boxes: Boxes, layout: Layout, level: int) -> Float64[ndarray, " n"]:
    best: Float64[ndarray, " n"] = boxes.utilities(level, layout.level_shapes(level)).max(axis=0)
    return best


def _mean_of(boxes: Boxes, bests: Float64[ndarray, "l n"]) -> float:
    return float((boxes.weights * bests.max(axis=0)).sum())
