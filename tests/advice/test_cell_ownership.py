"""The most objects that can own a cell each: by brute force, and against networks of cells made by a plain loop."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from detect.advice import level_cells
from detect.advice.cell_ownership import cell_ownership
from detect.advice.level_cells import LevelCells

STRIDES = (4, 8)
Cell = tuple[int, int, int]


def cells_of(box: Sequence[float], canvas_wh: tuple[int, int], strides: Sequence[int] = STRIDES) -> set[Cell]:
    """The cells whose centre lies strictly inside a box: every cell is tried."""
    width, height = canvas_wh
    return {
        (stride, row, column)
        for stride in strides
        for row in range(-(-height // stride))
        for column in range(-(-width // stride))
        if box[0] < (column + 0.5) * stride < box[2] and box[1] < (row + 0.5) * stride < box[3]
    }


def assignments(cells: Sequence[set[Cell]]) -> list[tuple[Cell | None, ...]]:
    """Every way to give objects cells of their own, or none."""
    every = itertools.product(*([None, *sorted(own)] for own in cells))
    return [each for each in every if len(taken := [c for c in each if c is not None]) == len(set(taken))]


@st.composite
def crowded(draw: st.DrawFn) -> list[list[float]]:
    """Up to five small boxes at multiples of half a pixel, near each other: edges meet centres of cells exactly."""
    half = st.integers(0, 24).map(lambda number: number / 2)
    boxes = draw(st.lists(st.tuples(half, half, st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=5))
    return [[x, y, x + width / 2, y + height / 2] for x, y, width, height in boxes]


@given(crowded())
@settings(max_examples=150)
def test_the_bound_and_the_contested_objects_are_those_of_all_assignments(boxes):
    canvas_wh = (14, 18)
    cells = [cells_of(box, canvas_wh) for box in boxes]
    # fewer cells than objects decide; of more, any as many as there are objects do
    cells = [set(sorted(own)[: len(boxes)]) if len(own) >= len(boxes) else own for own in cells]
    every = assignments(cells)
    most = max(sum(cell is not None for cell in each) for each in every)
    best = [each for each in every if sum(cell is not None for cell in each) == most]
    stays = np.array([any(each[row] is None for each in best) for row in range(len(boxes))])
    regions = np.repeat(np.array(boxes)[:, None], len(STRIDES), axis=1)
    rows = np.zeros(len(boxes), int)
    found = cell_ownership(regions, rows, LevelCells(np.array([canvas_wh]), STRIDES))
    has_cells = np.array([len(own) > 0 for own in cells])
    assert_array_equal(found.num_cells > 0, has_cells)
    assert found.num_lost == len(boxes) - most
    assert_array_equal(found.is_contested, stays & has_cells)


def many(draws: np.random.Generator, num_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, images and canvases: crowds of small boxes, some beyond the border."""
    canvas_wh = draws.integers(20, 70, (num_images, 2))
    rows = draws.permutation(np.repeat(np.arange(num_images), draws.integers(0, 60, num_images)))
    corners = draws.uniform(-4, 1, (len(rows), 2)) + draws.random((len(rows), 2)) * canvas_wh[rows]
    return np.concatenate([corners, corners + draws.gamma(2, 3, (len(rows), 2))], axis=1), rows, canvas_wh


def test_images_do_not_depend_on_each_other_or_on_blocks(monkeypatch):
    boxes, rows, canvas_wh = many(np.random.default_rng(1), 40)
    regions = np.repeat(boxes[:, None], 2, axis=1)
    whole = cell_ownership(regions, rows, LevelCells(canvas_wh, (8, 16)))
    assert whole.num_outnumbered.sum() > 20
    monkeypatch.setattr(level_cells, "MAX_PAIRS", 50)
    blocks = cell_ownership(regions, rows, LevelCells(canvas_wh, (8, 16)))
    assert_array_equal(blocks.num_outnumbered, whole.num_outnumbered)
    assert_array_equal(blocks.is_contested, whole.is_contested)
    for image in range(40):
        own = rows == image
        single = cell_ownership(
            regions[own], np.zeros(own.sum(), int), LevelCells(canvas_wh[image : image + 1], (8, 16))
        )
        assert single.num_outnumbered[0] == whole.num_outnumbered[image]
        assert_array_equal(single.is_contested, whole.is_contested[own])


def test_regions_may_be_closed_on_some_levels():
    """An object of the finest level only, beside one of the coarsest only: they never meet."""
    box = [0.0, 0.0, 8.0, 8.0]
    closed = [np.nan] * 4
    both = np.array([[[1.0, 1, 3, 3], closed], [closed, box], [closed, box]])
    found = cell_ownership(both, np.zeros(3, int), LevelCells(np.array([[16, 16]]), STRIDES))
    assert_array_equal(found.num_cells, [1, 1, 1])
    assert_array_equal(found.num_outnumbered, [1])
    assert_array_equal(found.is_contested, [False, True, True])


@pytest.mark.parametrize("num_images", [0, 2])
def test_no_objects_own_nothing(num_images):
    canvas_wh = np.full((num_images, 2), 32)
    found = cell_ownership(np.zeros((0, 2, 4)), np.zeros(0, int), LevelCells(canvas_wh, STRIDES))
    assert (found.num_lost, len(found.num_cells), len(found.num_outnumbered)) == (0, 0, num_images)
