"""Cells inside regions: every cell is tried."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detect.advice.level_cells import LevelCells, blocks_of_images

STRIDES = (4, 8, 16)


def many(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regions of three levels, some closed, some beyond the border and with edges on centres; images and canvases."""
    draws = np.random.default_rng(seed)
    canvas_wh = draws.integers(20, 70, (6, 2))
    rows = draws.integers(0, 6, 120)
    corners = np.rint((draws.random((120, 3, 2)) * 1.2 - 0.1) * canvas_wh[rows][:, None] * 2) / 2
    regions = np.concatenate([corners, corners + draws.integers(0, 40, (120, 3, 2)) / 2], axis=2)
    regions[draws.random((120, 3)) < 0.2] = np.nan
    return regions, rows, canvas_wh


@pytest.mark.parametrize("origin", [0.5, 0.0])
def test_cells_are_those_whose_centre_is_inside_on_every_level(origin):
    regions, rows, canvas_wh = many(0)
    wanted = {
        (number, level, (column + origin) * stride, (row + origin) * stride)
        for number, image in enumerate(rows)
        for level, stride in enumerate(STRIDES)
        for column in range(-(-canvas_wh[image, 0] // stride))
        for row in range(-(-canvas_wh[image, 1] // stride))
        if regions[number, level, 0] < (column + origin) * stride < regions[number, level, 2]
        and regions[number, level, 1] < (row + origin) * stride < regions[number, level, 3]
    }
    grid = LevelCells(canvas_wh, STRIDES, origin)
    pairs = grid.pairs(regions, rows)
    found = {*zip(pairs.rows.tolist(), pairs.levels.tolist(), *pairs.centers.T.tolist(), strict=True)}
    assert found == wanted
    assert len(pairs.rows) == len(wanted) > 200
    assert_array_equal(grid.count(regions, rows), np.bincount(pairs.rows, minlength=len(rows)))


def test_a_cell_has_one_number_and_no_other_cell_has_it():
    regions, rows, canvas_wh = many(1)
    pairs = LevelCells(canvas_wh, STRIDES).pairs(regions, rows)
    named = np.column_stack([rows[pairs.rows], pairs.levels, pairs.centers])
    cells, first = np.unique(pairs.cells, return_index=True)
    assert len(cells) == len(np.unique(named, axis=0))
    assert_allclose(named, named[first][np.searchsorted(cells, pairs.cells)])


def test_blocks_hold_whole_images_in_order(monkeypatch):
    monkeypatch.setattr("detect.advice.level_cells.MAX_PAIRS", 10)
    image_rows, num_cells = np.array([0, 0, 1, 3, 3, 4]), np.array([4, 4, 30, 1, 2, 3])
    blocks = [block.tolist() for block in blocks_of_images(np.arange(6), num_cells, image_rows)]
    assert blocks == [[0, 1], [2], [3, 4, 5]]
    assert list(blocks_of_images(np.zeros(0, int), num_cells, image_rows)) == []
