from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import linprog

from detect.fitting.facility_location import (
    choose_greedily,
    find_duals,
    improve_by_swaps,
    likely_swaps,
    reduced_utility,
)

BY_HAND = np.array([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.5]])
seeds = st.integers(0, 10_000)


def random_table(seed: int, rows: int = 9, columns: int = 12) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.random((rows, columns)) * (random.random((rows, columns)) < 0.6)


def value(gains, rows) -> float:
    return gains[list(rows)].max(axis=0, initial=0.0).sum()


def best_value(gains, count) -> float:
    return max(value(gains, rows) for rows in itertools.combinations(range(len(gains)), count))


def choose(gains, count, costs=None):
    return improve_by_swaps(gains, choose_greedily(gains, count, costs=costs).rows, costs=costs)


def test_greed_takes_the_most_and_then_what_adds_most_by_hand():
    # sums 3, 4, 1.5: row 1 first (4); then row 0 adds 1, row 2 adds 1.5
    choice = choose_greedily(BY_HAND, 2)
    assert choice.rows == (1, 2)
    assert choice.value == 5.5


def test_lazy_greed_chooses_as_greed_that_looks_at_all():
    for seed in range(30):
        gains = random_table(seed, 15, 20)
        rows: list[int] = []
        for _ in range(5):
            rows.append(max((row for row in range(15) if row not in rows), key=lambda row: value(gains, [*rows, row])))
        assert choose_greedily(gains, 5).rows == tuple(rows)


def test_a_swap_mends_what_greed_missed():
    # greed takes the middle row (5) and one other (1); the two others alone give 8
    gains = np.array([[2.0, 2.0, 0.0, 0.0], [0.0, 2.5, 2.5, 0.0], [0.0, 0.0, 2.0, 2.0]])
    assert choose_greedily(gains, 2).value == 7
    choice = choose(gains, 2)
    assert (sorted(choice.rows), choice.value) == ([0, 2], 8)


@given(seeds, st.integers(1, 4))
def test_no_single_swap_betters_a_choice_and_the_value_is_that_of_its_rows(seed, count):
    gains = random_table(seed)
    choice = choose(gains, count)
    assert_allclose(choice.value, value(gains, choice.rows))
    for position, row in itertools.product(range(count), range(len(gains))):
        rows = list(choice.rows)
        rows[position] = row
        assert value(gains, rows) <= choice.value + 1e-8


@given(seeds, st.integers(1, 4))
def test_a_choice_is_worth_at_least_1_minus_1_over_e_of_the_best(seed, count):
    gains = random_table(seed)
    assert choose(gains, count).value >= (1 - 1 / np.e) * best_value(gains, count)


def test_what_costs_more_than_it_adds_is_not_chosen():
    # with costs of 2 the rows are worth 1, 2, -0.5; after row 1, row 0 adds 1 - 2 and row 2 adds 1.5 - 2
    choice = choose(BY_HAND, 3, costs=np.full(3, 2.0))
    assert (choice.rows, choice.value) == ((1,), 2)


@given(seeds)
def test_a_swap_counts_what_both_cost(seed):
    gains, costs = random_table(seed), np.random.default_rng(seed).random(9)
    choice = improve_by_swaps(gains, [0, 1, 2], costs=costs)
    worth = {rows: value(gains, rows) - costs[list(rows)].sum() for rows in itertools.combinations(range(9), 3)}
    assert_allclose(choice.value, worth[tuple(sorted(choice.rows))])
    near = [rows for rows in worth if len({*rows} & {*choice.rows}) == 2]
    assert choice.value >= max(worth[rows] for rows in near) - 1e-8


def test_likely_swaps_start_with_the_one_that_gains_most():
    gains = random_table(3)
    for position, row in likely_swaps(gains, [0, 1], count=1):
        rows = {other: value(gains, [other if at == position else at for at in (0, 1)]) for other in range(2, 9)}
        assert row == max(rows, key=rows.__getitem__)
    groups = np.arange(9) % 2
    assert all(row % 2 == at for at, row in likely_swaps(gains, [0, 1], groups=groups))
    # a dear candidate is no likely swap
    assert all(row != 5 for _, row in likely_swaps(gains, [0, 1], costs=np.where(np.arange(9) == 5, 9.0, 0.0), count=6))


def test_greed_keeps_to_the_room_of_each_group():
    # the two best rows share a group; with one of each, row 1 (4) and then row 2 (1.5)
    groups = np.array([0, 0, 1])
    choice = choose_greedily(BY_HAND, [1, 1], groups=groups)
    assert (choice.rows, choice.value) == ((1, 2), 5.5)
    assert choose_greedily(BY_HAND, [2, 0], groups=groups).rows == (1, 0)
    # one that is chosen already takes a place of its group, not of another
    assert choose_greedily(BY_HAND, [1, 1], start=[0], groups=groups).rows == (0, 2)
    # with costs of 2 the last is worth less than nothing
    assert choose_greedily(BY_HAND, [1, 1], costs=np.full(3, 2.0), groups=groups).rows == (1,)
    # a group smaller than its number
    assert choose_greedily(BY_HAND, [3, 3], groups=groups).rows == (1, 2, 0)


@given(seeds)
def test_swaps_stay_within_groups(seed):
    gains, groups = random_table(seed), np.arange(9) % 2
    choice = improve_by_swaps(gains, [0, 1, 2], groups=groups)
    assert groups[list(choice.rows)].tolist() == [0, 1, 0]
    for position, row in itertools.product(range(3), range(9)):
        if groups[row] == position % 2:
            rows = list(choice.rows)
            rows[position] = row
            assert value(gains, rows) <= choice.value + 1e-8


