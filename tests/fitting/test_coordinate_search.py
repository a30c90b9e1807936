"""The search for a layout's parameters climbs to a planted optimum and recomputes only levels that a move touches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.testing import assert_allclose

from detect.anchors.histogram import ShapeHistogram
from detect.fitting.any_position import AnyPosition
from detect.fitting.coordinate_search import Layout, mean_best, searched

BOXES = np.array([[20.0, 20.0], [200.0, 200.0]])


@dataclass(frozen=True)
class Squares:
    """One square on each level."""

    sides: np.ndarray
    asked: list[int] = field(default_factory=list)

    def level_shapes(self, level: int) -> np.ndarray:
        self.asked.append(level)
        return np.exp(np.full((1, 2), self.sides[level]))

    def moved(self, direction: Squares, step: float) -> Squares:
        return replace(self, sides=self.sides + step * direction.sides)

    def touches(self, level: int) -> bool:
        return bool(self.sides[level])


def test_the_planted_sizes_are_found_from_far_away():
    cells = AnyPosition.of(ShapeHistogram.of(BOXES), (1, 2))
    start = Squares(np.log([5.0, 500.0]))
    assert isinstance(start, Layout)
    found = searched(cells, start, [Squares(np.array([1.0, 0.0])), Squares(np.array([0.0, 1.0]))])
    assert_allclose(np.exp(found.sides), [20, 200], rtol=0.02)
    assert mean_best(cells, found) > 0.93 > mean_best(cells, start)


def test_only_levels_that_a_move_touches_are_computed_again():
    cells = AnyPosition.of(ShapeHistogram.of(BOXES), (1, 2))
    start = Squares(np.log([5.0, 200.0]))
    searched(cells, start, [Squares(np.array([1.0, 0.0]))])
    assert start.asked.count(1) == 1
    assert start.asked.count(0) > 10
