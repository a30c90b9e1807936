"""Colours, scales and grids of maps and filters."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from detect.report.feature_pictures import (
    AROUND_0,
    RISING,
    color_filters,
    colored,
    common_scale,
    filter_grid,
    map_grid,
    overlay_row,
)


def colors_of(picture):
    return {tuple(color) for color in np.asarray(picture).reshape(-1, 3).tolist()}


def test_a_scale_begins_at_0_unless_a_share_of_the_values_is_negative():
    rising = np.linspace(0, 5, 1000)
    low, high = common_scale([rising])
    assert low == 0.0
    assert 4.95 < high <= 5.0
    assert common_scale([rising, np.array([-0.1])])[0] == 0.0  # one small value below 0
    low, high = common_scale([rising - 2])
    assert low == -high


def test_one_extreme_value_does_not_darken_all_others():
    values = np.append(np.linspace(0, 1, 999), 1e6)
    assert common_scale([values])[1] < 1.1


def test_a_map_of_zeros_has_a_scale():
    assert common_scale([np.zeros((3, 4))]) == (0.0, 1.0)
    assert (colored(np.zeros((2, 2)), (0.0, 1.0)) == 0).sum() >= 8  # black, or nearly


@pytest.mark.parametrize(("scale", "palette"), [((0.0, 2.0), RISING), ((-2.0, 2.0), AROUND_0)])
def test_the_ends_of_a_scale_have_the_ends_of_the_palette_and_values_outside_are_clipped(scale, palette):
    drawn = colored(np.array([[scale[0] - 1, scale[0], scale[1], scale[1] + 9]]), scale)
    assert_array_equal(drawn[0], palette[[0, 0, -1, -1]])


def test_a_grid_has_the_channels_asked_for_in_their_order():
    cells = np.zeros((3, 4, 4))
    cells[2] = 1.0
    scale = (0.0, 1.0)
    only = map_grid(cells, [2], scale)
    assert tuple(RISING[-1].astype(int)) in colors_of(only)
    pair = np.asarray(map_grid(cells, [2, 0], scale, heading="C3", columns=2))
    bright = (pair == RISING[-1]).all(axis=2)
    bright[-30:] = False  # the scale below
    columns = np.flatnonzero(bright.any(axis=0))
    assert columns.max() < pair.shape[1] / 2


def test_first_filters_are_grey_at_0_and_full_at_the_largest_weight():
    weights = np.zeros((2, 3, 3, 3))
    weights[1, 0] = 0.5  # red, all over
    colors = colors_of(color_filters(weights, most=0.5))
    assert (128, 128, 128) in colors
    assert (255, 128, 128) in colors
    assert (0, 0, 0) in colors_of(color_filters(np.full((1, 1, 3, 3), -2.0), most=2.0))


def test_filters_with_several_inputs_are_a_row_each():
    wide = filter_grid(np.ones((2, 5, 3, 3)), (-1.0, 1.0))
    high = filter_grid(np.ones((5, 2, 3, 3)), (-1.0, 1.0))
    assert high.height > wide.height
    assert tuple(AROUND_0[-1].astype(int)) in colors_of(wide)


def test_maps_are_drawn_where_they_are_over_the_image():
    image = Image.new("L", (64, 64), 0)
    heat = np.zeros((8, 8))
    heat[0, 7] = 1.0  # upper right
    drawn = np.asarray(overlay_row(image, [("all", heat)], stride=8, heading="C3"), int)
    red = (drawn[..., 0] - drawn[..., 2] > 60) & (drawn[..., 0] > 100)
    rows, columns = np.nonzero(red)
    assert len(rows)
    assert columns.min() > drawn.shape[1] / 2
    assert rows.max() < drawn.shape[0] / 2