def test_no_instances_are_worth_nothing():
    assert choose(np.zeros((3, 0)), 2).value == 0


def bound_of_choice(gains: np.ndarray, duals: np.ndarray, count: int) -> float:
    """The duals, and the largest reduced utilities: 2 + 2 + 1.5 for the rows by hand with duals of 2, 0, 0."""
    return float(duals.sum() + np.sort(reduced_utility(gains, duals))[::-1][:count].sum())


def relaxed_optimum(gains: np.ndarray, counts, groups=None, costs=None) -> float:
    """The linear relaxation, by HiGHS: open x <= 1, serve y <= x, each instance at most once."""
    a, n = gains.shape
    groups, counts = np.zeros(a, int) if groups is None else groups, np.atleast_1d(counts)
    costs = np.zeros(a) if costs is None else costs
    served_once = np.hstack([np.zeros((n, a)), np.tile(np.eye(n), a)])
    open_first = np.hstack([-np.repeat(np.eye(a), n, axis=0), np.eye(a * n)])
    total = np.hstack([groups == np.arange(len(counts))[:, None], np.zeros((len(counts), a * n))])
    result = linprog(
        -np.append(-costs, gains.ravel()),
        A_ub=np.vstack([served_once, open_first, total]),
        b_ub=np.concatenate([np.ones(n), np.zeros(a * n), counts]),
    )
    return -result.fun


@given(seeds, st.integers(1, 4))
def test_no_choice_exceeds_the_bound_of_any_duals(seed, count):
    gains = random_table(seed)
    duals = np.random.default_rng(seed + 1).random(12)
    assert best_value(gains, count) <= bound_of_choice(gains, duals, count) + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_duals_come_close_to_the_linear_relaxation(seed):
    gains = random_table(seed, 15, 40)
    best = relaxed_optimum(gains, 3)
    duals, openings = find_duals(gains, 3, np.full(15, 3 / 15), steps=400)
    bound = bound_of_choice(gains, duals, 3)
    assert best - 1e-6 <= bound <= 1.01 * best
    assert_allclose(openings.sum(), 3, rtol=1e-6)


@pytest.mark.parametrize("costs", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_duals_of_groups_with_costs_come_close_to_the_linear_relaxation(seed, costs):
    gains, groups = random_table(seed, 15, 40), np.arange(15) % 3
    costs = costs * np.random.default_rng(seed).random(15)
    best = relaxed_optimum(gains, [2, 0, 1], groups, costs)
    duals, openings = find_duals(gains, [2, 0, 1], np.ones(15), groups=groups, costs=costs, steps=400)
    worth = np.maximum(np.maximum(gains - duals, 0).sum(axis=1) - costs, 0)
    bound = duals.sum() + np.sort(worth[groups == 0])[-2:].sum() + worth[groups == 2].max()
    assert best - 1e-6 <= bound <= 1.01 * best
    assert_allclose([openings[groups == group].sum() for group in range(3)], [2, 0, 1], rtol=1e-6)


def test_one_group_is_none_and_the_scale_of_the_start_is_free():
    gains = random_table(5, 15, 40)
    plain = find_duals(gains, 3, np.full(15, 3 / 15))
    one = find_duals(gains, [3], np.ones(15), groups=np.zeros(15, int))
    for mine, other in zip(plain, one, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_with_nothing_to_choose_the_duals_are_0():
    duals, openings = find_duals(BY_HAND, 0, np.ones(3))
    assert duals.tolist() == [0, 0, 0]
    assert openings.tolist() == [0, 0, 0]


def test_the_first_duals_by_hand():
    # row 0 serves 3, row 1 serves 2 and 2, row 2 serves 1.5; two thirds of each are open, so instance 0 is served once
    # with the half of row 1 that it needs, at a gain of 2; the other instances are not served once: 0
    duals, openings = find_duals(BY_HAND, 2, np.ones(3), steps=1)
    assert_allclose(duals, [2, 0, 0])
    # above these the rows offer 1, 2, 1.5; their mean over what is open is 1.5: they move by 2/3, 4/3, 1, and 2 in all stay
    assert_allclose(openings, np.array([2, 4, 3]) / 9 * 2)
    # with costs of 1, 0.5, 1.5 they are worth 0, 1.5, 0; a move is by a factor of a half to two: 1/2, 2, 1/2, of which
    # the second would be open by 4/3, and is by 1
    openings = find_duals(BY_HAND, 2, np.ones(3), costs=np.array([1.0, 0.5, 1.5]), steps=1)[1]
    assert_allclose(openings, [1 / 3, 1, 1 / 3])


def test_later_duals_weigh_more_by_hand():
    # one instance, two of three rows: each is open by 2/3, so two serve it: 2. Above it the last offers 2; the mean over
    # what is open is 2/3, so it moves by 2 (not 3), the others by 1/2: 1/3, 1/3, 4/3, cut to 1. It alone serves: 4,
    # which weighs two thirds, as of 1 and 2 the second. The bound falls from 2 + 2 * 2 to 10/3 + 2 * 2/3
    duals, openings = find_duals(np.array([[1.0], [2.0], [4.0]]), 2, np.ones(3), steps=2)
    assert_allclose(duals, [10 / 3])
    assert_allclose(openings[2], 1)
