"""A number of candidates for each group of levels, and what they cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.histogram import ShapeHistogram
from detect.fitting.any_position import AnyPosition
from detect.fitting.candidates import Candidates, Limits, choose_rows, swap_rows


def candidates_of(gains: list[list[float]] | np.ndarray, levels: list[int]) -> Candidates:
    return Candidates(np.ones((len(levels), 2)), np.array(levels), np.array(gains, float))


def value(candidates: Candidates, rows: tuple[int, ...] | list[int], limits: Limits) -> float:
    chosen = candidates.take(list(rows))
    return float(chosen.best.sum() - limits.penalties(chosen.levels).sum())


def test_one_for_each_level_by_hand():
    # the two best (rows 0 and 1) share a level; with one a level, row 0 with row 2: 3 + 1
    candidates = candidates_of([[3, 0, 0], [0, 2, 0], [0, 0, 1]], [0, 0, 1])
    assert choose_rows(candidates, Limits.of(2, None, 2, None)) == [0, 1]
    assert choose_rows(candidates, Limits.of(2, 1, None, None)) == [0, 2]
    assert choose_rows(candidates, Limits.of(2, [2, 1], None, None)) == [0, 1, 2]
    assert choose_rows(candidates, Limits.of(2, [0, 1], None, None)) == [2]


def test_a_swap_leaves_the_greedy_choice():
    # greedy takes the middle row (4), and then one side for 1: 5. The sides alone: 3 + 3
    candidates = candidates_of([[3, 0, 0, 0], [2, 2, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]], [0, 0, 0, 1])
    assert choose_rows(candidates, Limits.of(2, [2, 1], None, None)) == [0, 2, 3]


def test_what_is_not_worth_its_cost_is_left_out():
    candidates = candidates_of([[3, 0], [0, 0.5], [0, 0.4]], [0, 0, 1])
    assert choose_rows(candidates, Limits.of(2, 2, None, [0.6, 0.6])) == [0]
    assert choose_rows(candidates, Limits.of(2, 2, None, [0.6, 0.1])) == [0, 2]
    # swaps alone leave it out, too
    assert swap_rows(candidates, [0, 1], Limits.of(2, 2, None, [0.6, 0.6])) == [0]


def test_a_start_among_few_is_filled_up_from_all():
    candidates = candidates_of([[3, 0, 0], [0, 2, 0], [0, 0, 1]], [0, 0, 1])
    assert choose_rows(candidates, Limits.of(2, [2, 1], None, None), np.array([1])) == [0, 1, 2]


def test_where_the_search_starts_decides_between_local_optima_by_hand():
    # rows 0 and 1 give 4 to all; 2 and 3 give 3 to all, and no single swap betters them: 0 with 3 is 4 + 0 + 4 + 3 < 12
    candidates = candidates_of([[4, 0, 4, 0], [0, 4, 0, 4], [3, 3, 0, 0], [0, 0, 3, 3]], [0, 0, 0, 0])
    limits = Limits.of(1, None, 2, None)
    assert choose_rows(candidates, limits) == [0, 1]
    assert choose_rows(candidates, limits, np.array([2, 3])) == [2, 3]


def test_a_swap_to_a_cheaper_level_counts_what_both_cost():
    # 3 - 2 on the first level, 2.5 - 0 on the second
    candidates = candidates_of([[3.0], [2.5]], [0, 1])
    for start in (0, 1):
        assert swap_rows(candidates, [start], Limits.of(2, None, 1, [2.0, 0.0])) == [1]
        assert swap_rows(candidates, [start], Limits.of(2, None, 1, None)) == [0]


def test_each_candidate_gains_on_its_own_level():
    boxes = AnyPosition.of(ShapeHistogram.of(np.array([[12.0, 12.0], [12.0, 12.0], [60.0, 40.0]])), (4, 16))
    shapes, levels = np.array([[12.0, 12.0], [12.0, 12.0], [30.0, 30.0]]), [1, 0, 1]
    gains = [boxes.utilities(level, shape[None])[0] for level, shape in zip(levels, shapes, strict=True)]
    assert_allclose(Candidates.of(boxes, shapes, np.array(levels)).utility, np.array(gains) * [2 / 3, 1 / 3])


@given(st.integers(0, 10**6), st.booleans())
def test_the_choice_cannot_be_bettered_by_one_swap_and_nears_the_best(seed, priced):
    random = np.random.default_rng(seed)
    candidates = candidates_of(random.uniform(0, 1, (8, 6)), [0, 0, 0, 0, 1, 1, 1, 1])
    limits = Limits.of(2, [2, 1], None, [0.3, 0.2] if priced else None)
    rows = choose_rows(candidates, limits)
    allowed = [
        first + second
        for number in range(3)
        for first in itertools.combinations(range(4), number)
        for second in [(), *((row,) for row in range(4, 8))]
        if priced or number + len(second) == 3
    ]
    reached, best = value(candidates, rows, limits), max(value(candidates, each, limits) for each in allowed)
    assert reached <= best + 1e-9
    assert reached >= 0.9 * best
    for gone, new in itertools.product(rows, range(8)):
        if candidates.levels[gone] == candidates.levels[new] and new not in rows:
            assert value(candidates, [new, *(row for row in rows if row != gone)], limits) <= reached + 1e-6


def test_limits_name_what_is_wrong_with_them():
    for arguments in ((2, None, None, None), (2, 1, 1, None)):
        with pytest.raises(ValueError, match="per_level or num_anchors"):
            Limits.of(*arguments)
    for arguments in ((2, [1], None, None), (2, 0, None, None), (2, [-1, 3], None, None)):
        with pytest.raises(ValueError, match="from 1 to 1000 shapes"):
            Limits.of(*arguments)
    with pytest.raises(ValueError, match="1,001 shapes on 2 levels: at most 1,000 in all"):
        Limits.of(2, None, 1001, None)
    for costs in ([0.1], [0.1, -1.0], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="cost of at least 0 for each of 2 levels"):
            Limits.of(2, 1, None, costs)


def test_the_best_of_nothing_is_nothing():
    assert_allclose(candidates_of([[1.0, 2.0]], [0]).take([]).best, [0.0, 0.0])
