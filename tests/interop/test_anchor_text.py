"""Sizes by ratios are found in free shapes, and numbers are printed in as few digits as say the same."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from detect.anchors.anchor_set import AnchorSet
from detect.interop.anchor_text import (
    center_note,
    find_grid,
    find_grids,
    in_file,
    in_strides,
    numbers,
    quotient,
    shortest,
)


def shape(size: float, ratio: float) -> tuple[float, float]:
    return float(f"{size / math.sqrt(ratio):.6g}"), float(f"{size * math.sqrt(ratio):.6g}")


@given(
    sizes=st.lists(st.integers(8, 500), min_size=2, max_size=4, unique=True),
    ratios=st.lists(st.sampled_from([0.25, 1 / 3, 0.5, 0.8, 1.0, 1.7, 2.0, 3.0]), min_size=2, max_size=4, unique=True),
    size_outer=st.booleans(),
)
def test_sizes_and_ratios_are_found_in_their_order(sizes: list[int], ratios: list[float], size_outer: bool):
    pairs = itertools.product(sizes, ratios) if size_outer else ((s, r) for r, s in itertools.product(ratios, sizes))
    grid = find_grid([shape(*pair) for pair in pairs])
    assert grid is not None
    assert_allclose(grid.sizes, sizes, rtol=1e-5)
    assert_allclose(grid.ratios, ratios, rtol=2e-5)
    assert (grid.size_outer, grid.ratio_outer) == (size_outer, not size_outer)


def test_a_grid_in_another_order_is_found_but_has_none_of_the_two():
    in_order = [shape(size, ratio) for size in (32, 64) for ratio in (0.5, 2)]
    grid = find_grid([in_order[number] for number in (0, 3, 2, 1)])
    assert grid is not None
    assert not grid.size_outer
    assert not grid.ratio_outer


def test_one_size_is_in_both_orders():
    grid = find_grid([shape(32, ratio) for ratio in (0.5, 1, 2)])
    assert grid is not None
    assert grid.size_outer
    assert grid.ratio_outer


def test_free_shapes_are_no_grid():
    assert find_grid([(10, 13), (16, 30), (33, 23)]) is None
    assert find_grid([(10, 10), (20, 20), (5, 20), (5, 20)]) is None  # 20 by ratio 4 is missing
    assert find_grids(AnchorSet.of([[(8, 8)], [(10, 13), (16, 30), (33, 23)]], strides=(8, 16))) == []


def test_grids_of_other_sizes_ratios_or_order_differ():
    grids = [
        find_grid([shape(s, r) for s in sizes for r in ratios])
        for sizes, ratios in (((8, 9), (1, 2)), ((8, 9), (1, 3)))
    ]
    assert grids[0].is_like(grids[0])
    assert not grids[0].is_like(grids[1])
    assert not grids[0].is_like(find_grid([shape(s, r) for r in (1, 2) for s in (8, 9)]))
    assert not grids[0].is_like(find_grid([shape(8, 1)]))


@given(value=st.floats(1, 1e4), divisor=st.sampled_from([4, 32, 300, 1333]))
def test_a_quotient_gives_the_value_back_in_six_digits(value: float, divisor: int):
    assert in_file(quotient(value, divisor) * divisor) == in_file(value)


def test_numbers_are_short():
    assert quotient(21, 300) == 0.07
    assert shortest(0.4999999, lambda value: abs(value - 0.5) < 1e-6) == 0.5
    assert shortest(1 / 3, lambda value: False) == 1 / 3
    assert numbers([1, 2.5]) == "[1, 2.5]"
    assert numbers([(10, 13.125), (16, 30)]) == "[[10, 13.125], [16, 30]]"


@pytest.mark.parametrize(("offset", "noted"), [(0.5, False), (0.0, True)])
def test_another_place_than_the_middle_of_the_cell_is_noted(offset: float, noted: bool):
    anchors = AnchorSet.of([[(16, 24)]], strides=[8], center_offset=offset)
    assert bool(center_note(anchors, "SSD")) == noted
    assert in_strides(anchors) == [[(2.0, 3.0)]]
